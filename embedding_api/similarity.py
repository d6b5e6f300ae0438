"""`POST /similarity`: how close texts are to a query, or to each other."""

import numpy as np
from flask import Blueprint, current_app

from embedding_api import vectors
from embedding_api.operation import operation
from embedding_api.payload import load_payload
from embedding_api.schemas import SimilarityRequest, SimilarityResponse

blueprint = Blueprint("similarity", __name__)
_request_schema = SimilarityRequest()


@blueprint.post("/similarity")
@operation("Compare texts with a query, or with each other", SimilarityRequest, SimilarityResponse)
def similarity():
    payload = load_payload(_request_schema)
    encoder, texts = current_app.extensions["encoder"], payload["texts"]
    count = len(texts)
    if "query" in payload:
        # Last, so that the headers' indexes are those of the texts.
        texts = [*texts, encoder.query_prompt + payload["query"]]
    tokens = vectors.tokenize(
        texts,
        truncate=payload["truncate"],
        param=lambda index: f"texts[{index}]" if index < count else "query",
    )
    embeddings = vectors.encode(tokens)
    compared = embeddings[count] if "query" in payload else embeddings.T
    # Rounding may take the product of a vector with itself beyond 1.
    scores = np.clip(embeddings[:count] @ compared, -1, 1)
    answer = {"scores": scores}
    if payload["rank"]:
        answer["ranking"] = _ranking(scores)
    return vectors.respond(tokens, **answer, model=encoder.model_name)


def _ranking(scores):
    """Indexes by falling score, and where equal in their order; without a query, for each text those of the others."""
    order = np.argsort(-scores, stable=True)
    if scores.ndim == 1:
        return order
    return order[order != np.arange(len(order))[:, np.newaxis]].reshape(len(order), -1)
