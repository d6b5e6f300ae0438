import pyarrow as pa
import pyarrow.parquet
import pytest

from embedding_api.bulk import BulkError, window

TEXTS = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.dictionary(pa.int8(), pa.large_string()),
]


@pytest.mark.parametrize("type", TEXTS, ids=str)
def test_whatever_holds_text_is_read_the_same(write, read, type):
    table = pa.table({"id": range(5), "body": pa.array(["a", None, " ", "d", "e"]).cast(type)})
    pa.parquet.write_table(table, "a.parquet", row_group_size=2)
    windows = read("a.parquet", column="body")
    assert [text for window in windows for text in window.texts] == ["a", None, None, "d", "e"]
    assert pa.concat_tables([window.table for window in windows]).column("id").to_pylist() == list(range(5))
    assert windows[-1].fraction == 1


@pytest.mark.parametrize(
    ("values", "type"),
    [
        ([1], "int64"),
        ([b"a"], "binary"),
        ([["a"]], "list<element: string>"),
        ([{"a": "b"}], "struct<a: string>"),
        ([1.5], "double"),
    ],
)
def test_a_column_that_is_no_text_is_told_with_its_type(write, read, values, type):
    pa.parquet.write_table(pa.table({"n": values}), "a.parquet")
    with pytest.raises(BulkError) as error:
        read("a.parquet", column="n")
    assert str(error.value).startswith(f"a.parquet has no text in column 'n', but {type}")


def test_a_file_without_rows_has_none(write, read):
    pa.parquet.write_table(pa.table({"text": pa.array([], pa.string())}), "a.parquet")
    assert read("a.parquet") == []


def test_columns_of_one_name_are_told(write, read):
    table = pa.Table.from_arrays([pa.array(["a"])] * 2, names=["text", "text"])
    pa.parquet.write_table(table, "a.parquet")
    with pytest.raises(BulkError, match="names a column twice"):
        read("a.parquet")


def test_a_column_that_is_not_there_is_told(write, read):
    pa.parquet.write_table(pa.table({"body": ["a"]}), "a.parquet")
    with pytest.raises(BulkError, match=r"a.parquet has no column 'text', but 'body'"):
        read("a.parquet")


def test_damage_is_told(write, read):
    pa.parquet.write_table(pa.table({"text": ["a" * 1000]}), "a.parquet", compression="none", write_page_checksum=True)
    with open("a.parquet", "r+b") as file:
        file.seek(500)
        file.write(b"b")
    with pytest.raises(BulkError, match="is damaged"):
        read("a.parquet")
    write("b.parquet", b"PAR1 secret PAR1")
    with pytest.raises(BulkError, match=r"b.parquet is damaged"):
        read("b.parquet")


def not_utf_8(*values):
    """A column of text, as some programs write it."""
    return pa.Array.from_buffers(pa.string(), len(values), pa.array(values, pa.binary()).buffers())


@pytest.mark.parametrize("column", ["text", "other"])
def test_text_that_is_not_utf_8_is_a_bad_row(write, read, monkeypatch, column):
    monkeypatch.setattr(window, "WINDOW_ROWS", 2)
    good, bad = pa.array(["a", "b", "c"]), not_utf_8(b"a", b"secret", b"caf\xe9")
    columns = {"text": good, "other": good, "kind": good.dictionary_encode(), "view": good.cast(pa.string_view())}
    schema = pa.schema([pa.field(name, array.type, nullable=name != "kind") for name, array in columns.items()])
    pa.parquet.write_table(pa.table(columns | {column: bad}, schema=schema), "a.parquet")
    with pytest.raises(BulkError, match=r"^a.parquet row 3 has text that is not UTF-8: mend it, or start again"):
        read("a.parquet")
    windows = read("a.parquet", bad_rows="skip")
    assert [window.numbers for window in windows] == [[1, 2]]
    windows = read("a.parquet", bad_rows="null")
    assert [window.numbers for window in windows] == [[1, 2], [3]]
    assert windows[1].table.to_pylist() == [{"text": None, "other": None, "kind": None, "view": None}]
    assert read.bad == [("a.parquet", "row 3", "has text that is not UTF-8")] * 2


@pytest.mark.parametrize(
    "within",
    [
        lambda bad: bad.dictionary_encode(),
        lambda bad: pa.StructArray.from_arrays([bad], ["a"]),
        lambda bad: pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), bad),
    ],
    ids=["dictionary", "struct", "list"],
)
def test_the_rows_beside_a_bad_one_are_read(write, read, within):
    pa.parquet.write_table(pa.table({"text": ["a", "b"], "c": within(not_utf_8(b"a", b"caf\xe9"))}), "a.parquet")
    [window] = read("a.parquet", bad_rows="skip")
    assert window.numbers == [1]
    assert window.table.schema.field("c").type == pa.parquet.read_schema("a.parquet").field("c").type
