"""What the benchmarks compare: each engine a function from a list of texts to their normalised vectors."""

import os
import time

import numpy as np

from embedding_api.config import Settings
from embedding_api.encoder.compute_threads import ComputeThreads
from embedding_api.encoder.model_files import find_model

REFERENCE = "sentence-transformers"
NAMES = (REFERENCE, "onnxruntime, batches of 32", "onnxruntime, best batch", "ours, float32", "ours, bfloat16")
BATCH_SIZES = (1, 2, 4, 8, 16, 32)


def make(name, threads, onnx):
    """An engine, with its threads set, in a process that is its own."""
    import torch

    torch.set_num_threads(threads)
    if not name.startswith("ours"):
        # Which the service's own modules forbid; their users have it, on as many threads.
        os.environ |= {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": str(threads)}
    if name == REFERENCE:
        return sentence_transformers(model())
    if name.startswith("onnxruntime"):
        return Onnxruntime(onnx, threads, BATCH_SIZES if name.endswith("best batch") else (32,))
    return ours(name.split()[-1], threads)


def sentence_transformers(directory):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(directory), device="cpu", local_files_only=True)
    return lambda texts: model.encode(texts, normalize_embeddings=True)


def ours(dtype, threads):
    from embedding_api.encoder.loading import load_encoder

    encoder = load_encoder(Settings(model=model(), dtype=dtype))
    encoder.run_in_worker(threads=ComputeThreads(threads))
    return lambda texts: encoder.encode(encoder.tokenize(texts).ids)


class Onnxruntime:
    """The exported model in padded batches of texts of like length, of the batch size that is fastest for them."""

    def __init__(self, path, threads, batch_sizes):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
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
            (hidden,) = self._session.run(None, inputs | {"token_type_ids": np.zeros_like(input_ids)})
            vectors[batch] = hidden[:, 0]
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


def products(threads, dtype):
    """A function that multiplies as the forward pass of 1,024 tokens through BGE small must, and does nothing else.

    Of the last layer's products only query, key and value are needed for every token.
    """
    import torch

    from embedding_api.encoder.linear import Linear

    torch.set_num_threads(threads)
    shapes = (384, 1152), (384, 384), (384, 1536), (1536, 384)
    kind = getattr(torch, dtype)
    pairs = [
        (Linear(torch.randn(n, k).to(kind), torch.randn(n).to(kind)), torch.randn(1024, k).to(kind)) for k, n in shapes
    ]

    def run():
        with torch.inference_mode():
            for layer in range(12):
                for linear, rows in pairs if layer < 11 else pairs[:1]:
                    linear(rows)

    return run


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
