"""The finished windows of a run: a file for each, in a folder beside the output, until the output is written."""

import contextlib
import fcntl
import json
import os
from dataclasses import dataclass

import pyarrow as pa

from embedding_api.bulk import BulkError

_RUN, _LOCK = "run.json", "lock"
# The column of vectors, in the parts and in the output.
EMBEDDING = "embedding"


@dataclass
class WindowStats:
    """Counts over one window or several.

    Attributes:
        rows: rows of the input.
        tokens: tokens of the embedded texts, after truncation.
        truncated: texts that were truncated.
        without_text: rows whose vector is null.
    """

    rows: int = 0
    tokens: int = 0
    truncated: int = 0
    without_text: int = 0

    def __add__(self, other):
        return WindowStats(*(getattr(self, name) + getattr(other, name) for name in vars(self)))


def check_output(output):
    """Check, before any work is done, that the output can be written.

    Raises:
        BulkError: the output exists, and there is no run to resume; or it cannot be a file in an existing directory.
    """
    if output.exists() and not (parts_folder(output) / _RUN).exists():
        raise _exists_error(output)
    if output.is_dir() or not output.parent.is_dir():
        raise BulkError(f"{output} cannot be a file in a directory that exists: name another output.")


def _exists_error(output):
    return BulkError(f"{output} is there already: delete it, or name another output.")


def _write_error(path, error):
    return BulkError(f"{path} cannot be written ({error.strerror or error}): mend that, and start again to go on.")


def parts_folder(output):
    """The folder with the parts of an output."""
    return output.with_name(f"{output.name}.parts")


def finished(output):
    """The indexes of an output's windows that have their part."""
    return {int(path.stem) for path in parts_folder(output).glob("*.arrow")}


class Checkpoint:
    """The finished windows of a run, for a `with` statement. A part is complete or absent, even after a crash.

    Args:
        output: the `Path` of the output; the parts are in a folder of its name and ".parts".
        run: a dictionary of what the vectors depend on, apart from the texts; a run resumes only with an equal one.

    Raises:
        BulkError: another process works on this output, or the folder holds parts of another run.
    """

    def __init__(self, output, run):
        self._output = output
        self._folder = parts_folder(output)
        self._run = run

    def __enter__(self):
        try:
            self._folder.mkdir(exist_ok=True)
            self._lock = open(self._folder / _LOCK, "w")
        except OSError as error:
            raise _write_error(self._folder, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._compare()
        except BaseException as error:
            self._lock.close()
            if isinstance(error, BlockingIOError):
                message = f"Another process works on {self._folder}: let it end, or name another output."
                raise BulkError(message) from None
            raise
        return self

    def __exit__(self, *error):
        self._lock.close()

    def _compare(self):
        path = self._folder / _RUN
        if path.exists():
            try:
                different = self._differences(json.loads(path.read_text()))
            except ValueError:
                raise BulkError(f"{path} is damaged: delete the folder.") from None
            if different:
                raise BulkError(f"{self._folder} was begun with {different}: go on with that, or delete the folder.")
        elif others := [file.name for file in self._folder.iterdir() if file.suffix != ".tmp" and file.name != _LOCK]:
            raise BulkError(f"{self._folder} holds {others[0]}, but no {_RUN}: delete the folder, or rename it.")
        elif self._output.exists():
            # Another process has finished the output while this one was starting.
            self.remove()
            raise _exists_error(self._output)
        else:
            self.replace(_RUN, lambda file: file.write(json.dumps(self._run, indent=1).encode()))

    def _differences(self, run):
        different = [name for name, own in self._run.items() if own != run.get(name)]
        return ", ".join(f"{name} {run.get(name)!r} instead of {self._run[name]!r}" for name in different)

    def done(self, window):
        """The `WindowStats` of a window that has its part, or None.

        Raises:
            BulkError: the part is of other rows.
        """
        try:
            with pa.ipc.open_file(self._path(window.index)) as file:
                noted = json.loads(file.schema.metadata[b"part"])
        except (FileNotFoundError, pa.ArrowInvalid):
            return None
        if noted.pop("digest") != window.digest:
            name, first = window.place
            raise BulkError(
                f"The rows of {name} from {first} on are not those that {self._folder} was begun with: bring them back,"
                " or delete the folder."
            )
        return WindowStats(**noted)

    def write(self, window, vectors, totals):
        """Write the part of a window: its rows and their vectors, of shape (rows, dimension); without text it is null.

        Raises:
            BulkError: it cannot be written.
        """
        missing = pa.array([text is None for text in window.texts])
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1], mask=missing)
        table = window.table.append_column(EMBEDDING, column)
        noted = json.dumps({"digest": window.digest} | vars(totals))
        table = table.replace_schema_metadata((table.schema.metadata or {}) | {"part": noted})

        def write(file):
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table.combine_chunks())

        self.replace(self._path(window.index).name, write)

    def check(self, rows):
        """Check that the parts together have as many rows as the input.

        Raises:
            BulkError: the input had more rows when the run was begun.
        """
        if sum(map(len, self.tables())) != rows:
            raise BulkError(
                f"The input has fewer rows than when {self._folder} was begun: bring them back, or delete the folder."
            )

    def tables(self):
        """The parts, one by one, as tables in memory-mapped files."""
        for path in self._paths():
            with pa.memory_map(str(path)) as file:
                yield pa.ipc.open_file(file).read_all()

    def schemas(self):
        """The parts' schemas."""
        return [table.schema for table in self.tables()]

    def _paths(self):
        return sorted(self._folder.glob("*.arrow"))

    def replace(self, name, write, target=None):
        """Write a file by a function of the open file, sync it to disk, and only then give it its name.

        Args:
            name: its name in the folder, for the time that it is written.
            write: called with the file, open for bytes.
            target: the `Path` that it gets; by default `name` in the folder.

        Raises:
            BulkError: it cannot be written, for example because the disk is full.
        """
        temporary, target = self._folder / f"{name}.tmp", target or self._folder / name
        try:
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _write_error(target, error) from error
        folder = os.open(target.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def remove(self):
        """Delete the run's files, and the folder if it is then empty. Parts go first: until then the run can resume."""
        for pattern in ("*.arrow", "*.tmp", _RUN, _LOCK):
            for path in self._folder.glob(pattern):
                path.unlink()
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def _path(self, index):
        return self._folder / f"{index:08}.arrow"
