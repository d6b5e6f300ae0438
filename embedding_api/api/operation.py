"""A decorator that keeps what the API's description says of a view beside the view."""

from typing import NamedTuple

from embedding_api.api.schemas import ErrorResponse, ResponseSchema
from embedding_api.errors import ApiError


class Dialect(NamedTuple):
    """What the errors of a dialect are like.

    Attributes:
        error: the schema of their bodies.
        statuses: the status of each code that has another one than in `errors.CODES`.
    """

    error: type[ResponseSchema]
    statuses: dict[str, int]

    def status(self, error: ApiError) -> int:
        """The status of an error."""
        return self.statuses.get(error.code, error.status)


OWN = Dialect(ErrorResponse, {})


def operation(
    summary,
    request=None,
    response=None,
    errors=(),
    content_type="application/json",
    parameters=None,
    reports_usage=False,
    dialects=(OWN,),
):
    """A decorator that sets the view's attribute `operation`, which `openapi` reads.

    Args:
        summary: one line that says what it does.
        request: the schema of its body, if it takes one; or a list of schemas.
        response: the schema of what it answers with, if that is JSON of one kind; or a list of schemas.
        errors: statuses in `errors.CODES` of errors beyond those of any request.
        content_type: the content type of what it answers.
        parameters: for each parameter in its path a function that makes its JSON schema.
        reports_usage: whether its headers have the texts, tokens and times.
        dialects: those of its errors.
    """

    def decorate(view):
        view.operation = {
            "summary": summary,
            "request": request,
            "response": response,
            "errors": errors,
            "content_type": content_type,
            "parameters": parameters or {},
            "reports_usage": reports_usage,
            "dialects": dialects,
        }
        return view

    return decorate
