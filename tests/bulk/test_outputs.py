import io
import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from embedding_api.bulk import BulkError, json_lines
from embedding_api.bulk.checkpoint import EMBEDDING
from embedding_api.bulk.outputs import _PARTS_IN_GROUP, check_format, write_jsonl, write_npy, write_parquet


def part(vectors, dtype=np.float32, rows=None, **columns):
    """A part of columns, or of rows as lines of JSON."""
    array = np.array([[np.nan] * 2 if vector is None else vector for vector in vectors], dtype=dtype)
    missing = pa.array([vector is None for vector in vectors])
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), 2, mask=missing)
    if rows is None:
        return pa.table(columns | {EMBEDDING: embedding})
    return json_lines.as_table(rows).append_column(EMBEDDING, embedding)


def written(write, *parts, turned=()):
    """The file that is written of parts, and a check of what columns it says were turned."""
    file = io.BytesIO()
    assert set(write(file, lambda: iter(parts), {"model": "m"})) == set(turned)
    file.seek(0)
    return file


def test_parquet_has_all_columns_and_fixed_size_vectors():
    parts = part([[1, 2], None], id=["a", "b"]), part([[3, 4]], id=["c"])
    file = pa.parquet.ParquetFile(written(write_parquet, *parts))
    table = file.read()
    assert table.column("id").to_pylist() == ["a", "b", "c"]
    assert table.column(EMBEDDING).to_pylist() == [[1, 2], None, [3, 4]]
    kind = table.schema.field(EMBEDDING).type
    assert pa.types.is_fixed_size_list(kind)
    assert (kind.value_type, kind.list_size) == (pa.float32(), 2)
    assert table.schema.metadata[b"model"] == b"m"


def test_parquet_of_half_precision():
    table = pa.parquet.read_table(written(write_parquet, part([[1, 2]], np.float16)))
    assert table.schema.field(EMBEDDING).type.value_type == pa.float16()


def test_row_groups_have_several_parts():
    parts = [part([[number, 0]], id=[number]) for number in range(_PARTS_IN_GROUP + 1)]
    file = pa.parquet.ParquetFile(written(write_parquet, *parts))
    assert file.num_row_groups == 2
    assert file.read().column("id").to_pylist() == list(range(len(parts)))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (pa.array([1]), pa.array([1.5]), [1.0, 1.5]),
        (pa.array([1]), pa.array(["x"]), ["1", "x"]),
        (pa.array([[1]]), pa.array(["x"]), ["[1]", "x"]),
        (pa.array([True]), pa.array([2]), ["true", "2"]),
        (pa.nulls(1), pa.array(["x"]), [None, "x"]),
        (pa.array(["x"]), pa.array(["y"]).cast(pa.large_string()), ["x", "y"]),
        (pa.array(["x"]), pa.array(["y"]).dictionary_encode(), ["x", "y"]),
        (pa.array([{"a": 1}]), pa.array([{"b": "x"}]), [{"a": 1, "b": None}, {"a": None, "b": "x"}]),
        (pa.array([{"a": {}}]), pa.array([{"a": {}}]), ['{"a":{}}', '{"a":{}}']),
        (pa.array([2**60 + 1]), pa.array([1.5]), [str(2**60 + 1), "1.5"]),
        (pa.array([2**64 - 1], pa.uint64()), pa.array([-1], pa.int8()), [str(2**64 - 1), "-1"]),
        (pa.array([b"\x01"]), pa.array([2]), ['"01"', "2"]),
        (pa.array([Decimal("1.5")]), pa.array([date(2020, 1, 2)]), ['"1.5"', '"2020-01-02"']),
    ],
)
def test_a_column_of_several_types_gets_one(first, second, expected):
    parts = part([[1, 2]], c=first), part([[1, 2]], c=second)
    turned = ["c"] if first.type != second.type and not pa.types.is_null(first.type) else []
    table = pa.parquet.read_table(written(write_parquet, *parts, turned=turned))
    assert table.column("c").to_pylist() == expected


def test_a_column_that_a_part_lacks_is_null():
    table = pa.parquet.read_table(written(write_parquet, part([[1, 2]], a=[1]), part([[1, 2]], b=["x"])))
    assert table.to_pylist() == [
        {"a": 1, "b": None, EMBEDDING: [1, 2]},
        {"a": None, "b": "x", EMBEDDING: [1, 2]},
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_npy_has_a_row_for_each_row_of_the_input(dtype, tmp_path):
    path = tmp_path / "out.npy"
    path.write_bytes(written(write_npy, part([[1, 2], None], dtype), part([[3, 4]], dtype)).read())
    array = np.load(path, mmap_mode="r")
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, [[1, 2], [np.nan] * 2, [3, 4]])


