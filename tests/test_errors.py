import logging

import pytest
from werkzeug.exceptions import default_exceptions

from embedding_api.app import create_app
from embedding_api.errors import ClientGone, overloaded
from tests.support.errors import assert_error
from tests.support.tiny import TinyEngine, tiny_encoder

PRIVATE = "a private text"


class BrokenEngine(TinyEngine):
    def forward(self, batch, with_helper=False):
        if len(batch[0]) > 12:
            raise RuntimeError(f"broken by {PRIVATE}")
        return super().forward(batch)


def test_unknown_path_says_where_embeddings_are(client):
    response = client.post("/xyzzy")
    assert_error(response, 404, "not_found")
    assert "POST /embed" in response.json["error"]["message"]


@pytest.mark.parametrize("path", ["/embeddings", "/v1/embedding", "/v1/v1/embeddings"])
def test_a_path_that_is_nearly_right_is_told_the_right_one(client, path):
    response = client.post(path)
    assert_error(response, 404, "not_found")
    assert response.json["error"]["message"].endswith("Did you mean /v1/embeddings?")


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/embeddings", "Did you mean /emb/v1/embeddings?"),
        ("/xyzzy", "Embeddings are at POST /emb/embed, and for OpenAI's clients under /emb/v1."),
        ("/api/chat", "This service embeds, by POST /emb/api/embed."),
    ],
)
def test_the_right_path_has_the_prefix_of_the_service(client, path, hint):
    error = client.post(path, base_url="http://localhost/emb").json["error"]
    message = error if isinstance(error, str) else error["message"]
    assert message == f"There is nothing at /emb{path}. {hint}"


@pytest.mark.parametrize("status", default_exceptions)
def test_every_http_exception_has_the_one_shape(app, client, status):
    @app.get("/raise")
    def raise_it():
        raise default_exceptions[status]

    response = client.get("/raise")
    assert_error(response, status, response.json["error"]["code"])
    assert response.json["error"]["type"] == ("server_error" if status >= 500 else "invalid_request_error")


def test_an_unexpected_exception_shows_nothing_but_the_request_id(settings, caplog):
    client = create_app(settings, tiny_encoder(BrokenEngine())).test_client()
    with caplog.at_level(logging.ERROR):
        response = client.post("/embed", json={"texts": PRIVATE}, headers={"X-Request-ID": "my-request"})
    assert_error(response, 500, "internal_error")
    assert response.json["error"]["details"] == {"request_id": "my-request"}
    assert "my-request" in response.json["error"]["message"]
    assert "broken" not in response.text
    assert [record.request_id for record in caplog.records] == ["my-request"]
    assert "RuntimeError" in caplog.text
    assert "in forward" in caplog.text
    assert PRIVATE not in caplog.text


def test_a_refusal_of_the_server_holds_for_every_request(client):
    for path, method in (("/embed", "POST"), ("/embed", "GET"), ("/nothing", "GET")):
        response = client.open(path, method=method, environ_overrides={"embedding.refusal": overloaded(7)})
        assert_error(response, 503, "overloaded")
        assert response.headers["Retry-After"] == "7"
        assert "in 7 seconds" in response.json["error"]["message"]


def test_a_client_that_has_gone_is_no_error_of_the_service(settings, caplog):
    encoder = tiny_encoder()

    def report():
        raise ClientGone

    encoder.run_in_worker(heartbeat=report)
    with caplog.at_level(logging.INFO):
        response = create_app(settings, encoder).test_client().post("/embed", json={"texts": "a"})
    assert_error(response, 499, "client_gone")
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_head_of_an_error_has_no_body(client):
    response = client.head("/nothing")
    assert response.status_code == 404
    assert response.data == b""
