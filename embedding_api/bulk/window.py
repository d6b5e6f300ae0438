"""A window: consecutive rows of an input, which are computed and written together."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

# A window is sorted by length, computed and written together. If the process is killed, the work on one window is lost:
# at most a minute of two cores' work for abstracts of 200 tokens.
WINDOW_ROWS = 1024
WINDOW_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Rows:
    """Rows as a reader of one format gives them.

    Attributes:
        table: the rows with all their columns; those of JSON lines are unchanged lines, see `json_lines.as_table`.
        texts: the texts to embed; None where a row has no text, as it is null, blank, or not text.
        numbers: of each row, the line or the row of the file, from 1.
    """

    table: pa.Table
    texts: list[str | None]
    numbers: list[int]


@dataclass(frozen=True)
class Window:
    """Consecutive rows of an input.

    Attributes:
        index: its number among the windows of all inputs, from 0.
        table, texts, numbers: see `Rows`.
        file: the name of the file, for messages.
        unit: what the numbers count, "line" or "row".
        fraction: the share of all inputs that has been read, this window included, from 0 to 1; None if unknown.
    """

    index: int
    table: pa.Table
    texts: list[str | None]
    numbers: list[int]
    file: str
    unit: str
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
    def place(self):
        """The first row, for messages: `corpus.jsonl line 17`."""
        return self._name(0)

    @property
    def without_text(self):
        """The names of the rows without text, for messages."""
        return [self._name(row) for row, text in enumerate(self.texts) if text is None]

    def _name(self, row):
        return f"{self.file} {self.unit} {self.numbers[row]}"


def grouped(rows):
    """Group rows into lists, one for each window. Each row comes with its size in bytes."""
    group, total = [], 0
    for row, size in rows:
        group.append(row)
        total += size
        if len(group) == WINDOW_ROWS or total > WINDOW_BYTES:
            yield group
            group, total = [], 0
    if group:
        yield group


def text_or_none(value):
    """A value as a text to embed, or None."""
    return value if isinstance(value, str) and value and not value.isspace() else None
