import pytest


@pytest.fixture
def query(client):
    return client.post("/embed", json={"texts": "abc", "is_query": True}).json["embeddings"][0]


@pytest.mark.parametrize(
    ("path", "fields", "vector"),
    [
        ("/query/embed", {"texts": "abc"}, lambda answer: answer["embeddings"][0]),
        ("/query/embed", {"texts": "abc", "is_query": True}, lambda answer: answer["embeddings"][0]),
        ("/query/embed", {"inputs": "abc"}, lambda answer: answer[0]),
        ("/query", {"inputs": "abc"}, lambda answer: answer[0]),
        ("/query/", {"inputs": "abc"}, lambda answer: answer[0]),
        ("/query/v1/embeddings", {"input": "abc"}, lambda answer: answer["data"][0]["embedding"]),
        ("/query/api/embed", {"model": "any", "input": "abc"}, lambda answer: answer["embeddings"][0]),
        ("/query/api/embeddings", {"model": "any", "prompt": "abc"}, lambda answer: answer["embedding"]),
    ],
)
def test_every_text_is_a_query(client, query, path, fields, vector):
    response = client.post(path, json=fields)
    assert response.status_code == 200, response.text
    assert vector(response.json) == query


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("/query/embed", {"texts": "abc", "is_query": False}, 422),
        ("/query/v1/embeddings", {"input": "abc", "input_type": "document"}, 400),
    ],
)
def test_a_document_is_refused(client, path, fields, status):
    response = client.post(path, json=fields)
    assert response.status_code == status
    assert "Leave '/query' out" in response.json["error"]["message"]


def test_what_clients_ask_before_is_there_too(client):
    assert client.get("/query/v1/models").json == client.get("/v1/models").json
    assert client.get("/query/api/tags").json == client.get("/api/tags").json
