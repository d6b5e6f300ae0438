"""Files of any format: which ones are read, in what order, and what is said of those that cannot be."""

import gzip
import os
from zipfile import ZipFile

import pyarrow as pa
import pyarrow.parquet
import pytest

from embedding_api.bulk import BulkError, source, window
from embedding_api.bulk.inputs import Inputs, expand


def texts(windows):
    return [text for window in windows for text in window.texts]


def test_compressed_files_are_decompressed(write, read):
    assert texts(read(write("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n')))) == ["a"]
    with pa.CompressedOutputStream("b.TXT.ZST", "zstd") as file:
        file.write(b"b\n")
    assert texts(read("b.TXT.ZST")) == ["b"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("A.JSONL", '{"text": "a"}'), ("A.NdJson", '{"text": "a"}'), ("A.Csv", "text\na"), ("A.TSV", "text\na")],
)
def test_endings_may_have_capitals(write, read, name, content):
    assert texts(read(write(name, content))) == ["a"]


def test_several_files_and_patterns_are_read_in_order(write, read):
    for name in ("b", "a", "c"):
        write(f"{name}.txt", f"of {name}\n" * 2)
    windows = read("c.txt", "[ab].txt")
    assert [window.place for window in windows] == ["c.txt line 1", "a.txt line 1", "b.txt line 1"]
    assert [window.index for window in windows] == [0, 1, 2]
    assert [window.fraction for window in windows] == pytest.approx([1 / 3, 2 / 3, 1])


def test_links_are_followed(write, read):
    write("a.txt", "a\n")
    os.symlink("a.txt", "b.txt")
    assert texts(read("b.txt")) == ["a"]


def test_standard_input(monkeypatch, write, read):
    with open(write("x", '{"text": "a"}\n')) as file:
        monkeypatch.setattr("sys.stdin", file)
        [window] = read("-", format="jsonl")
    assert (window.texts, window.place, window.fraction) == (["a"], "standard input line 1", None)


def test_standard_input_stays_open_after_another_encoding(monkeypatch, write, read):
    with open(write("x", "é".encode("utf-16"))) as file:
        monkeypatch.setattr("sys.stdin", file)
        assert texts(read("-", format="text", encoding="utf-16")) == ["é"]
        assert not file.buffer.closed


def test_windows_are_bounded_in_rows_and_bytes(write, read, monkeypatch):
    monkeypatch.setattr(window, "WINDOW_ROWS", 3)
    monkeypatch.setattr(window, "WINDOW_BYTES", 100)
    many, large = write("a.txt", "a\n" * 7), write("b.txt", ("b" * 99 + "\n") * 3)
    assert [len(window.texts) for window in read(many)] == [3, 3, 1]
    assert [len(window.texts) for window in read(large)] == [2, 1]
    assert [window.place for window in read(many)] == ["a.txt line 1", "a.txt line 4", "a.txt line 7"]


def test_another_working_directory_does_not_matter(write, monkeypatch):
    inputs = Inputs([write("a.txt", "a")])
    monkeypatch.chdir("/")
    assert next(inputs.windows()).texts == ["a"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt.gz", gzip.compress(b"secret" * 100, mtime=0)[:30], "a.txt.gz is damaged"),
        ("a.txt.gz", b"secret", "a.txt.gz is damaged"),
        ("a.bin", b"secret", "a.bin has no ending that tells its format"),
        ("a.csv", "\ufefftext\nsecret".encode("utf-16-le"), "a.csv is text in UTF-16, not UTF-8: convert it"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_in_one_sentence_without_a_text(write, read, name, content, message):
    with pytest.raises(BulkError) as error:
        read(write(name, content))
    assert str(error.value).startswith(message)
    assert str(error.value).endswith(".")
    assert "secret" not in str(error.value)


def of_parquet(name):
    pa.parquet.write_table(pa.table({"text": ["secret"]}), name)


def compressed(codec):
    def compressed(name):
        with pa.CompressedOutputStream(name, codec) as file:
            file.write(b"text\nsecret\n")

    return compressed


NOT_TEXT = {
    "compressed by gzip: decompress it, or let its name end in .gz": compressed("gzip"),
    "compressed by bzip2: decompress it, or let its name end in .bz2": compressed("bz2"),
    "compressed by zstd: decompress it, or let its name end in .zst": compressed("zstd"),
    "compressed by lz4: decompress it, or let its name end in .lz4": compressed("lz4"),
    "a ZIP archive or a workbook of Excel: unpack it, or save it as CSV": lambda name: ZipFile(name, "w").mkdir("a"),
    "Parquet: let its name end in .parquet": of_parquet,
}


@pytest.mark.parametrize("ending", ["jsonl", "csv", "txt"])
@pytest.mark.parametrize("what", NOT_TEXT)
def test_what_is_not_of_the_format_that_its_name_says_is_told(write, read, ending, what):
    NOT_TEXT[what](write(f"a.{ending}", ""))
    with pytest.raises(BulkError, match=f"^a.{ending} is no text, but {what}\\.$"):
        read(f"a.{ending}", bad_rows="skip")


@pytest.mark.parametrize(("name", "options"), [("a.parquet.gz", {}), ("a.ZST", {"format": "parquet"})])
def test_parquet_that_is_compressed_as_a_whole_is_told(write, name, options):
    with pytest.raises(BulkError, match=f"^{name} is Parquet, which cannot be read compressed as a whole: decompress"):
        Inputs([write(name, "")], **options)


def test_a_line_without_end_is_told(write, read, monkeypatch):
    monkeypatch.setattr(source, "MOST_LINE_BYTES", 1 << 20)
    with pytest.raises(BulkError, match=r"a.txt has a line of more than 1 MB, line 2: split it"):
        read(write("a.txt", b"a\n" + b"a" * (1 << 21)))


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["missing.txt"], "There is no file missing.txt."),
        (["*.nothing"], r"There is no file \*.nothing"),
        (["folder/missing.txt"], "There is no file folder/missing.txt: there is not even a directory folder."),
        (["."], "is a directory: name its files"),
        (["link.txt"], "link.txt is a link to .*/nowhere.txt, which is not there"),
        (["-"], "--format"),
    ],
)
def test_what_is_not_there_is_told_at_once(write, patterns, message):
    os.symlink("nowhere.txt", write("x", "") and "link.txt")
    with pytest.raises(BulkError, match=message):
        Inputs(patterns)


def test_a_closed_standard_input_is_told(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(BulkError, match="closed"):
        Inputs(["-"], format="text")


def test_a_name_with_a_star_is_no_pattern(write):
    assert expand([write("a*.txt", ""), "-"]) == ["a*.txt", "-"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_an_encoding_is_for_other_formats(write, name):
    with pytest.raises(BulkError, match=r"--encoding is for CSV, TSV and plain text, and a.\w+ is \w+: leave it out"):
        Inputs([write(name, "")], encoding="latin-1")


@pytest.mark.parametrize("encoding", ["klingon", "base64", "rot13", "undefined", ""])
def test_an_encoding_that_is_none_is_told(write, encoding):
    with pytest.raises(BulkError, match=f"There is no encoding '{encoding}': name one"):
        Inputs([write("a.csv", "")], encoding=encoding)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "windows-1252", "shift_jis", "utf-8"])
@pytest.mark.parametrize("ending", ["csv", "txt"])
def test_other_encodings(write, read, encoding, ending):
    lines = ["text", "größer", "§ 1"] if "jis" not in encoding else ["text", "日本語", "§ 1"]
    windows = read(write(f"a.{ending}", "\r\n".join(lines).encode(encoding)), encoding=encoding)
    assert texts(windows) == lines[ending == "csv" :]


def test_what_is_not_in_the_encoding_is_told_with_its_line(write, read):
    with pytest.raises(
        BulkError, match=r"a.txt line 2 is not windows-1252: mend it, name another --encoding, or start"
    ):
        read(write("a.txt", b"a\nsecret \x81\n"), encoding="windows-1252")
    with pytest.raises(BulkError, match=r"a.txt is not utf-?16\S* from the first to the last byte: convert it"):
        read(write("a.txt", "\ufeffa\n".encode("utf-16-le") + b"x"), encoding="utf-16")


def test_an_empty_file_has_no_rows(write, read):
    assert read(write("a.jsonl", ""), write("b.txt", "")) == []


BAD = {
    "a.jsonl": b'{"text": "one"}\nsecret\n{"text": "three"}\n',
    "a.csv": b"text,n\none,1\nsecret\nthree,3\n",
    "a.txt": b"one\nsecret \xff\nthree\n",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_end_the_reading_or_not(write, read, name):
    write(name, BAD[name])
    line = "line 3" if "csv" in name else "line 2"
    with pytest.raises(BulkError) as error:
        read(name)
    assert str(error.value).startswith(f"{name} {line} ")
    assert "or start again with --bad-rows skip, which leaves such rows out, or --bad-rows null," in str(error.value)
    assert "secret" not in str(error.value)
    [skipped] = read(name, bad_rows="skip")
    assert skipped.texts == ["one", "three"]
    assert skipped.numbers == ([2, 4] if "csv" in name else [1, 3])
    [kept] = read(name, bad_rows="null")
    assert kept.texts == ["one", None, "three"]
    assert [bad[:2] for bad in read.bad] == [(name, line)] * 2