def test_jsonl_has_all_fields():
    parts = part([[1, 2.5], None], id=["ä", "b"], day=[date(2020, 1, 2)] * 2), part([[3, 4]], id=["c"])
    lines = written(write_jsonl, *parts, turned=["day"]).read().decode().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": "ä", "day": "2020-01-02", EMBEDDING: [1, 2.5]},
        {"id": "b", "day": "2020-01-02", EMBEDDING: None},
        {"id": "c", EMBEDDING: [3, 4]},
    ]


@pytest.mark.parametrize(
    ("values", "written_as"),
    [
        (pa.array([float("nan"), 1.5]), [None, 1.5]),
        (pa.array([float("inf"), 1.5], pa.float16()), [None, 1.5]),
        (pa.array([Decimal("1.50"), None]), ["1.50", None]),
        (pa.array([b"\x01", b""]), ["01", ""]),
        (pa.array([1, 2], pa.timestamp("ns")), ["1970-01-01 00:00:00.000000001", "1970-01-01 00:00:00.000000002"]),
        (pa.array([[date(2020, 1, 2)], []]), [["2020-01-02"], []]),
        (pa.array([1, 2], pa.time64("ns")), ["00:00:00.000000001", "00:00:00.000000002"]),
        (pa.array([[float("nan"), 1.5], []]), [[None, 1.5], []]),
        (pa.array([{"a": [float("inf")]}, None]), [{"a": [None]}, None]),
    ],
)
def test_jsonl_says_what_it_had_to_turn(values, written_as):
    file = written(write_jsonl, part([[1, 2], None], c=values), turned=["c"])
    assert [json.loads(line)["c"] for line in file] == written_as


def test_jsonl_turns_nothing_else():
    columns = {"a": [1, None], "b": ["x", "y"], "c": [[1.5], []], "d": [{"e": True}, None], "f": [0.5, None]}
    file = written(write_jsonl, part([[1, 2], None], **columns))
    assert [json.loads(line)["d"] for line in file] == [{"e": True}, None]


def test_lines_of_json_only_get_the_vector_at_their_end():
    rows = [b'{"z": 1e400, "a" : "\xc3\xa4", "n": 1.50}', b"{}", b"{ }", b'{"b":{}\t}']
    file = written(write_jsonl, part([[1, 2.5], None, [3, 4], [5, 6]], rows=rows))
    assert file.read().splitlines() == [
        b'{"z": 1e400, "a" : "\xc3\xa4", "n": 1.50,"embedding":[1.0,2.5]}',
        b'{"embedding":null}',
        b'{"embedding":[3.0,4.0]}',
        b'{"b":{},"embedding":[5.0,6.0]}',
    ]


def test_parquet_of_lines_of_json_says_what_it_had_to_turn():
    parts = (
        part([[1, 2]] * 2, rows=[b'{"id": 1, "same": 1, "n": null}', b'{"id": 2, "mixed": [1]}']),
        part([[1, 2]] * 2, rows=[b'{"id": "x", "same": 2, "n": "a"}', b'{"id": 3.50, "mixed": "a", "n": null}']),
        part([[1, 2]], same=[3], late=["b"]),
    )
    file = written(write_parquet, *parts, turned=["id", "mixed"])
    table = pa.parquet.read_table(file).drop_columns([EMBEDDING])
    assert table.to_pydict() == {
        "id": ["1", "2", "x", "3.5", None],
        "same": [1, None, 2, None, 3],
        "n": [None, None, "a", None, None],
        "mixed": [None, "[1]", None, "a", None],
        "late": [None, None, None, None, "b"],
    }


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (["1", "2.5"], ['"x"', "3"], ["1", "2.5", "x", "3"]),
        (["[1]", "[2.5]"], ['"x"', "null"], ["[1]", "[2.5]", "x", None]),
        (['{"a":1}', '{"b":2}'], ['"x"', "{}"], ['{"a":1}', '{"b":2}', "x", "{}"]),
        (["1", "2.5"], ["9007199254740993", "4"], ["1", "2.5", "9007199254740993", "4"]),
        (["1", "2"], ["2.5", "3"], [1.0, 2.0, 2.5, 3.0]),
        (['{"a":1}', "null"], ['{"b":[]}', "null"], [{"a": 1, "b": None}, None, {"a": None, "b": []}, None]),
    ],
)
def test_values_that_become_text_are_those_of_the_lines_whatever_part_they_are_in(first, second, expected):
    parts = [part([[1, 2]] * 2, rows=[b'{"c": %s}' % value.encode() for value in each]) for each in (first, second)]
    table = pa.parquet.read_table(written(write_parquet, *parts, turned=["c"]))
    assert table.column("c").to_pylist() == expected


@pytest.mark.parametrize("name", ["OUT.NPY", "out.Parquet", "out.JsonL"])
def test_endings_may_have_capitals(name):
    assert check_format(Path(name))


def test_an_unknown_format_is_refused():
    with pytest.raises(BulkError, match=r"none of the endings that tell .* \.parquet, \.npy, \.jsonl"):
        check_format(Path("out.csv"))
