"""`POST /embed`: texts in, one vector for each out."""

from flask import Blueprint, current_app

from embedding_api.api import embedding
from embedding_api.api.json_provider import in_blocks
from embedding_api.api.operation import operation
from embedding_api.api.request_body import load_payload
from embedding_api.api.schemas import EmbedRequest, EmbedResponse

blueprint = Blueprint("embed", __name__)
_request_schema = EmbedRequest()


@blueprint.post("/embed")
@operation("Turn texts into vectors", request=EmbedRequest, response=EmbedResponse, reports_usage=True)
def embed():
    payload = load_payload(_request_schema)
    encoder = current_app.extensions["encoder"]
    tokens = embedding.tokenize(payload.pop("texts"), is_query=payload["is_query"], truncate=payload["truncate"])
    embeddings = embedding.encode(tokens, normalize=payload["normalize"])
    return embedding.respond(
        tokens, embeddings=in_blocks(embeddings), model=encoder.model_name, dimension=encoder.dimension
    )
