"""Read texts and the columns beside them from files, in bounded memory."""

import glob
import os
import sys
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path

from embedding_api.bulk import BulkError, delimited, json_lines, parquet
from embedding_api.bulk.source import COMPRESSIONS, STDIN, InputError, Source, as_bulk_error
from embedding_api.bulk.window import Window

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".txt": "text"}
# Functions of a `Source`, the column of the texts, and a function that is called with the number and the `RowError` of
# a row that cannot be read, and returns whether a row of nulls is to take its place. They yield `Rows`.
READERS = {
    "jsonl": json_lines.read,
    "csv": delimited.read_csv,
    "tsv": partial(delimited.read_csv, delimiter="\t"),
    "parquet": parquet.read,
    "text": delimited.read_text,
}
# What becomes of a row that cannot be read: it ends the run, is left out, or becomes a row of nulls.
BAD_ROWS = "fail", "skip", "null"


class Inputs:
    """Files of rows, read one after the other.

    Args:
        patterns: paths, glob patterns, or "-" for standard input.
        column: which column holds the texts; plain text has the column "text".
        format: one of `READERS`; by default the one that a file's name tells.
        encoding: of CSV, TSV and plain text; by default UTF-8.
        bad_rows: one of `BAD_ROWS`.

    Attributes:
        bad_rows: as above.

    Raises:
        BulkError: there is no such file, or its format or the encoding is not known.
    """

    def __init__(self, patterns, column="text", format=None, encoding=None, bad_rows="fail"):
        self._column, self._encoding, self.bad_rows = column, encoding, bad_rows
        # Another process, with another working directory, may read the inputs.
        self._directory = os.getcwd()
        paths = expand(patterns)
        self._files = [(path, format or _format(path)) for path in paths]
        if (STDIN, "parquet") in self._files:
            raise BulkError("Parquet cannot be read from standard input: name the file.")
        for path, format in self._files:
            if format == "parquet" and Path(path.lower()).suffix in COMPRESSIONS:
                raise BulkError(f"{path} is Parquet, which cannot be read compressed as a whole: decompress it.")
        if STDIN in paths and sys.stdin is None:
            raise BulkError("Standard input is closed: name a file.")
        if encoding is not None:
            self._check_encoding()
        # In bytes; a pipe has none.
        self._sizes = [Path(path).stat().st_size if Path(path).is_file() else None for path in paths]

    def _check_encoding(self):
        try:
            "".encode(self._encoding)
        except (LookupError, UnicodeError):
            raise BulkError(f"There is no encoding {self._encoding!r}: name one as Python does.") from None
        for path, format in self._files:
            if format in ("jsonl", "parquet"):
                raise BulkError(f"--encoding is for CSV, TSV and plain text, and {path} is {format}: leave it out.")

    @property
    def repeatable(self):
        """Whether all of them are files, which can be read more than once."""
        return None not in self._sizes

    def windows(self, note=lambda file, place, reason: None):
        """All rows as `Window`s, the same ones at each call.

        Args:
            note: called for each row that cannot be read, unless such a row ends the run: with the file's name, the
                place, such as "line 17", and what is wrong.

        Raises:
            BulkError: a file cannot be read, is damaged, or lacks the column; the windows before were yielded.
        """
        numbers = count()
        for index, (path, format) in enumerate(self._files):
            unit = "row" if format == "parquet" else "line"
            with as_bulk_error(path), closing(Source(path, self._directory, self._encoding)) as source:
                on_bad_row = partial(self._on_bad_row, note, source.name, unit)
                for rows in READERS[format](source, self._column, on_bad_row):
                    fraction = self._fraction(index, source)
                    yield Window(next(numbers), rows.table, rows.texts, rows.numbers, source.name, unit, fraction)

    def _on_bad_row(self, note, file, unit, number, error):
        if self.bad_rows == "fail":
            raise InputError(
                f"{unit} {number} {error}: {error.remedy}, or start again with --bad-rows skip, which leaves such rows"
                " out, or --bad-rows null, which keeps their place"
            )
        note(file, f"{unit} {number}", str(error))
        return self.bad_rows == "null"

    def _fraction(self, index, source):
        if None in self._sizes or not sum(self._sizes):
            return None
        return (sum(self._sizes[:index]) + source.position(self._sizes[index])) / sum(self._sizes)


def expand(patterns):
    """The paths of patterns, in the patterns' order, those of one pattern sorted.

    Raises:
        BulkError: there is none for a pattern, or it is a folder.
    """
    return [path for pattern in patterns for path in _expand(pattern)]


def _expand(pattern):
    if os.path.isdir(pattern):
        raise BulkError(f"{pattern} is a directory: name its files, for example '{pattern.rstrip('/')}/*.parquet'.")
    if pattern == STDIN or os.path.exists(pattern):
        return [pattern]
    if paths := sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)):
        return paths
    if os.path.islink(pattern):
        raise BulkError(f"{pattern} is a link to {os.path.realpath(pattern)}, which is not there: mend the link.")
    folder = os.path.dirname(pattern)
    if folder and not glob.has_magic(folder) and not os.path.isdir(folder):
        raise BulkError(f"There is no file {pattern}: there is not even a directory {folder}.")
    raise BulkError(f"There is no file {pattern}.")


def _format(path):
    if path == STDIN:
        raise BulkError("Standard input has no name that tells its format: say it with --format.")
    name = Path(path.lower())
    suffix = (name.with_suffix("") if name.suffix in COMPRESSIONS else name).suffix
    if suffix not in FORMATS:
        raise BulkError(f"{path} has no ending that tells its format: say it with --format.")
    return FORMATS[suffix]
