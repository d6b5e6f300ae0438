"""`POST /`, and `POST /embed` with `inputs`: as Hugging Face's text-embeddings-inference (TEI) has them."""

from flask import Blueprint

from embedding_api.api import embedding, error_handlers
from embedding_api.api.json_provider import in_blocks
from embedding_api.api.operation import Dialect, operation
from embedding_api.api.request_body import load, read_json
from embedding_api.api.tei_schemas import TEIEmbedRequest, TEIEmbedResponse, TEIErrorResponse
from embedding_api.errors import ApiError

blueprint = Blueprint("tei", __name__)
_request_schema = TEIEmbedRequest()

# As TEI has it (router/src/http/server.rs and types.rs).
DIALECT = Dialect(TEIErrorResponse, {"text_too_long": 413, "overloaded": 429, "internal_error": 424})
_TYPES = {"empty_body": "empty", "overloaded": "overloaded", "stopping": "unhealthy", "internal_error": "backend"}


@blueprint.post("/", strict_slashes=False)
@operation(
    "Turn texts into vectors, as text-embeddings-inference does",
    request=TEIEmbedRequest,
    response=TEIEmbedResponse,
    reports_usage=True,
    dialects=(DIALECT,),
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
    body = {"error": str(error), "error_type": _TYPES.get(error.code, "validation")}
    return error_handlers.respond(error, DIALECT.status(error), body)
