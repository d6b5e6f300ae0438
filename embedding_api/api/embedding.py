"""From a request's texts to their vectors, with the figures for the answer's headers and the log."""

from time import perf_counter

from flask import current_app, g, request

from embedding_api.api.fields import MAX_REPORTED
from embedding_api.api.request_body import invalid_fields
from embedding_api.encoder import TooManyTokens
from embedding_api.errors import ApiError


def tokenize(texts, *, name="texts[{}]", is_query=False, truncate=True, whole=False):
    """A request's texts as `TokenizedTexts`.

    Args:
        name: what errors call a text; its index goes into the braces.
        is_query: whether they get the query prompt.
        truncate: whether texts may be cut.
        whole: whether to count the tokens that are cut as well.

    Raises:
        ApiError: 413 if there are too many tokens, 422 if a text is too long and may not be cut.
    """
    encoder, limit = current_app.extensions["encoder"], current_app.extensions["settings"].max_tokens
    started = perf_counter()
    try:
        tokens = encoder.tokenize(texts, is_query=is_query, max_tokens=limit, whole=whole)
    except TooManyTokens:
        message = f"The texts have more than {limit} tokens together. Send fewer or shorter ones in a request."
        raise ApiError("too_many_tokens", message, param=name.partition("[")[0], details={"limit": limit}) from None
    g.tokenize_ms = g.get("tokenize_ms", 0) + _milliseconds(started)
    if tokens.truncated and not truncate:
        most = f"the model's {encoder.max_length} tokens"
        message = f"Has more than {most}. Shorten it, or leave out 'truncate' to have it cut."
        details = [{"param": name.format(index), "message": message} for index in tokens.truncated[:MAX_REPORTED]]
        raise invalid_fields(details, code="text_too_long")
    return tokens


def encode(tokens, *, normalize=True):
    """The vectors of `TokenizedTexts`, as a float32 array of shape (texts, dimension)."""
    started = perf_counter()
    vectors = current_app.extensions["encoder"].encode(tokens.ids, normalize=normalize)
    waited = getattr(request.environ.get("embedding.task"), "waited", 0)
    g.figures |= {
        "queue_ms": round(1000 * waited, 2),
        "texts": len(tokens.ids),
        "tokens": tokens.count,
        "truncated": len(tokens.truncated),
        "tokenize_ms": round(g.tokenize_ms, 2),
        "encode_ms": round(_milliseconds(started) - 1000 * waited, 2),
    }
    return vectors


def respond(tokens, **fields):
    """The response with these fields in its body, and with headers for its texts, its tokens and their time."""
    response = current_app.json.response(**fields)
    response.headers["X-Texts"] = str(len(tokens.ids))
    response.headers["X-Tokens"] = str(tokens.count)
    response.headers["X-Truncated"] = str(len(tokens.truncated))
    if tokens.truncated:
        # Only the first: proxies usually limit all headers together to 4 KB.
        response.headers["X-Truncated-Texts"] = ",".join(map(str, tokens.truncated[:MAX_REPORTED]))
    figures = g.figures
    timing = [f"{name};dur={figures.get(f'{name}_ms', 0)}" for name in ("queue", "tokenize", "encode")]
    response.headers["Server-Timing"] = ", ".join(timing)
    return response


def _milliseconds(started):
    return 1000 * (perf_counter() - started)
