"""One JSON shape for every error: OpenAI's, so that its clients understand it, plus `details`."""

import traceback

from flask import current_app, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from embedding_api import metrics


class ApiError(Exception):
    """An error that the client is told about.

    Args:
        status: the HTTP status, 400 or more.
        code: a short name for programs, such as "invalid_json".
        message: one or two sentences for people: what is wrong and how to mend it.
        param: the field at fault, such as "texts[3]".
        details: anything JSON that helps further, such as a list of all fields at fault.
        headers: response headers that belong to this error.
    """

    def __init__(self, status, code, message, *, param=None, details=None, headers=()):
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.details = details
        self.headers = headers


class ClientGone(Exception):
    """The client has closed its connection, and nobody waits for the answer."""


def overloaded():
    """The error for a request that there is no room for."""
    message = "More requests wait than the service can take up. Send the request again in a second or later."
    return ApiError(503, "overloaded", message, headers=[("Retry-After", "1")])


def occupied():
    """The error for a large request beside others."""
    message = (
        "As many large requests are being computed as the service takes up at a time. Send it again in a second or"
    )
    return ApiError(503, "overloaded", f"{message} later, or in smaller parts.", headers=[("Retry-After", "1")])


def stopping():
    """The error for a request that comes too late."""
    message = "The service is about to stop. Send the request again in some seconds."
    return ApiError(503, "stopping", message, headers=[("Retry-After", "5")])


def error_body(status, code, message, param=None, details=None):
    """The body of an error response, as a dictionary."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code, "details": details}}


def trace(error):
    """Where an exception came from, for the log: all but its message, which may quote a text."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"


def init_app(app):
    app.register_error_handler(ApiError, _render)
    app.register_error_handler(HTTPException, _render_http_exception)
    app.register_error_handler(ClientGone, _render_client_gone)
    app.register_error_handler(Exception, _render_unexpected)


def raise_refusal():
    # The server has found a reason to refuse the request before the application saw it.
    refusal = getattr(request.environ.get("gunicorn.socket"), "refusal", None)
    if refusal:
        raise refusal


def _render(error):
    metrics.errors.labels(error.code).inc()
    response = current_app.json.response(error_body(error.status, error.code, str(error), error.param, error.details))
    response.status_code = error.status
    response.headers.extend(error.headers)
    return response


def _render_http_exception(error):
    if error.code < 400:
        return error
    message = error.description
    path = request.path[:200]
    if isinstance(error, NotFound):
        message = f"There is nothing at {path}. Embeddings are at POST /embed."
    elif isinstance(error, MethodNotAllowed) and error.valid_methods:
        methods = " or ".join(sorted({*error.valid_methods} - {"HEAD", "OPTIONS"}))
        message = f"{request.method} does not work on {path}. Use {methods}."
    # The exception's own headers say, for example, which methods are allowed; its body would be HTML.
    headers = [(name, value) for name, value in error.get_headers() if name.lower() != "content-type"]
    return _render(ApiError(error.code, error.name.lower().replace(" ", "_"), message, headers=headers))


def _render_client_gone(error):
    # nginx's number for it, for the log and the metrics. A client that reads it has closed its sending half only.
    message = "The connection was closed for sending before the answer was ready. Keep it open until then."
    return _render(ApiError(499, "client_gone", message))


def _render_unexpected(error):
    current_app.logger.error("Unexpected error: %s", trace(error), extra={"request_id": g.request_id})
    message = f"The service failed on this request. The log has the reason, under request id {g.request_id}."
    return _render(ApiError(500, "internal_error", message, details={"request_id": g.request_id}))
