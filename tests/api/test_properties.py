"""Whatever a client sends, it gets vectors or a 4xx in the one shape."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

anything = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
almost_requests = st.fixed_dictionaries(
    {"texts": st.text() | st.lists(st.text() | json_values, max_size=12) | json_values},
    optional={name: st.booleans() | json_values for name in ("normalize", "is_query", "truncate", "other")},
)


def check(response):
    assert response.content_type == "application/json"
    if response.status_code == 200:
        assert len(response.json["embeddings"]) == int(response.headers["X-Texts"])
    else:
        assert 400 <= response.status_code < 500
        assert list(response.json["error"]) == ["message", "type", "param", "code", "details"]


@anything
@given(json_values | almost_requests)
def test_any_json(client, value):
    # As Python writes it, with NaN and Infinity.
    check(client.post("/embed", data=json.dumps(value), content_type="application/json"))


@anything
@given(almost_requests)
def test_any_text_unescaped(client, value):
    body = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    check(client.post("/embed", data=body, content_type="application/json"))


@anything
@given(st.binary() | st.binary().map(lambda inner: b'{"texts": "' + inner + b'"}'))
def test_any_bytes(client, body):
    check(client.post("/embed", data=body, content_type="application/json"))


@anything
@given(st.text(st.characters(codec="latin-1", exclude_characters="\r\n")))
def test_any_content_type(client, content_type):
    check(client.post("/embed", data=b'{"texts": "a"}', content_type=content_type))


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE"])
@anything
@given(path=st.text(st.characters(codec="utf-8")))
def test_any_path(client, method, path):
    # As a server hands it over: bytes in latin-1.
    response = client.open(method=method, environ_overrides={"PATH_INFO": "/" + path.encode().decode("latin-1")})
    assert response.status_code < 500
    if response.status_code >= 400 and method != "HEAD":
        assert list(response.json["error"]) == ["message", "type", "param", "code", "details"]
