"""What happens at the start and at the end of every request, in this order."""

from time import perf_counter

from flask import g, request

from embedding_api import logs, metrics
from embedding_api.api import auth, request_id


def init_app(app):
    app.before_request(_start)
    app.after_request(_finish)
    app.teardown_request(_tear_down)


def _start():
    g.started = perf_counter()
    g.figures = {}
    g.error_code = None
    g.request_id = request_id.sent_or_new()
    metrics.in_progress.inc()
    g.in_progress = True
    auth.check_key()
    # The server's reason to refuse the request, if there is one. After the key: a client without one gets a 401.
    if refusal := request.environ.get("embedding.refusal"):
        raise refusal


def _finish(response):
    # The route and not the path, in which somebody may send a text.
    route = request.url_rule.rule if request.url_rule else None
    seconds = perf_counter() - g.started
    response.headers[request_id.HEADER] = g.request_id
    metrics.record_response(response.status_code, route, seconds, g.figures, g.error_code)
    logs.log_request(request.method, route, response.status_code, seconds, g.figures, g.error_code)
    return response


def _tear_down(error):
    if g.pop("in_progress", False):
        metrics.in_progress.dec()
