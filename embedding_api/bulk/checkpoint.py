"""The finished windows of a run: a file for each, in a folder beside the output, until the output is written."""

import contextlib
import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

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
        truncated: texts that were truncated, as the model reads no more.
        without_text: rows whose vector is null.
    """

    rows: int = 0
    tokens: int = 0
    truncated: int = 0
    without_text: int = 0

    def __add__(self, other):
        return WindowStats(*(getattr(self, name) + getattr(other, name) for name in vars(self)))


def check_output(output, inputs=()):
    """Check, before any work is done, that the output can be written.

    Args:
        inputs: the paths of the inputs.

    Raises:
        BulkError: the output, or its list of bad rows, is an input; the output is a directory, or its directory is not
            there; or it exists, and there is no run to resume.
    """
    for path in inputs:
        if os.path.realpath(path) == os.path.realpath(output) or _same_file(path, output):
            raise BulkError(f"{output} is both input and output: name another output.")
        if _same_file(path, bad_rows_list(output)):
            raise BulkError(f"{path} is an input, and where the rows that cannot be read are to be listed: rename it.")
    if os.path.isdir(output):
        raise BulkError(f"{output} is a directory: name a file in it, for example {output / 'vectors.parquet'}.")
    folder = _target(output).parent
    if not folder.is_dir():
        raise BulkError(
            f"There is no directory {folder} for the output {output.name}: make it, or name another output."
        )
    if os.path.exists(output) and not (parts_folder(output) / _RUN).exists():
        raise _exists_error(output)


def _same_file(path, output):
    return os.path.exists(path) and os.path.exists(output) and os.path.samefile(path, output)


def _target(output):
    """The file that an output is, or will be, where it is a link."""
    return Path(os.path.realpath(output))


def _exists_error(output):
    return BulkError(f"{output} is there already: delete it, or name another output.")


def write_error(path, error):
    """The `BulkError` of an `OSError` at writing, for example because the disk is full."""
    return BulkError(f"{path} cannot be written ({error.strerror or error}): mend that, and start again to go on.")


def parts_folder(output):
    """The folder with the parts of an output."""
    return _beside(output, ".parts")


def bad_rows_list(output):
    """The file that lists the rows that could not be read."""
    return _beside(output, ".bad-rows.jsonl")


def _beside(output, ending):
    """A path beside the output; where the output is a link, beside what it leads to, so that renaming is possible."""
    target = _target(output)
    # As the output was named, in messages, unless it is a link.
    return (target if os.path.islink(output) else output).with_name(target.name + ending)


def finished(output):
    """The indexes of an output's windows that have their part."""
    return {int(path.stem) for path in parts_folder(output).glob("*.arrow")}


class Checkpoint:
    """The finished windows of a run, for a `with` statement. A part is complete or absent, even after a crash.

    A run that has not finished a window leaves nothing.

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
            raise write_error(self._folder, error) from error
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
        if not self._paths():
            self.remove()
        self._lock.close()

    def _compare(self):
        path = self._folder / _RUN
        if path.exists() and self._paths():
            try:
                different = self._differences(json.loads(path.read_text()))
            except ValueError:
                raise BulkError(f"{path} is damaged: delete the folder, {self._left()}.") from None
            if different:
                raise BulkError(
                    f"{self._folder} was begun with {different}: go on with that, or delete the folder, {self._left()}."
                )
        elif path.exists():
            self._describe_run()
        elif others := [file.name for file in self._folder.glob("*") if file.suffix != ".tmp" and file.name != _LOCK]:
            raise BulkError(
                f"{self._folder} holds {others[0]}, but no {_RUN}: delete the folder, {self._left()}, or rename it."
            )
        elif self._output.exists():
            # Another process has finished the output while this one was starting.
            self.remove()
            raise _exists_error(self._output)
        else:
            self._describe_run()

    def _describe_run(self):
        try:
            self.replace(_RUN, lambda file: file.write(json.dumps(self._run, indent=1).encode()))
        except BulkError:
            self.remove()
            raise

    def _left(self):
        """How much there is in the folder, and how old it is, for those who are to delete it."""
        files = [path.stat() for path in self._folder.iterdir() if path.name != _LOCK]
        age = format_age(time.time() - max((file.st_mtime for file in files), default=0))
        parts, size = len(self._paths()), format_size(sum(file.st_size for file in files))
        return f"which has {parts:,} part{'s' * (parts != 1)} ({size}), last written {age} ago"

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
                digest, stats = noted.pop("digest"), WindowStats(**noted)
        except (OSError, ValueError, KeyError, TypeError):
            # It is not there, or damaged.
            return None
        if digest != window.digest:
            raise BulkError(
                f"The rows from {window.place} on are not those that {self._folder} was begun with: bring back the"
                f" input, --encoding and --bad-rows as they were, or delete the folder, {self._left()}."
            )
        return stats

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
                f"The input has fewer rows than when {self._folder} was begun: bring them back, or delete the folder,"
                f" {self._left()}."
            )

    def tables(self):
        """The parts, one by one, as tables in memory-mapped files."""
        for path in self._paths():
            with pa.memory_map(str(path)) as file:
                yield pa.ipc.open_file(file).read_all()

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
            os.replace(temporary, _target(target))
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise write_error(target, error) from error
        folder = os.open(_target(target).parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def open_list(self):
        """An empty file for the rows that could not be read, which goes with the folder."""
        path = self._folder / "bad-rows.tmp"
        try:
            # Without a buffer, which could not be emptied at the end if the disk is full.
            return open(path, "w+b", buffering=0)
        except OSError as error:
            raise write_error(path, error) from error

    def remove(self):
        """Delete the run's files, and the folder if it is then empty. Parts go first: until then the run can resume."""
        for pattern in ("*.arrow", "*.tmp", _RUN, _LOCK):
            for path in self._folder.glob(pattern):
                path.unlink()
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def _path(self, index):
        return self._folder / f"{index:08}.arrow"


def format_size(size):
    """A number of bytes for people, in powers of 1,000."""
    units = iter(("bytes", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while size >= 1000:
        size, unit = size / 1000, next(units)
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


def format_age(seconds):
    """A length of time for people, in its largest unit."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count:,} {unit}{'s' * (count != 1)}"
    return "less than a minute"
