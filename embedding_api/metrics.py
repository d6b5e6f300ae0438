"""Metrics for Prometheus, summed over all workers, also those that have ended.

Each worker writes to files in a directory that Gunicorn's master has made; the worker that is asked reads all of them.
The files are named by the worker's number, from 1, and not by its process id: the worker that replaces a dead one gets
its number and continues its counts. So no count is lost, and there are never files of more workers than run at a time.
"""

import glob
import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

_directory = None
_worker_number = 0

# Without such a directory, as in tests, this process alone is counted.
_process = CollectorRegistry()
# Metrics without labels have a value from the start; `share` makes it again, in files.
_without_labels: list[Counter | Gauge | Histogram] = []
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


def _metric(kind, name, about, labels=(), **options):
    metric = kind(f"embedding_{name}", about, labels, registry=_process, **options)
    if not labels:
        _without_labels.append(metric)
    return metric


_requests = _metric(Counter, "requests", "Answers, by the request's route and their status.", ["route", "status"])
_errors = _metric(Counter, "errors", "Answers that are errors, by their code.", ["code"])
_seconds = _metric(Histogram, "request_seconds", "From a request, read, to its answer.", ["route"], buckets=_SECONDS)
_queue_seconds = _metric(Histogram, "queue_seconds", "Wait of a request for its forward pass.", buckets=_SECONDS)
in_progress = _metric(Gauge, "requests_in_progress", "Requests being worked on.", multiprocess_mode="livesum")
_waiting = _metric(
    Gauge,
    "requests_waiting",
    "Accepted requests that wait: postponed, large, or stalled; of other workers a second ago.",
    multiprocess_mode="livesum",
)
_texts = _metric(Counter, "texts", "Texts embedded.")
_tokens = _metric(Counter, "tokens", "Tokens embedded.")
_truncated = _metric(Counter, "truncated_texts", "Texts embedded without their end.")
_request_texts = _metric(Histogram, "request_texts", "Texts in a request.", buckets=[2**n for n in range(12)])
_request_tokens = _metric(Histogram, "request_tokens", "Tokens in a request.", buckets=[2**n for n in range(3, 18)])
_batch_requests = _metric(Histogram, "batch_requests", "Requests in a forward pass.", buckets=[2**n for n in range(7)])
_batch_tokens = _metric(Histogram, "batch_tokens", "Tokens in a forward pass.", buckets=[2**n for n in range(3, 12)])
_dropped = _metric(Counter, "connections_dropped", "Connections closed before they were done, by reason.", ["reason"])
_workers = _metric(Counter, "workers_started", "Workers started, the first ones included.")


def share(directory: str) -> None:
    """Count in files in this directory, in all processes forked from this one. To be called before the first count."""
    global _directory
    _directory = os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: _worker_number)
    # prometheus-client chooses between memory and files when it is imported, which is too early: no import makes files.
    for metric in _without_labels:
        metric._metric_init()


def run_in_worker(number: int) -> None:
    """Count in a worker process, after the fork. `number` is the worker's among those that live, from 1."""
    global _worker_number
    _worker_number = number
    _workers.inc()


def reset_dead_worker(number: int) -> None:
    """Reset the gauges of a worker that has ended: its unfinished requests are no longer in progress."""
    if _directory:
        mark_process_dead(number, _directory)


def record_response(
    status: int,
    route: str | None,
    seconds: float | None = None,
    figures: dict[str, float] | None = None,
    error_code: str | None = None,
) -> None:
    """Count an answer.

    Args:
        route: the pattern of the request's path, or None if no route matches.
        seconds: from the moment when the request was read to its answer; None if unknown.
        figures: numbers of the request: "queue_ms", and "texts", "tokens" and "truncated" if it had texts embedded.
        error_code: the error's code, if the answer is one.
    """
    route, figures = route or "none", figures or {}
    _requests.labels(route, status).inc()
    if error_code:
        _errors.labels(error_code).inc()
    if seconds is not None:
        _seconds.labels(route).observe(seconds)
    if "queue_ms" in figures:
        _queue_seconds.observe(figures["queue_ms"] / 1000)
    if "texts" in figures:
        _texts.inc(figures["texts"])
        _tokens.inc(figures["tokens"])
        _truncated.inc(figures["truncated"])
        _request_texts.observe(figures["texts"])
        _request_tokens.observe(figures["tokens"])


def record_dropped(reason: str) -> None:
    """Count a connection that was closed before it was done."""
    _dropped.labels(reason).inc()


def set_waiting(requests: int) -> None:
    """Note how many requests wait in this worker."""
    _waiting.set(requests)


def record_forward_pass(requests: int, tokens: int) -> None:
    """Note a forward pass."""
    _batch_requests.observe(requests)
    _batch_tokens.observe(tokens)


def registry() -> CollectorRegistry:
    """A registry of all these metrics, summed over the workers."""
    registry = CollectorRegistry()
    if _directory:
        _Collector(registry, _directory)
    else:
        registry.register(_process)
    return registry


class _Collector(MultiProcessCollector):
    """Leaves out empty files: a worker that starts has just made them, and prometheus-client cannot read them."""

    def collect(self):
        return self.merge([path for path in glob.glob(f"{self._path}/*.db") if _size(path)])


def _size(path):
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        # That of a worker which has ended since.
        return 0
