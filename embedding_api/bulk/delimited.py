"""Rows of CSV and TSV, and of plain text."""

import csv
from itertools import chain

import pyarrow as pa

from embedding_api.bulk.source import MOST_LINE_BYTES, InputError, RowError, no_column
from embedding_api.bulk.window import Rows, grouped, text_or_none


def read_text(source, column, on_bad_row):
    """Each line is a row with the one column "text". For the arguments see `inputs.READERS`."""
    if column != "text":
        raise InputError("is plain text, which has no columns: leave --column out")
    for rows in grouped(_text_rows(source, on_bad_row)):
        numbers, texts = zip(*rows, strict=True)
        yield Rows(pa.table({"text": pa.array(texts, pa.string())}), [*map(text_or_none, texts)], list(numbers))


def _text_rows(source, on_bad_row):
    for number, line in source.lines():
        try:
            text = source.decode(line).rstrip("\r\n")
        except RowError as error:
            if not on_bad_row(number, error):
                continue
            text = None
        yield (number, text), len(line)


def read_csv(source, column, on_bad_row, delimiter=","):
    """The rows below the line of names. For the arguments see `inputs.READERS`.

    All columns stay text: a guess would turn the id 001 into 1, and fail where a later row has another type.
    """
    csv.field_size_limit(MOST_LINE_BYTES)
    lines = _Lines(source)
    head = next(lines, "")
    if delimiter == "," and ";" in head and "," not in head:
        # As Excel writes it where the comma is for decimals.
        delimiter = ";"
    reader = csv.reader(chain([head] if head else [], lines), delimiter=delimiter, strict=True)
    try:
        names = next(reader, [])
    except csv.Error as error:
        raise InputError(f"has no valid CSV in its first line ({error}): mend it") from None
    if lines.problem:
        raise InputError(f"has a first line that {lines.problem}: {lines.problem.remedy}")
    if not names:
        raise InputError("has an empty first line: write the names of the columns there")
    if len(set(names)) < len(names):
        raise InputError("names a column twice in its first line: rename one")
    if column not in names:
        raise no_column(column, names)
    text = names.index(column)
    for rows in grouped(_csv_rows(reader, lines, len(names), on_bad_row)):
        numbers, values = zip(*rows, strict=True)
        columns = [pa.array(of_column, pa.string()) for of_column in zip(*values, strict=True)]
        yield Rows(pa.table(columns, names=names), [text_or_none(row[text]) for row in values], list(numbers))


class _Lines:
    """An iterator of the lines as text.

    Attributes:
        problem: the `RowError` of a line since it was set to None.
    """

    def __init__(self, source):
        self._source, self._lines, self.problem = source, source.lines(), None

    def __iter__(self):
        return self

    def __next__(self):
        _, line = next(self._lines)
        try:
            return self._source.decode(line)
        except RowError as error:
            self.problem = error
            return line.decode(errors="replace")


def _csv_rows(reader, lines, width, on_bad_row):
    """The rows, each with the number of its first line, and with its size. An empty line is one of a single column."""
    while True:
        number, lines.problem, row = reader.line_num + 1, None, None
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            further = f"; the row goes on to line {reader.line_num}" if reader.line_num > number else ""
            lines.problem = RowError(f"is not valid CSV ({error}{further})")
        if row == []:
            if width > 1:
                continue
            # Databases write a null so.
            row = [""]
        if row and len(row) != width and not lines.problem:
            lines.problem = RowError(f"has {len(row)} column{'s' * (len(row) != 1)} instead of {width}")
        if lines.problem:
            if not on_bad_row(number, lines.problem):
                continue
            row = [None] * width
        yield (number, row), sum(map(len, filter(None, row)))
