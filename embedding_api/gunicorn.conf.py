"""How Gunicorn serves the application; its users' own options (`gunicorn -w 4 …`) win over these."""

import os
import sys

# Set before NumPy is imported. /similarity multiplies on one thread: a second would wait for a core that others use.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from embedding_api import logs
from embedding_api.config import process_settings
from embedding_api.errors import ConfigError
from embedding_api.server.folders import writable_folder

# What Gunicorn calls at its start and for each worker.
from embedding_api.server.hooks import (  # noqa: F401
    child_exit,
    on_starting,
    post_worker_init,
    pre_fork,
    when_ready,
    worker_exit,
)

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

# One for each core that the process may use, unless WEB_CONCURRENCY says otherwise.
workers = settings.workers
worker_class = "embedding_api.server.worker.Worker"

# The model is loaded once, before the fork, and its pages stay shared between all workers.
preload_app = True

# Connections that a worker keeps; beyond them it closes the one that has been idle or slow for longest.
worker_connections = 1000
# Connections that wait in the operating system until a worker accepts them.
backlog = 2048
# Seconds that an idle connection is kept: longer than the 60 of nginx and the cloud providers' balancers, so that they
# close first. If the service closed first, a request sent at that moment would be lost.
keepalive = 75

# Seconds without a report after which a worker counts as hung and is replaced. A worker reports at each turn of its
# event loop, unless its compute threads have work and have finished no micro-batch for so long.
timeout = 30
# Seconds that a stop waits for accepted requests: two of the largest at once take 280 seconds on two cores.
graceful_timeout = 300

# Each worker reports to the master through a file in this folder.
worker_tmp_dir = writable_folder()

# Answers are never files.
sendfile = False

# The control socket would be a thread in the master, which forks, and one more socket to protect.
control_socket_disable = True
