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
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from embedding_api.__main__ import DEMO_PACKAGE
from embedding_api.config import Settings
from embedding_api.encoder import linear
from embedding_api.encoder.cores import Cores
from embedding_api.encoder.linear import prepacks
from embedding_api.encoder.loading import load_encoder
from embedding_api.encoder.packed import PackedEngine, obstacle
from embedding_api.encoder.reference import ReferenceEngine
from server import ROOT

LENGTHS = [40, 40, 40, 17, 17, 9, 3, 2, 2, 1]


@pytest.fixture
def one_core_after(encoder):
    yield
    encoder.run_in_worker(Cores(1), 1, lambda: None)


class Modules(list):
    """Enough of a SentenceTransformer for an engine: a list of modules. Its weights are random."""


@pytest.fixture
def small():
    """A function that makes a small BERT of random weights, in the layout of a sentence-transformers model."""

    def make(pooling="cls", **changes):
        torch.manual_seed(1)
        sizes = {"vocab_size": 99, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4}
        config = BertConfig(**sizes, intermediate_size=48, max_position_embeddings=64, initializer_range=0.5, **changes)
        return assemble(BertModel(config).eval(), pooling, 24)

    return make


def assemble(backbone, pooling, width):
    transformer = Transformer.__new__(Transformer)
    torch.nn.Module.__init__(transformer)
    transformer.model = backbone
    transformer.modality_config = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    return Modules([transformer, Pooling(width, pooling_mode=pooling), Normalize()])


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
def test_random_models(small, pooling, lengths):
    model = small(pooling)
    batch = [torch.randint(0, 99, (length,)).tolist() for length in lengths]
    assert obstacle(model) is None
    vectors = PackedEngine(model).forward(batch)
    assert vectors.dtype == np.float32
    assert vectors == pytest.approx(reference(model, batch), abs=2e-5)


def test_the_real_model(encoder, sentence_transformer, queries):
    """The service's default is this engine; other tests hold its vectors against sentence-transformers'."""
    assert encoder.engine == "packed"
    ids = sorted(encoder.tokenize(queries).ids, key=len)
    ours = PackedEngine(sentence_transformer).forward(ids)
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


def test_a_vector_does_not_depend_on_its_company(encoder, documents, queries, one_core_after):
    """Not in a single bit where products are prepacked and run on few cores: many share the summing of few rows.

    In torch's own products the number of rows changes the sums.
    """
    ids = encoder.tokenize([*documents[:30], *queries[:10]]).ids
    chance = random.Random(1)
    together = encoder.encode(ids)
    for threads in (1, 2, 4):
        encoder.run_in_worker(Cores(threads), 1, lambda: None)
        alone = np.concatenate([encoder.encode([text]) for text in ids])
        order = chance.sample(range(len(ids)), len(ids))
        shuffled = np.empty_like(together)
        for part in (order[:3], order[3:7], order[7:]):
            shuffled[part] = encoder.encode([ids[index] for index in part])
        for vectors in (encoder.encode(ids), alone, shuffled):
            assert np.abs(vectors - together).max() <= (0 if prepacks() and threads < 4 else 2e-6)


def test_products_that_are_not_prepacked(monkeypatch, model, documents, document_vectors):
    monkeypatch.setattr(linear, "prepacks", lambda: False)
    encoder = load_encoder(Settings(model=str(model.directory)))
    assert np.abs(encoder.encode(encoder.tokenize(documents[::8]).ids) - document_vectors[::8]).max() <= 2e-6


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
        from embedding_api.encoder.cores import MACHINE, Cores
        from embedding_api.encoder.loading import load_encoder
        encoder = load_encoder(Settings.from_env())
        print("loaded", flush=True)
        chance = random.Random(1)
        texts = [[1000] * chance.randint(3, 200) for _ in range(60)]
        for cores in (MACHINE.share, MACHINE.most):
            encoder.run_in_worker(Cores(cores), 1, lambda: None)
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


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_act": "relu"}, "its activation is relu"),
        ({"is_decoder": True}, "it is a decoder"),
        ({"position_embedding_type": "relative_key"}, "other than absolute positions"),
        ({"pooling": "max"}, "its pooling is max"),
    ],
)
def test_other_models_have_an_obstacle(small, change, reason):
    assert reason in obstacle(small(**change))


def test_pooling_another_layer_is_an_obstacle(small):
    model = small()
    model[0].modality_config = {"text": {"method": "forward", "method_output_name": ["hidden_states", -2]}}
    assert "last layer" in obstacle(model)


def test_other_architectures_have_an_obstacle(small):
    config = DistilBertConfig(vocab_size=9, dim=8, hidden_dim=8, n_layers=1, n_heads=2, max_position_embeddings=8)
    assert "DistilBertModel" in obstacle(assemble(DistilBertModel(config), "cls", 8))
    assert "modules" in obstacle(Modules([*small()[:2], Dense(24, 8)]))


def test_the_reference_can_be_forced(model, caplog, sentence_transformer, queries):
    encoder = load_encoder(Settings(model=str(model.directory), engine="reference"))
    assert encoder.engine == "reference"
    assert "EMBEDDING_ENGINE=reference" in caplog.text
    ours = encoder.encode(encoder.tokenize(queries[:9]).ids)
    assert np.abs(ours - sentence_transformer.encode(queries[:9])).max() <= 2e-6
