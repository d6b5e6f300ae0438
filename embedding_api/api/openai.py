"""`/v1`: OpenAI's API (https://platform.openai.com/docs/api-reference/embeddings), for clients that speak it."""

import time
from base64 import b64encode

from flask import Blueprint, g

from embedding_api.api import embedding, error_handlers
from embedding_api.api.json_provider import in_blocks
from embedding_api.api.openai_schemas import (
    OpenAIEmbeddingsRequest,
    OpenAIEmbeddingsResponse,
    OpenAIErrorResponse,
    OpenAIModel,
    OpenAIModels,
)
from embedding_api.api.operation import Dialect, operation
from embedding_api.api.request_body import load_payload
from embedding_api.errors import ApiError, error_body

blueprint = Blueprint("openai", __name__, url_prefix="/v1")
_request_schema = OpenAIEmbeddingsRequest()
_loaded_at = int(time.time())

# As OpenAI has it. LangChain.js sends a request with another status again, up to seven times.
_DIALECT = Dialect(OpenAIErrorResponse, {"invalid_fields": 400, "text_too_long": 400})


@blueprint.errorhandler(ApiError)
def _render(error):
    status, message = _DIALECT.status(error), str(error)
    body = error_body(status, error.code, message, error.param, error.details)
    return error_handlers.respond(error, status, body | {"detail": message})


@blueprint.post("/embeddings")
@operation(
    "Turn texts into vectors, as OpenAI's API does",
    request=OpenAIEmbeddingsRequest,
    response=OpenAIEmbeddingsResponse,
    errors=(404,),
    reports_usage=True,
    dialects=(_DIALECT,),
)
def create_embeddings():
    payload = load_payload(_request_schema)
    embedding.check_model(payload["model"])
    tokens = embedding.tokenize(
        payload.pop("input"), name="input[{}]", is_query=payload["is_query"], truncate=payload["truncate"]
    )
    embeddings = embedding.encode(tokens, normalize=payload["normalized"])
    if payload["encoding_format"] == "base64":
        embeddings = [b64encode(vector).decode() for vector in embeddings.astype("<f4", copy=False)]
    rows = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(embeddings)]
    return embedding.respond(
        tokens,
        id=f"embd-{g.request_id}",
        object="list",
        data=in_blocks(rows),
        model=embedding.model_name(),
        usage={"prompt_tokens": tokens.count, "total_tokens": tokens.count},
    )


@blueprint.get("/models")
@operation("The model, as OpenAI's API lists them", response=OpenAIModels, dialects=(_DIALECT,))
def list_models():
    return {"object": "list", "data": [_model()]}


@blueprint.get("/models/<path:model>")
@operation(
    "The model, by its name",
    response=OpenAIModel,
    errors=(404,),
    parameters={"model": lambda: {"type": "string", "minLength": 1}},
    dialects=(_DIALECT,),
)
def retrieve_model(model):
    embedding.check_model(model)
    return _model()


def _model():
    owner = embedding.model_name().rpartition("/")[0] or "local"
    return {"id": embedding.model_name(), "object": "model", "created": _loaded_at, "owned_by": owner}
