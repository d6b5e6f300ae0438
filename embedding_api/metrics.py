"""`GET /metrics`: figures for Prometheus, summed over all workers, the living and the dead.

Each worker writes to files in a directory that Gunicorn's master has made, and whichever is asked reads all of them.
The files are named by the worker's place among its siblings and not by its process id: who takes the place of a dead
worker goes on with its counts, so nothing is lost, and there are never more files than workers at a time.
"""

import os
import struct
from time import perf_counter, sleep

from flask import Blueprint, Response, current_app, g, request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

import embedding_api
from embedding_api.operation import operation

blueprint = Blueprint("metrics", __name__)

_directory = None
_place = 0

# Where there is no such directory, as in tests, this process alone is counted.
_process = CollectorRegistry()
# Those without labels have a value from the beginning.
_without_labels = []
_ATTEMPTS = 10
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


def _metric(kind, name, about, labels=(), **options):
    metric = kind(f"embedding_{name}", about, labels, registry=_process, **options)
    if not labels:
        _without_labels.append(metric)
    return metric


_requests = _metric(Counter, "requests", "Answers, by the request's route and their status.", ["route", "status"])
errors = _metric(Counter, "errors", "Answers that are errors, by their code.", ["code"])
_seconds = _metric(Histogram, "request_seconds", "From a request, read, to its answer.", ["route"], buckets=_SECONDS)
_queue_seconds = _metric(Histogram, "queue_seconds", "Wait of a request for its forward pass.", buckets=_SECONDS)
_in_progress = _metric(Gauge, "requests_in_progress", "Requests being worked on.", multiprocess_mode="livesum")
_waiting = _metric(
    Gauge,
    "requests_waiting",
    "Accepted requests that wait: unread, large, or for memory; of other workers a second ago.",
    multiprocess_mode="livesum",
)
_texts = _metric(Counter, "texts", "Texts embedded.")
_tokens = _metric(Counter, "tokens", "Tokens embedded.")
_truncated = _metric(Counter, "truncated_texts", "Texts embedded without their end.")
_request_texts = _metric(Histogram, "request_texts", "Texts in a request.", buckets=[2**n for n in range(12)])
_request_tokens = _metric(Histogram, "request_tokens", "Tokens in a request.", buckets=[2**n for n in range(3, 18)])
_batch_requests = _metric(Histogram, "batch_requests", "Requests in a forward pass.", buckets=[2**n for n in range(7)])
_batch_tokens = _metric(Histogram, "batch_tokens", "Tokens in a forward pass.", buckets=[2**n for n in range(3, 12)])
dropped = _metric(Counter, "connections_dropped", "Connections closed before they were done, by reason.", ["reason"])
_workers = _metric(Counter, "workers_started", "Workers started, the first ones included.")


def share(directory):
    """Count in files of this directory, for all processes that are forked from this one. To call before any count."""
    global _directory
    _directory = os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: _place)
    # prometheus-client chooses when it is imported, which is too early: modules make no files.
    for metric in _without_labels:
        metric._metric_init()


def run_in_worker(place):
    """Settle in a worker process after the fork. `place` is its number among those that live, from 1."""
    global _place
    _place = place
    _workers.inc()


def forget(place):
    """What the worker in this place was doing when it ended, it no longer does."""
    if _directory:
        mark_process_dead(place, _directory)


def count(status, route="none"):
    """Note an answer, and the route of its request, if it had one."""
    _requests.labels(route, status).inc()


def set_waiting(requests):
    """Note how many requests wait in this worker."""
    _waiting.set(requests)


def record_forward_pass(requests, tokens):
    """Note a forward pass."""
    _batch_requests.observe(requests)
    _batch_tokens.observe(tokens)


def init_app(app):
    app.register_blueprint(blueprint)
    app.before_request(_begin)
    app.after_request(_observe)
    app.teardown_request(_end)


@blueprint.get("/metrics")
@operation("Figures for Prometheus", kind="text/plain")
def metrics():
    set_waiting(current_app.extensions["server"].waiting)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, _directory) if _directory else registry.register(_process)
    registry.register(_Service(current_app.extensions["encoder"], current_app.extensions["server"]))
    return Response(_text(registry), content_type=CONTENT_TYPE_LATEST)


def _text(registry):
    for _ in range(_ATTEMPTS):
        try:
            return generate_latest(registry)
        except struct.error:
            # A worker that starts has made its file this moment, and nothing is in it yet.
            sleep(0.01)
    return generate_latest(registry)


class _Service:
    """What is known at any time and need not be counted."""

    def __init__(self, encoder, server):
        self._encoder, self._server = encoder, server

    def collect(self):
        backlog = "Connections that no worker has accepted yet."
        yield GaugeMetricFamily("embedding_backlog_connections", backlog, self._server.backlog)
        about = {"version": embedding_api.__version__, "revision": self._encoder.revision or ""}
        about |= self._encoder.description
        info = GaugeMetricFamily("embedding_model_info", "The model that is served, always 1.", labels=list(about))
        info.add_metric([str(value) for value in about.values()], 1)
        yield info


def _begin():
    _in_progress.inc()
    g.in_progress = True


def _observe(response):
    route = request.url_rule.rule if request.url_rule else "none"
    count(response.status_code, route)
    _seconds.labels(route).observe(perf_counter() - g.started)
    figures = g.figures
    if "queue_ms" in figures:
        _queue_seconds.observe(figures["queue_ms"] / 1000)
    if "texts" in figures:
        _texts.inc(figures["texts"])
        _tokens.inc(figures["tokens"])
        _truncated.inc(figures["truncated"])
        _request_texts.observe(figures["texts"])
        _request_tokens.observe(figures["tokens"])
    return response


def _end(error):
    if g.pop("in_progress", False):
        _in_progress.dec()
