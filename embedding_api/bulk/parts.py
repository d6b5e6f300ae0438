"""What is done of a run: a file for each window, in a folder beside the output, until that is written in one go."""

import fcntl
import hashlib
import json
import os
import shutil
from dataclasses import dataclass

import pyarrow as pa

from embedding_api.bulk import BulkError

# The column of vectors, in the parts and in the output.
EMBEDDING = "embedding"


@dataclass
class Totals:
    """What a run has seen.

    Attributes:
        rows: of the input.
        tokens: of the embedded texts, after truncation.
        truncated: texts without their end.
        without_text: rows whose vector is null.
    """

    rows: int = 0
    tokens: int = 0
    truncated: int = 0
    without_text: int = 0

    def __add__(self, other):
        return Totals(*(getattr(self, name) + getattr(other, name) for name in vars(self)))


def parts_folder(output):
    """Where the parts of an output are."""
    return output.with_name(f"{output.name}.parts")


def finished(output):
    """The indexes of an output's windows that have their part."""
    return {int(path.stem) for path in parts_folder(output).glob("*.arrow")}


class Parts:
    """The finished windows of a run. A part is there in whole or not at all, whenever the process or the machine ends.

    Args:
        output: the `Path` of the output; the parts are in a folder of its name and ".parts".
        run: what vectors depend on, apart from the texts; a run goes on only with the same.

    Raises:
        BulkError: another process is at work there, or the folder holds parts of another run.
    """

    def __init__(self, output, run):
        self._folder = parts_folder(output)
        self._run = run

    def __enter__(self):
        self._folder.mkdir(exist_ok=True)
        self._lock = open(self._folder / "lock", "w")
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
        path = self._folder / "run.json"
        if not path.exists():
            self.replace("run.json", lambda file: file.write(json.dumps(self._run, indent=1).encode()))
        elif different := self._differences(json.loads(path.read_text())):
            raise BulkError(
                f"{self._folder} holds the beginning of a run with {different}: go on with that, or delete the folder."
            )

    def _differences(self, run):
        different = [name for name, own in self._run.items() if own != run.get(name)]
        return ", ".join(f"{name} {run.get(name)!r} instead of {self._run[name]!r}" for name in different)

    def done(self, window):
        """The `Totals` of a window that has its part, or None.

        Raises:
            BulkError: the part is of other rows.
        """
        try:
            with pa.ipc.open_file(self._path(window.index)) as file:
                noted = json.loads(file.schema.metadata[b"part"])
        except (FileNotFoundError, pa.ArrowInvalid):
            return None
        if noted.pop("digest") != _digest(window):
            name, first = window.place
            raise BulkError(
                f"The rows of {name} from {first} on are not those that {self._folder} was begun with: bring them back,"
                " or delete the folder."
            )
        return Totals(**noted)

    def write(self, window, vectors, totals):
        """Keep a window with its vectors, of shape (rows, dimension); rows without text have null."""
        missing = pa.array([text is None for text in window.texts])
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1], mask=missing)
        table = window.table.append_column(EMBEDDING, column)
        noted = json.dumps({"digest": _digest(window)} | vars(totals))
        table = table.replace_schema_metadata((table.schema.metadata or {}) | {"part": noted})

        def write(file):
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table.combine_chunks())

        self.replace(self._path(window.index).name, write)

    def check(self, rows):
        """See that the parts are those of the whole input, which has so many rows, and of nothing more.

        Raises:
            BulkError: the input had more rows when the run was begun.
        """
        if sum(map(len, self.tables())) != rows:
            raise BulkError(
                f"The input has fewer rows than when {self._folder} was begun: bring them back, or delete the folder."
            )

    def tables(self):
        """The parts, one by one, each of them a table in a file that is mapped into memory."""
        for path in self._paths():
            with pa.memory_map(str(path)) as file:
                yield pa.ipc.open_file(file).read_all()

    def schemas(self):
        """The parts' schemas."""
        return [table.schema for table in self.tables()]

    def _paths(self):
        return sorted(self._folder.glob("*.arrow"))

    def replace(self, name, write, target=None):
        """Have a file written, by a function of the open file, and only then give it its name, for good."""
        temporary = self._folder / f"{name}.tmp"
        try:
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            temporary.unlink()
            raise
        target = target or self._folder / name
        os.replace(temporary, target)
        folder = os.open(target.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def remove(self):
        """Delete the folder."""
        shutil.rmtree(self._folder)

    def _path(self, index):
        return self._folder / f"{index:08}.arrow"


def _digest(window):
    """A hash of a window's rows, and of which have a text."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, window.table.schema) as writer:
        writer.write_table(window.table.combine_chunks())
    digest = hashlib.blake2b(sink.getvalue(), digest_size=16)
    digest.update(bytes(text is None for text in window.texts))
    return digest.hexdigest()
