"""Turns every error of a request into a response of the one JSON shape.

A blueprint that speaks another dialect has an error handler of its own for `ApiError`. On /embed, which two dialects
share, errors have the service's own shape until the body is parsed.
"""

from difflib import get_close_matches

from flask import current_app, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.sansio.response import Response

from embedding_api.errors import ApiError, ClientGone, error_body, internal_error, trace


def init_app(app):
    app.register_error_handler(ApiError, render)
    app.register_error_handler(HTTPException, _render_http_exception)
    app.register_error_handler(ClientGone, _render_client_gone)
    app.register_error_handler(Exception, _render_unexpected)
    # By a prefix of paths, what renders errors there that belong to no view, and the path that embeds.
    app.extensions["dialects"] = {}


def render(error: ApiError) -> Response:
    """The response for an `ApiError` in the service's own shape."""
    return respond(error, error.status, error_body(error.status, error.code, str(error), error.param, error.details))


def respond(error: ApiError, status: int, body: dict) -> Response:
    """The response for an `ApiError`, with this status, and this dictionary as JSON."""
    g.error_code = error.code
    response = current_app.json.response(body)
    response.status_code = status
    response.headers.extend(error.headers)
    return response


def _render_http_exception(error):
    if error.code < 400:
        return error
    message = error.description
    root, path = request.script_root, request.path[:200]
    dialects = current_app.extensions["dialects"]
    prefix = next((prefix for prefix in dialects if path.startswith(prefix)), None)
    render_it, embeds = dialects.get(prefix, (render, None))
    if isinstance(error, NotFound):
        hint = f"This service embeds, by POST {root}{embeds}." if embeds else _nearest(root, path)
        message = f"There is nothing at {root}{path}. {hint}"
    elif isinstance(error, MethodNotAllowed) and error.valid_methods:
        methods = " or ".join(sorted({*error.valid_methods} - {"HEAD", "OPTIONS"}))
        message = f"{request.method} does not work on {root}{path}. Use {methods}."
    # The exception's own headers say, for example, which methods are allowed; its body would be HTML.
    headers = [(name, value) for name, value in error.get_headers() if name.lower() != "content-type"]
    name = error.name.lower().replace(" ", "_")
    return render_it(ApiError(name, message, headers=headers, status=error.code))


def _nearest(root, path):
    paths = [rule.rule for rule in current_app.url_map.iter_rules() if not rule.arguments]
    if near := get_close_matches(path, paths, n=1):
        return f"Did you mean {root}{near[0]}?"
    return f"Embeddings are at POST {root}/embed, and for OpenAI's clients under {root}/v1."


def _render_client_gone(error):
    # 499, nginx's status for it, is for the log and the metrics: only a client that has closed just its sending half
    # reads this.
    message = "The connection was closed for sending before the answer was ready. Keep it open until then."
    return _in_dialect(ApiError("client_gone", message))


def _render_unexpected(error):
    current_app.logger.error("Unexpected error: %s", trace(error), extra={"request_id": g.request_id})
    return _in_dialect(internal_error(g.request_id))


def _in_dialect(error):
    # By the handler of the blueprint, if it has one.
    return current_app.handle_user_exception(error)
