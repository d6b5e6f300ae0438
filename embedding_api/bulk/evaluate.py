"""The command `embedding-api evaluate`: how well a model retrieves, and whether another one does better."""

import json
from dataclasses import replace
from pathlib import Path

import click

from embedding_api.config import Settings
from embedding_api.encoder.compute_threads import usable_cores
from embedding_api.errors import ConfigError

_DTYPES = "float32", "bfloat16"
# The width of the table's first column.
_WIDTH = 44


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--split", default="test", show_default=True, help="Which of the judgements in qrels/.")
@click.option(
    "--compare",
    metavar="MODEL|DTYPE",
    help="Measure a second time, with another model, or with float32 or bfloat16, and compare.",
)
@click.option("--ignore-identical-ids", is_flag=True, help="Do not rank a document that has the query's own id.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--workers", type=click.IntRange(1), help="Threads that compute; by default one for each core.")
def evaluate(folder, split, compare, ignore_identical_ids, as_json, workers):
    """Measure retrieval on a collection in BEIR's or TREC's format, or on Cranfield's.

    Prints nDCG@10, MRR@10 and recall@100, with and without the model's instruction before queries. EMBEDDING_MODEL,
    EMBEDDING_DTYPE and EMBEDDING_ENGINE choose the model, as for the service.
    """
    # Imported here and below, so that other commands start without them.
    from embedding_api.bulk import BulkError
    from embedding_api.bulk.collection import CollectionError, load
    from embedding_api.encoder.model_files import find_model

    try:
        collection = load(folder, split)
        settings = [Settings.from_env()]
        if compare:
            settings.append(_other(settings[0], compare))
        for each in settings:
            # The second one would otherwise be missed only when the first is measured.
            find_model(each)
        systems = [_measure(collection, each, workers or usable_cores(), ignore_identical_ids) for each in settings]
    except (BulkError, CollectionError, ConfigError) as error:
        raise click.ClickException(str(error)) from error
    notes = dict(collection.notes)
    if ignore_identical_ids:
        notes["documents with the query's own id, which were not ranked"] = sum(
            query in collection.documents for query in collection.queries
        )
    report = {
        "collection": folder.resolve().name,
        "documents": len(collection.documents),
        "queries": len(collection.queries),
        "notes": notes,
        "systems": [_means(system) for system in systems],
    }
    if compare:
        report["second minus first"] = _differences(*systems)
    click.echo(json.dumps(report, indent=2) if as_json else _table(report))


def _other(settings, compare):
    if compare in _DTYPES:
        return replace(settings, dtype=compare)
    return replace(settings, model=compare, revision=None, model_name=None, query_prompt=None, document_prompt=None)


def _measure(collection, settings, workers, ignore_identical_ids):
    """What the system is called, and its figures: arrays of shape (queries, measures) by what is before a query."""
    from embedding_api.bulk.measures import measure, rank
    from embedding_api.bulk.pool import encode_texts
    from embedding_api.encoder.loading import load_encoder

    encoder = load_encoder(settings)
    options = {"encoder": encoder, "workers": workers, "normalize": True}
    documents = encode_texts(list(collection.documents.values()), is_query=False, **options)
    texts, figures = list(collection.queries.values()), {}
    for name, is_query in {"without instruction": False, "with instruction": True}.items():
        if encoder.query_prompt or not is_query:
            queries = encode_texts(texts, is_query=is_query, **options)
            figures[name] = measure(collection, rank(collection, documents, queries, ignore_identical_ids))
    return {"model": encoder.model_name, "engine": encoder.engine, "dtype": encoder.dtype, "figures": figures}


def _means(system):
    means = {name: _named(figures.mean(axis=0)) for name, figures in system["figures"].items()}
    return system | {"figures": means}


def _differences(first, second):
    from embedding_api.bulk.measures import p_value

    differences = {}
    for name, figures in second["figures"].items():
        if name in first["figures"]:
            each = figures - first["figures"][name]
            p = [p_value(of_measure) for of_measure in each.T]
            differences[name] = {"difference": _named(each.mean(axis=0)), "p": _named(p)}
    return differences


def _named(numbers):
    from embedding_api.bulk.measures import MEASURES

    return dict(zip(MEASURES, map(float, numbers), strict=True))


def _table(report):
    """The report for people."""
    from embedding_api.bulk.measures import MEASURES

    lines = [
        f"{report['collection']}: {report['documents']:,} documents, {report['queries']:,} queries",
        *(f"{count:,} {note}" for note, count in report["notes"].items()),
        "",
        " " * _WIDTH + "".join(f"{name:>12}" for name in MEASURES),
    ]
    for system in report["systems"]:
        lines.append(f"{system['model']}, {system['engine']}, {system['dtype']}")
        lines += [_row(name, means, "12.4f") for name, means in system["figures"].items()]
    if differences := report.get("second minus first"):
        lines.append("second minus first, and p of a paired randomization test")
        for name, each in differences.items():
            lines += [_row(name, each["difference"], "+12.4f"), _row("p", each["p"], "12.4f")]
    return "\n".join(lines)


def _row(name, numbers, format):
    return f"  {name}".ljust(_WIDTH) + "".join(f"{number:{format}}" for number in numbers.values())
