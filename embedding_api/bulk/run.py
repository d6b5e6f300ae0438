"""A run: from the inputs to the output. It resumes where an earlier one has stopped."""

import hashlib
from collections import Counter
from contextlib import closing

import orjson
import pyarrow as pa

import embedding_api
from embedding_api.bulk import BulkError
from embedding_api.bulk.bad_rows import BadRows
from embedding_api.bulk.checkpoint import (
    EMBEDDING,
    Checkpoint,
    WindowStats,
    bad_rows_list,
    finished,
    format_size,
    parts_folder,
    write_error,
)
from embedding_api.bulk.outputs import check_format
from embedding_api.bulk.progress import Progress

# The most rows without text, and files without a text, that are named at the end.
_MOST_NAMED = 10


def description(encoder, directory, *, column, is_query, normalize, dtype):
    """A dictionary of what the vectors depend on, apart from the texts. A run resumes only if it is the same."""
    weights = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        if path.suffix in (".safetensors", ".json", ".txt"):
            weights.update(path.read_bytes())
    return {
        "version": embedding_api.__version__,
        "model": encoder.model_name,
        "weights": weights.hexdigest()[:16],
        "engine": encoder.engine,
        "computed in": encoder.dtype,
        "column": column,
        "prompt": encoder.query_prompt if is_query else encoder.document_prompt,
        "normalize": normalize,
        "dtype": dtype,
    }


def embed(inputs, output, description, encode, *, strict, echo):
    """Embed the windows that are not finished, and write the output of all.

    Args:
        inputs: the `Inputs`.
        output: the output's `Path`; `check_output` and `check_format` have passed.
        description: see the function of that name.
        encode: a function of windows and a `Progress` that computes the vectors, such as `pool.encode`.
        strict: whether a row without text ends the run.
        echo: called with each paragraph that people are to read.

    Returns:
        whether every row could be read, and every file with rows had a text.

    Raises:
        BulkError: something is wrong with the inputs, the parts, the disk or the processes.
    """
    run = _Run(inputs, output, strict)
    with Checkpoint(output, description) as checkpoint, closing(Progress()) as progress:
        with checkpoint.open_list() as file:
            bad_rows = BadRows(file, in_output=inputs.bad_rows == "null")
            run.read_and_encode(encode, checkpoint, progress, bad_rows, description["dtype"])
            run.write_bad_rows(checkpoint)
            turned = _write(output, description, checkpoint)
        checkpoint.remove()
        run.report(progress, turned, echo)
    return not (run.bad_rows.count or run.files_without_text)


class _Run:
    """What is counted and named in the course of a run."""

    def __init__(self, inputs, output, strict):
        self._inputs, self._output, self._strict = inputs, output, strict
        self._list = bad_rows_list(output)
        self._stats, self._without_text = WindowStats(), []
        self._rows, self._texts = Counter(), Counter()
        self.bad_rows = None

    def read_and_encode(self, encode, checkpoint, progress, bad_rows, dtype):
        """Make the parts that are not there yet; without rows, or without any text, there is an error instead."""
        self.bad_rows = bad_rows
        for window, vectors, stats in encode(self._to_do(checkpoint, progress), progress):
            checkpoint.write(window, vectors.astype(dtype), stats)
            self._stats += stats
        if not self._stats.rows and not finished(self._output):
            left_out = f" that could be read; {self.bad_rows.count:,} could not" if self.bad_rows.count else ""
            raise BulkError(f"The input has no rows{left_out}.")
        checkpoint.check(self._stats.rows)
        if self._stats.without_text == self._stats.rows:
            # Without parts the folder goes.
            checkpoint.remove()
            raise BulkError(
                f"None of the {self._stats.rows:,} rows has a text (all are null, blank, not text, or unreadable): name"
                " another column with --column, or another file."
            )

    def _to_do(self, checkpoint, progress):
        for window in self._inputs.windows(self.bad_rows.note):
            if EMBEDDING in window.table.column_names:
                raise BulkError(f"{window.file} has a column {EMBEDDING!r} already: rename it.")
            names = self.bad_rows.others(window.without_text)
            if names and self._strict:
                raise BulkError(f"{names[0]} has no text (it is null, blank, or not text), and --strict is set.")
            self._without_text.extend(names[: _MOST_NAMED - len(self._without_text)])
            self._rows[window.file] += len(window.texts)
            self._texts[window.file] += len(window.with_text)
            if done := checkpoint.done(window):
                self._stats += done
                progress.skip(window, done)
            else:
                yield window

    @property
    def files_without_text(self):
        return [file for file in self._rows if not self._texts[file]]

    def write_bad_rows(self, checkpoint):
        """Write the list of the rows that could not be read, or delete the one of an earlier run."""
        if self.bad_rows.count:
            checkpoint.replace("list", self.bad_rows.copy_to, self._list)
            return
        try:
            self._list.unlink(missing_ok=True)
        except OSError as error:
            raise write_error(self._list, error) from error

    def report(self, progress, turned, echo):
        """Say what was done, and what people may not expect."""
        stats, unreadable = self._stats, self.bad_rows.count
        nulls = unreadable if self._inputs.bad_rows == "null" else 0
        without_text = stats.without_text - nulls
        echo(
            f"{self._output} ({format_size(self._output.stat().st_size)}): {stats.rows + unreadable - nulls:,} rows in,"
            f" {stats.rows:,} rows out, {without_text:,} without text, {stats.truncated:,} cut, {unreadable:,}"
            f" unreadable, {stats.tokens:,} tokens; {progress.summary()}."
        )
        if stats.truncated:
            echo(f"Texts longer than the model reads, embedded without their end: {stats.truncated:,}.")
        if without_text:
            named = ", ".join(self._without_text) + (" …" if without_text > len(self._without_text) else "")
            echo(f"Rows without text (null, blank, or not text), whose embedding is null: {without_text:,} ({named}).")
        if files := self.files_without_text:
            named = ", ".join(files[:_MOST_NAMED]) + (" …" if len(files) > _MOST_NAMED else "")
            echo(f"Files without a single text: {len(files):,} ({named}).")
        if turned:
            named = ", ".join(f"{name} into {into}" for name, into in turned.items())
            echo(f"Columns whose values had to be turned into something else: {named}.")
        if unreadable:
            done = f"are null in the output: {unreadable:,}" if nulls else f"were left out: {unreadable:,}"
            echo(f"Rows that could not be read and {done}, listed in {self._list}.{self.bad_rows.named()}")


def _write(output, description, checkpoint):
    """Write the output; returns what columns were turned into, by their names."""
    metadata = {f"embedding_api.{name}": str(value) for name, value in description.items()}
    write, turned = check_format(output), {}
    try:
        checkpoint.replace("output", lambda file: turned.update(write(file, checkpoint.tables, metadata)), output)
    except (pa.ArrowException, orjson.JSONEncodeError, OverflowError, ValueError) as error:
        # Parquet holds what JSON does not, such as the year 10000, and NumPy's format has no columns.
        other = output.with_suffix(".npy" if output.suffix.lower() == ".parquet" else ".parquet")
        raise BulkError(
            f"{output} cannot hold a column of the input ({type(error).__name__}): rename {parts_folder(output)} to"
            f" {parts_folder(other)}, and start again with the output {other}."
        ) from error
    return turned
