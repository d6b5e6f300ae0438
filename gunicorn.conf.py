"""How Gunicorn serves the application; its users' own options (`gunicorn -w 4 …`) win over these."""

import ctypes
import gc
import os
import sys

from embedding_api import logs
from embedding_api.config import ConfigError, process_settings
from embedding_api.encoder.cores import MACHINE

try:
    settings = process_settings()
except ConfigError as error:
    sys.exit(f"Error: {error}")

bind = settings.bind

# One form for all lines, to standard error: Gunicorn's --error-logfile and --log-config have no effect. The application
# writes a line for each request, so Gunicorn's own access log stays off.
logconfig_dict = logs.config(settings)
loglevel = settings.log_level

# Each worker encodes one request at a time, when all are busy on one core each: more workers would share the cores.
workers = settings.workers
# Fewer workers than cores get more than one each. Loading the model compiles for that number of threads.
MACHINE.share_among(workers)
worker_class = "embedding_api.worker.Worker"

# The model is loaded and warmed once, before the fork, and its pages stay shared between all workers.
preload_app = True

# A worker that has not reported for so long hangs and is replaced. One that encodes reports after each micro-batch,
# so a long request is not taken for a hang.
timeout = 30
# The largest request keeps a core busy for minutes; a stop waits for what was accepted.
graceful_timeout = 120

# Workers report through a file: in memory, where no slow disk can make them look hung.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None

# The control socket would be a thread in the master, which forks, and one more door to guard.
control_socket_disable = True


def when_ready(server):
    if server.cfg.preload_app:
        encoder = server.app.wsgi().extensions["encoder"]
        prompt = encoder.query_prompt or "none"
        server.log.info("Serving %s, %d dimensions, query prompt: %s", encoder.model_name, encoder.dimension, prompt)
    address = server.LISTENERS[0].getsockname()
    if isinstance(address, tuple):
        host = {"0.0.0.0": "localhost", "::": "localhost"}.get(address[0], address[0])
        url = f"http://[{host}]:{address[1]}" if ":" in host else f"http://{host}:{address[1]}"
        key = " -H 'Authorization: Bearer YOUR_KEY'" if settings.api_keys else ""
        data = """-H 'Content-Type: application/json' -d '{"texts": "hello world"}'"""
        server.log.info("Try: curl -X POST %s/embed%s %s", url, key, data)
    # Left alone, the first garbage collection in each worker would write to every page that Python's objects live on,
    # and copy what the workers share.
    gc.collect()
    gc.freeze()
    # Loading and warming leave 100 MB of freed memory in malloc's arenas; glibc gives it back only when asked.
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def post_worker_init(worker):
    worker.wsgi.extensions["encoder"].run_in_worker(MACHINE, worker.age, worker.notify)


def child_exit(server, worker):
    # One that was killed while it computed could not say that it no longer does.
    MACHINE.give_back(worker.age)
