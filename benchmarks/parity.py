"""How equal the vectors are to sentence-transformers': `python -m benchmarks.parity`, some ten minutes on two cores.

Embeds Cranfield's abstracts and queries with the model that the settings name and with the demo model. Prints the
greatest difference, the lowest cosine similarity, and nDCG@10 of ranking the abstracts for each query.
"""

import os
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np
import torch

from benchmarks import engines
from embedding_api.__main__ import DEMO_PACKAGE
from embedding_api.bulk.collection import load
from embedding_api.bulk.measures import measure, rank
from embedding_api.config import Settings
from embedding_api.encoder.compute_threads import usable_cores
from embedding_api.encoder.loading import load_encoder
from embedding_api.encoder.model_files import find_model


@click.command()
def main():
    if "CRANFIELD" not in os.environ:
        raise click.UsageError("Set CRANFIELD to a directory with cran.all.1400, cran.qry and cranqrel.")
    collection = load(Path(os.environ["CRANFIELD"]))
    demo = Path(find_spec(DEMO_PACKAGE).origin).parent / "model"
    for directory in (find_model(Settings.from_env()), demo):
        compare(directory, collection)


def compare(directory, collection):
    torch.set_num_threads(usable_cores())
    texts = [*collection.documents.values(), *collection.queries.values()]
    theirs = engines.sentence_transformers(directory, usable_cores())(texts)
    print(f"{directory.name}: {len(collection.documents)} abstracts, {len(collection.queries)} queries")
    show("sentence-transformers", theirs, theirs, collection)
    for dtype in ("float32", "bfloat16"):
        encoder = load_encoder(Settings(model=str(directory), dtype=dtype))
        ours = encoder.encode(encoder.tokenize(texts).ids)
        show(f"{encoder.engine}, {dtype}", ours, theirs, collection)
        if encoder.query_prompt:
            prompted = encoder.encode(encoder.tokenize(list(collection.queries.values()), is_query=True).ids)
            ndcg = mean_ndcg(collection, ours[: len(collection.documents)], prompted)
            print(f"    the queries with their prompt: nDCG@10 {ndcg:.4f}")


def show(name, vectors, theirs, collection):
    ndcg = mean_ndcg(collection, *np.split(vectors, [len(collection.documents)]))
    difference, cosine = np.abs(vectors - theirs).max(), (vectors * theirs).sum(1).min()
    print(f"  {name:22} greatest difference {difference:.1e}, lowest cosine {cosine:.5f}, nDCG@10 {ndcg:.4f}")


def mean_ndcg(collection, documents, queries):
    return measure(collection, rank(collection, documents, queries)).mean(axis=0)[0]


if __name__ == "__main__":
    main()
