import numpy as np
import pytest

from embedding_api.api.schemas import EmbedResponse
from embedding_api.app import create_app
from tests.support.tiny import tiny_encoder


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
    assert "Has 17 tokens, and the model reads 16" in error["message"]
    assert embed(client, ["abc", "a" * 14], truncate=False).status_code == 200


def test_tokens_of_a_request_are_limited(client):
    assert embed(client, ["a" * 8] * 10).status_code == 200
    response = embed(client, ["a" * 9] * 10)
    assert response.status_code == 413
    assert response.json["error"]["code"] == "too_many_tokens"
    assert response.json["error"]["details"] == {"limit": 100}
    assert "some 110 tokens together, and a request takes 100. About 9 of its 10 texts fit" in response.text


def test_null_is_as_if_left_out(client):
    fields = dict.fromkeys(["normalize", "is_query", "truncate"])
    assert embed(client, "abc", **fields).json == embed(client, "abc").json
    response = embed(client, None)
    assert (response.status_code, response.json["error"]["param"]) == (422, "texts")


@pytest.mark.parametrize("blank", ["\u200b", "\x00", "\ufeff", "\u00ad", " \u200b \u0301"])
@pytest.mark.parametrize("is_query", [False, True])
def test_a_text_of_which_no_token_is_left_is_blank(client, blank, is_query):
    error = embed(client, ["abc", blank], is_query=is_query).json["error"]
    assert (error["code"], error["param"]) == ("invalid_fields", "texts[1]")
    assert "blank" in error["message"]


def test_a_query_whose_letters_join_the_prompts_last_word_is_not_blank(settings):
    encoder = tiny_encoder()
    encoder.query_prompt = "🦀"
    encoder._prompt_lengths[True] = len(encoder.tokenize(["🦀"]).ids[0])
    client = create_app(settings, encoder).test_client()
    # "🦀b" is one unknown word, as "🦀" is.
    assert embed(client, "b", is_query=True).status_code == 200
    assert embed(client, "\u200b", is_query=True).status_code == 422


def test_unknown_tokens_are_counted(client):
    assert embed(client, ["abc"]).headers["X-Unknown-Tokens"] == "0"
    assert embed(client, ["🦀 a", "字 🦀"]).headers["X-Unknown-Tokens"] == "3"


@pytest.mark.parametrize("path", ["/embed/", "//embed", "///embed//"])
def test_slashes_too_many_make_no_difference(client, path):
    response = client.post("/", json={"texts": "abc"}, environ_overrides={"PATH_INFO": path})
    assert response.json == embed(client, "abc").json


@pytest.mark.parametrize("query", ["is_query=true", "x", "=", "texts=a&x=1"])
def test_a_query_string_is_refused(client, query):
    response = client.post(f"/embed?{query}", json={"texts": "abc"})
    assert (response.status_code, response.json["error"]["code"]) == (400, "query_string")
    assert "Put fields into the JSON body" in response.json["error"]["message"]


def test_get_says_to_post(client):
    response = client.get("/embed")
    assert response.status_code == 405
    assert set(response.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}
    assert response.json["error"]["message"] == "GET does not work on /embed. Use POST."
