import numpy as np
import pytest


def ask(client, path="/embed", **fields):
    return client.post(path, json=fields)


def assert_error(response, status, kind):
    assert response.status_code == status
    assert list(response.json) == ["error", "error_type"]
    assert response.json["error_type"] == kind
    return response.json["error"]


@pytest.mark.parametrize("path", ["/embed", "/"])
def test_the_answer_is_a_bare_list_with_the_vectors_of_embed(client, path):
    response = ask(client, path, inputs=["abc", "de"])
    assert response.status_code == 200
    assert response.json == client.post("/embed", json={"texts": ["abc", "de"]}).json["embeddings"]
    assert (response.headers["X-Texts"], response.headers["X-Tokens"]) == ("2", "9")
    assert len(ask(client, path, inputs="abc").json) == 1


def test_a_query_by_the_name_of_the_prompt(client):
    query = client.post("/embed", json={"texts": "abc", "is_query": True}).json["embeddings"]
    assert ask(client, inputs="abc", prompt_name="query").json == query
    assert ask(client, inputs="abc", prompt_name=None).json != query
    error = assert_error(ask(client, inputs="abc", prompt_name="passage"), 422, "validation")
    assert error == "prompt_name: The model has no prompt of this name. Those it has: query."


def test_normalize(client):
    raw = client.post("/embed", json={"texts": "abc", "normalize": False}).json["embeddings"]
    assert ask(client, inputs="abc", normalize=False).json == raw
    assert np.linalg.norm(ask(client, inputs="abc", normalize=None).json) == pytest.approx(1)


def test_truncation(client):
    long = "a" * 15
    assert ask(client, inputs=long).json == ask(client, inputs=long, truncate=True, truncation_direction="right").json
    assert "Has 17 tokens" in assert_error(ask(client, inputs=long, truncate=False), 413, "validation")
    assert_error(ask(client, inputs=long, truncation_direction="left"), 422, "validation")


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"inputs": ["a", " "]}, 422, "inputs[1]: Must not be blank."),
        ({"inputs": ["a"] * 11}, 422, "inputs: Holds 11 texts; one request takes at most 10."),
        ({"inputs": ["a" * 14] * 9}, 413, "The texts have some"),
        ({"inputs": [[1, 2]]}, 400, "The input is token ids"),
        ({"inputs": "a", "dimensions": 4}, 422, "dimensions: The vectors have 8 dimensions"),
        ({"inputs": "a", "input": "b"}, 422, "input: Unknown field. Did you mean 'inputs'?"),
    ],
)
@pytest.mark.parametrize("path", ["/embed", "/"])
def test_errors_are_texts(client, path, fields, status, message):
    assert assert_error(ask(client, path, **fields), status, "validation").startswith(message)


def test_an_empty_body_at_the_root(client):
    assert "Send JSON" in assert_error(client.post("/", data=b"", content_type="application/json"), 400, "empty")


def test_texts_and_inputs_together(client):
    response = ask(client, inputs="a", texts="a")
    assert (response.status_code, response.json["error"]["param"]) == (422, "inputs")


def test_the_name_in_the_other_dialect_may_be_null(client):
    assert ask(client, inputs="a", texts=None).json == ask(client, inputs="a").json
    assert ask(client, texts="a", inputs=None).json == ask(client, texts="a").json
    assert ask(client, inputs=None).status_code == ask(client, texts=None, inputs=None).status_code == 422


def test_the_page_is_still_at_the_root(client):
    assert client.get("/").json["embed"] == "/embed"
