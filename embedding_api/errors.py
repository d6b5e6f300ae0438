"""One JSON shape for every error: OpenAI's, so that its clients understand it, plus `details`."""

import traceback
from collections.abc import Iterable
from typing import Any

# Every error that the service itself finds: its HTTP status, and what is wrong.
CODES = {
    "malformed_request": (400, "It is not valid HTTP."),
    "empty_body": (400, "The body is empty."),
    "incomplete_body": (400, "The body ends before it is complete."),
    "invalid_json": (400, "The body is not JSON in UTF-8."),
    "duplicate_key": (400, "A JSON object has a key twice."),
    "query_string": (400, "The query string has fields that belong into the body."),
    "token_ids": (400, "The input is token ids; only texts are taken."),
    "missing_api_key": (401, "API keys are set, and none was sent."),
    "invalid_api_key": (401, "The API key is not one of those that are set."),
    "not_found": (404, "There is nothing at this path."),
    "model_not_found": (404, "A model of this name is not served."),
    "method_not_allowed": (405, "The path takes other methods; `Allow` has them."),
    "request_timeout": (408, "It took too long to arrive."),
    "body_too_large": (413, "The body has more bytes than the service takes."),
    "too_many_tokens": (413, "The texts have more tokens together than the service takes."),
    "uri_too_long": (414, "The request line is too long."),
    "unsupported_media_type": (415, "The body is not `application/json`."),
    "unsupported_content_encoding": (415, "The body is compressed."),
    "expectation_failed": (417, "It expects something else than `100-continue`."),
    "invalid_fields": (422, "Fields are missing, unknown or wrong; `details` names them."),
    "text_too_long": (422, "A text has more tokens than the model reads, and `truncate` is false."),
    "headers_too_large": (431, "The headers are too large, or too many."),
    "client_gone": (499, "The connection was closed before the answer was ready."),
    "internal_error": (500, "The service failed; its log has the reason under the request id."),
    "overloaded": (503, "More requests wait, or are under way, than the service takes up."),
    "stopping": (503, "The service is about to stop."),
    "not_ready": (503, "The model no longer gives the vectors it gave at the start."),
}


class ApiError(Exception):
    """An error that the client is told about.

    Args:
        code: a short name for programs, one of `CODES`.
        message: one or two sentences for people: what is wrong and how to mend it.
        param: the field at fault, such as "texts[3]".
        details: anything JSON that helps further, such as a list of all fields at fault.
        headers: response headers that belong to this error.
        status: the HTTP status of a code that is not in `CODES`.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        details: Any = None,
        headers: Iterable[tuple[str, str]] = (),
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status or CODES[code][0]
        self.code = code
        self.param = param
        self.details = details
        self.headers = headers


class ConfigError(Exception):
    """An operator's mistake. The message is one sentence that says what to set."""


class ClientGone(Exception):
    """The client has closed its connection, so that no answer is needed."""


def overloaded(seconds: int = 1) -> ApiError:
    """The error for a request that there is no room for; it may be sent again after so many seconds."""
    again = "in a second" if seconds <= 1 else f"in {seconds} seconds"
    message = f"More requests wait than the service takes up. Send the request again {again}."
    return ApiError("overloaded", message, headers=[("Retry-After", str(max(seconds, 1)))])


def stopping() -> ApiError:
    """The error for a request that comes while the service stops."""
    message = "The service is about to stop. Send the request again in some seconds."
    return ApiError("stopping", message, headers=[("Retry-After", "5")])


def internal_error(request_id: str) -> ApiError:
    """The error for a fault of the service itself."""
    message = f"The service failed on this request. The log has the reason, under request id {request_id}."
    return ApiError("internal_error", message, details={"request_id": request_id})


def error_body(
    status: int, code: str, message: str, param: str | None = None, details: Any = None
) -> dict[str, dict[str, Any]]:
    """The body of an error response, as a dictionary."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code, "details": details}}


def trace(error: BaseException) -> str:
    """Where an exception came from, for the log: all but its message, which may quote a text."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"
