import gzip
import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from embedding_api.bulk import BulkError, inputs
from embedding_api.bulk.inputs import Inputs


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(name, content):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return write


def read(*patterns, **options):
    return list(Inputs(patterns, **options).windows())


def texts(*patterns, **options):
    return [text for window in read(*patterns, **options) for text in window.texts]


def test_jsonl(write):
    lines = ['{"id": 1, "text": "one"}', "", '{"id": 2, "text": "two", "tags": ["a", "b"]}']
    [window] = read(write("a.jsonl", "\n".join(lines)))
    assert window.texts == ["one", "two"]
    assert window.table.to_pylist() == [
        {"id": 1, "text": "one", "tags": None},
        {"id": 2, "text": "two", "tags": ["a", "b"]},
    ]
    assert (window.index, window.place, window.fraction) == (0, ("a.jsonl", 1), 1)


def test_values_without_a_common_type_are_kept_as_json(write):
    rows = [{"text": "a", "id": 1, "meta": {}}, {"text": 5, "id": "x", "meta": {}}, {"text": "b", "id": [2**70]}]
    [window] = read(write("a.jsonl", "\n".join(map(json.dumps, rows))))
    assert window.table.column("id").to_pylist() == ["1", "x", f"[{float(2**70)}]"]
    assert window.table.column("meta").to_pylist() == ["{}", "{}", None]
    assert window.texts == ["a", None, "b"]


@pytest.mark.parametrize("value", [None, "", " \n", 5, ["a"], {"a": "b"}, True])
def test_values_that_are_no_text_become_none(write, value):
    [window] = read(write("a.jsonl", json.dumps({"text": "a"}) + "\n" + json.dumps({"text": value})))
    assert window.texts == ["a", None]
    assert window.without_text == ["a.jsonl row 2"]


@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_csv_keeps_every_column_as_text(write, ending, delimiter):
    lines = '\ufeffid,text\r\n001,"one, ""1"",\r\nline two"\r\n\r\n2,\r\n'.replace(",", delimiter)
    [window] = read(write(f"a.{ending}", lines))
    assert window.table.to_pylist() == [
        {"id": "001", "text": 'one, "1",\r\nline two'.replace(",", delimiter)},
        {"id": "2", "text": ""},
    ]
    assert window.texts[1] is None


def test_plain_text_has_a_row_for_each_line(write):
    [window] = read(write("a.txt", "\ufeffone\r\n\r\nthree"))
    assert window.texts == ["one", None, "three"]
    assert window.table.to_pylist() == [{"text": "one"}, {"text": ""}, {"text": "three"}]


