import csv
import io
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedding_api.bulk import BulkError, delimited, source
from embedding_api.bulk.source import InputError, RowError


@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_csv_keeps_every_column_as_text(write, read, ending, delimiter):
    lines = '\ufeffid,text\r\n001,"one, ""1"",\r\nline two"\r\n\r\n2,\r\n'.replace(",", delimiter)
    [window] = read(write(f"a.{ending}", lines))
    assert window.table.to_pylist() == [
        {"id": "001", "text": 'one, "1",\r\nline two'.replace(",", delimiter)},
        {"id": "2", "text": ""},
    ]
    assert window.texts[1] is None
    assert window.numbers == [2, 5]


def test_semicolons_as_excel_writes_them(write, read):
    [window] = read(write("a.csv", '\ufeffid;price;text\r\n1;1,50;"a;b"\r\n'))
    assert window.table.to_pylist() == [{"id": "1", "price": "1,50", "text": "a;b"}]


def test_an_empty_line_of_a_single_column_is_a_row_without_text(write, read):
    [window] = read(write("a.csv", "text\none\n\nthree\n"))
    assert window.texts == ["one", None, "three"]
    assert window.numbers == [2, 3, 4]


def test_plain_text_has_a_row_for_each_line(write, read):
    [window] = read(write("a.txt", "\ufeffone\r\n\r\nthree"))
    assert window.texts == ["one", None, "three"]
    assert window.table.to_pylist() == [{"text": "one"}, {"text": ""}, {"text": "three"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.csv has an empty first line: write the names of the columns there"),
        (b"\r\ntext\na", "a.csv has an empty first line"),
        (b"text,text\n", "a.csv names a column twice"),
        (b"text,n\xe4me\na,b\n", "a.csv has a first line that is not UTF-8, but looks like Windows-1252"),
        (b'te"xt"y,"a"b\n', "a.csv has no valid CSV in its first line"),
        (b"id,text\n1,secret,3\n", "a.csv line 2 has 3 columns instead of 2: mend it, or"),
        (b'id,text\n1,"secret\n', r"a.csv line 2 is not valid CSV \(unexpected end of data\)"),
        (b'id,text\n1,"a\nb\nsecret\n', "a.csv line 2 is not valid CSV .unexpected end of data; .* goes on to line 4"),
        (b'id,text\n"1"x,secret\n', "a.csv line 2 is not valid CSV"),
        (b"id,text\n1,secret \xff\n", "a.csv line 2 is not UTF-8, but .* all of the file is so, say --encoding win"),
    ],
)
def test_what_is_wrong_with_csv_is_told(write, read, content, message):
    with pytest.raises(BulkError, match=message) as error:
        read(write("a.csv", content))
    assert "secret" not in str(error.value)


def test_rows_after_a_bad_one_are_read(write, read):
    [window] = read(write("a.csv", b'id,text\n1,a\n"2"x,b\n3\n4,\xff\n"5\n",e\n6,f\n'), bad_rows="skip")
    assert [row["id"] for row in window.table.to_pylist()] == ["1", "5\n", "6"]
    assert window.numbers == [2, 6, 8]
    assert [place for _, place, _ in read.bad] == ["line 3", "line 4", "line 5"]


def test_a_field_without_end_is_told(write, read, monkeypatch):
    monkeypatch.setattr(delimited, "MOST_LINE_BYTES", 1 << 20)
    with pytest.raises(BulkError, match=r"a.csv line 2 is not valid CSV .field larger than field limit"):
        read(write("a.csv", b'text\n"' + b"a\n" * (1 << 20)))
    csv.field_size_limit(source.MOST_LINE_BYTES)


def test_plain_text_has_no_other_column(write, read):
    with pytest.raises(BulkError, match="leave --column out"):
        read(write("a.txt", "a"), column="body")


class Lines:
    """A `Source` of bytes."""

    encoding = None

    def __init__(self, content):
        self._content = content

    def lines(self):
        yield from enumerate(io.BytesIO(self._content), 1)

    def decode(self, line):
        try:
            return line.decode()
        except UnicodeDecodeError:
            raise RowError("is not UTF-8") from None


cells = st.text(st.characters(codec="utf-8"), max_size=8)


@given(st.lists(st.tuples(cells, cells), max_size=8))
def test_csv_that_python_has_written_comes_back(rows):
    file = io.StringIO(newline="")
    csv.writer(file).writerows([("a;", "text"), *rows])
    read = [
        tuple(row.values())
        for rows in delimited.read_csv(Lines(file.getvalue().encode()), "text", None)
        for row in rows.table.to_pylist()
    ]
    assert read == rows


@given(st.binary(max_size=60))
def test_any_bytes_are_rows_or_bad_rows(content):
    bad = []
    for rows in delimited.read_csv(Lines(b"a,text\n" + content), "text", lambda *row: bad.append(row)):
        assert len(rows.table) == len(rows.texts) == len(rows.numbers)
        assert rows.numbers == sorted(set(rows.numbers) - {number for number, _ in bad})


@given(st.binary(max_size=20))
def test_any_first_line_is_names_or_an_error(content):
    with suppress(InputError):
        list(delimited.read_csv(Lines(content), "text", lambda *_: False))
