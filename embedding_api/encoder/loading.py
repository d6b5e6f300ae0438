"""Load the model and make an encoder of it."""

import logging
import os
from contextlib import contextmanager

from embedding_api.config import ConfigError
from embedding_api.encoder.model_files import find_model, missing_file, model_name, query_prompt, revision

_log = logging.getLogger(__name__)

# Before tokenizers is used: its own threads would not survive the fork.
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def load_encoder(settings):
    """Load the model that the settings name. Leaves the process with one thread, so that it can fork.

    Raises:
        ConfigError: the model is not there or is not one this service can serve.
    """
    directory = find_model(settings)
    missing = missing_file(directory)
    if missing:
        # sentence-transformers would make up some missing parts, and the vectors would be silently wrong.
        raise ConfigError(f"{directory} has no {missing}: set EMBEDDING_MODEL to a sentence-transformers model.")
    with _told_in_one_sentence(directory):
        return _load(settings, directory)


@contextmanager
def _told_in_one_sentence(directory):
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
    # Only now: these take seconds to import, and a model that is not there is told at once.
    import torch
    from tokenizers import Tokenizer as Backend

    from embedding_api.encoder import linear
    from embedding_api.encoder.encoder import Encoder
    from embedding_api.encoder.tokenizing import Tokenizer

    # A forward pass is one thread's; several of them run in threads of our own.
    torch.set_num_threads(1)
    source, engine = _source_and_engine(settings, directory)
    if hasattr(engine, "warm"):
        engine.warm(engine.micro_batch_tokens)
    tokenizer = Tokenizer(Backend.from_str(source.tokenizer), source.max_length)
    prompt = query_prompt(settings, directory, source.prompts)
    if settings.dtype == "bfloat16" and linear.bfloat16_is_slower():
        _log.warning("EMBEDDING_DTYPE=bfloat16 is slower than float32 on this CPU, and less exact")
    return Encoder(model_name(settings), tokenizer, engine, prompt, settings.dtype, revision(directory))


def _source_and_engine(settings, directory):
    from embedding_api.encoder.packed import PackedEngine

    obstacle = "EMBEDDING_ENGINE=reference"
    if settings.engine != "reference":
        source, obstacle, weights = _read_in_child(settings, directory)
        if obstacle is None:
            return source, PackedEngine(weights)
    _log.warning("The model runs in sentence-transformers' own forward pass: %s", obstacle)

    from embedding_api.encoder import reading
    from embedding_api.encoder.reference import ReferenceEngine

    model = reading.read(directory, settings.dtype)
    return reading.source(model), ReferenceEngine(model)


def _read_in_child(settings, directory):
    """Read what the packed engine needs, in a child: sentence-transformers would stay in memory.

    Returns the model's `Source`, and either the obstacle to running it packed and None, or None and `BertWeights`.
    """
    from embedding_api.encoder.child import in_child

    try:
        return in_child(_read, settings, directory)
    except ChildProcessError as error:
        raise ConfigError(
            f"{directory} cannot be loaded: the process that reads it has died ({error}); see that there is enough"
            " memory, some 1 GB."
        ) from error


def _read(settings, directory):
    with _told_in_one_sentence(directory):
        from embedding_api.encoder import reading

        model = reading.read(directory, settings.dtype)
        obstacle = reading.obstacle(model)
        return reading.source(model), obstacle, None if obstacle else reading.bert_weights(model)
