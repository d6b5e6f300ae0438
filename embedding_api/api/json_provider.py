"""Response bodies by orjson, which writes a float32 array without making Python floats of it."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson
from flask import current_app
from flask.json.provider import JSONProvider

# Rows of an answer that are computed or written between two heartbeats. Writing 1,024 numbers takes 35 µs.
BLOCK_ROWS = 128


class OrjsonProvider(JSONProvider):
    """Flask's JSON provider; a NumPy array becomes nested lists, a float32 its shortest exact decimal."""

    def dumps(self, obj, **kwargs):
        return _dump(obj).decode()

    def loads(self, s, **kwargs):
        return orjson.loads(s)

    def response(self, *args, **kwargs):
        return self._app.response_class(_dump(self._prepare_response_obj(args, kwargs)), mimetype="application/json")


def blocks(count: int) -> Iterator[slice]:
    """Slices that cut `count` rows into blocks, with a heartbeat between two of them."""
    for start in range(0, count, BLOCK_ROWS):
        if start:
            current_app.extensions["encoder"].heartbeat()
        yield slice(start, start + BLOCK_ROWS)


def in_blocks(rows: Sequence[Any] | np.ndarray) -> Any:
    """Rows of an answer, a list or an array. Many are written to JSON here, block by block.

    The answer has the same bytes as with the rows themselves.
    """
    if len(rows) <= BLOCK_ROWS:
        return rows
    # Each block without the brackets around it.
    written = [memoryview(_dump(rows[block]))[1:-1] for block in blocks(len(rows))]
    return orjson.Fragment(b"[%b]" % b",".join(written))


def _dump(obj):
    return orjson.dumps(obj, option=orjson.OPT_SERIALIZE_NUMPY)
