"""`POST /tokenize`: what the model reads of texts, and how much of them."""

from flask import Blueprint, current_app

from embedding_api.api import embedding
from embedding_api.api.json_provider import in_blocks
from embedding_api.api.operation import operation
from embedding_api.api.request_body import load_payload
from embedding_api.api.schemas import TokenizeRequest, TokenizeResponse

blueprint = Blueprint("tokenize", __name__)
_request_schema = TokenizeRequest()


@blueprint.post("/tokenize")
@operation("Count the tokens of texts", TokenizeRequest, TokenizeResponse)
def tokenize():
    payload = load_payload(_request_schema)
    encoder = current_app.extensions["encoder"]
    tokens = embedding.tokenize(payload.pop("texts"), is_query=payload["is_query"], whole=True)
    rows = [
        {"ids": ids, "count": length, "truncated": length > len(ids), "unknown": unknown}
        for ids, length, unknown in zip(tokens.ids, tokens.lengths, tokens.unknown, strict=True)
    ]
    return {
        "tokens": in_blocks(rows),
        "model": encoder.model_name,
        "max_length": encoder.max_length,
    }