@pytest.mark.parametrize(
    "type", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_parquet(write, type):
    table = pa.table({"id": range(5), "body": pa.array(["a", None, " ", "d", "e"]).cast(type)})
    pa.parquet.write_table(table, "a.parquet", row_group_size=2)
    windows = read("a.parquet", column="body")
    assert [text for window in windows for text in window.texts] == ["a", None, None, "d", "e"]
    assert pa.concat_tables([window.table for window in windows]).column("id").to_pylist() == list(range(5))
    assert windows[-1].fraction == 1


def test_compressed_files_are_decompressed(write):
    assert texts(write("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n'))) == ["a"]
    with pa.CompressedOutputStream("b.txt.zst", "zstd") as file:
        file.write(b"b\n")
    assert texts("b.txt.zst") == ["b"]


def test_several_files_and_patterns_are_read_in_order(write):
    for name in ("b", "a", "c"):
        write(f"{name}.txt", f"of {name}\n" * 2)
    windows = read("c.txt", "[ab].txt")
    assert [window.place for window in windows] == [("c.txt", 1), ("a.txt", 1), ("b.txt", 1)]
    assert [window.index for window in windows] == [0, 1, 2]
    assert [window.fraction for window in windows] == pytest.approx([1 / 3, 2 / 3, 1])


def test_standard_input(monkeypatch, write):
    with open(write("x", '{"text": "a"}\n')) as file:
        monkeypatch.setattr("sys.stdin", file)
        [window] = read("-", format="jsonl")
    assert (window.texts, window.place, window.fraction) == (["a"], ("standard input", 1), None)


def test_windows_are_bounded_in_rows_and_bytes(write, monkeypatch):
    monkeypatch.setattr(inputs, "WINDOW_ROWS", 3)
    monkeypatch.setattr(inputs, "WINDOW_BYTES", 100)
    many, large = write("a.txt", "a\n" * 7), write("b.txt", ("b" * 99 + "\n") * 3)
    assert [len(window.texts) for window in read(many)] == [3, 3, 1]
    assert [len(window.texts) for window in read(large)] == [2, 1]
    assert [window.place[1] for window in read(many)] == [1, 4, 7]


def test_another_working_directory_does_not_matter(write, monkeypatch):
    inputs = Inputs([write("a.txt", "a")])
    monkeypatch.chdir("/")
    assert next(inputs.windows()).texts == ["a"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "secret"}\n{"text": "secr', "a.jsonl has no valid JSON in line 2"),
        ("a.jsonl", '["secret"]', "a.jsonl has something else than a JSON object in line 1"),
        ("a.jsonl", '{"body": "secret", "n": 1}', "a.jsonl has no column 'text', but 'body', 'n'"),
        ("a.csv", "", "a.csv has no column 'text', but none"),
        ("a.csv", "id,text\n1,secret,3\n", "a.csv has 2 columns, but 3 in the row that ends in line 2"),
        ("a.csv", 'id,text\n1,"secret\n', "a.csv has no valid CSV in the row that ends in line 2 (unexpected end"),
        ("a.csv", "text,text\n", "a.csv names a column twice"),
        ("a.txt", b"secret \xff", "a.txt is not text in UTF-8"),
        ("a.csv", b"text\nsecret \xff", "a.csv is not text in UTF-8"),
        ("a.jsonl", b'{"text": "secret \xff"}', "a.jsonl has no valid JSON in line 1"),
        ("a.parquet", b"PAR1 secret PAR1", "a.parquet is damaged"),
        ("a.txt.gz", gzip.compress(b"secret" * 100)[:30], "a.txt.gz is damaged"),
        ("a.txt.gz", b"secret", "a.txt.gz is damaged"),
        ("a.jsonl", '{"text": ' + "[" * 400 + "]" * 400 + "}", "a.jsonl has values that are nested too deeply"),
        ("a.bin", b"secret", "a.bin has no ending that tells its format"),
    ],
)
def test_an_unreadable_file_is_reported_in_one_sentence_without_a_text(write, name, content, message):
    with pytest.raises(BulkError) as error:
        read(write(name, content))
    assert str(error.value).startswith(message)
    assert str(error.value).endswith(".")
    assert "secret" not in str(error.value)


def test_damage_in_a_parquet_file_is_reported(write):
    pa.parquet.write_table(pa.table({"text": ["a" * 1000]}), "a.parquet", compression="none", write_page_checksum=True)
    with open("a.parquet", "r+b") as file:
        file.seek(500)
        file.write(b"b")
    with pytest.raises(BulkError, match="is damaged"):
        read("a.parquet")


def test_columns_of_one_name_are_reported(write):
    table = pa.Table.from_arrays([pa.array(["a"])] * 2, names=["text", "text"])
    pa.parquet.write_table(table, "a.parquet")
    with pytest.raises(BulkError, match="names a column twice"):
        read("a.parquet")


def test_rows_without_any_field_have_no_text(write, monkeypatch):
    monkeypatch.setattr(inputs, "WINDOW_ROWS", 1)
    _, second = read(write("a.jsonl", '{"text": "a"}\n{}'))
    assert second.texts == [None]
    assert second.table.to_pylist() == [{"text": None}]


def test_deep_values_are_kept_as_json(write):
    value = {"a": 1}
    for _ in range(40):
        value = {"b": value}
    [window] = read(write("a.jsonl", json.dumps({"text": "a", "deep": value})))
    assert json.loads(window.table.column("deep")[0].as_py()) == value


def test_a_closed_standard_input_is_reported(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(BulkError, match="closed"):
        Inputs(["-"], format="text")


def test_a_column_that_is_no_text_is_reported(write):
    pa.parquet.write_table(pa.table({"n": [1]}), "a.parquet")
    with pytest.raises(BulkError, match="has no text in column 'n', but int64"):
        read("a.parquet", column="n")


def test_a_line_without_end_is_reported(write, monkeypatch):
    monkeypatch.setattr(inputs, "MOST_LINE_BYTES", 1 << 20)
    for name, content in ("a.txt", b"a" * (1 << 21)), ("b.csv", b'text\n"' + b"a\n" * (1 << 20)):
        with pytest.raises(BulkError, match=r"has a line of more than 1 MB, line 1|field larger than field limit"):
            read(write(name, content))


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["missing.txt"], "There is no file missing.txt"),
        (["*.nothing"], "There is no file"),
        (["."], "is a directory"),
        (["-"], "--format"),
    ],
)
def test_a_missing_input_is_reported_at_once(write, patterns, message):
    with pytest.raises(BulkError, match=message):
        Inputs(patterns)


def test_parquet_cannot_come_from_standard_input():
    with pytest.raises(BulkError, match="Parquet cannot be read from standard input"):
        Inputs(["-"], format="parquet")


def test_plain_text_has_no_other_column(write):
    with pytest.raises(BulkError, match="leave --column out"):
        read(write("a.txt", "a"), column="body")
