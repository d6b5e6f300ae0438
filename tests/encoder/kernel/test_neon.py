"""The shared object for NEON, as pip installs it, on a CPU that QEMU emulates."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from embedding_api.encoder.kernel.build import build
from embedding_api.encoder.read_model import bert_weights
from tests.support.driver import Driver
from tests.support.small_bert import SHAPE, reference, small_bert, texts, unit

pytestmark = pytest.mark.slow

QEMU = "qemu-aarch64"
# Where Debian's libc6-arm64-cross puts the C library.
SYSROOT = Path("/usr/aarch64-linux-gnu")
COMPILER = sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu.2.28", "-O1"

LENGTHS = [40, 40, 33, 32, 31, 16, 9, 6, 2, 2, 1]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    if not (shutil.which(QEMU) and SYSROOT.exists()):
        pytest.skip("needs Debian's qemu-user and libc6-arm64-cross")
    folder = tmp_path_factory.mktemp("neon")
    assert build(folder, "aarch64") is None
    return Driver.compile(folder / "driver", COMPILER, folder / "neon.so", runner=[QEMU, "-L", str(SYSROOT)])


MODELS = [
    *(dict(zip(SHAPE, shape, strict=True)) for shape in [(64, 2, 3, 100, "cls"), (64, 1, 2, 128, "mean")]),
    {"architecture": "MPNet", "hidden_size": 96, "num_attention_heads": 3, "pooling": "max", "dense": 50},
    {"architecture": "XLMRoberta", "hidden_act": "gelu_new", "pooling": "mean_sqrt_len_tokens"},
    {"architecture": "DistilBert", "hidden_act": "relu"},
]


@pytest.fixture(params=MODELS, ids=str)
def bert(request):
    return small_bert(**request.param, initializer_range=0.1)


def test_random_models_have_the_vectors_of_transformers(driver, bert):
    batch = texts(*LENGTHS)
    (vectors,) = driver.forward(bert_weights(bert), batch)
    assert np.abs(unit(vectors) - unit(reference(bert, batch))).max() <= 1e-5


def test_texts_of_several_blocks_of_keys(driver):
    bert = small_bert("mean", "MPNet", num_hidden_layers=1, max_position_embeddings=600)
    batch = texts(513, 600)
    (vectors,) = driver.forward(bert_weights(bert), batch)
    assert np.abs(unit(vectors) - unit(reference(bert, batch))).max() <= 1e-5


def test_random_models_in_bfloat16_have_nearly_the_same(driver, bert):
    batch = texts(*LENGTHS)
    (vectors,) = driver.forward(bert_weights(bert), batch, bfloat16=True)
    assert (unit(vectors) * unit(reference(bert, batch))).sum(1).min() >= 0.999


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
def test_a_vector_has_the_same_bits_in_any_batch(driver, bert, bfloat16):
    batch = texts(*LENGTHS, *range(1, 20))
    batches = [batch, batch[::-1], *([ids] for ids in batch)]
    together, reversed_, *alone = driver.forward(bert_weights(bert), *batches, bfloat16=bfloat16)
    np.testing.assert_array_equal(together, reversed_[::-1])
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_the_real_model_has_the_vectors_of_sentence_transformers(driver, sentence_transformer, queries):
    shortest = sorted(queries, key=len)[:2]
    ids = sentence_transformer.tokenizer(shortest)["input_ids"]
    (vectors,) = driver.forward(bert_weights(sentence_transformer), ids)
    assert np.abs(unit(vectors) - sentence_transformer.encode(shortest)).max() <= 2e-6
