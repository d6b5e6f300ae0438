"""`POST /similarity`: how close texts are to a query, or to each other."""

import numpy as np
from flask import Blueprint, current_app

from embedding_api import vectors
from embedding_api.operation import operation
from embedding_api.payload import load_payload
from embedding_api.schemas import SimilarityRequest, SimilarityResponse

blueprint = Blueprint("similarity", __name__)
_request_schema = SimilarityRequest()

# More would be rounding errors: the vectors are float32.
DECIMALS = 6


@blueprint.post("/similarity")
@operation("Compare texts with a query, or with each other", SimilarityRequest, SimilarityResponse, counts=True)
def similarity():
    payload = load_payload(_request_schema)
    texts, truncate = payload["texts"], payload["truncate"]
    tokens = vectors.tokenize(texts, truncate=truncate)
    if "query" in payload:
        # Last, so that the headers' indexes are those of the texts.
        tokens += vectors.tokenize([payload["query"]], name="query", is_query=True, truncate=truncate)
    # In float64 and then rounded, or equal texts would differ in their last digits, by where they stand.
    embeddings = vectors.encode(tokens).astype(np.float64)
    compared = embeddings[len(texts)] if "query" in payload else embeddings.T
    scores = np.round(embeddings[: len(texts)] @ compared, DECIMALS).astype(np.float32)
    answer = {"scores": scores}
    if payload["rank"]:
        answer["ranking"] = _ranked(scores) if "query" in payload else _others_ranked(scores)
    return vectors.respond(tokens, **answer, model=current_app.extensions["encoder"].model_name)


def _ranked(scores):
    """The indexes of the scores by their fall, and where equal in their order."""
    return np.argsort(-scores, stable=True).astype(np.uint32)


def _others_ranked(scores):
    """For each text the indexes of the others. Row by row: all at once would take the memory several times."""
    ranking = np.empty((len(scores), len(scores) - 1), np.uint32)
    for index, row in enumerate(scores):
        order = _ranked(row)
        ranking[index] = order[order != index]
    return ranking
