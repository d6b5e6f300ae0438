import dataclasses

import pytest

from embedding_api.api.ollama_schemas import (
    OllamaEmbeddingsResponse,
    OllamaEmbedResponse,
    OllamaPullResponse,
    OllamaShowResponse,
    OllamaTagsResponse,
)
from embedding_api.app import create_app
from tests.support.tiny import tiny_encoder


def ask(client, path="/api/embed", **fields):
    return client.post(path, json=fields)


def assert_error(response, status, message):
    assert response.status_code == status
    assert list(response.json) == ["error"]
    assert response.json["error"].startswith(message)


def test_vectors_are_those_of_embed(client):
    expected = client.post("/embed", json={"texts": ["abc", "de"]}).json["embeddings"]
    response = ask(client, model="any", input=["abc", "de"], truncate=True, options={"num_ctx": 512}, keep_alive="5m")
    assert response.json["embeddings"] == expected
    assert (response.json["model"], response.json["prompt_eval_count"]) == ("tiny", 9)
    assert response.json["total_duration"] > 0
    assert OllamaEmbedResponse().validate(response.json) == {}
    one = ask(client, "/api/embeddings", model="any", prompt="abc")
    assert one.json == {"embedding": expected[0]}
    assert OllamaEmbeddingsResponse().validate(one.json) == {}


def test_what_clients_ask_before(client):
    tags, show = client.get("/api/tags").json, ask(client, "/api/show", model="tiny").json
    assert [model["name"] for model in tags["models"]] == ["tiny"]
    assert OllamaTagsResponse().validate(tags) == {}
    assert OllamaShowResponse().validate(show) == {}
    assert show["capabilities"] == ["embedding"]
    assert (show["model_info"]["bert.context_length"], show["model_info"]["bert.embedding_length"]) == (16, 8)
    assert client.get("/api/version").json.keys() == {"version"}


def test_a_pull_succeeds_as_the_model_is_there(client):
    for fields in ({"model": "nomic-embed-text"}, {"name": "tiny:latest", "stream": False, "insecure": True}):
        pulled = ask(client, "/api/pull", **fields)
        assert (pulled.status_code, pulled.json) == (200, {"status": "success"})
        assert OllamaPullResponse().validate(pulled.json) == {}


def test_names_of_models(client, settings):
    assert ask(client, model="nomic-embed-text", input="a").status_code == 200
    strict = create_app(dataclasses.replace(settings, accept_models="served"), tiny_encoder()).test_client()
    assert ask(strict, model="tiny:latest", input="a").status_code == 200
    for path in ("/api/show", "/api/pull"):
        assert ask(strict, path, name="tiny").status_code == 200
    other, message = {"model": "nomic-embed-text"}, "The model 'nomic-embed-text' is not served here"
    assert_error(ask(strict, input="a", **other), 404, message)
    assert_error(ask(strict, "/api/pull", **other), 404, message)


@pytest.mark.parametrize(
    ("path", "fields", "status", "message"),
    [
        ("/api/embed", {"input": ["a", " "]}, 400, "input[1]: Must not be blank."),
        ("/api/embed", {"input": ["a"] * 11}, 400, "input: Holds 11 texts"),
        ("/api/embed", {"input": "a", "dimensions": 4}, 400, "dimensions: The vectors have 8 dimensions"),
        ("/api/embed", {"input": "a" * 15, "truncate": False}, 400, "input[0]: Has 17 tokens"),
        ("/api/embed", {"input": ["a" * 14] * 9}, 413, "The texts have some"),
        ("/api/embed", {"input": [[1, 2]]}, 400, "The input is token ids"),
        ("/api/embed", {"input": [[1] * 2000]}, 400, "The input is token ids"),
        ("/api/embed", {"model": "any"}, 400, "input: Missing."),
        ("/api/embeddings", {"prompt": ""}, 400, "prompt: Must not be blank."),
        ("/api/embeddings", {"prompt": "\u200b"}, 400, "prompt: Must not be blank"),
        ("/api/generate", {"prompt": "a"}, 404, "There is nothing at /api/generate. This service embeds, by POST"),
        ("/query/api/chat", {}, 404, "There is nothing at /query/api/chat. This service embeds, by POST /query/"),
        ("/api/tags", {}, 405, "POST does not work on /api/tags. Use GET."),
    ],
)
def test_errors_are_texts(client, path, fields, status, message):
    assert_error(ask(client, path, **fields), status, message)


def test_a_wrong_key_is_told_as_a_text(settings):
    client = create_app(dataclasses.replace(settings, api_keys=("k" * 16,)), tiny_encoder()).test_client()
    assert_error(ask(client, model="any", input="a"), 401, "Send your API key")
