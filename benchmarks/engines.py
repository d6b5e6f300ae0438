"""What the benchmarks compare: each engine a function from a list of texts to their normalised vectors."""

import ctypes
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np

from embedding_api.config import Settings
from embedding_api.encoder.compute_threads import ComputeThreads
from embedding_api.encoder.kernel import build, library
from embedding_api.encoder.model_files import find_model

REFERENCE = "sentence-transformers"
NAMES = (
    REFERENCE,
    "onnxruntime, batches of 32",
    "onnxruntime, best batch",
    "OpenVINO, float32",
    "OpenVINO, bfloat16",
    "ours, float32",
    "ours, bfloat16",
)
BATCH_SIZES = (1, 2, 4, 8, 16, 32)


def make(name, threads, onnx):
    """An engine with so many threads. To be called in a process of its own, as it sets what holds for the process."""
    if name.startswith("ours"):
        return ours(name.split()[-1], threads)
    # The service's modules turn this off. For the other engines it is on by default, on as many threads.
    os.environ |= {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": str(threads)}
    if name == REFERENCE:
        return sentence_transformers(model(), threads)
    if name.startswith("onnxruntime"):
        return Padded(onnxruntime(onnx, threads), BATCH_SIZES if name.endswith("best batch") else (32,))
    return Padded(openvino(onnx, threads, "bf16" if name.endswith("bfloat16") else "f32"), BATCH_SIZES)


def sentence_transformers(directory, threads):
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    model = SentenceTransformer(str(directory), device="cpu", local_files_only=True)
    return lambda texts: model.encode(texts, normalize_embeddings=True)


def ours(dtype, threads):
    from embedding_api.encoder.loading import load_encoder

    encoder = load_encoder(Settings(model=model(), dtype=dtype))

    def compute(ids):
        # As a worker does: small batches with the helper, if there is a core for it, and others on compute threads.
        if threads > 1 and sum(map(len, ids)) <= encoder.micro_batch_tokens:
            return encoder.compute_in_this_thread(ids, with_helper=True)
        return encoder.compute(ids)

    encoder.run_in_worker(threads=ComputeThreads(threads), compute=compute)
    return lambda texts: encoder.encode(encoder.tokenize(texts).ids)


def onnxruntime(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[0]


def openvino(path, threads, precision):
    import openvino

    hints = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.Core().compile_model(path, "CPU", hints)
    return lambda inputs: model(inputs)[0]


class Padded:
    """The exported model in padded batches of texts of similar length, of the batch size that is fastest for the texts.

    Args:
        run: from input_ids, attention_mask and token_type_ids, of shape (texts, tokens), to the last hidden state.
        batch_sizes: those to choose from.
    """

    def __init__(self, run, batch_sizes):
        self._run = run
        self._tokenizer = tokenizer()
        self._batch_sizes = batch_sizes
        self._best = {}

    def __call__(self, texts):
        if len(self._batch_sizes) == 1:
            return self._encode(texts, *self._batch_sizes)
        case = tuple(texts)
        if case not in self._best:
            self._best[case] = min(self._batch_sizes, key=lambda size: self._seconds(texts[:64], size))
        return self._encode(texts, self._best[case])

    def _seconds(self, texts, batch_size):
        taken = []
        for _ in range(2):
            start = time.perf_counter()
            self._encode(texts, batch_size)
            taken.append(time.perf_counter() - start)
        return min(taken)

    def _encode(self, texts, batch_size):
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]), reverse=True)
        vectors = np.empty((len(ids), 384), dtype=np.float32)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            input_ids = np.zeros((len(batch), len(ids[batch[0]])), dtype=np.int64)
            for row, index in enumerate(batch):
                input_ids[row, : len(ids[index])] = ids[index]
            inputs = {"input_ids": input_ids, "attention_mask": (input_ids > 0).astype(np.int64)}
            vectors[batch] = self._run(inputs | {"token_type_ids": np.zeros_like(input_ids)})[:, 0]
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def export_onnx(path):
    """Write BGE (or another BERT with [CLS] pooling) as ONNX."""
    import torch
    from transformers import AutoModel

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = AutoModel.from_pretrained(model(), attn_implementation="eager").eval()

        def forward(self, *inputs):
            return self.bert(*inputs).last_hidden_state

    ids = torch.ones(2, 7, dtype=torch.long)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    axes = {name: {0: "batch", 1: "length"} for name in [*names, "hidden"]}
    torch.onnx.export(
        Hidden(), (ids, ids, ids), path, input_names=names, output_names=["hidden"], dynamic_axes=axes, dynamo=False
    )


def flop(lengths):
    """Floating-point operations in a forward pass through BGE small for texts of so many tokens, without padding."""
    square, layers, width = 384 * 384, 12, 384
    tokens, pairs, texts = sum(lengths), sum(length**2 for length in lengths), len(lengths)
    # A layer's products are 12 squares for each token, and its attention two products of each token with each other. In
    # the last one only keys and values, and the queries beside them, are needed for all tokens.
    all_tokens = (layers - 1) * (2 * 12 * square * tokens + 4 * width * pairs) + 2 * 3 * square * tokens
    return all_tokens + 2 * 9 * square * texts + 4 * width * tokens


class Limits:
    """What one core can do at most: the kernel's micro-kernels on operands in its cache, and reading the weights."""

    # The number of weights in BGE small's products: 12 layers of 12 squares.
    weights = 12 * 12 * 384 * 384

    def __init__(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "limits.so"
            sources = [Path(__file__).with_name("limits.c"), build.FOLDER / "tile.c"]
            build.compile_object(platform.machine(), library.usable_instruction_sets()[0], sources, path)
            self._library = ctypes.CDLL(str(path))
        self._weights = np.ones(self.weights, np.float32)

    def seconds(self, lengths, dtype):
        """The least that a pass can take: computing, or reading the weights, whichever is longer."""
        size = {"float32": 4, "bfloat16": 2}[dtype]
        return max(flop(lengths) / self.flop_per_second(dtype), size * self.weights / self.bytes_per_second())

    def flop_per_second(self, dtype):
        """Floating-point operations a second of the micro-kernel for float32 or bfloat16."""
        multiply = {"float32": self._library.multiply_tiles, "bfloat16": self._library.multiply_tiles_bfloat16}[dtype]
        return 10_000 * self._library.tile_flop() / _seconds(lambda: multiply(10_000))

    def bytes_per_second(self):
        """Bytes of weights read a second."""
        pointer, count = ctypes.c_void_p(self._weights.ctypes.data), ctypes.c_size_t(len(self._weights))
        return self._weights.nbytes / _seconds(lambda: self._library.read(pointer, count))


def _seconds(run):
    """The shortest of three times."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)


def model():
    """The directory of the model that the settings name."""
    return str(find_model(Settings.from_env()))


def tokenizer():
    """The model's own, which cuts texts at BERT's 512 tokens."""
    from tokenizers import Tokenizer

    own = Tokenizer.from_file(os.path.join(model(), "tokenizer.json"))
    own.no_padding()
    own.enable_truncation(512)
    return own
