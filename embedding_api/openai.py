"""`/v1`: OpenAI's API (https://platform.openai.com/docs/api-reference/embeddings), for clients that speak it."""

import time
from base64 import b64encode

from flask import Blueprint, current_app

from embedding_api import vectors
from embedding_api.openai_schemas import (
    OpenAIEmbeddingsRequest,
    OpenAIEmbeddingsResponse,
    OpenAIModel,
    OpenAIModels,
    check_model,
    served_models,
)
from embedding_api.operation import operation
from embedding_api.payload import load_payload

blueprint = Blueprint("openai", __name__, url_prefix="/v1")
_request_schema = OpenAIEmbeddingsRequest()
_loaded = int(time.time())


@blueprint.post("/embeddings")
@operation("Turn texts into vectors, as OpenAI's API does", OpenAIEmbeddingsRequest, OpenAIEmbeddingsResponse)
def embeddings():
    payload = load_payload(_request_schema)
    tokens = vectors.tokenize(
        payload["input"],
        is_query=payload["input_type"] == "query",
        truncate=payload["truncate"],
        param=lambda index: f"input[{index}]",
    )
    embeddings = vectors.encode(tokens)
    if payload["encoding_format"] == "base64":
        embeddings = [b64encode(vector).decode() for vector in embeddings.astype("<f4", copy=False)]
    return vectors.respond(
        tokens,
        object="list",
        data=[
            {"object": "embedding", "index": index, "embedding": embedding}
            for index, embedding in enumerate(embeddings)
        ],
        model=current_app.extensions["encoder"].model_name,
        usage={"prompt_tokens": tokens.count, "total_tokens": tokens.count},
    )


@blueprint.get("/models")
@operation("The model, as OpenAI's API lists them", response=OpenAIModels)
def models():
    return {"object": "list", "data": [_model()]}


@blueprint.get("/models/<path:model>")
@operation("The model, by its name", response=OpenAIModel, errors=(404,), parameters={"model": served_models})
def model(model):
    check_model(model)
    return _model()


def _model():
    name = current_app.extensions["encoder"].model_name
    owner = name.rpartition("/")[0] or "local"
    return {"id": name, "object": "model", "created": _loaded, "owned_by": owner}
