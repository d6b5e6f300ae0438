"""The application that Gunicorn serves: `gunicorn wsgi:app` in the repository, `embedding_api.wsgi:app` elsewhere."""

import logging
import os
import re
import shlex
import sys
from pathlib import Path

from gunicorn.arbiter import Arbiter

from embedding_api.api import openapi
from embedding_api.app import create_app
from embedding_api.config import process_settings
from embedding_api.errors import ConfigError


def _warn_of_missing_configuration():
    """Warn if Gunicorn has read no configuration, and `-c` does not name another one.

    Gunicorn looks for gunicorn.conf.py in the folder where it is called, also with `--chdir`.
    """
    arguments = [*sys.argv[1:], *shlex.split(os.environ.get("GUNICORN_CMD_ARGS", ""))]
    is_gunicorn = os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn")
    is_chosen = "embedding_api.server.hooks" in sys.modules or any(re.match("-c|--conf", each) for each in arguments)
    if is_gunicorn and not is_chosen:
        logging.getLogger("gunicorn.error").warning(
            "Gunicorn has not read the service's configuration, so BIND, WEB_CONCURRENCY and the service's own worker"
            " have no effect: start it with -c %s",
            Path(__file__).resolve().with_name("gunicorn.conf.py"),
        )


_warn_of_missing_configuration()
try:
    app = create_app(process_settings())
    # Before the fork, so that the workers share it and no request waits for it.
    openapi.describe(app)
except ConfigError as error:
    print(f"Error: {error}", file=sys.stderr)
    # At this status Gunicorn stops even where each worker loads the application by itself. At any other it would start
    # another worker, again and again.
    sys.exit(Arbiter.APP_LOAD_ERROR)
except KeyboardInterrupt:
    sys.exit("Interrupted.")
