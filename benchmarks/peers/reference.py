"""The model as ONNX, and the reference vectors.

To be called in a process of its own, as torch's threads and memory would stay.
"""

import os
import shutil

from benchmarks import engines
from embedding_api.encoder.compute_threads import usable_cores

# The files that the servers need beside the ONNX file, and its names, each in a directory of its own: Infinity would
# take a second ONNX file for its own optimized one.
TOKENIZER_FILES = "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"
ONNX_FILES = "fastembed/model_optimized.onnx", "infinity/model.onnx"


def export(model, directory):
    """The model as ONNX, as onnxruntime's servers want it, in a directory for each."""
    first, second = (directory / name for name in ONNX_FILES)
    for file in first, second:
        file.parent.mkdir(parents=True)
        for name in TOKENIZER_FILES:
            if (model / name).exists():
                shutil.copy(model / name, file.parent)
    engines.export_onnx(str(first))
    os.link(first, second)


def vectors(texts):
    """The vectors that sentence-transformers gives."""
    return engines.sentence_transformers(engines.model(), usable_cores())(texts)
