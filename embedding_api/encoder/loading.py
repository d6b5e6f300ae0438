"""Load the model and make an encoder of it."""

import logging
import os

from embedding_api.config import ConfigError
from embedding_api.encoder.cores import MACHINE
from embedding_api.encoder.model_files import find_model, missing_file, model_name, query_prompt, revision

_log = logging.getLogger(__name__)

# Before tokenizers is used: its own threads would not survive the fork.
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def load_encoder(settings):
    """Load and warm the model that the settings name.

    Leaves the process with one thread, so that it can fork: OpenMP's threads do not survive that.

    Raises:
        ConfigError: the model is not there or is not one this service can serve.
    """
    directory = find_model(settings)
    missing = missing_file(directory)
    if missing:
        # sentence-transformers would make up some missing parts, and the vectors would be silently wrong.
        raise ConfigError(f"{directory} has no {missing}: set EMBEDDING_MODEL to a sentence-transformers model.")
    try:
        return _load(settings, directory)
    except ConfigError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"{directory} cannot be loaded: set EMBEDDING_MODEL to a sentence-transformers model for text with"
            f" safetensors weights ({type(error).__name__}: {reason})."
        ) from error


def _load(settings, directory):
    # Only now: these take seconds to import, and a model that is not there is told at once.
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    from embedding_api.encoder import linear
    from embedding_api.encoder.encoder import Encoder
    from embedding_api.encoder.tokenizing import Tokenizer

    torch.set_num_threads(1)
    disable_progress_bar()
    for library in ("huggingface_hub", "transformers"):
        # They have handlers of their own: their lines would come twice, or in another form than ours.
        logger = logging.getLogger(library)
        logger.handlers.clear()
        logger.propagate = True
    weights = {"dtype": settings.dtype, "use_safetensors": True}
    model = SentenceTransformer(str(directory), device="cpu", local_files_only=True, model_kwargs=weights)
    _check(model, directory)
    # A configuration may promise more tokens than the model has positions.
    lengths = model.max_seq_length, getattr(model[0].model.config, "max_position_embeddings", None)
    tokenizer = Tokenizer(model.tokenizer.backend_tokenizer, min(length for length in lengths if length))
    prompt = query_prompt(settings, directory, model.prompts)
    if settings.dtype == "bfloat16" and linear.bfloat16_is_slower():
        _log.warning("EMBEDDING_DTYPE=bfloat16 is slower than float32 on this CPU, and less exact")
    encoder = Encoder(
        model_name(settings), tokenizer, _engine(settings, model), prompt, settings.dtype, revision(directory)
    )
    for threads in {MACHINE.share, MACHINE.most}:
        encoder.warm(threads)
    return encoder


def _check(model, directory):
    """Refuse what would silently give other vectors than sentence-transformers."""
    unsupported = {
        "truncates texts at their start": model.tokenizer.truncation_side != "right",
        "puts a prompt before every text": bool(model.prompts.get(model.default_prompt_name)),
        "leaves the prompt out of the pooling": not all(getattr(module, "include_prompt", True) for module in model),
    }
    for reason, applies in unsupported.items():
        if applies:
            raise ConfigError(f"{directory} {reason}, which is not supported: set EMBEDDING_MODEL to another model.")


def _engine(settings, model):
    from embedding_api.encoder.packed import PackedEngine, obstacle
    from embedding_api.encoder.reference import ReferenceEngine

    reason = "EMBEDDING_ENGINE=reference" if settings.engine == "reference" else obstacle(model)
    if reason is None:
        return PackedEngine(model)
    _log.warning("The model runs in sentence-transformers' own forward pass: %s", reason)
    return ReferenceEngine(model)
