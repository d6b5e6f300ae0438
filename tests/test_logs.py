import logging

import pytest

PRIVATE = "a private text"


@pytest.fixture
def lines(caplog):
    """A function that returns the lines of requests, as log records."""
    caplog.set_level(logging.INFO, "embedding_api")
    return lambda: caplog.records


def test_a_request_is_one_line_with_its_figures(client, lines):
    client.post("/embed", json={"texts": [PRIVATE, "another"]}, headers={"X-Request-ID": "mine"})
    (line,) = lines()
    assert (line.method, line.route, line.status) == ("POST", "/embed", 200)
    assert (line.texts, line.tokens, line.truncated) == (2, 23, 0)
    assert 0 <= line.tokenize_ms + line.encode_ms <= line.total_ms
    assert line.message.startswith("POST /embed 200 queue_ms=0 texts=2 tokens=23 truncated=0 tokenize_ms=")


@pytest.mark.parametrize(
    ("send", "status", "code"),
    [
        ({"json": {"texts": [PRIVATE, 1]}}, 422, "invalid_fields"),
        ({"json": {PRIVATE: "x"}}, 422, "invalid_fields"),
        ({"data": PRIVATE.encode(), "content_type": "application/json"}, 400, "invalid_json"),
        ({"json": {"texts": PRIVATE}, "query_string": {"q": PRIVATE}}, 400, "query_string"),
    ],
)
def test_no_line_has_a_text_and_that_of_an_error_has_its_code(client, lines, send, status, code):
    assert client.post("/embed", **send).status_code == status
    assert [(line.status, line.code) for line in lines()] == [(status, code)]
    assert not any("private" in repr(vars(line)) for line in lines())


@pytest.mark.parametrize("path", ["/nothing%0A2026-01-01 forged", f"/embed/{PRIVATE}"])
def test_a_path_that_is_no_route_is_not_in_the_log(client, lines, path):
    client.get(path)
    (line,) = lines()
    assert line.message.startswith("GET - 404 code=not_found total_ms=")
    assert "private" not in repr(vars(line))
