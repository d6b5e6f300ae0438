"""What happens at the start and at the end of every request, in this order."""

from time import perf_counter

from flask import g, request

from embedding_api import logs, metrics
from embedding_api.api import auth, request_id


def init_app(app):
    app.before_request(_start)
    app.after_request(_finish)
    app.teardown_request(_leave)


def _start():
    g.started = perf_counter()
    g.figures = {}
    g.error_code = None
    g.request_id = request_id.sent_or_new()
    metrics.in_progress.inc()
    g.in_progress = True
    auth.check_key()
    # The server has found a reason to refuse the request before the application saw it.
    if refusal := request.environ.get("embedding.refusal"):
        raise refusal


def _finish(response):
    # The route and not the path: somebody will put a text there.
    route = request.url_rule.rule if request.url_rule else None
    seconds = perf_counter() - g.started
    response.headers[request_id.HEADER] = g.request_id
    metrics.record_response(response.status_code, route, seconds, g.figures, g.error_code)
    logs.log_request(request.method, route, response.status_code, seconds, g.figures)
    return response


def _leave(error):
    if g.pop("in_progress", False):
        metrics.in_progress.dec()
