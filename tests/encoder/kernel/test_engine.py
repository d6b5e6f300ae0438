import ctypes
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from torch import nn

from embedding_api.__main__ import DEMO_PACKAGE
from embedding_api.config import Settings
from embedding_api.encoder.kernel import engine as kernel_engine
from embedding_api.encoder.kernel.engine import KernelEngine
from embedding_api.encoder.kernel.library import Helper, load_library, usable_instruction_sets
from embedding_api.encoder.loading import load_encoder
from embedding_api.encoder.read_model import bert_weights, why_not_kernel
from tests.support.small_bert import ARCHITECTURES, SHAPE, reference, small_bert, texts, unit

# Hidden size, heads, layers, intermediate size, pooling: head sizes of 32 and 64, intermediate sizes that fill their
# panels and that do not.
SHAPES = [
    (32, 1, 1, 48, "mean"),
    (64, 2, 3, 48, "cls"),
    (64, 1, 2, 100, "mean"),
    (96, 3, 3, 52, "cls"),
    (128, 2, 2, 512, "cls"),
    (160, 5, 4, 4, "mean"),
    (256, 4, 2, 1024, "mean"),
    (384, 12, 2, 1536, "cls"),
]
LENGTHS = [40, 40, 40, 17, 17, 33, 32, 31, 16, 9, 3, 2, 2, 1]


@pytest.fixture(scope="module", params=usable_instruction_sets())
def library(request):
    return load_library(request.param)


@pytest.fixture(scope="module", params=[False, True], ids=["float32", "bfloat16"])
def bfloat16(request):
    return request.param


@pytest.fixture(scope="module")
def engine(bfloat16, library):
    """A small model in every instruction set that this CPU has."""
    return KernelEngine(library, bert_weights(small_bert()), bfloat16)


# The second has all of which a vector is made: a bias by distance, a pooling of all rows, and a product of them.
@pytest.fixture(scope="module", params=[{}, {"architecture": "MPNet", "pooling": "mean", "dense": 50}], ids=str)
def any_engine(request, bfloat16, library):
    return KernelEngine(library, bert_weights(small_bert(**request.param)), bfloat16)


@pytest.fixture(params=SHAPES, ids=str)
def shape(request):
    return dict(zip(SHAPE, request.param, strict=True))


def test_random_models_have_the_vectors_of_transformers(library, shape):
    model = small_bert(**shape)
    assert why_not_kernel(model) is None
    batch = texts(*LENGTHS)
    vectors = KernelEngine(library, bert_weights(model)).forward(batch)
    assert vectors.dtype == np.float32
    assert np.abs(unit(vectors) - unit(reference(model, batch))).max() <= 1e-5


@pytest.mark.parametrize(
    "change",
    [
        *({"hidden_act": name} for name in ("gelu_new", "gelu_pytorch_tanh", "relu")),
        *({"pooling": name} for name in ("max", "mean_sqrt_len_tokens")),
        {"dense": 96},
        {"dense": 50, "pooling": "mean"},
    ],
    ids=str,
)
def test_so_have_those_with_other_activations_poolings_and_a_dense_module(library, change):
    model = small_bert(**change)
    batch = texts(*LENGTHS)
    vectors = KernelEngine(library, bert_weights(model)).forward(batch)
    assert np.abs(unit(vectors) - unit(reference(model, batch))).max() <= 1e-5
    vectors = KernelEngine(library, bert_weights(model), bfloat16=True).forward(batch)
    assert (unit(vectors) * unit(reference(model, batch))).sum(1).min() >= 0.999


