"""Load the model and make an encoder of it."""

import logging
import os
import tempfile
from contextlib import contextmanager

import numpy as np

from embedding_api.encoder.model_files import (
    document_prompt,
    find_model,
    missing_file,
    model_name,
    query_prompt,
    revision,
)
from embedding_api.errors import ConfigError

_log = logging.getLogger(__name__)

# Set before tokenizers is used: its threads would not survive the fork.
os.environ["TOKENIZERS_PARALLELISM"] = "false"


# The most that a number of a vector of length 1 may differ from sentence-transformers'. Measured for models of 3 to 12
# layers: 1e-7 to 3e-6 in float32, 6e-4 to 7e-3 in bfloat16.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.03}


def load_encoder(settings):
    """Load the model that the settings name; returns its `Encoder`.

    Leaves the process with one thread, so that it can fork.

    Raises:
        ConfigError: the model is not there or is not one this service can serve.
    """
    directory = find_model(settings)
    try:
        # transformers needs a temporary folder, though it writes nothing there.
        tempfile.gettempdir()
    except FileNotFoundError:
        message = "No temporary folder can be written to: set TMPDIR to a folder that this user can write to."
        raise ConfigError(message) from None
    missing = missing_file(directory)
    if missing:
        # sentence-transformers has defaults for some missing files: the vectors would be wrong, without an error.
        raise ConfigError(f"{directory} has no {missing}: set EMBEDDING_MODEL to a sentence-transformers model.")
    with _as_config_error(directory):
        return _load(settings, directory)


@contextmanager
def _as_config_error(directory):
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"{directory} cannot be loaded: set EMBEDDING_MODEL to a sentence-transformers model for text with"
            f" safetensors weights ({type(error).__name__}: {reason})."
        ) from error


def _load(settings, directory):
    # Imported here, as it takes a moment: a missing model is reported before.
    from tokenizers import Tokenizer as Backend

    from embedding_api.encoder.encoder import Encoder
    from embedding_api.encoder.kernel import library
    from embedding_api.encoder.tokenizer import Tokenizer

    info, engine = _info_and_engine(settings, directory)
    tokenizer = Tokenizer(Backend.from_str(info.tokenizer), info.max_length)
    prompts = [find(settings, directory, info.prompts) for find in (query_prompt, document_prompt)]
    if settings.dtype == "bfloat16" and "avx512_bf16" not in library.usable_instruction_sets():
        _log.warning(
            "EMBEDDING_DTYPE=bfloat16 is slower than float32 on this CPU, but for single short texts, and less exact:"
            " the CPU does not multiply in bfloat16"
        )
    return Encoder(model_name(settings), tokenizer, engine, *prompts, settings.dtype, revision(directory))


def _info_and_engine(settings, directory):
    from embedding_api.encoder.kernel.library import KernelUnavailable

    try:
        if settings.engine == "reference":
            raise KernelUnavailable("EMBEDDING_ENGINE=reference")
        return _load_kernel(settings, directory)
    except KernelUnavailable as error:
        _log.warning("The model runs in sentence-transformers' own forward pass, which is slower: %s", error)

    from embedding_api.encoder import read_model
    from embedding_api.encoder.reference import ReferenceEngine

    model = read_model.read(directory, settings.dtype)
    return read_model.model_info(model), ReferenceEngine(model)


def _load_kernel(settings, directory):
    """The model's `ModelInfo`, and a `KernelEngine` whose vectors were compared with sentence-transformers'."""
    from embedding_api.encoder.kernel import library
    from embedding_api.encoder.kernel.engine import KernelEngine
    from embedding_api.encoder.kernel.library import KernelUnavailable

    shared_object = library.load_library()
    info, reason, weights, examples = _read_in_child(directory)
    if reason:
        raise KernelUnavailable(reason)
    engine = KernelEngine(shared_object, weights, bfloat16=settings.dtype == "bfloat16")
    difference = _difference(engine.forward(examples.ids), examples.vectors)
    # Written so that it is false for a NaN.
    if not difference <= TOLERANCE[settings.dtype]:
        message = (
            f"the kernel's vectors ({engine.instruction_set}) differ from sentence-transformers' by {difference:.1e}"
        )
        raise KernelUnavailable(f"{message}, and rounding explains {TOLERANCE[settings.dtype]}; please report it")
    return info, engine


def _difference(vectors, expected):
    """The greatest difference of two arrays of shape (texts, dimension), relative to the expected vector's length."""
    return float((abs(vectors - expected) / np.linalg.norm(expected, axis=1, keepdims=True)).max())


def _read_in_child(directory):
    """Call `_read` in a forked process, as sentence-transformers would stay in memory."""
    from embedding_api.encoder.forked import run_forked

    try:
        return run_forked(_read, directory)
    except ChildProcessError as error:
        raise ConfigError(
            f"{directory} cannot be loaded: the process that reads it has died ({error}); see that there is enough"
            " memory, some 1 GB."
        ) from error


def _read(directory):
    """The model's `ModelInfo`, and either why the kernel cannot compute it, or its `BertWeights` and `Examples`."""
    with _as_config_error(directory):
        from embedding_api.encoder import read_model

        model = read_model.read(directory, "float32")
        reason = read_model.why_not_kernel(model)
        if reason:
            return read_model.model_info(model), reason, None, None
        return read_model.model_info(model), None, read_model.bert_weights(model), read_model.examples(model)
