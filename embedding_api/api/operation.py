"""A decorator that keeps what the API's description says of a view beside the view."""

from embedding_api.api.schemas import ErrorResponse


def operation(
    summary,
    request=None,
    response=None,
    errors=(),
    content_type="application/json",
    parameters=None,
    reports_usage=False,
    error=ErrorResponse,
):
    """A decorator that sets the view's attribute `operation`, which `openapi` reads.

    Args:
        summary: one line that says what it does.
        request: the schema of its body, if it takes one; or a list of schemas.
        response: the schema of what it answers with, if that is JSON of one kind; or a list of schemas.
        errors: statuses of errors beyond those of any request.
        content_type: the content type of what it answers.
        parameters: for each parameter in its path a function that makes its JSON schema.
        reports_usage: whether its headers have the texts, tokens and times.
        error: the schema of its errors, or a list of schemas.
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
            "error": error,
        }
        return view

    return decorate
