"""SCRIPT_NAME, the prefix of all paths: set in the environment, or by a trusted proxy as a header of that name."""

import os

from embedding_api.errors import ApiError

# Probes may leave out the prefix.
PROBES = ("/health", "/ready")


def check() -> str | None:
    """Why SCRIPT_NAME in the environment makes no sense, or None."""
    name = os.environ.get("SCRIPT_NAME", "")
    if name and (not name.startswith("/") or name.endswith("/")):
        return f"SCRIPT_NAME={name!r} makes no sense: set it to a path such as /embeddings, without a slash at its end."
    return None


def admit(request):
    """Take the prefix from a request whose path is outside of it: `gunicorn.http.wsgi.create` would fail on that path.

    Args:
        request: Gunicorn's, whose headers may be changed.

    Returns:
        the `ApiError` that the application shall answer with, or None.
    """
    names = [value for name, value in request.headers if name == "SCRIPT_NAME"]
    prefix = names[-1] if names else os.environ.get("SCRIPT_NAME", "")
    path = request.path
    if not prefix or path == prefix or path.startswith(prefix.rstrip("/") + "/"):
        return None
    # Gunicorn uses the last header of a name.
    request.headers.append(("SCRIPT_NAME", ""))
    if path in PROBES:
        return None
    return ApiError("not_found", f"There is nothing at {path[:200]}. The paths of this service begin with {prefix}.")
