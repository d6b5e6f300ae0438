"""The command `embedding-api embed`."""

import signal
from functools import partial
from pathlib import Path

import click

from embedding_api.config import Settings
from embedding_api.encoder.compute_threads import usable_cores
from embedding_api.encoder.model_files import find_model
from embedding_api.errors import ConfigError

# The exit status of a run that is done, although some rows could not be read, or a file had no text.
INCOMPLETE = 3


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="IN...")
@click.argument("output", type=click.Path(path_type=Path), metavar="OUT")
@click.option("--column", default="text", show_default=True, help="The column that holds the texts.")
@click.option(
    "--format",
    type=click.Choice(["jsonl", "csv", "tsv", "parquet", "text"]),
    help="Of the input, where its name does not tell it.",
)
@click.option("--query", is_flag=True, help="The texts are queries: the model's instruction goes before each.")
@click.option("--no-normalize", is_flag=True, help="Vectors as the model gives them, instead of length 1.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Of the vectors in the output.",
)
@click.option(
    "--bad-rows",
    type=click.Choice(["fail", "skip", "null"]),
    default="fail",
    show_default=True,
    help="At a row that cannot be read: stop, leave it out, or keep its place with a row of nulls.",
)
@click.option("--encoding", help="Of CSV, TSV and plain text, such as windows-1252; by default UTF-8.")
@click.option("--strict", is_flag=True, help="Stop at the first row without text.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Threads that compute, or actors on Ray; by default one for each core.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where to compute: on this machine, or on a Ray cluster.",
)
@click.option("--address", help="Of the Ray cluster; by default RAY_ADDRESS, or the one that runs here, or a new one.")
def embed(
    inputs, output, column, format, query, no_normalize, dtype, bad_rows, encoding, strict, workers, engine, address
):
    """Embed a corpus.

    IN are files or quoted patterns of JSONL, CSV, TSV, Parquet or plain text, which may be compressed, or - for
    standard input. OUT is a file of Parquet, JSONL (both with all columns of the input) or NumPy (.npy). Stopped at any
    time and started again, it resumes where it stopped. The EMBEDDING_… variables choose the model, as for the service.

    The exit status is 0, or 3 if it is done, but some rows could not be read or a file had no text; 1 after an error.
    """
    # Imported here, so that other commands start without them.
    from embedding_api.bulk import BulkError, run
    from embedding_api.bulk.checkpoint import check_output
    from embedding_api.bulk.inputs import Inputs, expand
    from embedding_api.bulk.outputs import check_format
    from embedding_api.encoder.loading import load_encoder

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if address and engine != "ray":
            raise BulkError("--address is of a Ray cluster: set --engine ray as well.")
        paths = expand(inputs)
        check_output(output, paths)
        check_format(output)
        sources = Inputs(paths, column, format, encoding, bad_rows)
        if engine == "ray" and not sources.repeatable:
            raise BulkError("With --engine ray the input must be files, as it is read twice, not a pipe.")
        settings = Settings.from_env()
        directory = find_model(settings)
        encoder = load_encoder(settings)
        options = {"is_query": query, "normalize": not no_normalize}
        if engine == "ray":
            from embedding_api.bulk import ray_cluster

            where = {"inputs": sources, "output": output, "address": address, "workers": workers}
            where |= {"dimension": encoder.dimension}
            encode = partial(ray_cluster.encode, settings=settings, **where, **options)
        else:
            from embedding_api.bulk import pool

            encode = partial(pool.encode, encoder=encoder, workers=workers or usable_cores(), **options)
        description = run.description(encoder, directory, column=column, dtype=dtype, **options)
        complete = run.embed(sources, output, description, encode, strict=strict, echo=partial(click.echo, err=True))
    except (BulkError, ConfigError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        click.echo("Stopped: start it again to go on.", err=True)
        raise SystemExit(130) from None
    raise SystemExit(0 if complete else INCOMPLETE)
