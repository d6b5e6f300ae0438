"""Reads JSON request bodies. Whatever a client sends, the worst answer is a 4xx."""

import codecs
import json
from itertools import islice
from typing import Any

import orjson
from flask import current_app, request
from marshmallow import ValidationError

from embedding_api.api.fields import MAX_REPORTED
from embedding_api.api.schemas import StrictSchema
from embedding_api.errors import ApiError, ClientGone

# Bytes that are counted between two heartbeats. It takes 1 ms, or 8 ms if all of them are quotes.
SLICE_BYTES = 256 * 1024


def load_payload(schema: StrictSchema) -> dict[str, Any]:
    """The request's body, checked by a marshmallow schema.

    Raises:
        ApiError: as `read_json` and `load` do.
    """
    return load(schema, read_json(schema))


def read_json(schema: StrictSchema) -> Any:
    """The request's body as JSON has it.

    Args:
        schema: what it should be, for the error messages.

    Raises:
        ApiError: 415 for another content type, 400 for a query string, and for a body that is not one whole JSON
            document in UTF-8, 413 for one beyond the size limit.
    """
    _check_no_parameters()
    _check_content_type()
    body = _read_body(current_app.extensions["settings"].max_body_bytes).removeprefix(codecs.BOM_UTF8)
    if not body or body.isspace():
        raise ApiError("empty_body", f"The body is empty. Send JSON, such as {schema.example_json}.")
    return _parse(body, schema)


def load(schema: StrictSchema, data: Any) -> dict[str, Any]:
    """What a schema makes of JSON.

    Raises:
        ApiError: 422 for fields that the schema refuses.
    """
    try:
        return schema.load(data)
    except ValidationError as error:
        messages = islice(_flatten(error.messages), MAX_REPORTED)
        raise invalid_fields([{"param": param, "message": message} for param, message in messages]) from None


def invalid_fields(details: list[dict[str, Any]], code: str = "invalid_fields") -> ApiError:
    """The error for wrong fields: a list of {"param", "message"}, of which the first is the error's own message."""
    param, message = details[0]["param"], details[0]["message"]
    return ApiError(code, f"{param}: {message}" if param else message, param=param, details=details)


def _check_no_parameters():
    # Ignored, "?is_query=true" would give a document's vector without a word.
    if request.query_string:
        name = next(iter(request.args), "")[:100]
        message = f"The query string is not read, and it has '{name}'. Put fields into the JSON body."
        raise ApiError("query_string", message, param=name or None)


def _check_content_type():
    if not request.is_json:
        sent = request.headers.get("Content-Type", "none")[:100]
        message = f"Content-Type is {sent}. Send JSON with the header 'Content-Type: application/json'."
        raise ApiError("unsupported_media_type", message)
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ApiError("unsupported_content_encoding", "Compressed bodies are not taken. Send plain JSON.")


def _read_body(limit):
    # Not request.get_data(): it takes a body that ends before its Content-Length for a whole one, gives no 413 to a
    # chunked one, and lets Gunicorn's errors through.
    announced = request.content_length
    if announced is not None and announced > limit:
        raise _too_large(limit)
    try:
        body = request.stream.read(limit + 1)
    except (ApiError, ClientGone):
        raise
    except Exception as error:
        # Each WSGI server has its own exceptions for this.
        raise _incomplete("The body could not be read to its end") from error
    if len(body) > limit:
        raise _too_large(limit)
    if announced is not None and len(body) < announced:
        raise _incomplete(f"The body ended after {len(body)} of the {announced} bytes in its Content-Length")
    return body


def _too_large(limit):
    message = f"The body has more than {limit} bytes. Send the texts in several requests."
    return ApiError("body_too_large", message, details={"limit": limit})


def _incomplete(what):
    return ApiError("incomplete_body", f"{what}. Send the request again.")


