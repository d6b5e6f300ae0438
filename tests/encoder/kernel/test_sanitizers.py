"""The kernel under GCC's sanitizers for addresses, undefined behaviour and threads, which end the program at any fault.

The compiler that builds the shared objects has no sanitizer for addresses. If the CPU lacks an instruction set, its
sources run nevertheless: GCC makes its vectors of shorter ones, and emulated/ has the intrinsics.
"""

import copy
import platform
import subprocess
from functools import partial

import numpy as np
import pytest
import torch

from embedding_api.encoder.kernel.library import FOLDER, usable_instruction_sets
from embedding_api.encoder.read_model import bert_weights
from tests.support.driver import FILES, Driver
from tests.support.small_bert import SHAPE, reference, small_bert, texts, unit

pytestmark = pytest.mark.slow

AVX2 = "-mavx2", "-mfma"
NATIVE = {
    "avx2": AVX2,
    "avx512": ["-march=x86-64-v4"],
    "avx512_bf16": ["-march=x86-64-v4", "-mavx512bf16"],
    "neon": [],
}
EMULATED = {
    "avx512": [*AVX2, "-Wno-psabi", "-D__AVX512F__"],
    "avx512_bf16": [*AVX2, "-Wno-psabi", "-D__AVX512F__", "-D__AVX512BF16__", f"-I{FILES / 'emulated'}"],
    "neon": ["-D__ARM_NEON"],
}
# At -O2 compiling takes ten times as long.
GCC = "gcc", "-O1", "-g", "-fno-math-errno", "-fno-sanitize-recover=all"
ADDRESSES = "-fsanitize=address,undefined"

# Hidden size, heads, layers, intermediate size, pooling: head sizes of 32 and 64, intermediate sizes that fill their
# panels, that do not, and that are far below the hidden size.
SHAPES = [(64, 2, 2, 128, "cls"), (64, 1, 1, 100, "mean"), (128, 2, 1, 250, "cls"), (160, 5, 1, 4, "mean")]
# What else the kernel knows.
OTHERS = [
    {"architecture": "MPNet", "pooling": "max", "dense": 50},
    {"architecture": "XLMRoberta", "hidden_act": "gelu_new", "pooling": "mean_sqrt_len_tokens"},
    {"architecture": "DistilBert", "hidden_act": "relu", "dense": 96},
]
# Around whole tiles, panels and chunks, of rows as of keys.
BATCHES = [
    *([length] for length in (1, 2, 6, 7, 12, 13, 16, 17, 32, 33, 95, 96, 97, 193, 512)),
    *([1] * count for count in (2, 13, 70, 100)),
    [512, 1, 3],
    [40, 31, 32, 33, 2, 1, 5],
    list(range(1, 71)),
]


@pytest.fixture(scope="session", params=["avx2", "avx512", "avx512_bf16", "neon"])
def instruction_set(request):
    usable = usable_instruction_sets()
    if request.param not in usable and (platform.machine() != "x86_64" or "avx2" not in usable):
        pytest.skip("GCC here makes no code for it that runs on this CPU")
    return request.param


@pytest.fixture(scope="session")
def driver(instruction_set, tmp_path_factory):
    flags = NATIVE if instruction_set in usable_instruction_sets() else EMULATED
    return compile_driver([*GCC, ADDRESSES, *flags[instruction_set]], tmp_path_factory)


def compile_driver(compiler, tmp_path_factory):
    path = tmp_path_factory.mktemp("sanitizers") / "driver"
    try:
        subprocess.run([*compiler, "-x", "c", "-", "-o", path], input=b"int main() {}", check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs GCC and its sanitizers")
    return Driver.compile(path, compiler, *FOLDER.glob("*.c"))


@pytest.fixture(scope="module", params=[*(dict(zip(SHAPE, shape, strict=True)) for shape in SHAPES), *OTHERS], ids=str)
def bert(request):
    model = {"num_hidden_layers": 1} | request.param
    return small_bert(**model, max_position_embeddings=512, initializer_range=0.1)


@pytest.fixture(scope="module")
def batches():
    return [texts(*lengths, seed=seed) for seed, lengths in enumerate(BATCHES)]


def rounded(model):
    """The model with its products' weights in bfloat16."""
    model = copy.deepcopy(model)
    for part in (model[0].model, *model[2:]):
        for module in part.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.data = module.weight.data.bfloat16().float()
    return model


def test_the_kernel_stays_within_its_memory_and_has_the_vectors_of_transformers(driver, bert, batches):
    for vectors, batch in zip(driver.forward(bert_weights(bert), *batches), batches, strict=True):
        assert np.abs(unit(vectors) - unit(reference(bert, batch))).max() <= 1e-5


def test_the_kernel_stays_within_its_memory_in_bfloat16_as_well(driver, instruction_set, bert, batches):
    # Where activations are rounded as well, each to 8 bits, vectors differ by more.
    tolerance = 0.02 if instruction_set == "avx512_bf16" else 1e-5
    expected = rounded(bert)
    for vectors, batch in zip(driver.forward(bert_weights(bert), *batches, bfloat16=True), batches, strict=True):
        assert np.abs(unit(vectors) - unit(reference(expected, batch))).max() <= tolerance


@pytest.mark.parametrize("architecture", ["Bert", "MPNet"])
def test_so_it_does_with_texts_of_several_blocks_of_keys(driver, architecture):
    model = small_bert("mean", architecture, num_hidden_layers=1, max_position_embeddings=1100, initializer_range=0.1)
    batches = [texts(*lengths) for lengths in ([513], [1100, 1, 1024], [1025, 543, 512])]
    for vectors, batch in zip(driver.forward(bert_weights(model), *batches), batches, strict=True):
        assert np.abs(unit(vectors) - unit(reference(model, batch))).max() <= 1e-5


@pytest.mark.parametrize(
    ("flags", "bfloat16"), [(AVX2, False), (EMULATED["avx512_bf16"], True)], ids=["float32", "bfloat16"]
)
def test_a_helper_and_the_thread_that_it_helps_share_no_memory_without_order(flags, bfloat16, tmp_path_factory):
    if "avx2" not in usable_instruction_sets():
        pytest.skip("needs a CPU with AVX2")
    driver = compile_driver([*GCC, "-fsanitize=thread", *flags], tmp_path_factory)
    # Three panels of 16 columns, and one.
    weights = bert_weights(small_bert(architecture="MPNet", pooling="max", dense=16, intermediate_size=48))
    batches = [texts(*lengths) for lengths in ([1], [7], [40, 31, 5], [64, 64])]
    run = partial(driver.forward, weights, *batches, bfloat16=bfloat16)
    for alone, helped in zip(run(), run(helper=True), strict=True):
        np.testing.assert_array_equal(alone, helped)
