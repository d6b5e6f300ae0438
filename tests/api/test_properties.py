"""Whatever a client sends, it gets vectors, or a 4xx in the shape of its dialect."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

anything = settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
fewer = settings(anything, max_examples=25)


@dataclass(frozen=True)
class Dialect:
    """How a path is spoken to.

    Attributes:
        texts: the field that has the texts.
        options: other fields that it has.
        vectors: a function that gives the vectors of an answer.
        check_error: a function that checks the shape of an error's body.
    """

    texts: str
    options: tuple[str, ...]
    vectors: Callable
    check_error: Callable


def check_own_error(body):
    assert list(body["error"]) == ["message", "type", "param", "code", "details"]
    assert isinstance(body["error"]["message"], str)


def check_tei_error(body):
    assert list(body) == ["error", "error_type"]
    assert isinstance(body["error"], str)


def check_ollama_error(body):
    assert list(body) == ["error"]
    assert isinstance(body["error"], str)


OWN = Dialect("texts", ("normalize", "is_query", "truncate"), lambda answer: answer["embeddings"], check_own_error)
TEI = Dialect(
    "inputs",
    ("normalize", "truncate", "truncation_direction", "prompt_name", "dimensions"),
    lambda answer: answer,
    check_tei_error,
)
OLLAMA = Dialect(
    "input",
    ("model", "truncate", "dimensions", "options", "keep_alive"),
    lambda answer: answer["embeddings"],
    check_ollama_error,
)
OLLAMA_BEFORE = Dialect(
    "prompt", ("model", "options", "keep_alive"), lambda answer: [answer["embedding"]], check_ollama_error
)
OPENAI = Dialect(
    "input",
    (
        *("model", "encoding_format", "dimensions", "user", "input_type", "task", "prompt_name", "truncate"),
        *("truncation", "output_dimension", "output_dtype", "embedding_type", "normalized", "late_chunking"),
        "metadata",
    ),
    lambda answer: answer["data"],
    check_own_error,
)
DIALECTS = {
    "/embed": OWN,
    "/": TEI,
    "/v1/embeddings": OPENAI,
    "/api/embed": OLLAMA,
    "/api/embeddings": OLLAMA_BEFORE,
}
DIALECTS |= {f"/query{path}": dialect for path, dialect in DIALECTS.items()}
paths = st.sampled_from(list(DIALECTS))

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
texts = st.text() | st.lists(st.text() | json_values, max_size=12) | json_values
# What means something in one field or the other.
words = st.sampled_from(
    ["query", "document", "passage", "search_query", "retrieval.query", "END", "NONE", "right", "float", "base64", 8]
)


def almost_requests(dialect):
    """Values with the fields that a dialect has, and now and then one of another dialect."""
    options = dict.fromkeys((*dialect.options, "texts", "inputs", "other"), words | st.booleans() | json_values)
    options.pop(dialect.texts, None)
    return st.fixed_dictionaries({dialect.texts: texts}, optional=options)


def check(response, dialect):
    assert response.content_type == "application/json"
    if response.status_code == 200:
        assert len(dialect.vectors(response.json)) == int(response.headers["X-Texts"])
    else:
        assert 400 <= response.status_code < 500
        dialect.check_error(response.json)


def post(client, path, body):
    return client.post(path, data=body, content_type="application/json")


def speaks_tei(body):
    """Whether /embed takes a body for one of text-embeddings-inference's."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(value, dict) and value.get("inputs") is not None and value.get("texts") is None


@pytest.mark.parametrize("path", DIALECTS)
@fewer
@given(data=st.data())
def test_any_json(client, path, data):
    dialect = DIALECTS[path]
    # As Python writes it, with its NaN and Infinity.
    body = json.dumps(data.draw(json_values | almost_requests(dialect)))
    check(post(client, path, body), TEI if dialect is OWN and speaks_tei(body) else dialect)


@anything
@given(path=paths, value=texts)
def test_any_text_unescaped(client, path, value):
    dialect = DIALECTS[path]
    body = json.dumps({dialect.texts: value}, ensure_ascii=False).encode("utf-8", "surrogatepass")
    check(post(client, path, body), dialect)


@anything
@given(st.binary() | st.binary().map(lambda inner: b'{"texts": "' + inner + b'"}'))
def test_any_bytes(client, body):
    check(post(client, "/embed", body), OWN)


@anything
@given(path=paths, content_type=st.text(st.characters(codec="latin-1", exclude_characters="\r\n")))
def test_any_content_type(client, path, content_type):
    dialect = DIALECTS[path]
    body = json.dumps({dialect.texts: "a"}).encode()
    check(client.post(path, data=body, content_type=content_type), dialect)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE"])
@anything
@given(prefix=st.sampled_from(["", "v1/", "api/", "query/"]), path=st.text(st.characters(codec="utf-8")))
def test_any_path(client, method, prefix, path):
    # As a server hands it over: bytes in latin-1.
    path = f"/{prefix}{path}".encode().decode("latin-1")
    response = client.open(method=method, environ_overrides={"PATH_INFO": path})
    assert response.status_code < 500
    if response.status_code >= 400 and method != "HEAD":
        is_ollama = path.startswith(("/api/", "/query/api/"))
        check_error = check_ollama_error if is_ollama else check_own_error
        check_error(response.json)
