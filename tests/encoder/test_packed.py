import os
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from embedding_api.__main__ import DEMO_PACKAGE
from embedding_api.config import Settings
from embedding_api.encoder import linear
from embedding_api.encoder.compute_threads import ComputeThreads
from embedding_api.encoder.linear import prepacks
from embedding_api.encoder.loading import load_encoder
from embedding_api.encoder.packed import PackedEngine
from embedding_api.encoder.reading import bert_weights, obstacle
from embedding_api.encoder.reference import ReferenceEngine
from server import ROOT
from small_bert import small_bert

LENGTHS = [40, 40, 40, 17, 17, 9, 3, 2, 2, 1]


def reference(model, batch):
    """What the modules make of the batch, text by text."""
    vectors = []
    for ids in batch:
        ids = torch.tensor([ids])
        features = {"token_embeddings": model[0].model(ids).last_hidden_state, "attention_mask": torch.ones_like(ids)}
        vectors.append(model[1](features)["sentence_embedding"][0].detach().numpy())
    return np.array(vectors)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("lengths", [LENGTHS, LENGTHS[::-1], [5], [1], [64, 1, 64]])
def test_random_models(pooling, lengths):
    model = small_bert(pooling)
    batch = [torch.randint(0, 99, (length,)).tolist() for length in lengths]
    assert obstacle(model) is None
    vectors = PackedEngine(bert_weights(model)).forward(batch)
    assert vectors.dtype == np.float32
    assert vectors == pytest.approx(reference(model, batch), abs=2e-5)


def test_the_real_model(encoder, sentence_transformer, queries):
    """The service's default is this engine; other tests hold its vectors against sentence-transformers'."""
    assert encoder.engine == "packed"
    ids = sorted(encoder.tokenize(queries).ids, key=len)
    ours = PackedEngine(bert_weights(sentence_transformer)).forward(ids)
    assert np.abs(ours - ReferenceEngine(sentence_transformer).forward(ids)).max() <= 2e-5


def test_mean_pooling_in_a_real_model(queries):
    directory = Path(find_spec(DEMO_PACKAGE).origin).parent / "model"
    theirs = SentenceTransformer(str(directory), device="cpu", local_files_only=True).encode(queries)
    encoder = load_encoder(Settings(model=str(directory)))
    assert encoder.engine == "packed"
    ids = encoder.tokenize(queries).ids
    ours = encoder.encode(ids)
    assert np.abs(ours - theirs).max() <= 2e-6
    alone = np.concatenate([encoder.encode([text]) for text in ids])
    assert np.abs(ours - alone).max() <= (0 if prepacks() else 2e-6)


def test_a_vector_does_not_depend_on_its_company(encoder, documents, queries):
    """Not in a single bit where products are prepacked; in torch's own the number of rows changes the sums."""
    ids = encoder.tokenize([*documents[:20], *queries[:10]]).ids
    chance = random.Random(1)
    together = encoder.encode(ids)
    for threads in (1, 2, 4):
        encoder.run_in_worker(threads=ComputeThreads(threads))
        alone = np.concatenate([encoder.encode([text]) for text in ids])
        order = chance.sample(range(len(ids)), len(ids))
        shuffled = np.empty_like(together)
        for part in (order[:3], order[3:7], order[7:]):
            shuffled[part] = encoder.encode([ids[index] for index in part])
        for vectors in (encoder.encode(ids), alone, shuffled):
            assert np.abs(vectors - together).max() <= (0 if prepacks() else 2e-6)


def test_products_that_are_not_prepacked(monkeypatch, model, documents, document_vectors):
    monkeypatch.setattr(linear, "prepacks", lambda: False)
    encoder = load_encoder(Settings(model=str(model.directory)))
    assert np.abs(encoder.encode(encoder.tokenize(documents[::4]).ids) - document_vectors[::4]).max() <= 2e-6


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_bfloat16(engine, model, queries, sentence_transformer):
    encoder = load_encoder(Settings(model=str(model.directory), engine=engine, dtype="bfloat16"))
    assert encoder.dtype == "bfloat16"
    vectors, exact = encoder.encode(encoder.tokenize(queries[:8]).ids), sentence_transformer.encode(queries[:8])
    assert vectors.dtype == np.float32
    assert (vectors * exact).sum(1).min() >= 0.9995
    assert np.abs(vectors - exact).max() > 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_request_compiles_anything(model, dtype):
    """oneDNN tells of everything that it compiles, and of what it finds compiled."""
    script = """if True:
        import random
        from embedding_api.config import Settings
        from embedding_api.encoder.loading import load_encoder
        encoder = load_encoder(Settings.from_env())
        print("loaded", flush=True)
        chance = random.Random(1)
        texts = [[1000] * chance.randint(3, 200) for _ in range(60)]
        encoder.run_in_worker()
        encoder.encode(texts)
        for text in texts[:20]:
            encoder.encode([text])
        """
    environment = os.environ | model.environment | {"EMBEDDING_DTYPE": dtype, "ONEDNN_VERBOSE": "2"}
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    before, after = output.split("loaded\n")
    if prepacks():
        assert "create:cache_miss" in before
        assert "create:cache_hit" in after
        assert "create:cache_miss" not in after