def _parse(body, schema):
    max_texts = current_app.extensions["settings"].max_texts
    # A text is two tokens: a string and a comma. Up to twice as many texts still get the message that counts them.
    most = 4 * max_texts + 1000
    tokens, keys = _count_json_tokens(body, most)
    # Checked before parsing: 8 MB of "[],[],…" would become hundreds of MB of Python objects.
    if tokens > most:
        schema.check_raw(body)
        message = f"The body holds far too many values: one request takes at most {max_texts} texts. Send several."
        raise invalid_fields([{"param": None, "message": message}])
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if "surrogate" in str(error) and (path := _path_to_half_character(body)):
            message = f"{path}: Ends or begins with half of a character, as if cut within one. Cut between characters."
            raise ApiError("invalid_json", message, param=path) from None
        raise ApiError("invalid_json", _not_json(body, error)) from None
    if len(body) > SLICE_BYTES:
        _heartbeat()
    # orjson keeps the last of two equal keys without an error, so half of the texts could be lost.
    if _count_keys(data) != keys:
        # Free it first, so that the largest body is not in memory twice.
        del data
        _raise_for_duplicate_key(body)
    return data


def _count_json_tokens(body, most):
    """Count the tokens of a JSON document before it is parsed: strings, commas, opening brackets; and count the keys.

    It stops when there are more than `most` tokens. If the body is not JSON, the counts mean nothing.
    """
    tokens = keys = start = 0
    in_string = False
    while True:
        part = body[start : start + SLICE_BYTES]
        if len(part) == SLICE_BYTES and (len(part) - len(part.rstrip(b"\\"))) % 2:
            # Leave the last backslash, which begins an escape, to the next slice.
            part = part[:-1]
        start += len(part)
        # Without escaped quotes, each quote begins or ends a string.
        pieces = part.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(pieces[in_string::2])
        tokens += (len(pieces) - in_string) // 2 + outside.count(b",") + outside.count(b"[") + outside.count(b"{")
        keys += outside.count(b":")
        in_string ^= len(pieces) % 2 == 0
        if start >= len(body) or tokens > most:
            return tokens, keys
        _heartbeat()


def _count_keys(data):
    """Count the keys of all objects in JSON that was parsed."""
    keys, values = 0, [data]
    # The list grows meanwhile. Recursion would not reach as deep as orjson does.
    for value in values:
        if isinstance(value, dict):
            keys += len(value)
            values.extend(value.values())
        elif isinstance(value, list):
            values.extend(value)
    return keys


def _heartbeat():
    current_app.extensions["encoder"].heartbeat()


def _not_json(body, error):
    try:
        body.decode()
    except UnicodeDecodeError as undecodable:
        return f"The body is not UTF-8: byte {undecodable.start} is wrong. Send JSON in UTF-8."
    return f"The body is not valid JSON: {error}."


def _path_to_half_character(body):
    """Where the first string with half of a surrogate pair is, such as "texts[3]"; None if the body is no JSON."""
    try:
        return next(_paths_to_half_characters(json.loads(body), ""), None)
    except (ValueError, RecursionError):
        return None


def _paths_to_half_characters(value, path):
    if isinstance(value, str):
        if value != _whole(value):
            yield path
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _paths_to_half_characters(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            name = f"{path}.{_whole(key)[:100]}".removeprefix(".")
            yield from _paths_to_half_characters(key, name)
            yield from _paths_to_half_characters(item, name)


def _whole(text):
    """A text with "?" for each half of a character."""
    return text.encode(errors="replace").decode()


def _raise_for_duplicate_key(body):
    try:
        json.loads(body, object_pairs_hook=_check_unique)
    except RecursionError:
        # Python's parser reaches less deep than orjson.
        message = "An object in the body holds a key more than once. Send it once."
        raise ApiError("duplicate_key", message) from None


def _check_unique(pairs):
    keys = set()
    for key, _ in pairs:
        if key in keys:
            message = f"The body holds the key '{key[:100]}' more than once. Send it once."
            raise ApiError("duplicate_key", message, param=key[:100])
        keys.add(key)


def _flatten(messages, path=""):
    """marshmallow's nested messages as pairs of a path such as "texts[3]" (None for the whole body) and a sentence."""
    if isinstance(messages, dict):
        for key, value in messages.items():
            name = f"[{key}]" if isinstance(key, int) else f".{str(key)[:100]}" if path else str(key)[:100]
            yield from _flatten(value, "" if key == "_schema" else path + name)
    else:
        for message in messages:
            yield path or None, message
