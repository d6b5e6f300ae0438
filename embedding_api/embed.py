"""`POST /embed`: texts in, one vector for each out."""

from time import perf_counter

from flask import Blueprint, current_app, g

from embedding_api import logs
from embedding_api.encoder import Occupied, TooManyTokens
from embedding_api.errors import ApiError, occupied
from embedding_api.payload import invalid_fields, load_payload
from embedding_api.schemas import MAX_NAMED, EmbedRequest

blueprint = Blueprint("embed", __name__)
_request_schema = EmbedRequest()


@blueprint.post("/embed")
def embed():
    payload = load_payload(_request_schema)
    encoder = current_app.extensions["encoder"]

    started = perf_counter()
    tokens = _tokenize(encoder, payload["texts"], payload["is_query"])
    tokenized = perf_counter()
    if tokens.truncated and not payload["truncate"]:
        raise _too_long(tokens.truncated, encoder.max_length)
    try:
        vectors = encoder.encode(tokens.ids, normalize=payload["normalize"])
    except Occupied:
        raise occupied() from None
    encoded = perf_counter()

    response = current_app.json.response(embeddings=vectors, model=encoder.model_name, dimension=encoder.dimension)
    texts, truncated = len(tokens.ids), len(tokens.truncated)
    tokenize_ms, encode_ms = round(1000 * (tokenized - started), 2), round(1000 * (encoded - tokenized), 2)
    logs.note(texts=texts, tokens=tokens.count, truncated=truncated, tokenize_ms=tokenize_ms, encode_ms=encode_ms)
    response.headers["X-Texts"] = str(texts)
    response.headers["X-Tokens"] = str(tokens.count)
    response.headers["X-Truncated"] = str(truncated)
    if tokens.truncated:
        # Proxies give all headers together 4 KB as a rule: the first texts stand for the rest.
        named = tokens.truncated[:MAX_NAMED]
        response.headers["X-Truncated-Texts"] = ",".join(map(str, named))
    response.headers["Server-Timing"] = (
        f"queue;dur={g.figures.get('queue_ms', 0)}, tokenize;dur={tokenize_ms}, encode;dur={encode_ms}"
    )
    return response


def _tokenize(encoder, texts, is_query):
    limit = current_app.extensions["settings"].max_tokens
    try:
        return encoder.tokenize(texts, is_query=is_query, max_tokens=limit)
    except TooManyTokens:
        message = f"The texts have more than {limit} tokens together. Send them in several requests."
        raise ApiError(413, "too_many_tokens", message, param="texts", details={"limit": limit}) from None


def _too_long(truncated, max_length):
    message = f"Has more than the model's {max_length} tokens. Shorten it, or leave out 'truncate' to have it cut."
    details = [{"param": f"texts[{index}]", "message": message} for index in truncated[:MAX_NAMED]]
    return invalid_fields(details, code="text_too_long")
