"""Read texts and the columns beside them from files, in bounded memory."""

import codecs
import csv
import glob
import hashlib
import io
import os
import sys
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet

from embedding_api.bulk import BulkError

STDIN = "-"
FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".txt": "text"}
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}

# A window is sorted by length, computed and written together. If the process is killed, an unfinished window is lost: a
# minute of two cores' work for abstracts of 200 tokens.
WINDOW_ROWS = 1024
WINDOW_BYTES = 16 * 1024 * 1024
# A longer line, or field of CSV, means that line ends or quotes are missing.
MOST_LINE_BYTES = 64 * 1024 * 1024
# Values that are nested deeper are stored as JSON text.
_DEEPEST = 30


@dataclass(frozen=True)
class Window:
    """Consecutive rows of an input.

    Attributes:
        index: its number among the windows of all inputs, from 0.
        table: the rows with all their columns.
        texts: the texts to embed; None where a row has no text, as it is null, blank, or not text.
        place: the file and the number of its first row, from 1, for messages.
        fraction: the share of all inputs that has been read, this window included, from 0 to 1; None if unknown.
    """

    index: int
    table: pa.Table
    texts: list[str | None]
    place: tuple[str, int]
    fraction: float | None

    @cached_property
    def with_text(self):
        """The indexes of the rows that have a text."""
        return [row for row, text in enumerate(self.texts) if text is not None]

    @cached_property
    def digest(self):
        """A hash of the rows and of which of them have a text, in hexadecimal digits."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.table.schema) as writer:
            writer.write_table(self.table.combine_chunks())
        digest = hashlib.blake2b(sink.getvalue(), digest_size=16)
        digest.update(bytes(text is None for text in self.texts))
        return digest.hexdigest()

    @property
    def without_text(self):
        """The names of the rows without text, for messages: `corpus.jsonl row 17`."""
        name, first = self.place
        return [f"{name} row {first + index}" for index, text in enumerate(self.texts) if text is None]


class Inputs:
    """Files of rows, read one after the other.

    Args:
        patterns: paths, glob patterns, or "-" for standard input.
        column: which column holds the texts; plain text has the column "text".
        format: "jsonl", "csv", "tsv", "parquet" or "text"; by default the one that a file's name tells.

    Raises:
        BulkError: there is no such file, or its format is not known.
    """

    def __init__(self, patterns, column="text", format=None):
        self._column = column
        # Another process, with another working directory, may read the inputs.
        self._directory = os.getcwd()
        paths = [path for pattern in patterns for path in _expand(pattern)]
        self._files = [(path, format or _format(path)) for path in paths]
        if (STDIN, "parquet") in self._files:
            raise BulkError("Parquet cannot be read from standard input: name the file.")
        if STDIN in paths and sys.stdin is None:
            raise BulkError("Standard input is closed: name a file.")
        # In bytes; a pipe has none.
        self._sizes = [Path(path).stat().st_size if Path(path).is_file() else None for path in paths]

    @property
    def repeatable(self):
        """Whether all of them are files, which can be read more than once."""
        return None not in self._sizes

    def windows(self):
        """All rows as `Window`s, the same ones at each call.

        Raises:
            BulkError: a file cannot be read, is damaged, or lacks the column; the windows before were yielded.
        """
        numbers = count()
        for index, (path, format) in enumerate(self._files):
            row = 1
            with _as_bulk_error(path), closing(_Source(path, self._directory)) as source:
                for table, texts in _READERS[format](source, self._column):
                    yield Window(next(numbers), table, texts, (source.name, row), self._fraction(index, source))
                    row += len(texts)

    def _fraction(self, index, source):
        if None in self._sizes:
            return None
        return (sum(self._sizes[:index]) + source.position(self._sizes[index])) / sum(self._sizes)


class _Source:
    """An open file that knows how much of it has been read. It is decompressed if its name says that it is compressed.

    Attributes:
        stream: the file's bytes.
        fraction: the share that has been read, from 0 to 1, if the file's position does not show it; otherwise None.
    """

    def __init__(self, path, directory):
        self.name = "standard input" if path == STDIN else path
        self._file = sys.stdin.buffer if path == STDIN else open(os.path.join(directory, path), "rb")  # noqa: SIM115
        codec = COMPRESSIONS.get(Path(path).suffix)
        self.stream = io.BufferedReader(pa.CompressedInputStream(self._file, codec)) if codec else self._file
        self.fraction = None

    def position(self, size):
        return self._file.tell() if self.fraction is None else self.fraction * size

    def close(self):
        if self._file is not sys.stdin.buffer:
            self._file.close()


@contextmanager
def _as_bulk_error(path):
    """Turn errors of reading a file into a `BulkError`, whose message never quotes a text."""
    name = "Standard input" if path == STDIN else path
    try:
        yield
    except _InputError as error:
        raise BulkError(f"{name} {error}.") from None
    except UnicodeDecodeError:
        raise BulkError(f"{name} is not text in UTF-8: convert it, for example with iconv.") from None
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None):
            raise BulkError(f"{name} cannot be read ({error.strerror}).") from error
        # Errors of decompression have no number.
        raise BulkError(f"{name} is damaged, or not of the format that its name or --format says.") from error


class _InputError(Exception):
    """The message completes a sentence that begins with the file's name."""


def _expand(pattern):
    if Path(pattern).is_dir():
        raise BulkError(f"{pattern} is a directory: name its files, for example '{pattern.rstrip('/')}/*.parquet'.")
    if pattern == STDIN or Path(pattern).exists():
        return [pattern]
    if paths := sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file()):
        return paths
    raise BulkError(f"There is no file {pattern}.")


