"""A file of rows, opened: decompressed, read line by line, and what is wrong with it said in words."""

import codecs
import io
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from embedding_api.bulk import BulkError

STDIN = "-"
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}

# A longer line, or field of CSV, means that line ends or quotes are missing.
MOST_LINE_BYTES = 64 * 1024 * 1024
_UTF_16 = codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE
# The first bytes of what is often taken for text, and what to do about it.
_NOT_TEXT = {
    b"\x1f\x8b": "compressed by gzip: decompress it, or let its name end in .gz",
    b"BZh91AY": "compressed by bzip2: decompress it, or let its name end in .bz2",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: decompress it, or let its name end in .zst",
    b"\x04\x22\x4d\x18": "compressed by lz4: decompress it, or let its name end in .lz4",
    b"PK\x03\x04": "a ZIP archive or a workbook of Excel: unpack it, or save it as CSV",
    b"PAR1\x15": "Parquet: let its name end in .parquet",
}
# The most names of columns in a message, and letters of one.
MOST_NAMES, MOST_LETTERS = 20, 50


class InputError(Exception):
    """The file cannot be read any further. The message completes a sentence that begins with the file's name."""


def no_column(column, names):
    """The error of a file without the column of texts."""
    listed = ", ".join(repr(name[:MOST_LETTERS]) for name in list(names)[:MOST_NAMES]) or "none"
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return InputError(f"has no column {column!r}, but {listed}{more}: name one with --column")


class RowError(Exception):
    """One row cannot be read. The message completes a sentence that begins with the row's name.

    Attributes:
        remedy: what to do about it.
    """

    def __init__(self, reason, remedy="mend it"):
        super().__init__(reason)
        self.remedy = remedy


class Source:
    """An open file that knows how much of it has been read. It is decompressed if its name says that it is compressed.

    Args:
        path: of the file, or "-".
        directory: what a relative path is relative to.
        encoding: of its lines; None for UTF-8.

    Attributes:
        name: for messages.
        stream: the file's bytes.
        fraction: the share that has been read, from 0 to 1, if the file's position does not show it; otherwise None.
    """

    def __init__(self, path, directory, encoding=None):
        self.name = "standard input" if path == STDIN else path
        self.encoding = encoding
        self._file = sys.stdin.buffer if path == STDIN else open(os.path.join(directory, path), "rb")  # noqa: SIM115
        codec = COMPRESSIONS.get(Path(path).suffix.lower())
        self.stream = io.BufferedReader(pa.CompressedInputStream(self._file, codec)) if codec else self._file
        # Only "\n" ends a line, as in bytes. What is damaged comes back as bytes that are not UTF-8.
        errors = {"errors": "surrogateescape", "newline": "\n"}
        self._text = io.TextIOWrapper(self.stream, encoding, **errors) if encoding else None
        self.fraction = None

    def position(self, size):
        """How many of the file's bytes have been read, of so many."""
        return self._file.tell() if self.fraction is None else self.fraction * size

    def close(self):
        if self._text:
            # Otherwise it closes standard input.
            self._text.detach()
        if self._file is not sys.stdin.buffer:
            self._file.close()

    def lines(self):
        """Each line's number and its bytes, in UTF-8 unless the line is damaged."""
        number = 0
        readline = self._readline()
        while line := readline(MOST_LINE_BYTES):
            number += 1
            if len(line) >= MOST_LINE_BYTES:
                raise InputError(f"has a line of more than {MOST_LINE_BYTES >> 20} MB, line {number}: split it")
            if number == 1:
                if line.startswith(_UTF_16):
                    raise InputError(
                        "is text in UTF-16, not UTF-8: convert it, or, if it is no JSON, say --encoding utf-16"
                    )
                for begin, what in _NOT_TEXT.items():
                    if line.startswith(begin):
                        raise InputError(f"is no text, but {what}")
                line = line.removeprefix(codecs.BOM_UTF8)
            yield number, line

    def _readline(self):
        if self._text is None:
            return self.stream.readline
        return lambda most: self._text.readline(most).encode("utf-8", "surrogateescape")

    def decode(self, line):
        """A line as text.

        Raises:
            RowError: it is not in the encoding.
        """
        try:
            return line.decode()
        except UnicodeDecodeError:
            if self.encoding:
                raise RowError(f"is not {self.encoding}", "mend it, name another --encoding") from None
            raise not_utf_8(line, "say --encoding windows-1252") from None


def not_utf_8(line, way_out):
    """The `RowError` of a line that is not UTF-8.

    Args:
        way_out: what to do if the whole file is in Windows-1252, of which Latin-1 is a part.
    """
    try:
        line.decode("cp1252")
    except UnicodeDecodeError:
        return RowError("is not UTF-8")
    return RowError(
        "is not UTF-8, but looks like Windows-1252 or Latin-1", f"mend it, or, if all of the file is so, {way_out}"
    )


@contextmanager
def as_bulk_error(path):
    """Turn errors of reading a file into a `BulkError`, whose message never quotes a text."""
    name = "Standard input" if path == STDIN else path
    try:
        yield
    except InputError as error:
        raise BulkError(f"{name} {error}.") from None
    except UnicodeDecodeError as error:
        raise BulkError(f"{name} is not {error.encoding} from the first to the last byte: convert it.") from None
    except (pa.ArrowException, OSError, EOFError, ValueError, MemoryError) as error:
        if getattr(error, "errno", None):
            raise BulkError(f"{name} cannot be read ({error.strerror}).") from error
        # Errors of decompression have no number.
        raise BulkError(f"{name} is damaged, or not of the format that its name or --format says.") from error