@pytest.mark.parametrize("activation", [nn.Identity, nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("scale", [1e-4, 1, 100])
def test_a_dense_module_is_exact_for_small_and_large_numbers(library, activation, scale):
    model = small_bert(dense=64)
    model[2].activation_function, model[2].linear.bias = activation(), None
    model[2].linear.weight.data *= scale
    batch = texts(*LENGTHS)
    vectors = KernelEngine(library, bert_weights(model)).forward(batch)
    # A large scale enlarges the rounding errors of what is before the module.
    assert np.abs(unit(vectors) - unit(reference(model, batch))).max() <= (1e-4 if scale > 1 else 1e-5)


def test_random_models_in_bfloat16_have_nearly_the_same(library, shape):
    model = small_bert(**shape, initializer_range=0.1)
    batch = texts(*LENGTHS)
    vectors, expected = (
        KernelEngine(library, bert_weights(model), bfloat16=True).forward(batch),
        reference(model, batch),
    )
    assert (unit(vectors) * unit(expected)).sum(1).min() >= 0.999
    assert np.abs(unit(vectors) - unit(expected)).max() > 1e-5


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_has_the_vectors_of_transformers(library, architecture):
    model = small_bert(architecture=architecture)
    batch = texts(*range(1, 65), *[2] * 99)
    vectors = KernelEngine(library, bert_weights(model)).forward(batch)
    assert np.abs(unit(vectors) - unit(reference(model, batch))).max() <= 1e-5
    for text in [[5] * 65], [[5, 99]]:
        with pytest.raises(ValueError, match=r"the model reads 1 to 64|not from 0 to 98"):
            KernelEngine(library, bert_weights(model)).forward(text)


def test_every_length_of_a_long_model(library):
    model = small_bert(max_position_embeddings=512)
    for ids in texts(*range(1, 512, 7), 510, 511, 512):
        vector = KernelEngine(library, bert_weights(model)).forward([ids])
        assert np.abs(unit(vector) - unit(reference(model, [ids]))).max() <= 1e-5


@pytest.mark.parametrize("architecture", ["XLMRoberta", "MPNet"])
def test_texts_of_several_blocks_of_keys(library, architecture):
    model = small_bert("mean", architecture, max_position_embeddings=1100)
    batch = texts(513, 1, 543, 1024, 1025, 1100)
    engine = KernelEngine(library, bert_weights(model))
    vectors = engine.forward(batch)
    assert np.abs(unit(vectors) - unit(reference(model, batch))).max() <= 1e-5
    np.testing.assert_array_equal(vectors, np.concatenate([engine.forward([text]) for text in batch]))


def test_a_text_of_8192_tokens(library):
    model = small_bert("mean", "XLMRoberta", num_hidden_layers=2, max_position_embeddings=8192)
    batch = texts(8192)
    assert (
        np.abs(unit(KernelEngine(library, bert_weights(model)).forward(batch)) - unit(reference(model, batch))).max()
        <= 1e-5
    )


def test_memory_for_attention_is_bounded(library):
    engine = KernelEngine(library, bert_weights(small_bert(max_position_embeddings=8192)))
    short, long = (library.bert_scratch(engine._bert, 8192, longest) for longest in (512, 8192))
    assert long - short == 2 * (8192 - 512)


def test_the_real_model_has_the_vectors_of_sentence_transformers(
    library, encoder, sentence_transformer, documents, document_vectors
):
    ids = encoder.tokenize(documents[::5]).ids
    ours = KernelEngine(library, bert_weights(sentence_transformer)).forward(ids)
    assert np.abs(unit(ours) - document_vectors[::5]).max() <= 2e-6


@pytest.mark.slow
def test_mean_pooling_in_a_real_model(queries):
    directory = Path(find_spec(DEMO_PACKAGE).origin).parent / "model"
    theirs = SentenceTransformer(str(directory), device="cpu", local_files_only=True).encode(queries)
    encoder = load_encoder(Settings(model=str(directory)))
    assert encoder.engine == "kernel"
    assert np.abs(encoder.encode(encoder.tokenize(queries).ids) - theirs).max() <= 2e-6


@settings(max_examples=50)
@given(st.data())
def test_a_vector_does_not_depend_on_its_batch(any_engine, data):
    """Not in a single bit: alone, in any batch, in any position."""
    lengths = data.draw(st.lists(st.integers(1, 64), min_size=1, max_size=70))
    batch = texts(*lengths, seed=data.draw(st.integers(0, 5)))
    order = data.draw(st.permutations(range(len(batch))))
    cut = data.draw(st.integers(0, len(batch)))
    together = any_engine.forward(batch)
    np.testing.assert_array_equal(together, np.concatenate([any_engine.forward([text]) for text in batch]))
    parts = order[:cut], order[cut:]
    shuffled = np.concatenate([any_engine.forward([batch[index] for index in part]) for part in parts])
    np.testing.assert_array_equal(together[order], shuffled)


def test_vectors_do_not_depend_on_threads(engine):
    batches = [texts(*[length] * 5, seed=length) for length in range(1, 65)]
    alone = list(map(engine.forward, batches))
    with ThreadPoolExecutor(4) as threads:
        for _ in range(3):
            for vectors, expected in zip(threads.map(engine.forward, batches), alone, strict=True):
                np.testing.assert_array_equal(vectors, expected)


def test_vectors_of_the_real_model_do_not_depend_on_their_batch(
    library, encoder, sentence_transformer, documents, queries
):
    engine = KernelEngine(library, bert_weights(sentence_transformer))
    ids = encoder.tokenize([*documents[:6], *queries[:10]]).ids
    np.testing.assert_array_equal(engine.forward(ids), np.concatenate([engine.forward([text]) for text in ids]))


def test_no_texts_have_no_vectors(engine):
    assert engine.forward([]).shape == (0, 64)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([[5], []], "Texts have 0 to 1 tokens"),
        ([[5] * 65], "Texts have 65 to 65 tokens; the model reads 1 to 64"),
        ([[5, 99]], "not from 0 to 98"),
        ([[-1]], "not from 0 to 98"),
    ],
)
def test_texts_that_do_not_fit_the_model_are_refused(engine, batch, message):
    with pytest.raises(ValueError, match=message):
        engine.forward(batch)


