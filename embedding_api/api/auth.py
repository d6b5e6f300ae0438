"""Who may call: those with an API key, where keys are set, and web pages of the origins that are set."""

import hashlib
import hmac
import re

from flask import current_app, request
from flask_cors import CORS

from embedding_api.errors import ApiError

# Open to all, and without secrets: probes, and the pages that say how to call the service.
_PROBES = {"health.health", "health.ready"}
_PAGES = {"pages.index", "pages.file", "openapi.page", "openapi.asset", "openapi.openapi"}
_OPEN = _PROBES | _PAGES


def init_app(app):
    settings = app.extensions["settings"]
    app.extensions["open"] = _OPEN | {"metrics.metrics"} if settings.open_metrics else _OPEN
    app.extensions["api_keys"] = [_digest(key) for key in settings.api_keys]
    if settings.cors_origins:
        # Browsers hide all other headers from the page.
        exposed = ["Retry-After", "Server-Timing", "X-Request-ID", "X-Texts", "X-Tokens", "X-Truncated"]
        # Patterns of the whole origin: flask-cors takes a string with brackets for one, and matches its beginning only.
        origins = ["*" if name == "*" else re.compile(re.escape(name) + r"\Z") for name in settings.cors_origins]
        CORS(app, origins=origins, expose_headers=[*exposed, "X-Truncated-Texts", "X-Unknown-Tokens"], max_age=600)


def check_key() -> None:
    """Check the key that the current request carries, if keys are set.

    Raises:
        ApiError: 401 if it carries none, or one that is not set.
    """
    keys = current_app.extensions["api_keys"]
    # A preflight request cannot carry a key, and a path that does not exist needs none.
    is_open = request.endpoint is None or request.endpoint in current_app.extensions["open"]
    if not keys or is_open or request.method == "OPTIONS":
        return
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise _unauthorized("missing_api_key", "Send your API key in the header 'Authorization: Bearer YOUR_KEY'.", "")
    sent = _digest(key.strip())
    # Compare all, as digests of one length, so that the time taken says nothing about any key.
    matches = [hmac.compare_digest(sent, digest) for digest in keys]
    if not any(matches):
        message = "The API key is not valid. Send one that the service's operator has given you."
        raise _unauthorized("invalid_api_key", message, ', error="invalid_token"')


def _digest(key):
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _unauthorized(code, message, reason):
    return ApiError(code, message, headers=[("WWW-Authenticate", f'Bearer realm="embedding API"{reason}')])
