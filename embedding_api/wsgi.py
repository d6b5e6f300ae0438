"""The application that Gunicorn serves: `gunicorn wsgi:app` in the repository, `embedding_api.wsgi:app` elsewhere."""

import sys

from gunicorn.arbiter import Arbiter

from embedding_api import create_app
from embedding_api.config import ConfigError, process_settings

try:
    app = create_app(process_settings())
except ConfigError as error:
    print(f"Error: {error}", file=sys.stderr)
    # Gunicorn stops at this status even where each worker loads the application by itself; at any other it would
    # start another worker, again and again.
    sys.exit(Arbiter.APP_LOAD_ERROR)
except KeyboardInterrupt:
    sys.exit("Interrupted.")