def test_a_batch_that_is_too_large_is_refused(engine, monkeypatch):
    monkeypatch.setattr(kernel_engine, "MOST_TOKENS", 100)
    with pytest.raises(ValueError, match="A batch has 128 tokens; it may have 100"):
        engine.forward([[5] * 64, [5] * 64])


def test_a_token_id_beyond_32_bits_is_refused(engine):
    with pytest.raises(ValueError, match="not from 0 to 98"):
        engine.forward([[1 << 40]])


def test_a_text_may_be_an_array(engine):
    batch = texts(5, 1, 64)
    arrays = [np.array(ids, np.int32) for ids in batch]
    np.testing.assert_array_equal(engine.forward(arrays), engine.forward(batch))


@pytest.mark.parametrize("engine_name", ["auto", "reference"])
def test_bfloat16_is_near(engine_name, model, queries, sentence_transformer):
    encoder = load_encoder(Settings(model=str(model.directory), engine=engine_name, dtype="bfloat16"))
    assert encoder.dtype == "bfloat16"
    vectors, exact = encoder.encode(encoder.tokenize(queries[:8]).ids), sentence_transformer.encode(queries[:8])
    assert vectors.dtype == np.float32
    assert (vectors * exact).sum(1).min() >= (0.9999 if encoder.engine == "kernel" else 0.9995)
    assert np.abs(vectors - exact).max() > 1e-4


def test_a_helper_changes_no_bit_of_a_vector(any_engine):
    for length in (1, 6, 7, 40, 64):
        batch, until = texts(*[length] * 30), time.monotonic() + 30
        alone = any_engine.forward(batch)
        np.testing.assert_array_equal(any_engine.forward(batch, with_helper=True), alone)
        shared = any_engine._helper.shared
        before = shared.finished
        while shared.finished == before:
            np.testing.assert_array_equal(any_engine.forward(batch, with_helper=True), alone)
            assert time.monotonic() < until
        assert shared.active == 0


def test_of_several_passes_at_once_one_has_the_helper(engine):
    batch = texts(*[64] * 30)
    alone = engine.forward(batch)
    with ThreadPoolExecutor(4) as threads:
        for vectors in threads.map(lambda _: engine.forward(batch, with_helper=True), range(40)):
            np.testing.assert_array_equal(vectors, alone)


def test_without_a_thread_for_it_there_is_no_helper(library, bfloat16, monkeypatch):
    def fail(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(kernel_engine.Thread, "start", fail)
    engine = KernelEngine(library, bert_weights(small_bert()), bfloat16)
    np.testing.assert_array_equal(engine.forward(texts(5), with_helper=True), engine.forward(texts(5)))


# The number of the last product: the next ones are small, or begin again at 0.
@pytest.mark.parametrize("number", [0, 2**32 - 2])
def test_a_helper_that_does_not_come_is_not_waited_for(library, bfloat16, number):
    engine = KernelEngine(library, bert_weights(small_bert()), bfloat16)
    shared = Helper(offered=number, taken=number, finished=number)
    engine._helper = SimpleNamespace(shared=shared, wake=lambda: True, release=lambda: None)
    np.testing.assert_array_equal(engine.forward(texts(5), with_helper=True), engine.forward(texts(5)))
    assert shared.taken == shared.offered != number
    assert shared.finished == number


def test_the_numbers_of_products_begin_again_with_a_helper(engine):
    alone = engine.forward(texts(*[64] * 30))
    engine.forward(texts(5), with_helper=True)
    shared = engine._helper.shared
    shared.offered = shared.taken = shared.finished = 2**32 - 3
    for _ in range(5):
        np.testing.assert_array_equal(engine.forward(texts(*[64] * 30), with_helper=True), alone)
    assert shared.offered < 1000


def test_a_helper_that_comes_between_two_products_does_nothing(library):
    shared = Helper(offered=7, taken=7, active=1, yield_=ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p))
    with ThreadPoolExecutor(1) as threads:
        helping = threads.submit(library.help_with_products, shared)
        time.sleep(0.1)
        shared.active = 0
        helping.result(timeout=30)
    assert (shared.offered, shared.taken, shared.finished) == (7, 7, 0)
