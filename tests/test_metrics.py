import os
import re
import signal
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from embedding_api import create_app, metrics
from embedding_api.config import Settings
from support.server import Server, figures, wait_until
from tiny import BLOCKING_TEXT, text_taking, tiny_encoder

KEY = "0123456789abcdef"


@pytest.fixture
def figure(client):
    """A function for what /metrics says under a name, as a number."""
    return lambda name: figures(client.get("/metrics").text).get(name, 0)


def test_requests_are_counted_by_route_and_status(client, figure):
    names = [
        f'embedding_requests_total{{route="{route}",status="{status}"}}'
        for route, status in (("/embed", 200), ("/embed", 422), ("/embed", 405), ("none", 404))
    ]
    before = [figure(name) for name in names]
    client.post("/embed", json={"texts": "a"})
    client.post("/embed", json={"texts": ""})
    client.post("/embed", json={"texts": 1})
    client.get("/a text in the path")
    assert [figure(name) - then for name, then in zip(names, before, strict=True)] == [1, 2, 0, 1]
    assert "a text" not in client.get("/metrics").text


def test_texts_tokens_and_truncated_texts_are_counted(client, figure):
    names = ["texts_total", "tokens_total", "truncated_texts_total", "request_texts_count", "request_texts_sum"]
    before = [figure(f"embedding_{name}") for name in names]
    client.post("/embed", json={"texts": ["a", "ab", "a" * 99]})
    after = [figure(f"embedding_{name}") for name in names]
    assert [now - then for now, then in zip(after, before, strict=True)] == [3, 3 + 4 + 16, 1, 1, 3]


def test_errors_are_counted_by_code(client, figure):
    before = figure('embedding_errors_total{code="invalid_json"}')
    client.post("/embed", data="{", content_type="application/json")
    assert figure('embedding_errors_total{code="invalid_json"}') == before + 1


def test_only_the_scrape_itself_is_in_progress(client, figure):
    client.post("/embed", json={"texts": ""})
    assert figure("embedding_requests_in_progress") == 1
    assert figure("embedding_requests_waiting") == 0


def test_a_file_that_a_worker_has_just_made_is_waited_for(client, monkeypatch):
    results = iter([struct.error, struct.error, b"embedding_texts_total 1.0\n"])

    def generate(registry):
        result = next(results)
        if result is struct.error:
            raise result("unpack requires a buffer of 4 bytes")
        return result

    monkeypatch.setattr(metrics, "generate_latest", generate)
    reply = client.get("/metrics")
    assert (reply.status_code, reply.text) == (200, "embedding_texts_total 1.0\n")


def test_the_model_is_named(client):
    assert 'dimension="8",dtype="float32",engine="tiny",model="tiny"' in client.get("/metrics").text


@pytest.mark.parametrize(("open_metrics", "status"), [(False, 401), (True, 200)])
def test_a_key_is_asked_for_unless_the_metrics_are_open(open_metrics, status):
    client = create_app(Settings(api_keys=(KEY,), open_metrics=open_metrics), tiny_encoder()).test_client()
    assert client.get("/metrics").status_code == status
    assert client.get("/metrics", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


def directory(server):
    """Where a service has its metrics."""
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    return Path(re.search(r"\S+/embedding-metrics-\S+?(?=/)", maps)[0])


def test_what_waits_is_what_the_server_says(client, app, figure):
    app.extensions["server"] = SimpleNamespace(stopping=False, waiting=7, backlog=3)
    assert (figure("embedding_requests_waiting"), figure("embedding_backlog_connections")) == (7, 3)
    app.extensions["server"] = SimpleNamespace(stopping=False, waiting=0, backlog=0)
    assert figure("embedding_requests_waiting") == 0


def test_one_scrape_has_what_the_clients_counted_while_workers_died(tmp_path):
    environment = {"PYTHONPATH": "tests", "WEB_CONCURRENCY": "2", "EMBEDDING_MAX_WAITING": "8"}
    with Server(environment, tmp_path, ["gunicorn", "slow_wsgi:app"]) as server:
        wait_until(lambda: server.started() == 2)
        seen = {200: 0, 422: 0, 503: 0}
        texts = lost = deaths = 0
        for round_ in range(4):
            with ThreadPoolExecutor(32) as pool:
                replies = list(pool.map(server.embed, [["a", "b"], "", *[BLOCKING_TEXT] * 30]))
            for reply in replies:
                seen[reply.status] += 1
                texts += int(reply.headers.get("X-Texts", 0))
            # Both workers compute when they die.
            before = set(server.workers())
            with ThreadPoolExecutor(4) as pool:
                busy = [pool.submit(server.embed, text_taking(10, letter)) for letter in "abcd"]
                wait_until(lambda: server.busy() == 4)
                for pid in before:
                    os.kill(pid, signal.SIGKILL)
                lost += sum(reply.exception() is not None for reply in busy)
            deaths += len(before)
            wait_until(lambda so_far=2 + deaths: server.started() == so_far)
            if round_ == 1:
                files = sorted(path.name for path in directory(server).iterdir())
        counts = server.metrics()
        embedded = {
            status: counts.get(f'embedding_requests_total{{route="/embed",status="{status}"}}', 0) for status in seen
        }
        assert embedded == seen
        assert seen[503] > 0
        assert counts["embedding_texts_total"] == texts
        # Of those that have waited for a forward pass.
        assert counts["embedding_queue_seconds_count"] == seen[200]
        assert counts["embedding_batch_requests_sum"] == seen[200]
        assert server.busy() == 0
        assert (lost, deaths) == (16, 8)
        place = directory(server)
        assert sorted(path.name for path in place.iterdir()) == files
    assert not place.exists()
