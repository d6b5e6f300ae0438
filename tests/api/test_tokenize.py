import pytest

from embedding_api.api.schemas import TokenizeResponse
from tests.support.errors import assert_error
from tests.support.server import figures
from tests.support.tiny import tiny_backend


def tokenize(client, texts, **fields):
    return client.post("/tokenize", json={"texts": texts, **fields})


def test_ids_and_count_are_those_of_the_model(client):
    response = tokenize(client, ["abc", "de"])
    expected = [tiny_backend().encode(text).ids for text in ("abc", "de")]
    assert response.json == {
        "tokens": [{"ids": ids, "count": len(ids), "truncated": False, "unknown": 0} for ids in expected],
        "model": "tiny",
        "max_length": 16,
    }
    assert TokenizeResponse().validate(response.json) == {}


def test_a_query_has_the_prompt(client):
    assert tokenize(client, "abc", is_query=True).json == tokenize(client, "q: abc").json


def test_what_the_model_has_no_token_for_is_counted(client):
    response = tokenize(client, ["a🦀b", "🦀 🦀", "ab"])
    assert [text["unknown"] for text in response.json["tokens"]] == [1, 2, 0]


@pytest.mark.parametrize(("letters", "truncated"), [(14, False), (15, True), (40, True)])
def test_tokens_that_the_model_does_not_read_are_counted(client, letters, truncated):
    [tokens] = tokenize(client, "a" * letters).json["tokens"]
    assert tokens["count"] == letters + 2
    assert len(tokens["ids"]) == min(letters + 2, 16)
    assert tokens["truncated"] == truncated


def test_the_limit_counts_whole_texts(client):
    assert tokenize(client, ["a" * 48, "a" * 48]).status_code == 200
    assert_error(tokenize(client, ["a" * 48, "a" * 49]), 413, "too_many_tokens")
    assert_error(tokenize(client, "a" * 99), 413, "too_many_tokens")


def test_nothing_counts_as_embedded(client):
    before = figures(client.get("/metrics").text)["embedding_tokens_total"]
    response = tokenize(client, "abc")
    assert "X-Tokens" not in response.headers
    assert figures(client.get("/metrics").text)["embedding_tokens_total"] == before


def test_wrong_fields_are_named(client):
    response = tokenize(client, "abc", normalize=True)
    assert_error(response, 422, "invalid_fields")
    assert response.json["error"]["param"] == "normalize"
