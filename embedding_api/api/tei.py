"""`POST /`, and `POST /embed` with `inputs`: as Hugging Face's text-embeddings-inference (TEI) has them."""

from flask import Blueprint

from embedding_api.api import embedding, error_handlers
from embedding_api.api.json_provider import in_blocks
from embedding_api.api.operation import operation
from embedding_api.api.request_body import load, read_json
from embedding_api.api.tei_schemas import TEIEmbedRequest, TEIEmbedResponse, TEIErrorResponse
from embedding_api.errors import ApiError

blueprint = Blueprint("tei", __name__)
_request_schema = TEIEmbedRequest()

# The status and the type that TEI gives its own errors (router/src/http/server.rs and types.rs). Others of ours keep
# their status.
_KINDS = {
    "empty_body": (400, "empty"),
    "too_many_tokens": (413, "validation"),
    "text_too_long": (413, "validation"),
    "overloaded": (429, "overloaded"),
    "stopping": (503, "unhealthy"),
    "not_ready": (503, "unhealthy"),
    "internal_error": (424, "backend"),
}


@blueprint.post("/", strict_slashes=False)
@operation(
    "Turn texts into vectors, as text-embeddings-inference does",
    request=TEIEmbedRequest,
    response=TEIEmbedResponse,
    errors=(424, 429),
    reports_usage=True,
    error=TEIErrorResponse,
)
def embed_root():
    return embed(read_json(_request_schema))


def embed(data):
    """The response to a request in TEI's dialect, as JSON has it."""
    payload = load(_request_schema, data)
    tokens = embedding.tokenize(
        payload.pop("inputs"), name="inputs[{}]", is_query=payload["prompt_name"], truncate=payload["truncate"]
    )
    return embedding.respond(tokens, in_blocks(embedding.encode(tokens, normalize=payload["normalize"])))


@blueprint.errorhandler(ApiError)
def render(error):
    """The response for an `ApiError`, as TEI's clients read it."""
    status, kind = _KINDS.get(error.code, (error.status, "validation"))
    return error_handlers.respond(error, status, {"error": str(error), "error_type": kind})
