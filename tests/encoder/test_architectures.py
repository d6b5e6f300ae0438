"""Models of each architecture, with a real tokenizer of its kind, as sentence-transformers saves and loads them."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense

from embedding_api.config import Settings
from embedding_api.encoder.loading import load_encoder
from tests.support.saved_models import CORPUS, save
from tests.support.small_bert import ARCHITECTURES


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# Of the weights, so that no text is far off in bfloat16: tokenizers do not learn the same tokens each time.
SMALL = 0.1
# For the Dense modules below.
torch.manual_seed(1)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def directory(request, tmp_path_factory):
    return save(tmp_path_factory.mktemp(request.param), request.param, initializer_range=SMALL)


@pytest.fixture(scope="module")
def texts():
    """From one character to more than the models read, in all the corpus' languages."""
    words = " ".join(CORPUS).split()
    texts = [" ".join(words[start : start + count]) for count in range(1, 40, 3) for start in (0, 30, 50)]
    return ["a", "?", *CORPUS, *texts, " ".join(words * 2), "<pad> in a text <mask>", "[PAD] in a text [MASK]"]


def theirs(directory, texts):
    return SentenceTransformer(str(directory), device="cpu", local_files_only=True).encode(texts)


def test_the_kernel_has_the_vectors_of_sentence_transformers(directory, texts):
    encoder = load_encoder(Settings(model=str(directory)))
    assert encoder.engine == "kernel"
    assert encoder.max_length == 64
    ids = encoder.tokenize(texts).ids
    assert max(map(len, ids)) == 64
    assert np.abs(encoder.encode(ids) - theirs(directory, texts)).max() <= 1e-5


def test_so_has_the_reference(directory, texts):
    encoder = load_encoder(Settings(model=str(directory), engine="reference"))
    assert encoder.max_length == 64
    assert np.abs(encoder.encode(encoder.tokenize(texts).ids) - theirs(directory, texts)).max() <= 1e-5


def test_bfloat16_is_near(directory, texts):
    encoder = load_encoder(Settings(model=str(directory), dtype="bfloat16"))
    assert encoder.engine == "kernel"
    assert (encoder.encode(encoder.tokenize(texts).ids) * theirs(directory, texts)).sum(1).min() >= 0.999


@pytest.mark.parametrize(
    ("pooling", "more", "engine"),
    [
        ("cls", [Dense(64, 64)], "kernel"),
        ("mean", [Dense(64, 50, activation_function=torch.nn.Identity())], "kernel"),
        ("max", [], "kernel"),
        ("mean_sqrt_len_tokens", [], "kernel"),
        ("lasttoken", [], "reference"),
        ("mean", [Dense(64, 64), Dense(64, 32)], "reference"),
    ],
)
def test_poolings_and_dense_modules(tmp_path, texts, pooling, more, engine):
    directory = save(tmp_path, "Bert", pooling, more, initializer_range=SMALL)
    for dtype, tolerance in (("float32", 1e-5), ("bfloat16", 0.05)):
        encoder = load_encoder(Settings(model=str(directory), dtype=dtype))
        assert encoder.engine == engine
        assert np.abs(encoder.encode(encoder.tokenize(texts).ids) - theirs(directory, texts)).max() <= tolerance


def test_another_architecture_runs_in_the_reference_engine_and_the_log_says_why(tmp_path, texts, caplog):
    directory = save(tmp_path, "Electra")
    encoder = load_encoder(Settings(model=str(directory)))
    assert encoder.engine == "reference"
    assert "own forward pass, which is slower: it is a ElectraModel, not a BertModel, " in caplog.text
    assert np.abs(encoder.encode(encoder.tokenize(texts).ids) - theirs(directory, texts)).max() <= 1e-5
