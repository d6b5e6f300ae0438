from types import SimpleNamespace

import pytest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from embedding_api.app import create_app
from embedding_api.config import Settings
from tests.support.server import figures
from tests.support.tiny import tiny_encoder

KEY = "0123456789abcdef"


@pytest.fixture
def figure(client):
    """A function that returns the value of a name in /metrics."""
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


def test_a_file_that_a_worker_has_just_made_and_not_written_is_left_out(figure, monkeypatch, tmp_path):
    file = MmapedDict(str(tmp_path / "counter_1.db"))
    file.write_value(mmap_key("embedding_texts", "embedding_texts_total", (), (), "Texts embedded."), 3, 0)
    file.close()
    (tmp_path / "counter_2.db").touch()
    monkeypatch.setattr("embedding_api.metrics._directory", str(tmp_path))
    assert figure("embedding_texts_total") == 3


def test_the_model_is_named(client):
    assert 'dimension="8",dtype="float32",engine="tiny",model="tiny"' in client.get("/metrics").text


@pytest.mark.parametrize(("open_metrics", "status"), [(False, 401), (True, 200)])
def test_a_key_is_asked_for_unless_the_metrics_are_open(open_metrics, status):
    client = create_app(Settings(api_keys=(KEY,), open_metrics=open_metrics), tiny_encoder()).test_client()
    assert client.get("/metrics").status_code == status
    assert client.get("/metrics", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


def test_waiting_requests_are_those_that_the_server_reports(client, app, figure):
    app.extensions["server"] = SimpleNamespace(stopping=False, waiting=7, backlog=3)
    assert (figure("embedding_requests_waiting"), figure("embedding_backlog_connections")) == (7, 3)
    app.extensions["server"] = SimpleNamespace(stopping=False, waiting=0, backlog=0)
    assert figure("embedding_requests_waiting") == 0
