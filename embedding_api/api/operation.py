"""A decorator that keeps what the API's description says of a view beside the view."""


def operation(
    summary,
    request=None,
    response=None,
    errors=(),
    content_type="application/json",
    parameters=None,
    reports_usage=False,
):
    """A decorator that sets the view's attribute `operation`, which `openapi` reads.

    Args:
        summary: one line that says what it does.
        request: the schema of its body, if it takes one.
        response: the schema of what it answers with, if that is JSON of one kind.
        errors: statuses of errors beyond those of any request.
        content_type: the content type of what it answers.
        parameters: for each parameter in its path a function that makes its JSON schema.
        reports_usage: whether its headers have the texts, tokens and times.
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