def _format(path):
    if path == STDIN:
        raise BulkError("Standard input has no name that tells its format: say it with --format.")
    name = Path(path)
    suffix = (name.with_suffix("") if name.suffix in COMPRESSIONS else name).suffix
    if suffix not in FORMATS:
        raise BulkError(f"{path} has no ending that tells its format: say it with --format.")
    return FORMATS[suffix]


def _text(value):
    """A value as a text to embed, or None."""
    return value if isinstance(value, str) and value.strip() else None


def _lines(source):
    """Each line and its number."""
    number = 0
    while line := source.stream.readline(MOST_LINE_BYTES):
        number += 1
        if len(line) == MOST_LINE_BYTES:
            raise _InputError(f"has a line of more than {MOST_LINE_BYTES >> 20} MB, line {number}: split it")
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        yield number, line


def _windows(rows):
    """Group rows into lists, one for each window. Each row comes with its size in bytes."""
    window, total = [], 0
    for row, size in rows:
        window.append(row)
        total += size
        if len(window) == WINDOW_ROWS or total > WINDOW_BYTES:
            yield window
            window, total = [], 0
    if window:
        yield window


def _read_text(source, column):
    if column != "text":
        raise _InputError("is plain text, which has no columns: leave --column out")
    for texts in _windows((line.decode().rstrip("\r\n"), len(line)) for _, line in _lines(source)):
        yield pa.table({"text": pa.array(texts)}), [_text(text) for text in texts]


def _read_jsonl(source, column):
    known = False
    for rows in _windows((_object(number, line), len(line)) for number, line in _lines(source) if line.strip()):
        names = list(dict.fromkeys(name for row in rows for name in row))
        known = known or column in names
        if not known:
            raise _no_column(column, names)
        try:
            names = dict.fromkeys([*names, column])
            table = pa.table({name: _array([row.get(name) for row in rows]) for name in names})
        except orjson.JSONEncodeError:
            raise _InputError("has values that are nested too deeply") from None
        yield table, [_text(row.get(column)) for row in rows]


def _object(number, line):
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise _InputError(f"has no valid JSON in line {number}: mend the line or remove it") from None
    if not isinstance(row, dict):
        raise _InputError(f"has something else than a JSON object in line {number}: mend the line or remove it")
    return row


def _array(values):
    """A column of values from JSON. Values without a common type become JSON text; strings stay as they are."""
    try:
        array = pa.array(values)
    except (pa.ArrowException, OverflowError):
        array = None
    if array is None or not storable(array.type):
        array = pa.array(as_json(values), pa.string())
    return array


def storable(type, depth=0):
    """Whether files can hold a type: Parquet has no structs without fields, and Arrow's files limit the nesting."""
    if depth > _DEEPEST or (pa.types.is_struct(type) and not type.num_fields):
        return False
    return all(storable(type.field(index).type, depth + 1) for index in range(type.num_fields))


def as_json(values):
    """Values as JSON text; strings and None stay as they are."""
    return [value if value is None or isinstance(value, str) else to_json(value).decode() for value in values]


def to_json(value, option=None):
    """A value as JSON. Bytes become hexadecimal digits; other types that JSON lacks, such as decimals, strings."""
    return orjson.dumps(value, default=_other, option=option)


def _other(value):
    return value.hex() if isinstance(value, bytes) else str(value)


def _read_csv(source, column, delimiter=","):
    # All columns stay text: a guess would turn the id 001 into 1, and fail where a later row has another type.
    csv.field_size_limit(MOST_LINE_BYTES)
    reader = csv.reader((line.decode() for _, line in _lines(source)), delimiter=delimiter, strict=True)
    try:
        names = next(reader, [])
        if len(set(names)) < len(names):
            raise _InputError("names a column twice in its first line: rename one")
        if column not in names:
            raise _no_column(column, names)
        for rows in _windows(_csv_rows(reader, len(names))):
            table = pa.table([pa.array(values, pa.string()) for values in zip(*rows, strict=True)], names=names)
            yield table, [_text(row[names.index(column)]) for row in rows]
    except csv.Error as error:
        raise _InputError(
            f"has no valid CSV in the row that ends in line {reader.line_num} ({error}): mend it"
        ) from None


def _csv_rows(reader, width):
    """The rows that are not empty, with their size."""
    for row in filter(None, reader):
        if len(row) != width:
            row_has = f"{len(row)} in the row that ends in line {reader.line_num}"
            raise _InputError(f"has {width} columns, but {row_has}: mend it")
        yield row, sum(map(len, row))


def _read_parquet(source, column):
    # Read page by page: a row group may be larger than the memory.
    in_pages = {"pre_buffer": False, "buffer_size": 1 << 20}
    with pa.parquet.ParquetFile(source.stream, page_checksum_verification=True, **in_pages) as file:
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            raise _InputError("names a column twice: rename one")
        if column not in names:
            raise _no_column(column, names)
        rows = 0
        for batch in file.iter_batches(WINDOW_ROWS, use_threads=False):
            rows += len(batch)
            source.fraction = rows / file.metadata.num_rows
            yield from _slices(pa.table(batch), column)


def _slices(table, column):
    kind = table.schema.field(column).type
    if not _is_text(kind.value_type if pa.types.is_dictionary(kind) else kind):
        raise _InputError(f"has no text in column {column!r}, but {kind}: name another with --column")
    for start in range(0, len(table), WINDOW_ROWS):
        rows = table.slice(start, WINDOW_ROWS)
        yield rows, [_text(value) for value in rows.column(column).to_pylist()]


def _is_text(kind):
    return any(
        test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    )


def _no_column(column, names):
    return _InputError(f"has no column {column!r}, but {', '.join(map(repr, names)) or 'none'}: name one with --column")


_READERS = {
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "tsv": lambda source, column: _read_csv(source, column, "\t"),
    "parquet": _read_parquet,
    "text": _read_text,
}
