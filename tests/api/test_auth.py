from dataclasses import replace

import pytest

from embedding_api.app import create_app
from tests.support.tiny import tiny_encoder

KEYS = ("first-key-of-clients", "second-key-of-clients")
PAGE = "https://intranet.example.com"
ADDRESS = "http://[::1]:81"


@pytest.fixture
def settings(settings):
    return replace(settings, api_keys=KEYS, cors_origins=(PAGE, ADDRESS))


@pytest.fixture
def embed(client):
    """POST /embed with an Authorization header."""

    def post(authorization=None, **headers):
        if authorization is not None:
            headers["Authorization"] = authorization
        return client.post("/embed", json={"texts": "a"}, headers=headers)

    return post


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_each_key_is_accepted(embed, scheme, key):
    assert embed(f"{scheme} {key}").status_code == 200


@pytest.mark.parametrize("sent", [None, "", "Bearer", "Bearer ", f"Basic {KEYS[0]}", KEYS[0]])
def test_without_a_key_the_message_says_how_to_send_one(embed, sent):
    reply = embed(sent)
    assert reply.status_code == 401
    assert reply.json["error"]["code"] == "missing_api_key"
    assert "Authorization: Bearer" in reply.json["error"]["message"]
    assert reply.headers["WWW-Authenticate"] == 'Bearer realm="embedding API"'


@pytest.mark.parametrize("key", [KEYS[0][:-1], KEYS[0] + "s", " ".join(KEYS), ",".join(KEYS), "ä", "x" * 5000])
def test_a_wrong_key_is_refused(embed, key):
    reply = embed(f"Bearer {key}")
    assert reply.status_code == 401
    assert reply.json["error"]["code"] == "invalid_api_key"
    assert reply.headers["WWW-Authenticate"] == 'Bearer realm="embedding API", error="invalid_token"'
    assert key not in reply.text


def test_a_body_is_not_read_without_a_key(client):
    assert client.post("/embed", data=b"{", content_type="text/plain").status_code == 401


OPEN = ["/", "/health", "/ready", "/docs", "/docs/x/swagger-ui.css", "/static/x/docs.js", "/openapi.json"]


@pytest.mark.parametrize("path", OPEN)
def test_probes_and_pages_need_no_key(client, path):
    with client.get(path) as reply:
        assert reply.status_code == 200


@pytest.mark.parametrize("path", ["/info", "/metrics", "/v1/models", "/v1/models/tiny", "/api/tags"])
def test_information_about_the_service_needs_a_key(client, path):
    assert client.get(path).status_code == 401


@pytest.mark.parametrize(
    "path", ["/embed", "/v1/embeddings", "/", "/api/embed", "/query/embed", "/similarity", "/tokenize"]
)
def test_endpoints_that_compute_need_a_key(client, path):
    assert client.post(path, json={"texts": "a"}).status_code == 401


@pytest.mark.parametrize("path", ["/nothing", "/static/x/nothing.js", "/docs/x/nothing.js", "/v1/nothing"])
def test_an_unknown_path_needs_no_key(client, path):
    assert client.get(path).status_code == 404


def test_without_keys_everybody_may_call(settings):
    client = create_app(replace(settings, api_keys=()), tiny_encoder()).test_client()
    assert client.post("/embed", json={"texts": "a"}).status_code == 200


def test_keys_are_not_shown(settings):
    assert KEYS[0] not in repr(settings)


@pytest.mark.parametrize("origin", [PAGE, ADDRESS])
def test_a_page_of_an_allowed_origin_may_call_and_see_the_headers(embed, origin):
    headers = embed(f"Bearer {KEYS[0]}", Origin=origin).headers
    assert headers["Access-Control-Allow-Origin"] == origin
    assert "Origin" in headers["Vary"]
    assert {"X-Request-ID", "X-Tokens", "Server-Timing"} <= {*headers["Access-Control-Expose-Headers"].split(", ")}


def test_a_page_sees_errors_too(embed):
    assert embed(Origin=PAGE).headers["Access-Control-Allow-Origin"] == PAGE


def test_a_preflight_request_is_answered(client):
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, content-type"}
    reply = client.options("/embed", headers={"Origin": PAGE} | asked)
    assert reply.status_code == 200
    assert reply.headers["Access-Control-Allow-Origin"] == PAGE
    assert {"authorization", "content-type"} <= {*reply.headers["Access-Control-Allow-Headers"].split(", ")}


@pytest.mark.parametrize(
    "origin", ["https://other.example.com", PAGE + ".evil.example", PAGE + ":8443", "http://1:81", "null"]
)
def test_pages_of_other_origins_may_not_call(embed, origin):
    assert "Access-Control-Allow-Origin" not in embed(f"Bearer {KEYS[0]}", Origin=origin).headers


def test_without_origins_no_page_may_call(settings):
    client = create_app(replace(settings, cors_origins=()), tiny_encoder()).test_client()
    assert "Access-Control-Allow-Origin" not in client.get("/health", headers={"Origin": PAGE}).headers
