import numpy as np
import pytest

from embedding_api.api.schemas import SimilarityResponse
from tests.support.errors import assert_error


def similarity(client, texts, **fields):
    return client.post("/similarity", json={"texts": texts, **fields})


def embed(client, texts, **fields):
    return np.array(client.post("/embed", json={"texts": texts, **fields}).json["embeddings"])


def test_a_query_and_texts(client):
    response = similarity(client, ["abc", "de", "xyz"], query="ab")
    assert list(response.json) == ["scores", "model"]
    assert response.json["model"] == "tiny"
    expected = embed(client, ["abc", "de", "xyz"]) @ embed(client, "ab", is_query=True)[0]
    assert response.json["scores"] == pytest.approx(expected.tolist(), abs=1e-6)
    assert SimilarityResponse().validate(response.json) == {}


def test_texts_and_each_other(client):
    scores = np.array(similarity(client, ["abc", "de", "xyz"]).json["scores"])
    vectors = embed(client, ["abc", "de", "xyz"])
    assert scores == pytest.approx(vectors @ vectors.T, abs=1e-6)
    assert np.array_equal(scores, scores.T)
    assert scores.max() <= 1


def test_ranking_is_best_first_and_equal_texts_keep_their_order(client):
    answer = similarity(client, ["xyz", "abc", "de", "abc"], query="ab", rank=True).json
    assert sorted(answer["ranking"]) == [0, 1, 2, 3]
    ranked = [answer["scores"][index] for index in answer["ranking"]]
    assert ranked == sorted(ranked, reverse=True)
    assert answer["ranking"].index(1) < answer["ranking"].index(3)


def test_ranking_without_a_query_leaves_out_the_text_itself(client):
    answer = similarity(client, ["abc", "de", "abc"], rank=True).json
    assert [row[0] for row in answer["ranking"]][::2] == [2, 0]
    assert [sorted(row) for row in answer["ranking"]] == [[1, 2], [0, 2], [0, 1]]


def test_one_text(client):
    assert similarity(client, "abc", query="abc").json["scores"] == pytest.approx(
        [float(embed(client, "abc")[0] @ embed(client, "abc", is_query=True)[0])], abs=1e-6
    )
    alone = similarity(client, "abc", rank=True).json
    assert alone["scores"] == [[pytest.approx(1)]]
    assert alone["ranking"] == [[]]


def test_headers_count_the_query_as_the_last_text(client):
    headers = similarity(client, ["abc", "a" * 15], query="b" * 20).headers
    assert (headers["X-Texts"], headers["X-Truncated"], headers["X-Truncated-Texts"]) == ("3", "2", "1,2")


def test_long_texts_and_queries_are_named(client):
    for texts, query, param in ((["abc", "a" * 15], "b", "texts[1]"), (["abc"], "b" * 20, "query")):
        response = similarity(client, texts, query=query, truncate=False)
        assert_error(response, 422, "text_too_long")
        assert [detail["param"] for detail in response.json["error"]["details"]] == [param]


@pytest.mark.parametrize("query", ["", " ", 5, ["a"]])
def test_wrong_queries(client, query):
    response = similarity(client, "abc", query=query)
    assert_error(response, 422, "invalid_fields")
    assert response.json["error"]["param"] == "query"


def test_the_number_of_pairs_is_bounded(client):
    # 10 texts of 8 dimensions are 80 numbers, and so are no 9 texts with each other.
    assert similarity(client, ["a"] * 8).status_code == 200
    assert similarity(client, ["a"] * 10, query="b").status_code == 200
    response = similarity(client, ["a"] * 9)
    assert_error(response, 422, "invalid_fields")
    assert response.json["error"]["param"] == "texts"
    assert "at most 8" in response.json["error"]["message"]
