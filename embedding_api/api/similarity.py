"""`POST /similarity`: how close texts are to a query, or to each other."""

import numpy as np
from flask import Blueprint

from embedding_api.api import embedding
from embedding_api.api.json_provider import blocks, in_blocks
from embedding_api.api.operation import operation
from embedding_api.api.request_body import load_payload
from embedding_api.api.schemas import SimilarityRequest, SimilarityResponse

blueprint = Blueprint("similarity", __name__)
_request_schema = SimilarityRequest()

# More would be rounding errors: the vectors are float32.
DECIMALS = 6


@blueprint.post("/similarity")
@operation("Compare texts with a query, or with each other", SimilarityRequest, SimilarityResponse, reports_usage=True)
def similarity():
    payload = load_payload(_request_schema)
    truncate, has_query = payload["truncate"], "query" in payload
    tokens = embedding.tokenize(payload.pop("texts"), truncate=truncate)
    if has_query:
        # Last, so that the headers' indexes are those of the texts.
        tokens += embedding.tokenize([payload.pop("query")], name="query", is_query=True, truncate=truncate)
    # In float64 and then rounded: in float32 the scores of equal texts would differ in their last digits.
    embeddings = embedding.encode(tokens).astype(np.float64)
    scores = _rounded(embeddings[:-1] @ embeddings[-1]) if has_query else _scores_of_pairs(embeddings)
    answer = {"scores": in_blocks(scores)}
    if payload["rank"]:
        answer["ranking"] = in_blocks(_ranked(scores) if has_query else _others_ranked(scores))
    return embedding.respond(tokens, **answer, model=embedding.model_name())


def _scores_of_pairs(embeddings):
    """The scores of each text with each, as an array of shape (texts, texts)."""
    scores = np.empty((len(embeddings), len(embeddings)), np.float32)
    for block in blocks(len(embeddings)):
        scores[block] = _rounded(embeddings[block] @ embeddings.T)
    return scores


def _rounded(scores):
    return np.round(scores, DECIMALS).astype(np.float32)


def _ranked(scores):
    """The indexes of the scores, highest first; equal scores stay in their order."""
    return np.argsort(-scores, stable=True).astype(np.uint32)


def _others_ranked(scores):
    """For each text the indexes of the others, best first, as an array of shape (texts, texts - 1).

    It goes row by row, as all rows at once would take several times the memory.
    """
    ranking = np.empty((len(scores), len(scores) - 1), np.uint32)
    for block in blocks(len(scores)):
        for index in range(len(scores))[block]:
            order = _ranked(scores[index])
            ranking[index] = order[order != index]
    return ranking
