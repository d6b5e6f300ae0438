"""What the API's description says of a view, beside it."""

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
    """A decorator that describes a view.

    Args:
        request: the schema of its body, if it takes one; or a list of those it takes.
        response: the schema of what it answers with, if that is JSON of one kind; or a list.
        errors: statuses of errors beyond those of any request.
        content_type: the content type of what it answers.
        reports_usage: whether headers tell what was computed.
        parameters: for each parameter in its path, what makes its JSON schema.
        error: the schema of its errors; or a list.
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
