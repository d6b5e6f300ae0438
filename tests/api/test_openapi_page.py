import dataclasses
import re

import pytest

from embedding_api.api.ollama_schemas import (
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaErrorResponse,
    OllamaPullRequest,
    OllamaShowRequest,
)
from embedding_api.api.openai_schemas import OpenAIEmbeddingsRequest, OpenAIErrorResponse
from embedding_api.api.schemas import EmbedRequest, ErrorResponse, SimilarityRequest, TokenizeRequest
from embedding_api.api.tei_schemas import TEIEmbedRequest, TEIErrorResponse
from embedding_api.app import create_app
from embedding_api.encoder.model_files import DEFAULT_MODEL
from embedding_api.errors import CODES
from tests.support.server import ROOT
from tests.support.tiny import tiny_encoder


@pytest.fixture
def description(client):
    return client.get("/openapi.json").json


def test_every_path_is_described(app, description):
    rules = {re.sub(r"<(?:path:)?(\w+)>", r"{\1}", rule.rule) for rule in app.url_map.iter_rules()}
    hidden = {rule for rule in rules if rule.startswith(("/static/", "/docs/"))}
    assert set(description["paths"]) == rules - hidden
    assert description["openapi"].startswith("3.1.")


@pytest.mark.parametrize("models", ["any", "served"])
@pytest.mark.parametrize(
    ("path", "schema"),
    [
        ("/embed", EmbedRequest),
        ("/embed", TEIEmbedRequest),
        ("/", TEIEmbedRequest),
        ("/v1/embeddings", OpenAIEmbeddingsRequest),
        ("/api/embed", OllamaEmbedRequest),
        ("/api/embeddings", OllamaEmbeddingsRequest),
        ("/api/show", OllamaShowRequest),
        ("/api/pull", OllamaPullRequest),
        ("/query/embed", EmbedRequest),
        ("/query/", TEIEmbedRequest),
        ("/query/v1/embeddings", OpenAIEmbeddingsRequest),
        ("/query/api/embed", OllamaEmbedRequest),
        ("/similarity", SimilarityRequest),
        ("/tokenize", TokenizeRequest),
    ],
)
def test_examples_of_requests_work(settings, description, path, schema, models):
    settings = dataclasses.replace(settings, max_tokens=1000, accept_models=models)
    encoder = tiny_encoder()
    encoder.model_name = DEFAULT_MODEL
    client = create_app(settings, encoder).test_client()
    described = description["paths"][path]["post"]
    requests = described["requestBody"]["content"]["application/json"]["examples"]
    responses = described["responses"]["200"]["content"]["application/json"]["examples"]
    assert schema.examples.items() <= {name: example["value"] for name, example in requests.items()}.items()
    for example in schema.examples.values():
        response = client.post(path, json=example)
        assert response.status_code == 200, response.text
        assert shape(response.json) in [shape(answer["value"]) for answer in responses.values()]


def shape(answer):
    return set(answer) if isinstance(answer, dict) else type(answer)


def test_limits_are_those_of_the_settings(description):
    schemas = description["components"]["schemas"]
    assert schemas["EmbedRequest"]["properties"]["texts"]["anyOf"][1]["maxItems"] == 10
    assert schemas["OpenAIEmbeddingsRequest"]["properties"]["dimensions"]["enum"] == [8, None]
    assert schemas["EmbedRequest"]["additionalProperties"] is False


def test_every_error_of_the_code_is_described(description):
    sources = "\n".join(path.read_text() for path in (ROOT / "embedding_api").rglob("*.py"))
    raised = set(re.findall(r'(?:ApiError\(\s*|code ?= ?|_unauthorized\()"(\w+)"', sources))
    assert len(raised) > 15
    assert raised <= set(CODES)
    responses = description["components"]["responses"]
    for code, (status, _) in CODES.items():
        [content] = responses[str(status)]["content"].values()
        assert content["examples"][code]["value"]["error"]["code"] == code


def test_keys_are_described_where_they_are_set(settings, description):
    assert "securitySchemes" not in description["components"]
    client = create_app(dataclasses.replace(settings, api_keys=("k" * 16,)), tiny_encoder()).test_client()
    paths = client.get("/openapi.json").json["paths"]
    assert paths["/embed"]["post"]["security"] == [{"key": []}]
    assert "401" in paths["/embed"]["post"]["responses"]
    assert "security" not in paths["/health"]["get"]


def test_the_page_needs_nothing_from_elsewhere(client):
    page = client.get("/docs")
    assert page.content_type.startswith("text/html")
    needed = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(needed) == 5
    for path in needed:
        # As seen from /docs, and without the host, so that it works behind a proxy's prefix.
        assert not path.startswith(("/", "http"))
        with client.get("/" + path) as answer:
            assert answer.status_code == 200
            assert answer.data
            assert path == "openapi.json" or answer.headers["Cache-Control"] == "public, max-age=31536000"


def test_only_the_files_of_the_page_are_served(client):
    assert client.get("/docs/x/LICENSE").status_code == 404


@pytest.mark.parametrize(
    ("path", "status", "codes"),
    [
        ("/embed", "422", {"invalid_fields", "text_too_long"}),
        ("/embed", "429", {"overloaded"}),
        ("/", "429", {"overloaded"}),
        ("/", "413", {"body_too_large", "too_many_tokens", "text_too_long"}),
        ("/", "424", {"internal_error"}),
        ("/v1/embeddings", "400", {"invalid_json", "invalid_fields", "text_too_long"}),
        ("/query/api/embed", "400", {"invalid_json", "invalid_fields", "text_too_long"}),
    ],
)
def test_errors_are_described_with_the_status_of_the_dialect(description, path, status, codes):
    response = described_response(description, path, status)
    assert codes <= set(re.findall(r"`(\w+)`:", response["description"]))


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed", "/api/show"])
def test_a_status_that_a_dialect_does_not_have_is_not_described(description, path):
    assert "422" not in description["paths"][path]["post"]["responses"]


@pytest.mark.parametrize("path", ["/embed", "/", "/v1/embeddings", "/api/embed", "/query/api/show"])
@pytest.mark.parametrize("sent", [{"json": {"inputs": 1}}, {"json": 1}, {"data": "{}"}, {"method": "PUT"}])
def test_errors_have_a_shape_that_is_described(client, description, path, sent):
    response = client.open(path, **{"method": "POST"} | sent)
    assert response.status_code >= 400
    [content] = described_response(description, path, str(response.status_code))["content"].values()
    names = {ref["$ref"].rpartition("/")[2] for ref in content["schema"].get("anyOf", [content["schema"]])}
    schemas = ErrorResponse, OpenAIErrorResponse, TEIErrorResponse, OllamaErrorResponse
    assert any(not schema().validate(response.json) for schema in schemas if schema.__name__ in names)


def described_response(description, path, status):
    reference = description["paths"][path]["post"]["responses"][status]["$ref"]
    return description["components"]["responses"][reference.removeprefix("#/components/responses/")]
