"""`POST /embed`: texts in, one vector for each out. With `inputs` the request is TEI's."""

from flask import Blueprint, current_app, g

from embedding_api.api import embedding, error_handlers, tei
from embedding_api.api.json_provider import in_blocks
from embedding_api.api.operation import OWN, operation
from embedding_api.api.request_body import invalid_fields, load, read_json
from embedding_api.api.schemas import EmbedRequest, EmbedResponse
from embedding_api.api.tei_schemas import TEIEmbedRequest, TEIEmbedResponse
from embedding_api.errors import ApiError

blueprint = Blueprint("embed", __name__)
_request_schema = EmbedRequest()


@blueprint.errorhandler(ApiError)
def _render(error):
    return tei.render(error) if g.get("is_tei") else error_handlers.render(error)


@blueprint.post("/embed")
@operation(
    "Turn texts into vectors",
    request=[EmbedRequest, TEIEmbedRequest],
    response=[EmbedResponse, TEIEmbedResponse],
    reports_usage=True,
    dialects=(OWN, tei.DIALECT),
)
def embed():
    data = read_json(_request_schema)
    # This path is text-embeddings-inference's as well.
    if isinstance(data, dict) and data.get("inputs") is not None:
        # The other dialect's field may be null, as any that is left out.
        if data.pop("texts", None) is not None:
            message = "'texts' and 'inputs' are two names for the same. Send one of them."
            raise invalid_fields([{"param": "inputs", "message": message}])
        g.is_tei = True
        return tei.embed(data)
    if isinstance(data, dict) and data.get("texts") is not None:
        data.pop("inputs", None)
    payload = load(_request_schema, data)
    # Free the JSON: the texts are now in the payload alone, and are freed when they are tokenized.
    del data
    encoder = current_app.extensions["encoder"]
    tokens = embedding.tokenize(payload.pop("texts"), is_query=payload["is_query"], truncate=payload["truncate"])
    embeddings = embedding.encode(tokens, normalize=payload["normalize"])
    return embedding.respond(
        tokens, embeddings=in_blocks(embeddings), model=encoder.model_name, dimension=encoder.dimension
    )
