"""Hooks that Gunicorn calls in the master and in the workers. gunicorn.conf.py imports them."""

import contextlib
import gc
import os
import signal
import sys

from embedding_api import metrics
from embedding_api.config import process_settings
from embedding_api.encoder.compute_threads import usable_cores
from embedding_api.server import malloc, options, prefix
from embedding_api.server.folders import make_metrics_directory, writable_folder
from embedding_api.server.worker import Worker

# In the master


def on_starting(server):
    if server.worker_class.__module__.startswith("embedding_api."):
        options.check(server.cfg, server.log)
        malloc.map_large_blocks()
    if message := prefix.check():
        sys.exit(f"Error: {message}")
    # For workers that may run as another user than the master.
    metrics.share(make_metrics_directory(writable_folder(), server.cfg.uid, server.cfg.gid))


def when_ready(server):
    if server.cfg.preload_app:
        _log_model(server)
    _log_example(server)
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(name, lambda sig, frame: _stop(server, sig, frame))
    # Without this, the first garbage collection in a worker would write to every page that holds Python objects, and so
    # copy the memory that the workers share.
    gc.collect()
    gc.freeze()
    # Loading the model leaves 100 MB of freed memory.
    malloc.trim()


def _log_model(server):
    encoder = server.app.wsgi().extensions["encoder"]
    prompt = encoder.query_prompt or "none"
    if encoder.engine == "reference" and server.cfg.workers > usable_cores():
        server.log.warning(
            "With this model each worker more than one for each core costs memory and gains nothing: set"
            " WEB_CONCURRENCY to %d",
            usable_cores(),
        )
    engine = " for ".join(filter(None, (encoder.engine, encoder.instruction_set)))
    about = encoder.model_name, encoder.dimension, engine, encoder.dtype, prompt
    server.log.info("Serving %s, %d dimensions, engine: %s in %s, query prompt: %s", *about)


def _log_example(server):
    address = server.LISTENERS[0].getsockname() if server.LISTENERS else None
    if not isinstance(address, tuple):
        return
    host = {"0.0.0.0": "localhost", "::": "localhost"}.get(address[0], address[0])
    url = f"http://[{host}]:{address[1]}" if ":" in host else f"http://{host}:{address[1]}"
    url += os.environ.get("SCRIPT_NAME", "")
    key = " -H 'Authorization: Bearer YOUR_KEY'" if process_settings().api_keys else ""
    data = """-H 'Content-Type: application/json' -d '{"texts": "hello world"}'"""
    server.log.info("Try: curl -X POST %s/embed%s %s", url, key, data)


def _stop(server, sig, frame):
    if os.getpid() != server.pid:
        # This is a worker that was just forked and has not set its own handlers yet.
        os._exit(0)
    # Workers that stop for good must answer the backlog as well. At a reload new workers take the backlog over, and in
    # an upgrade, when there is a second master, those of the other master do.
    if sig == signal.SIGTERM and Worker.shared and not (server.reexec_pid or server.master_pid):
        Worker.shared.stop()
    # Signal them now: Gunicorn would first finish a reload that is under way.
    for pid in list(server.WORKERS):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM if sig == signal.SIGTERM else signal.SIGQUIT)
    server.signal(sig, frame)


def pre_fork(server, worker):
    taken = {other.number for other in server.WORKERS.values()}
    worker.number = min(set(range(1, len(taken) + 2)) - taken)


def child_exit(server, worker):
    # A worker that was killed could not reset its flag. Other kinds of workers have none.
    if Worker.shared:
        Worker.shared.forget(worker.number)
    metrics.reset_dead_worker(worker.number)


# In the workers


def post_worker_init(worker):
    metrics.run_in_worker(worker.number)


def worker_exit(server, worker):
    # Skip the interpreter's shutdown: it would copy what the workers share, and torch needs a second for it. A worker
    # that failed to boot must exit normally, as Gunicorn reads its exit code.
    if worker.booted:
        os._exit(0)
