"""`GET /metrics`: figures for Prometheus."""

from flask import Blueprint, Response, current_app
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily

from embedding_api import __version__, metrics
from embedding_api.api.operation import operation

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics", endpoint="metrics")
@operation("Figures for Prometheus", content_type="text/plain")
def show():
    encoder, server = current_app.extensions["encoder"], current_app.extensions["server"]
    metrics.set_waiting(server.waiting)
    registry = metrics.registry()
    registry.register(_Service(encoder, server))
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


class _Service:
    """Metrics whose values are known at any time and need not be counted."""

    def __init__(self, encoder, server):
        self._encoder, self._server = encoder, server

    def collect(self):
        backlog = "Connections that no worker has accepted yet."
        yield GaugeMetricFamily("embedding_backlog_connections", backlog, self._server.backlog)
        about = {"version": __version__, "revision": self._encoder.revision or ""}
        about |= self._encoder.description
        info = GaugeMetricFamily("embedding_model_info", "The model that is served, always 1.", labels=list(about))
        info.add_metric([str(value) for value in about.values()], 1)
        yield info
