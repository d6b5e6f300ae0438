import base64
import dataclasses

import numpy as np
import pytest

from embedding_api.api.openai_schemas import OpenAIEmbeddingsResponse, OpenAIModel, OpenAIModels
from embedding_api.app import create_app
from tests.support.errors import assert_error
from tests.support.tiny import tiny_encoder


def embeddings(client, input, **fields):
    return client.post("/v1/embeddings", json={"model": "any", "input": input, **fields})


def vectors(response):
    assert response.status_code == 200, response.text
    return [item["embedding"] for item in response.json["data"]]


def embed(client, texts, **fields):
    return client.post("/embed", json={"texts": texts, **fields}).json["embeddings"]


def test_response_has_the_shape_of_openai(client):
    response = embeddings(client, ["abc", "de"])
    assert list(response.json) == ["id", "object", "data", "model", "usage"]
    assert response.json["id"] == f"embd-{response.headers['X-Request-ID']}"
    assert response.json["object"] == "list"
    assert [list(item) for item in response.json["data"]] == [["object", "index", "embedding"]] * 2
    assert [(item["object"], item["index"]) for item in response.json["data"]] == [("embedding", 0), ("embedding", 1)]
    assert response.json["model"] == "tiny"
    assert response.json["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    assert OpenAIEmbeddingsResponse().validate(response.json) == {}


def test_vectors_are_those_of_embed(client):
    assert vectors(embeddings(client, ["abc", "de"])) == embed(client, ["abc", "de"])
    assert vectors(embeddings(client, "abc")) == embed(client, "abc")


def test_base64_is_little_endian_float32(client):
    encoded = vectors(embeddings(client, ["abc", "de"], encoding_format="base64"))
    decoded = [np.frombuffer(base64.b64decode(item, validate=True), "<f4") for item in encoded]
    assert np.array_equal(decoded, np.float32(embed(client, ["abc", "de"])))


@pytest.mark.parametrize(
    ("fields", "is_query"),
    [
        ({"input_type": "query"}, True),
        ({"input_type": "search_query"}, True),
        ({"input_type": "document"}, False),
        ({"input_type": "passage"}, False),
        ({"input_type": "search_document"}, False),
        ({"task": "retrieval.query"}, True),
        ({"task": "retrieval.passage"}, False),
        ({"prompt_name": "query"}, True),
        ({"input_type": "query", "task": "retrieval.query", "prompt_name": "query"}, True),
    ],
)
def test_a_query_gets_the_prompt_however_it_is_said(client, fields, is_query):
    assert vectors(embeddings(client, "abc", **fields)) == embed(client, "abc", is_query=is_query)
    assert embed(client, "abc", is_query=True) != embed(client, "abc")


@pytest.mark.parametrize(
    "fields",
    [
        {"truncate": True},
        {"truncate": "END"},
        {"truncation": True},
        {"output_dtype": "float"},
        {"output_dimension": 8},
        {"encoding_format": "float"},
        {"embedding_type": "float"},
        {"normalized": True},
        {"late_chunking": False},
        {"metadata": {"a": 1}},
    ],
)
def test_what_others_ask_for_and_is_done_anyway_is_taken(client, fields):
    assert vectors(embeddings(client, ["abc", "a" * 15], **fields)) == embed(client, ["abc", "a" * 15])


def test_vectors_may_be_as_the_model_gives_them(client):
    assert vectors(embeddings(client, "abc", normalized=False)) == embed(client, "abc", normalize=False)
    assert embed(client, "abc", normalize=False) != embed(client, "abc")


@pytest.mark.parametrize("fields", [{"truncate": False}, {"truncate": "NONE"}, {"truncation": False}])
def test_long_texts_may_be_an_error_however_it_is_said(client, fields):
    response = embeddings(client, ["abc", "a" * 15], **fields)
    assert_error(response, 400, "text_too_long")
    assert response.json["error"]["param"] == "input[1]"
    assert "Has 17 tokens, and the model reads 16" in response.json["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input_type": "document", "task": "retrieval.query"}, "input_type"),
        ({"input_type": "passage", "prompt_name": "query"}, "input_type"),
        ({"truncate": "NONE", "truncation": True}, "truncate"),
    ],
)
def test_contradictions_are_told(client, fields, param):
    response = embeddings(client, "abc", **fields)
    assert_error(response, 400, "invalid_fields")
    assert response.json["error"]["param"] == param
    assert "contradict" in response.json["error"]["message"]


def test_optional_fields_that_are_null_count_as_left_out(client):
    names = ["model", "encoding_format", "dimensions", "user", "input_type", "truncate", "task", "prompt_name"]
    names += ["truncation", "output_dtype", "output_dimension"]
    optional = dict.fromkeys([*names, "embedding_type", "normalized", "late_chunking", "metadata"])
    assert vectors(embeddings(client, "abc", **optional)) == embed(client, "abc")
    assert client.post("/v1/embeddings", json={"input": "abc"}).status_code == 200


