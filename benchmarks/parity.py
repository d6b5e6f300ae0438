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
from sklearn.metrics import ndcg_score

from benchmarks import engines
from embedding_api.__main__ import DEMO_PACKAGE
from embedding_api.config import Settings, usable_cores
from embedding_api.encoder.cores import Cores
from embedding_api.encoder.loading import load_encoder
from embedding_api.encoder.model_files import find_model
from tests.cranfield import sections


@click.command()
def main():
    if "CRANFIELD" not in os.environ:
        raise click.UsageError("Set CRANFIELD to a directory with cran.all.1400, cran.qry and cranqrel.")
    collection = Path(os.environ["CRANFIELD"])
    abstracts, queries = sections(collection / "cran.all.1400"), sections(collection / "cran.qry")
    grades = judgements(collection / "cranqrel", len(queries), len(abstracts))
    demo = Path(find_spec(DEMO_PACKAGE).origin).parent / "model"
    for directory in (find_model(Settings.from_env()), demo):
        compare(directory, abstracts, queries, grades)


def judgements(path, queries, documents):
    """What is relevant as zeros and ones of shape (queries, documents): grades 1 to 4 are, -1 is not."""
    grades = np.zeros((queries, documents))
    for line in path.read_text().splitlines():
        query, document, grade = map(int, line.split())
        grades[query - 1, document - 1] = grade > 0
    return grades


def compare(directory, abstracts, queries, grades):
    torch.set_num_threads(usable_cores())
    encode = engines.sentence_transformers(directory)
    theirs = encode(abstracts + queries)
    print(f"{directory.name}: {len(abstracts)} abstracts, {len(queries)} queries")
    show("sentence-transformers", theirs, theirs, grades)
    for dtype in ("float32", "bfloat16"):
        torch.set_num_threads(1)
        encoder = load_encoder(Settings(model=str(directory), dtype=dtype))
        encoder.run_in_worker(Cores(usable_cores()), worker=1, heartbeat=lambda: None)
        ours = encoder.encode(encoder.tokenize(abstracts + queries).ids)
        show(f"{encoder.engine}, {dtype}", ours, theirs, grades)
        if encoder.query_prompt:
            prompted = encoder.encode(encoder.tokenize(queries, is_query=True).ids)
            print(f"    the queries with their prompt: nDCG@10 {ndcg(ours[: len(abstracts)], prompted, grades):.4f}")


def show(name, vectors, theirs, grades):
    measure = ndcg(*np.split(vectors, [grades.shape[1]]), grades)
    difference, cosine = np.abs(vectors - theirs).max(), (vectors * theirs).sum(1).min()
    print(f"  {name:22} greatest difference {difference:.1e}, lowest cosine {cosine:.5f}, nDCG@10 {measure:.4f}")


def ndcg(documents, queries, grades):
    return ndcg_score(grades, queries @ documents.T, k=10)


if __name__ == "__main__":
    main()
