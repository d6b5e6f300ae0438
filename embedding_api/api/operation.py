"""What the API's description says of a view, beside it."""


def operation(
    summary,
    request=None,
    response=None,
    errors=(),
    content_type="application/json",
    parameters=None,
    reports_usage=False,
):
    """A decorator that describes a view.

    Args:
        request: the schema of its body, if it takes one.
        response: the schema of what it answers with, if that is JSON of one kind.
        errors: statuses of errors beyond those of any request.
        content_type: the content type of what it answers.
        reports_usage: whether headers tell what was computed.
        parameters: for each parameter in its path, what makes its JSON schema.
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
        }
        return view

    return decorate
