"""Whatever JSON comes in comes out; whatever bytes come in, they end in a sentence or a result."""

import io
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedding_api.bulk import BulkError, outputs, run
from embedding_api.bulk.checkpoint import EMBEDDING, WindowStats
from embedding_api.bulk.inputs import BAD_ROWS, READERS, Inputs

# Each example gets a name of its own in the one folder.
FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

texts = st.text(st.characters(codec="utf-8"), max_size=10)
numbers = st.integers() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
names = (st.sampled_from(["id", "a"]) | texts).filter(lambda name: name not in (EMBEDDING, "text"))
rows = st.lists(
    st.tuples(st.just("x ") | values, st.dictionaries(names, values, max_size=4), st.booleans()), max_size=6
)


def encode(windows, progress):
    """Instead of a model: vectors of zeros."""
    for window in windows:
        vectors = np.zeros((len(window.texts), 2), np.float32)
        vectors[[text is None for text in window.texts]] = np.nan
        yield window, vectors, WindowStats(len(window.texts), without_text=window.texts.count(None))


@pytest.fixture
def embed(tmp_path):
    """A function that embeds a file of some bytes; returns the output's."""

    def embed(content, ending, output, **options):
        source, target = tmp_path / f"in.{ending}", tmp_path / f"out.{output}"
        source.write_bytes(content)
        target.unlink(missing_ok=True)
        description = {"dtype": "float32"}
        run.embed(Inputs([str(source)], **options), target, description, encode, strict=False, echo=str)
        return target.read_bytes()

    return embed


@FOLDER
@given(rows, st.booleans(), st.sampled_from([(", ", ": "), (",", ":"), (" ,", " : ")]))
def test_any_json_comes_back_as_it_was(embed, rows, ascii, separators):
    rows = [
        {"text": text} | row if first else row | {"text": text} for text, row, first in [("first", {}, True), *rows]
    ]
    lines = [json.dumps(row, ensure_ascii=ascii, separators=separators) for row in rows]
    out = embed("\n".join(lines).encode(), "jsonl", "jsonl").decode().removesuffix("\n").split("\n")
    for line, row in zip(out, rows, strict=True):
        back = json.loads(line)
        assert list(back)[-1] == EMBEDDING
        vector = back.pop(EMBEDDING)
        assert vector == (None if not isinstance(row["text"], str) or not row["text"].strip() else [0, 0])
        # As text, so that key order, 1 and 1.0 and True, and 0.0 and -0.0 all count.
        assert repr(back) == repr(row)


@FOLDER
@given(rows)
def test_any_json_becomes_columns(embed, rows):
    rows = [{"text": text} | row for text, row, _ in [("first", {}, True), *rows]]
    content = "\n".join(map(json.dumps, rows)).encode()
    table = pa.parquet.read_table(io.BytesIO(embed(content, "jsonl", "parquet")))
    assert set(table.column_names) == {name for row in rows for name in row} | {EMBEDDING}
    for name in table.column_names:
        if name != EMBEDDING:
            for cell, row in zip(table.column(name).to_pylist(), rows, strict=True):
                assert same(cell, row.get(name)), (name, cell, row.get(name))


def same(cell, value):
    """Whether a cell is a value: itself, as a float, as JSON text, or with the fields that other values have."""
    if isinstance(cell, str) and not isinstance(value, str):
        return json.loads(cell) == value
    if isinstance(cell, dict):
        return all(same(cell[name], value.get(name)) for name in cell) and set(value) <= set(cell)
    if isinstance(cell, list):
        return all(map(same, cell, value)) and len(cell) == len(value)
    return cell == value or (isinstance(cell, float) and math.isclose(cell, value))


endings = st.sampled_from([*READERS])
lines = st.binary(max_size=40) | st.sampled_from(
    [b'{"text": "a"}\n', b"text,id\n", b"a,1\n", b'"', b"\n", b"\xff", b"PAR1"]
)


@FOLDER
@given(
    st.lists(lines, max_size=8).map(b"".join), endings, st.sampled_from([*outputs._WRITERS]), st.sampled_from(BAD_ROWS)
)
def test_any_bytes_end_in_a_sentence_or_a_result(embed, content, format, ending, bad_rows):
    try:
        assert embed(content, "bin", ending.removeprefix("."), format=format, bad_rows=bad_rows)
    except BulkError as error:
        assert str(error)[-1] == "." and "\n" not in str(error)  # noqa: PT017, PT018


@pytest.fixture(scope="module")
def parquet():
    """A file of Parquet of a few pages."""
    file = io.BytesIO()
    table = pa.table(
        {"text": [f"text {row}" for row in range(100)], "n": range(100), "l": [[row] for row in range(100)]}
    )
    pa.parquet.write_table(table, file, row_group_size=40)
    return file.getvalue()


@FOLDER
@given(st.data(), st.sampled_from([*outputs._WRITERS]))
def test_damaged_parquet_ends_in_a_sentence_or_a_result(embed, parquet, data, ending):
    content = bytearray(parquet)
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))])
    try:
        assert embed(content, "parquet", ending.removeprefix("."), bad_rows="skip")
    except BulkError as error:
        assert str(error)[-1] == "."  # noqa: PT017
