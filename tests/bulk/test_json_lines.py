import json

import pyarrow as pa
import pytest

from embedding_api.bulk import BulkError, json_lines
from embedding_api.bulk.checkpoint import EMBEDDING


def lines(window):
    assert json_lines.are_lines(window.table)
    return window.table.column("json").to_pylist()


def columns(*rows):
    """The columns of rows, given as lines of JSON, and the names of those that were turned into something else."""
    vectors = pa.array([[0.0, 0.0]] * len(rows), pa.list_(pa.float32(), 2))
    table = json_lines.to_columns(json_lines.as_table([row.encode() for row in rows]).append_column(EMBEDDING, vectors))
    turned = {field.name for field in table.schema if field.metadata == json_lines.TURNED}
    return table.drop_columns([EMBEDDING]).to_pydict(), turned


def test_a_row_is_the_line_as_it_is(write, read):
    rows = [b'{"id": 1, "text": "one"}', b'{"tags":["a" ,1e400], "n":1.50, "text" : "two"}']
    [window] = read(write("a.jsonl", b"\xef\xbb\xbf" + rows[0] + b" \r\n\n  " + rows[1]))
    assert window.texts == ["one", "two"]
    assert lines(window) == rows
    assert (window.index, window.numbers, window.place, window.fraction) == (0, [1, 3], "a.jsonl line 1", 1)


@pytest.mark.parametrize("value", [None, "", " \n", 5, ["a"], {"a": "b"}, True, 10**400])
def test_what_is_no_text_is_none(write, read, value):
    [window] = read(write("a.jsonl", json.dumps({"text": "a"}) + "\n" + json.dumps({"text": value})))
    assert window.texts == ["a", None]
    assert window.without_text == ["a.jsonl line 2"]


BAD = {
    b'{"text": "secr': r"is not valid JSON \(\w.*, character \d+\): mend it, or start again with --bad-rows skip",
    rb'{"text": "cut \ud83d"}': "has half a character",
    rb'{"text": "a", "\ud83d": 1}': "has half a character",
    b'{"text": "a", "n": NaN}': "has NaN, which JSON does not know: mend it",
    b'{"text": "a", "n": [-Infinity]}': "has -Infinity, which JSON does not know",
    '{"text": "caf\xe9"}'.encode("latin-1"): "is not UTF-8, but looks like Windows-1252 or Latin-1: mend it, or, if all"
    " of the file is so, convert it with 'iconv -f windows-1252 -t utf-8', or start again",
    b'{"text": "\x81\xff"}': "is not UTF-8: mend it",
    b'{"text": "secret", "id": 1, "text": "secret"}': "has the key 'text' twice",
    b'{"text": "a", "more": {"b:": 1, "c": [], "b:": 2}}': "has the key 'b:' twice",
    rb'{"text": "a", "b": "\u003a", "b": 2}': "has the key 'b' twice",
    b'["secret"]': "is not a JSON object",
    b"5": "is not a JSON object",
    b'{"text": "a", "n": 01}': "is not valid JSON",
    b'{"text": "a"},': "is not valid JSON",
    b'{"text": ' + b"[" * 400 + b"]" * 400 + b"}": "has values that are nested too deeply",
    b'{"text": ' + b"[" * 100_000: "has values that are nested too deeply",
    b'{"text": "a", "embedding": []}': "has a field 'embedding' already, which the output adds: rename it",
}


@pytest.mark.parametrize("line", BAD, ids=lambda line: ascii(line[:30]))
def test_what_is_wrong_with_a_row_is_told_in_words(write, read, line):
    write("a.jsonl", b'{"text": "secret"}\n' + line + b"\n")
    with pytest.raises(BulkError, match=f"^a.jsonl line 2 {BAD[line]}.*keeps their place\\.$") as error:
        read("a.jsonl")
    assert "secret" not in str(error.value)
    [window] = read("a.jsonl", bad_rows="null")
    assert lines(window) == [b'{"text": "secret"}', b"{}"]


def test_a_list_of_objects_is_told(write, read):
    with pytest.raises(BulkError, match=r"a.jsonl begins with a list, not with an object: 'jq -c"):
        read(write("a.jsonl", '[{"text": "a"},\n{"text": "b"}]'), bad_rows="skip")


def test_a_column_that_is_not_there_is_told_with_those_that_are(write, read):
    with pytest.raises(BulkError, match=r"a.jsonl has no column 'text', but 'body', 'n': name one with --column\."):
        read(write("a.jsonl", '{"body": "secret"}\n{"n": 1}'))
    with pytest.raises(BulkError, match="'f19' and 10 more: name"):
        read(write("a.jsonl", json.dumps({f"f{number}": 1 for number in range(30)})))


def test_rows_without_any_field_have_no_text(write, read):
    [window] = read(write("a.jsonl", '{}\n{"text": "a"}\n{ }'))
    assert window.texts == [None, "a", None]


def test_columns_have_the_types_of_their_values():
    rows = '{"id": 1, "text": "one"}', '{"id": 2, "text": null, "tags": ["a", "b"]}'
    assert columns(*rows) == ({"id": [1, 2], "text": ["one", None], "tags": [None, ["a", "b"]]}, set())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", '"x"', "[1.50]", "null"], ["1", "x", "[1.5]", None]),
        (["{}", "{}"], ["{}", "{}"]),
        ([str(2**64), "1"], [str(2**64), "1"]),
        ([str(2**63), "1"], [str(2**63), "1"]),
        ([f"[{10**40}]", '"a"'], [f"[{10**40}]", "a"]),
        (["1e400", "1.5"], ["1e400", "1.5"]),
        (["9007199254740993", "0.5"], ["9007199254740993", "0.5"]),
        (["1", "2.5"], [1.0, 2.5]),
        (["1" * 5000, "0"], ["1" * 5000, "0"]),
    ],
)
def test_values_without_a_common_type_are_turned(values, expected):
    assert columns(*(f'{{"c": {value}}}' for value in values)) == ({"c": expected}, {"c"})


def test_deep_values_become_text():
    deep = "[" * 40 + "1" + "]" * 40
    assert columns(f'{{"c": {deep}}}') == ({"c": [deep]}, {"c"})
