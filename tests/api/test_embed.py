import numpy as np
import pytest

from embedding_api.api.schemas import EmbedResponse


def embed(client, texts, **fields):
    return client.post("/embed", json={"texts": texts, **fields})


def test_response_has_the_documented_shape(client):
    response = embed(client, ["abc", "de"])
    assert response.status_code == 200
    assert response.content_type == "application/json"
    assert list(response.json) == ["embeddings", "model", "dimension"]
    assert response.json["model"] == "tiny"
    assert response.json["dimension"] == 8
    assert EmbedResponse().validate(response.json) == {}
    assert np.shape(response.json["embeddings"]) == (2, 8)


def test_one_string_is_a_list_of_one(client):
    assert embed(client, "abc").json == embed(client, ["abc"]).json


def test_order_is_kept_whatever_the_lengths(client):
    texts = ["abcdef", "a", "abc", "abcdefghijk", "ab"]
    together = embed(client, texts).json["embeddings"]
    assert together == [embed(client, text).json["embeddings"][0] for text in texts]


def test_normalize(client):
    unit = np.array(embed(client, "abc").json["embeddings"][0])
    raw = np.array(embed(client, "abc", normalize=False).json["embeddings"][0])
    assert np.linalg.norm(unit) == pytest.approx(1)
    assert np.linalg.norm(raw) != pytest.approx(1, abs=0.01)
    assert raw / np.linalg.norm(raw) == pytest.approx(unit, abs=1e-6)


def test_a_query_gets_the_prompt(client):
    assert embed(client, "abc", is_query=True).json == embed(client, "q: abc").json
    assert embed(client, "abc", is_query=False).json == embed(client, "abc").json


def test_headers_count_texts_and_tokens(client):
    headers = embed(client, ["abc", "de"]).headers
    assert (headers["X-Texts"], headers["X-Tokens"], headers["X-Truncated"]) == ("2", "9", "0")
    assert "X-Truncated-Texts" not in headers
    assert [part.split(";")[0] for part in headers["Server-Timing"].split(", ")] == ["queue", "tokenize", "encode"]


def test_long_texts_are_truncated_and_named(client):
    response = embed(client, ["abc", "a" * 15, "a" * 14, "b" * 99])
    assert response.status_code == 200
    assert response.headers["X-Truncated"] == "2"
    assert response.headers["X-Truncated-Texts"] == "1,3"
    assert response.headers["X-Tokens"] == str(5 + 16 + 16 + 16)
    assert response.json["embeddings"][1] == response.json["embeddings"][2]


def test_the_prompt_counts_towards_the_length(client):
    assert embed(client, "a" * 13, is_query=True).headers["X-Truncated"] == "1"
    assert embed(client, "a" * 12, is_query=True).headers["X-Truncated"] == "0"


def test_truncate_false_refuses_long_texts(client):
    error = embed(client, ["abc", "a" * 15], truncate=False).json["error"]
    assert error["code"] == "text_too_long"
    assert error["param"] == "texts[1]"
    assert "16 tokens" in error["message"]
    assert embed(client, ["abc", "a" * 14], truncate=False).status_code == 200


def test_tokens_of_a_request_are_limited(client):
    assert embed(client, ["a" * 8] * 10).status_code == 200
    response = embed(client, ["a" * 9] * 10)
    assert response.status_code == 413
    assert response.json["error"]["code"] == "too_many_tokens"
    assert response.json["error"]["details"] == {"limit": 100}


def test_get_says_to_post(client):
    response = client.get("/embed")
    assert response.status_code == 405
    assert set(response.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}
    assert response.json["error"]["message"] == "GET does not work on /embed. Use POST."
