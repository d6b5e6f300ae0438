"""A run: from the inputs to the output. It resumes where an earlier one has stopped."""

import hashlib
from contextlib import closing

import orjson
import pyarrow as pa

import embedding_api
from embedding_api.bulk import BulkError
from embedding_api.bulk.checkpoint import EMBEDDING, Checkpoint, WindowStats, finished, parts_folder
from embedding_api.bulk.outputs import check_format
from embedding_api.bulk.progress import Progress

# The most rows without text that are named at the end.
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
        echo: called with each sentence that people are to read.

    Raises:
        BulkError: something is wrong with the inputs, the parts, the disk or the processes.
    """
    totals, without_text = WindowStats(), []
    with Checkpoint(output, description) as checkpoint, closing(Progress()) as progress:

        def to_do():
            nonlocal totals
            for window in inputs.windows():
                if EMBEDDING in window.table.column_names:
                    raise BulkError(f"{window.place[0]} has a column {EMBEDDING!r} already: rename it.")
                names = window.without_text
                if names and strict:
                    raise BulkError(f"{names[0]} has no text (it is null, blank, or not text), and --strict is set.")
                without_text.extend(names[: _MOST_NAMED - len(without_text)])
                if done := checkpoint.done(window):
                    totals += done
                    progress.skip(window, done)
                else:
                    yield window

        for window, vectors, stats in encode(to_do(), progress):
            checkpoint.write(window, vectors.astype(description["dtype"]), stats)
            totals += stats
        if not totals.rows and not finished(output):
            checkpoint.remove()
            raise BulkError("The input has no rows.")
        checkpoint.check(totals.rows)
        metadata = {f"embedding_api.{name}": str(value) for name, value in description.items()}
        write = check_format(output)
        try:
            checkpoint.replace(
                "output", lambda file: write(file, checkpoint.tables, checkpoint.schemas(), metadata), output
            )
        except (pa.ArrowException, orjson.JSONEncodeError, OverflowError, ValueError) as error:
            others = parts_folder(output.with_suffix(".npy"))
            raise BulkError(
                f"{output} cannot hold a column of the input ({type(error).__name__}): rename {parts_folder(output)} to"
                f" {others}, and start again with the output {output.with_suffix('.npy')}."
            ) from error
        checkpoint.remove()
    echo(f"{output}: {totals.rows:,} rows, {totals.tokens:,} tokens; {progress.summary()}.")
    if totals.truncated:
        echo(f"Texts longer than the model reads, embedded without their end: {totals.truncated:,}.")
    if totals.without_text:
        named = ", ".join(without_text) + (" …" if totals.without_text > len(without_text) else "")
        echo(
            f"Rows without text (null, blank, or not text), whose embedding is null: {totals.without_text:,} ({named})."
        )
