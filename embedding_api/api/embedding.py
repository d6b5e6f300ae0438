"""From a request's texts to their vectors, with the figures for the answer's headers and the log."""

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
from flask import current_app, g, request
from werkzeug.sansio.response import Response

from embedding_api.api.fields import MAX_REPORTED
from embedding_api.api.request_body import invalid_fields
from embedding_api.encoder import TokenizedTexts, TooManyTokens
from embedding_api.errors import ApiError


def model_name() -> str:
    """The name of the model that is served."""
    return current_app.extensions["encoder"].model_name


def check_model(name: str | None) -> None:
    """Check the name of a model that a request asks for; None asks for none.

    Raises:
        ApiError: 404 if EMBEDDING_ACCEPT_MODELS=served and it is another model.
    """
    if current_app.extensions["settings"].accept_models == "served" and name not in (None, model_name()):
        message = f"The model '{name[:100]}' is not served here. Ask for '{model_name()}'."
        raise ApiError("model_not_found", message, param="model")


def tokenize(
    texts: Sequence[str],
    *,
    name: str = "texts[{}]",
    is_query: bool | None = None,
    truncate: bool = True,
    whole: bool = False,
) -> TokenizedTexts:
    """A request's texts as `TokenizedTexts`.

    Args:
        name: what errors call a text; its index goes into the braces.
        is_query: whether they get the query prompt; None where the request does not say.
        truncate: whether texts may be cut.
        whole: whether to count the tokens that are cut as well.

    Raises:
        ApiError: 413 if there are too many tokens; 422 if a text is blank, or is too long and may not be cut, or if the
            path is for queries, and the request says that they are none.
    """
    encoder, limit = current_app.extensions["encoder"], current_app.extensions["settings"].max_tokens
    # On /query/…, see query.py.
    if "query" in request.blueprints:
        if is_query is False:
            message = "Texts are queries on this path, and the request says that they are none. Leave '/query' out."
            raise invalid_fields([{"param": None, "message": message}])
        is_query = True
    started = perf_counter()
    # Where texts may not be cut, the error says how many tokens they have.
    whole = whole or not truncate
    try:
        tokens = encoder.tokenize(texts, is_query=bool(is_query), max_tokens=limit, whole=whole)
    except TooManyTokens as error:
        raise _too_many_tokens(error, len(texts), limit, name.partition("[")[0]) from None
    g.tokenize_ms = g.get("tokenize_ms", 0) + _milliseconds(started)
    if tokens.blank:
        _raise_for(tokens.blank, name, lambda index: "Must not be blank: it holds nothing that the model reads.")
    if tokens.truncated and not truncate:
        about = f"tokens, and the model reads {encoder.max_length}. Shorten it, or have it cut by 'truncate'."
        _raise_for(tokens.truncated, name, lambda index: f"Has {tokens.lengths[index]} {about}", code="text_too_long")
    return tokens


def _too_many_tokens(error, count, limit, param):
    fit = f"About {error.fit} of its {count} texts fit" if error.fit else "Not even its first text fits"
    message = f"The texts have some {error.estimate:,} tokens together, and a request takes {limit:,}. {fit} into one."
    return ApiError("too_many_tokens", f"{message} Send several.", param=param, details={"limit": limit})


def _raise_for(indexes, name, message, code="invalid_fields"):
    details = [{"param": name.format(index), "message": message(index)} for index in indexes[:MAX_REPORTED]]
    raise invalid_fields(details, code)


def encode(tokens: TokenizedTexts, *, normalize: bool = True) -> np.ndarray:
    """The vectors of `TokenizedTexts`, as a float32 array of shape (texts, dimension)."""
    started = perf_counter()
    vectors = current_app.extensions["encoder"].encode(tokens.ids, normalize=normalize)
    # The server's `RequestTask`; other servers have none.
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


def respond(tokens: TokenizedTexts, *rows: Any, **fields: Any) -> Response:
    """The response with these fields or rows in its body, and with headers for its texts, its tokens and their time."""
    response = current_app.json.response(*rows, **fields)
    response.headers["X-Texts"] = str(len(tokens.ids))
    response.headers["X-Tokens"] = str(tokens.count)
    response.headers["X-Truncated"] = str(len(tokens.truncated))
    response.headers["X-Unknown-Tokens"] = str(sum(tokens.unknown))
    if tokens.truncated:
        # Only the first: proxies usually limit all headers together to 4 KB.
        response.headers["X-Truncated-Texts"] = ",".join(map(str, tokens.truncated[:MAX_REPORTED]))
    figures = g.figures
    timing = [f"{name};dur={figures.get(f'{name}_ms', 0)}" for name in ("queue", "tokenize", "encode")]
    response.headers["Server-Timing"] = ", ".join(timing)
    return response


def _milliseconds(started):
    return 1000 * (perf_counter() - started)
