"""Read a model with sentence-transformers. Importing this takes seconds and some 190 MB."""

import logging

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import BertModel
from transformers.utils.logging import disable_progress_bar

from embedding_api.encoder.reference import ReferenceEngine
from embedding_api.encoder.weights import BertWeights, Examples, LayerWeights, ModelInfo
from embedding_api.errors import ConfigError

# Tokens of the example texts: a word, a query, a paragraph. A text as long as the model reads is added.
_EXAMPLE_LENGTHS = 3, 12, 150


def read(directory, dtype):
    """The SentenceTransformer of a directory.

    Raises:
        ConfigError: this service's vectors would differ from sentence-transformers', without an error.
    """
    # A forward pass uses one core, and several run at a time. Also, a thread pool would not survive the fork.
    torch.set_num_threads(1)
    disable_progress_bar()
    for library in ("huggingface_hub", "transformers"):
        # Their own handlers would write lines a second time, or in another format than this service's log.
        logger = logging.getLogger(library)
        logger.handlers.clear()
        logger.propagate = True
    weights = {"dtype": dtype, "use_safetensors": True}
    model = SentenceTransformer(str(directory), device="cpu", local_files_only=True, model_kwargs=weights)
    _check(model, directory)
    return model


def _check(model, directory):
    unsupported = {
        "truncates texts at their start": model.tokenizer.truncation_side != "right",
        "puts a prompt before every text": bool(model.prompts.get(model.default_prompt_name)),
        "leaves the prompt out of the pooling": not all(getattr(module, "include_prompt", True) for module in model),
    }
    for reason, applies in unsupported.items():
        if applies:
            raise ConfigError(f"{directory} {reason}, which is not supported: set EMBEDDING_MODEL to another model.")


def model_info(model):
    """The `ModelInfo` of a SentenceTransformer."""
    # max_seq_length may be more than the model has positions.
    lengths = model.max_seq_length, getattr(model[0].model.config, "max_position_embeddings", None)
    tokenizer = model.tokenizer.backend_tokenizer.to_str()
    return ModelInfo(tokenizer, min(length for length in lengths if length), model.prompts)


def why_not_kernel(model):
    """Why the kernel cannot compute a SentenceTransformer, in a few words, or None if it can."""
    modules = [module for module in model if not isinstance(module, Normalize)]
    if [type(module) for module in modules] != [Transformer, Pooling]:
        return "its modules are not Transformer, Pooling and Normalize"
    bert, pooling = modules[0].model, modules[1]
    if modules[0].modality_config["text"] != {"method": "forward", "method_output_name": "last_hidden_state"}:
        return "it does not pool the last layer"
    if type(bert) is not BertModel:
        return f"it is a {type(bert).__name__}, not a BertModel"
    if bert.config.is_decoder or getattr(bert.config, "position_embedding_type", "absolute") != "absolute":
        return "it is a decoder or has other than absolute positions"
    if bert.config.hidden_act != "gelu":
        return f"its activation is {bert.config.hidden_act}, not gelu"
    if (head_size := bert.config.hidden_size // bert.config.num_attention_heads) not in (32, 64):
        return f"its attention heads have {head_size} dimensions, not 32 or 64"
    if bert.config.intermediate_size % 4 or not bert.config.num_hidden_layers:
        return "its intermediate size is no multiple of 4, or it has no layers"
    if pooling.pooling_mode not in ("cls", "mean"):
        return f"its pooling is {pooling.pooling_mode}, not cls or mean"
    return None


@torch.inference_mode()
def bert_weights(model):
    """The `BertWeights` of a SentenceTransformer, as float32. `why_not_kernel` must have returned None for it."""
    bert, pooling = model[0].model, model[1]
    embeddings = bert.embeddings
    return BertWeights(
        words=_array(embeddings.word_embeddings.weight),
        # A text is one segment, so the embedding of its token type is a constant.
        positions=_array(embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]),
        norm=_joined(embeddings.LayerNorm),
        layers=[_layer_weights(layer) for layer in bert.encoder.layer],
        heads=bert.config.num_attention_heads,
        eps=bert.config.layer_norm_eps,
        mean=pooling.pooling_mode == "mean",
    )


def examples(model):
    """`Examples`: texts of random token ids, and the vectors that sentence-transformers computes for them."""
    longest = min(model_info(model).max_length, 512)
    vocabulary = model[0].model.config.vocab_size
    chance = np.random.default_rng(1)
    lengths = {min(length, longest) for length in (*_EXAMPLE_LENGTHS, longest)}
    ids = [chance.integers(vocabulary, size=length).tolist() for length in sorted(lengths)]
    engine = ReferenceEngine(model)
    return Examples(ids, np.concatenate([engine.forward([text]) for text in ids]))


def _layer_weights(layer):
    attention = layer.attention.self
    return LayerWeights(
        qkv=_joined(attention.query, attention.key, attention.value),
        output=_joined(layer.attention.output.dense),
        output_norm=_joined(layer.attention.output.LayerNorm),
        up=_joined(layer.intermediate.dense),
        down=_joined(layer.output.dense),
        norm=_joined(layer.output.LayerNorm),
    )


def _joined(*modules):
    parts = ([getattr(module, name) for module in modules] for name in ("weight", "bias"))
    return tuple(_array(torch.cat(part)) for part in parts)


def _array(tensor):
    return tensor.detach().float().contiguous().numpy()
