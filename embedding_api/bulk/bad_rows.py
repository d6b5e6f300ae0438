"""The rows that could not be read and did not end the run."""

import json

from embedding_api.bulk.checkpoint import write_error

# The most that are named at the end.
_MOST_NAMED = 20


class BadRows:
    """Counts them, names the first ones, and writes all of them to a file, so that they take no memory.

    Args:
        file: open for bytes. It gets a line of JSON for each row: its file, its place, and what is wrong.
        in_output: whether they are in windows too, as rows of nulls.

    Attributes:
        count: how many there are.
    """

    def __init__(self, file, in_output):
        self._file, self._in_output, self.count, self._named, self._latest = file, in_output, 0, [], set()

    def note(self, file, place, reason):
        """Note a row, see `Inputs.windows`.

        Raises:
            BulkError: the file cannot be written.
        """
        self.count += 1
        name = f"{file} {place}"
        if self._in_output:
            self._latest.add(name)
        if self.count <= _MOST_NAMED:
            self._named.append(f"{name} {reason}")
        try:
            self._file.write(json.dumps({"file": file, "place": place, "reason": reason}).encode() + b"\n")
        except OSError as error:
            raise write_error(self._file.name, error) from error

    def others(self, names):
        """Of the names of a window's rows, those of rows that could be read. Called once for each window, in order."""
        others = [name for name in names if name not in self._latest]
        self._latest.clear()
        return others

    def named(self):
        """The first ones, a line each."""
        more = [f"and {self.count - _MOST_NAMED:,} more"] if self.count > _MOST_NAMED else []
        return "".join(f"\n  {line}" for line in self._named + more)

    def copy_to(self, file):
        """Write all of them to another file."""
        self._file.seek(0)
        while block := self._file.read(1 << 20):
            file.write(block)
