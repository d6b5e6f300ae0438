"""How well the model retrieves: `embedding-api evaluate`."""

import csv
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import click
import orjson

from embedding_api.config import Settings
from embedding_api.encoder.compute_threads import usable_cores

# The number of documents that are ranked for each query.
_DEPTH = 100


class CollectionError(Exception):
    """A folder is not a collection. The message is one sentence."""


@dataclass(frozen=True)
class Collection:
    """Texts, and which are relevant to which.

    Attributes:
        documents: texts by id; documents without text are left out.
        queries: texts by id; queries without any judgement are left out.
        judgements: by the query's and the document's id, how relevant the document is; 0 or less means not at all.
    """

    documents: dict[str, str]
    queries: dict[str, str]
    judgements: dict[str, dict[str, int]]


def load(folder, split="test"):
    """Load a collection in BEIR's format, or the Cranfield collection; returns a `Collection`.

    Args:
        folder: with corpus.jsonl, queries.jsonl and qrels/<split>.tsv (https://github.com/beir-cellar/beir), or with
            cran.all.1400, cran.qry and cranqrel.

    Raises:
        CollectionError: files are missing or damaged.
    """
    try:
        if (folder / "cran.all.1400").exists():
            documents, queries, judgements = _cranfield(folder)
        else:
            documents, queries, judgements = _beir(folder, split)
    except FileNotFoundError as error:
        raise CollectionError(
            f"{error.filename} is missing: name a folder with corpus.jsonl, queries.jsonl and qrels/{split}.tsv, or"
            " with the Cranfield collection."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CollectionError(f"{folder} has a damaged file ({type(error).__name__}: {error}).") from error
    documents = {id: text.strip() for id, text in documents.items() if text.strip()}
    queries = {id: text for id, text in queries.items() if text.strip() and judgements.get(id)}
    if not documents or not queries:
        raise CollectionError(f"{folder} has no documents, or no queries with judgements.")
    return Collection(documents, queries, {id: judgements[id] for id in queries})


def _beir(folder, split):
    documents = {str(row["_id"]): f"{row.get('title') or ''} {row['text']}" for row in _jsonl(folder / "corpus.jsonl")}
    queries = {str(row["_id"]): f"{row['text']}" for row in _jsonl(folder / "queries.jsonl")}
    judgements = {}
    with open(folder / "qrels" / f"{split}.tsv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            judgements.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    return documents, queries, judgements


def _jsonl(path):
    with open(path, "rb") as file:
        return [orjson.loads(line) for line in file if line.strip()]


def _cranfield(folder):
    # Judgements name queries by their position in the file, not by their number in it. The order of the grades is
    # disputed, so all of 1 to 4 count as relevant, and -1 does not.
    documents, queries = _cranfield_texts(folder / "cran.all.1400"), _cranfield_texts(folder / "cran.qry")
    judgements = {}
    for line in (folder / "cranqrel").read_text().splitlines():
        query, document, grade = line.split()
        judgements.setdefault(query, {})[document] = int(int(grade) > 0)
    return documents, queries, judgements


def _cranfield_texts(path):
    texts = [entry.partition("\n.W\n")[2] for entry in path.read_text().split("\n.I ")]
    return {str(number): " ".join(text.split()) for number, text in enumerate(texts, 1)}


def measure(collection, documents, queries):
    """nDCG@10, MRR@10 and recall@100 of ranking all documents for each query, by exact dot products.

    Args:
        documents: the documents' vectors, of shape (documents, dimension).
        queries: the queries', of shape (queries, dimension).

    Returns:
        the three means over the queries, each from 0 to 1, as ir_measures (https://ir-measur.es) computes them with
        trec_eval.
    """
    import ir_measures
    import torch
    from ir_measures import RR, R, nDCG
    from sentence_transformers.util import dot_score, semantic_search

    vectors = torch.from_numpy(queries), torch.from_numpy(documents)
    hits = semantic_search(*vectors, top_k=_DEPTH, score_function=dot_score)
    names = list(collection.documents)
    run = {
        query: {names[hit["corpus_id"]]: hit["score"] for hit in of_query}
        for query, of_query in zip(collection.queries, hits, strict=True)
    }
    measures = nDCG @ 10, RR @ 10, R @ _DEPTH
    means = ir_measures.calc_aggregate(measures, collection.judgements, run)
    return [means[each] for each in measures]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--split", default="test", show_default=True, help="Which of the judgements in qrels/.")
@click.option("--workers", type=click.IntRange(1), help="Threads that compute; by default one for each core.")
def evaluate(folder, split, workers):
    """Measure retrieval on a collection in BEIR's format, or on Cranfield's.

    Prints nDCG@10, MRR@10 and recall@100, with and without the model's instruction before queries. Run it with another
    EMBEDDING_MODEL, EMBEDDING_DTYPE or EMBEDDING_ENGINE to judge the change.
    """
    if importlib.util.find_spec("ir_measures") is None:
        raise click.ClickException("ir-measures is not installed: 'pip install -r requirements-evaluate.txt'.")
    from embedding_api.bulk.pool import encode_texts
    from embedding_api.encoder.loading import load_encoder

    collection = load(folder, split)
    encoder = load_encoder(Settings.from_env())
    options = {"encoder": encoder, "workers": workers or usable_cores(), "normalize": True}
    documents = encode_texts(list(collection.documents.values()), is_query=False, **options)
    texts = list(collection.queries.values())
    queries = {"without instruction": encode_texts(texts, is_query=False, **options)}
    if encoder.query_prompt:
        queries["with instruction"] = encode_texts(texts, is_query=True, **options)
    click.echo(
        f"{encoder.model_name}, {encoder.engine}, {encoder.dtype}; {folder.name}: {len(documents):,} documents,"
        f" {len(texts):,} queries"
    )
    click.echo(f"{'':20}   nDCG@10    MRR@10  recall@{_DEPTH}")
    for name, vectors in queries.items():
        click.echo(f"{name:20}" + "".join(f"{mean:10.4f}" for mean in measure(collection, documents, vectors)))
