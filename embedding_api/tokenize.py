"""`POST /tokenize`: what the model reads of texts, and how much of them."""

from flask import Blueprint, current_app

from embedding_api import vectors
from embedding_api.operation import operation
from embedding_api.payload import load_payload
from embedding_api.schemas import TokenizeRequest, TokenizeResponse

blueprint = Blueprint("tokenize", __name__)
_request_schema = TokenizeRequest()


@blueprint.post("/tokenize")
@operation("Count the tokens of texts", TokenizeRequest, TokenizeResponse)
def tokenize():
    payload = load_payload(_request_schema)
    encoder = current_app.extensions["encoder"]
    tokens = vectors.tokenize(payload["texts"], is_query=payload["is_query"], whole=True)
    return {
        "tokens": [
            {"ids": ids, "count": length, "truncated": length > len(ids)}
            for ids, length in zip(tokens.ids, tokens.lengths, strict=True)
        ],
        "model": encoder.model_name,
        "max_length": encoder.max_length,
    }
