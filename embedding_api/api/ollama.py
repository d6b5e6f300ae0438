"""`/api`: what Ollama's clients call to embed, and before they do."""

from datetime import UTC, datetime
from time import perf_counter

from flask import Blueprint, current_app, g

from embedding_api import __version__
from embedding_api.api import embedding, error_handlers
from embedding_api.api.json_provider import in_blocks
from embedding_api.api.ollama_schemas import (
    DETAILS,
    OllamaEmbeddingsRequest,
    OllamaEmbeddingsResponse,
    OllamaEmbedRequest,
    OllamaEmbedResponse,
    OllamaErrorResponse,
    OllamaPullRequest,
    OllamaPullResponse,
    OllamaShowRequest,
    OllamaShowResponse,
    OllamaTagsResponse,
    OllamaVersionResponse,
)
from embedding_api.api.operation import Dialect, operation
from embedding_api.api.request_body import load_payload
from embedding_api.errors import ApiError

blueprint = Blueprint("ollama", __name__, url_prefix="/api")
_embed_schema, _embeddings_schema, _show_schema = OllamaEmbedRequest(), OllamaEmbeddingsRequest(), OllamaShowRequest()
_pull_schema = OllamaPullRequest()
_loaded = datetime.now(UTC).isoformat(timespec="seconds")

_DIALECT = Dialect(OllamaErrorResponse, {"invalid_fields": 400, "text_too_long": 400})


@blueprint.errorhandler(ApiError)
def _render(error):
    # Ollama's clients show `error` as it is.
    return error_handlers.respond(error, _DIALECT.status(error), {"error": str(error)})


@blueprint.record
def _render_below(state):
    state.app.extensions["dialects"][f"{state.url_prefix}/"] = (_render, f"{state.url_prefix}/embed")


@blueprint.post("/embed")
@operation(
    "Turn texts into vectors, as Ollama does",
    request=OllamaEmbedRequest,
    response=OllamaEmbedResponse,
    errors=(404,),
    reports_usage=True,
    dialects=(_DIALECT,),
)
def ollama_embed():
    payload = load_payload(_embed_schema)
    _check_model(payload["model"])
    tokens = embedding.tokenize(payload.pop("input"), name="input[{}]", truncate=payload["truncate"])
    embeddings = embedding.encode(tokens)
    return embedding.respond(
        tokens,
        model=embedding.model_name(),
        embeddings=in_blocks(embeddings),
        total_duration=round(1e9 * (perf_counter() - g.started)),
        load_duration=0,
        prompt_eval_count=tokens.count,
    )


@blueprint.post("/embeddings")
@operation(
    "Turn one text into a vector, as Ollama did before",
    request=OllamaEmbeddingsRequest,
    response=OllamaEmbeddingsResponse,
    errors=(404,),
    reports_usage=True,
    dialects=(_DIALECT,),
)
def ollama_embeddings():
    payload = load_payload(_embeddings_schema)
    _check_model(payload["model"])
    tokens = embedding.tokenize([payload.pop("prompt")], name="prompt")
    [vector] = embedding.encode(tokens)
    return embedding.respond(tokens, embedding=vector)


@blueprint.get("/tags")
@operation("The model, as Ollama lists them", response=OllamaTagsResponse, dialects=(_DIALECT,))
def ollama_tags():
    encoder = current_app.extensions["encoder"]
    model = {"name": embedding.model_name(), "model": embedding.model_name(), "modified_at": _loaded, "size": 0}
    return {"models": [model | {"digest": encoder.revision or "", "details": _details()}]}


@blueprint.get("/version")
@operation("The service's version, as Ollama tells its own", response=OllamaVersionResponse, dialects=(_DIALECT,))
def ollama_version():
    return {"version": __version__}


@blueprint.post("/show")
@operation(
    "What the model is, as Ollama shows it",
    request=OllamaShowRequest,
    response=OllamaShowResponse,
    errors=(404,),
    dialects=(_DIALECT,),
)
def ollama_show():
    payload = load_payload(_show_schema)
    _check_model(payload["model"] or payload["name"])
    encoder = current_app.extensions["encoder"]
    return {
        "modelfile": "",
        "parameters": "",
        "template": "{{ .Prompt }}",
        "details": _details(),
        "model_info": {
            "general.architecture": "bert",
            "bert.context_length": encoder.max_length,
            "bert.embedding_length": encoder.dimension,
        },
        "capabilities": ["embedding"],
        "modified_at": _loaded,
    }


@blueprint.post("/pull")
@operation(
    "Nothing, as the model is loaded: for clients that pull what /api/tags does not name",
    request=OllamaPullRequest,
    response=OllamaPullResponse,
    errors=(404,),
    dialects=(_DIALECT,),
)
def ollama_pull():
    payload = load_payload(_pull_schema)
    _check_model(payload["model"] or payload["name"])
    # A stream of progress is one JSON object a line, and the last one is this.
    return {"status": "success"}


def _check_model(name):
    # Ollama's clients add a tag to a name without one.
    embedding.check_model(name and name.removesuffix(":latest"))


def _details():
    level = {"float32": "F32", "bfloat16": "BF16"}.get(current_app.extensions["encoder"].dtype, "")
    return DETAILS | {"quantization_level": level}