@pytest.mark.parametrize("dimensions", [8, 8.0])
def test_the_models_own_dimensions_are_accepted(client, dimensions):
    assert embeddings(client, "abc", dimensions=dimensions, user="me").status_code == 200


@pytest.mark.parametrize("dimensions", [4, 0, -1, 1024, 8.5, "8", True, [8]])
def test_other_dimensions_are_refused(client, dimensions):
    response = embeddings(client, "abc", dimensions=dimensions)
    assert_error(response, 400, "invalid_fields")
    assert response.json["error"]["param"] == "dimensions"
    assert "8 dimensions" in response.json["error"]["message"]


@pytest.mark.parametrize("ids", [[1, 2], [[1, 2], [3]], [101], [[], [1]], [1] * 2000, [[1] * 1000] * 2])
def test_token_ids_are_refused_with_advice(client, ids):
    response = embeddings(client, ids)
    assert_error(response, 400, "token_ids")
    assert response.json["error"]["param"] == "input"
    assert "check_embedding_ctx_length=False" in response.json["error"]["message"]


@pytest.mark.parametrize("wrong", [[], "", " ", None, 5, {}, [""], ["a", 5], [["a"]], [[]], [None], [True], [1.5]])
def test_wrong_input_is_refused(client, wrong):
    response = embeddings(client, wrong)
    assert_error(response, 400, "invalid_fields")
    assert response.json["error"]["param"].startswith("input")


@pytest.mark.parametrize(
    "fields",
    [
        {"encoding_format": "int8"},
        {"input_type": "classification"},
        {"input_type": ["query"]},
        {"task": "text-matching"},
        {"prompt_name": "passage"},
        {"truncate": "START"},
        {"truncate": 1},
        {"truncation": "END"},
        {"output_dtype": "int8"},
        {"output_dimension": 4},
        {"embedding_type": "binary"},
        {"normalized": 1},
        {"late_chunking": True},
        {"model": ["a"]},
        {"inputs": "a"},
    ],
)
def test_wrong_fields_are_named(client, fields):
    response = embeddings(client, "abc", **fields)
    assert_error(response, 400, "invalid_fields")
    assert response.json["error"]["param"] == next(iter(fields))


def test_errors_have_their_message_where_the_clients_of_voyage_and_jina_look(client, settings):
    with_key = create_app(dataclasses.replace(settings, api_keys=("k" * 16,)), tiny_encoder()).test_client()
    for response in (embeddings(client, " "), embeddings(with_key, "a"), embeddings(client, [1])):
        assert response.json["detail"] == response.json["error"]["message"]
    assert "detail" not in client.post("/embed", json={"texts": " "}).json


def test_an_error_for_a_body_that_is_empty_or_no_object_names_the_fields_of_openai(client):
    for body in (b"", b"[]"):
        response = client.post("/v1/embeddings", data=body, content_type="application/json")
        assert '"input":' in response.json["error"]["message"]


def test_too_many_texts_and_tokens(client):
    response = embeddings(client, ["a"] * 11)
    assert_error(response, 400, "invalid_fields")
    assert "at most 10" in response.json["error"]["message"]
    response = embeddings(client, ["a" * 14] * 8)
    assert_error(response, 413, "too_many_tokens")
    assert response.json["error"]["param"] == "input"


def test_long_texts_are_cut_and_named(client):
    response = embeddings(client, ["abc", "a" * 15])
    assert response.headers["X-Truncated-Texts"] == "1"
    assert response.json["usage"]["total_tokens"] == 5 + 16


def test_other_models_are_taken_unless_the_operator_says_no(client, settings):
    assert embeddings(client, "abc", model="text-embedding-3-small").json["model"] == "tiny"
    strict = create_app(dataclasses.replace(settings, accept_models="served"), tiny_encoder()).test_client()
    assert embeddings(strict, "abc", model="tiny").status_code == 200
    assert embeddings(strict, "abc", model=None).status_code == 200
    response = embeddings(strict, "abc", model="text-embedding-3-small")
    assert_error(response, 404, "model_not_found")
    assert "'tiny'" in response.json["error"]["message"]
    assert_error(strict.get("/v1/models/text-embedding-3-small"), 404, "model_not_found")
    assert strict.get("/v1/models/tiny").json["id"] == "tiny"


def test_models(client):
    response = client.get("/v1/models")
    assert OpenAIModels().validate(response.json) == {}
    [model] = response.json["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("tiny", "model", "local")
    assert client.get("/v1/models/tiny").json == model
    assert OpenAIModel().validate(model) == {}
    assert client.get("/v1/models/text-embedding-3-small").json == model


@pytest.mark.parametrize("path", ["/v1/models/org/tiny", "/v1/models/org%2Ftiny"])
def test_a_model_with_an_owner(settings, path):
    encoder = tiny_encoder()
    encoder.model_name = "org/tiny"
    client = create_app(settings, encoder).test_client()
    assert client.get(path).json["id"] == "org/tiny"
    assert client.get(path).json["owned_by"] == "org"


def test_many_other_values_are_not_taken_for_token_ids(client):
    assert_error(embeddings(client, ["a"] * 1900), 400, "invalid_fields")
