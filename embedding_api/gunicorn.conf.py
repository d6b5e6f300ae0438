"""How Gunicorn serves the application; its users' own options (`gunicorn -w 4 …`) win over these."""

# ruff: noqa: E402 - the directory for the metrics must be set before the application is imported

import atexit
import contextlib
import gc
import os
import shutil
import signal
import sys
import tempfile

# In memory, where no slow disk can hold up a worker.
directory = "/dev/shm" if os.path.isdir("/dev/shm") else None

# prometheus-client looks for its directory when it is imported: at the start, and not at a reload.
if "prometheus_client" not in sys.modules:

    def remove_metrics(directory, master):
        # The workers leave by way of this as well.
        if os.getpid() == master:
            shutil.rmtree(directory)

    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="embedding-metrics-", dir=directory)
    atexit.register(remove_metrics, os.environ["PROMETHEUS_MULTIPROC_DIR"], os.getpid())

from embedding_api import logs, memory, metrics
from embedding_api.config import ConfigError, process_settings, usable_cores
from embedding_api.server.worker import Worker

try:
    settings = process_settings()
except ConfigError as error:
    sys.exit(f"Error: {error}")

bind = settings.bind

# One form for all lines, to standard error: Gunicorn's --error-logfile and --log-config have no effect. The application
# writes a line for each request, so Gunicorn's own access log stays off.
logger_class = "embedding_api.server.worker.Log"
logconfig_dict = logs.config(settings)
loglevel = settings.log_level

# Each has one request at a time.
workers = settings.workers
worker_class = "embedding_api.server.worker.Worker"

# The model is loaded once, before the fork, and its pages stay shared between all workers.
preload_app = True

# A worker that has not reported for so long hangs and is replaced. One that encodes reports after each micro-batch,
# so a long request is not taken for a hang.
timeout = 30
# The largest request keeps a core busy for minutes; a stop waits for what was accepted.
graceful_timeout = 120

# Workers report through a file.
worker_tmp_dir = directory

keepalive = 75

# Answers go by way of the door's thread, which has them in memory.
sendfile = False

# The control socket would be a thread in the master, which forks, and one more door to guard.
control_socket_disable = True


def on_starting(server):
    if server.cfg.worker_class_str == worker_class and (server.cfg.is_ssl or server.cfg.proxy_protocol != "off"):
        sys.exit(
            "Error: The service speaks neither TLS nor the PROXY protocol: leave these options out, and put a proxy"
            " such as nginx in front of it."
        )
    # For workers that run as another user than the master.
    os.chown(os.environ["PROMETHEUS_MULTIPROC_DIR"], server.cfg.uid, server.cfg.gid)


def when_ready(server):
    if server.cfg.preload_app:
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
    address = server.LISTENERS[0].getsockname()
    if isinstance(address, tuple):
        host = {"0.0.0.0": "localhost", "::": "localhost"}.get(address[0], address[0])
        url = f"http://[{host}]:{address[1]}" if ":" in host else f"http://{host}:{address[1]}"
        key = " -H 'Authorization: Bearer YOUR_KEY'" if settings.api_keys else ""
        data = """-H 'Content-Type: application/json' -d '{"texts": "hello world"}'"""
        server.log.info("Try: curl -X POST %s/embed%s %s", url, key, data)
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(name, lambda sig, frame: stop(server, sig, frame))
    # Left alone, the first garbage collection in each worker would write to every page that Python's objects live on,
    # and copy what the workers share.
    gc.collect()
    gc.freeze()
    # Loading leaves 100 MB.
    memory.give_back()


def stop(server, sig, frame):
    if os.getpid() != server.pid:
        # A worker that was forked a moment ago, and has not set its own handlers yet.
        os._exit(0)
    # The workers must know why they are told to stop: at a reload others take over, and at the end nobody does,
    # unless there is another master, which this one has started or was started by.
    if sig == signal.SIGTERM and not (server.reexec_pid or server.master_pid):
        Worker.shared.stop()
    # Gunicorn itself would not tell them before a reload under way is over.
    for pid in list(server.WORKERS):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM if sig == signal.SIGTERM else signal.SIGQUIT)
    server.signal(sig, frame)


def pre_fork(server, worker):
    taken = {other.place for other in server.WORKERS.values()}
    worker.place = min(set(range(1, len(taken) + 2)) - taken)


def post_worker_init(worker):
    metrics.run_in_worker(worker.place)


def worker_exit(server, worker):
    # At its end an interpreter takes itself apart, which copies what the workers share; torch needs a second for it.
    # One that did not start must tell Gunicorn by its exit code.
    if worker.booted:
        os._exit(0)


def child_exit(server, worker):
    # One that was killed could not say that it is no longer idle.
    worker.shared.set_idle(worker.place, False)
    metrics.forget(worker.place)
