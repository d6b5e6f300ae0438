"""Read a model with sentence-transformers. Importing this takes seconds and some 190 MB."""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import BertModel, CamembertModel, DistilBertModel, MPNetModel, RobertaModel, XLMRobertaModel
from transformers.utils.logging import disable_progress_bar

from embedding_api.encoder.reference import ReferenceEngine
from embedding_api.encoder.weights import Activation, BertWeights, Examples, LayerWeights, ModelInfo, PoolingMode
from embedding_api.errors import ConfigError

# Tokens of the example texts: a word, a query, a paragraph. A text as long as the model reads is added.
_EXAMPLE_LENGTHS = 3, 12, 150


@dataclass(frozen=True)
class _Names:
    """What an architecture that the kernel computes calls its parts.

    Attributes:
        layers: the model's list of layers.
        query, key, value, output, output_norm, up, down, norm: the parts of a layer, as in `LayerWeights`.
        activation: the activation's name in the configuration.
    """

    layers: str
    query: str
    key: str
    value: str
    output: str
    output_norm: str
    up: str
    down: str
    norm: str
    activation: str


_BERT = _Names(
    layers="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    output_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    norm="output.LayerNorm",
    activation="hidden_act",
)
_DISTILBERT = _Names(
    layers="transformer.layer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    output="attention.out_lin",
    output_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    norm="output_layer_norm",
    activation="activation",
)
_MPNET = _Names(
    layers="encoder.layer",
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    output="attention.attn.o",
    output_norm="attention.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    norm="output.LayerNorm",
    activation="hidden_act",
)
# Not their subclasses, which may compute something else.
_ARCHITECTURES = {
    BertModel: _BERT,
    RobertaModel: _BERT,
    XLMRobertaModel: _BERT,
    CamembertModel: _BERT,
    DistilBertModel: _DISTILBERT,
    MPNetModel: _MPNET,
}
# By their names in transformers; several are the same but for rounding.
_ACTIVATIONS = {
    "gelu": Activation.GELU,
    "gelu_python": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_accurate": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "relu": Activation.RELU,
}
_DENSE_ACTIVATIONS = {
    torch.nn.Identity: Activation.NONE,
    torch.nn.ReLU: Activation.RELU,
    torch.nn.Tanh: Activation.TANH,
}
_POOLINGS = {
    "cls": PoolingMode.FIRST,
    "mean": PoolingMode.MEAN,
    "mean_sqrt_len_tokens": PoolingMode.MEAN_SQRT,
    "max": PoolingMode.MAX,
}


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
    lengths = [length for length in (model.max_seq_length, _most_positions(model[0].model)) if length]
    return ModelInfo(model.tokenizer.backend_tokenizer.to_str(), min(lengths), model.prompts)


def _most_positions(transformer):
    """The most tokens of a text that a model of transformers has positions for, or None if it does not say."""
    positions = getattr(transformer.config, "max_position_embeddings", None)
    embeddings = getattr(getattr(transformer, "embeddings", None), "position_embeddings", None)
    padding = getattr(embeddings, "padding_idx", None)
    return positions if positions is None or padding is None else positions - padding - 1


def why_not_kernel(model):
    """Why the kernel cannot compute a SentenceTransformer, in a few words, or None if it can."""
    kinds = [type(module) for module in model]
    if kinds[:2] != [Transformer, Pooling] or kinds[2:] not in ([], [Normalize], [Dense], [Dense, Normalize]):
        return "its modules are not Transformer, Pooling, perhaps Dense, and Normalize"
    bert, pooling = model[0].model, model[1]
    if model[0].modality_config["text"] != {"method": "forward", "method_output_name": "last_hidden_state"}:
        return "it does not pool the last layer"
    if type(bert) not in _ARCHITECTURES:
        known = _one_of(architecture.__name__ for architecture in _ARCHITECTURES)
        return f"it is a {type(bert).__name__}, not a {known}"
    names, config = _ARCHITECTURES[type(bert)], bert.config
    if getattr(config, "is_decoder", False) or getattr(config, "position_embedding_type", "absolute") != "absolute":
        return "it is a decoder or has other than absolute positions"
    if (activation := getattr(config, names.activation)) not in _ACTIVATIONS:
        return f"its activation is {activation}, not {_one_of(_ACTIVATIONS)}"
    if (head_size := config.hidden_size // config.num_attention_heads) not in (32, 64):
        return f"its attention heads have {head_size} dimensions, not 32 or 64"
    layers = bert.get_submodule(names.layers)
    if not len(layers) or layers[0].get_submodule(names.up).out_features % 4:
        return "its intermediate size is no multiple of 4, or it has no layers"
    if pooling.pooling_mode not in _POOLINGS:
        return f"its pooling is {pooling.pooling_mode}, not {_one_of(_POOLINGS)}"
    if Dense in kinds:
        return _why_not_dense(model[2], config.hidden_size)
    return None


def _why_not_dense(dense, width):
    if {dense.module_input_name, dense.module_output_name} != {"sentence_embedding"} or dense.use_residual:
        return "its Dense module has a residual, or does not make the vector of the pooled one"
    if dense.in_features != width:
        return f"its Dense module reads {dense.in_features} numbers, not {width}"
    if type(dense.activation_function) not in _DENSE_ACTIVATIONS:
        known = _one_of(activation.__name__ for activation in _DENSE_ACTIVATIONS)
        return f"the activation of its Dense module is {type(dense.activation_function).__name__}, not {known}"
    return None


def _one_of(names):
    *others, last = names
    return f"{', '.join(others)} or {last}"


@torch.inference_mode()
def bert_weights(model):
    """The `BertWeights` of a SentenceTransformer, as float32. `why_not_kernel` must have returned None for it."""
    bert, dense = model[0].model, next((module for module in model if isinstance(module, Dense)), None)
    names, embeddings = _ARCHITECTURES[type(bert)], bert.embeddings
    positions, padding = embeddings.position_embeddings.weight, embeddings.position_embeddings.padding_idx
    if hasattr(embeddings, "token_type_embeddings"):
        # A text is one segment, so the embedding of its token type is a constant.
        positions = positions + embeddings.token_type_embeddings.weight[0]
    return BertWeights(
        words=_array(embeddings.word_embeddings.weight),
        positions=_array(positions),
        padding=-1 if padding is None else padding,
        norm=_joined(embeddings.LayerNorm),
        layers=[_layer_weights(layer, names) for layer in bert.get_submodule(names.layers)],
        heads=bert.config.num_attention_heads,
        eps=embeddings.LayerNorm.eps,
        activation=_ACTIVATIONS[getattr(bert.config, names.activation)],
        pooling=_POOLINGS[model[1].pooling_mode],
        dense=dense and _joined(dense.linear),
        dense_activation=_DENSE_ACTIVATIONS[type(dense.activation_function)] if dense else Activation.NONE,
        attention_bias=_attention_bias(bert),
    )


def _attention_bias(bert):
    """MPNet's, as `BertWeights` has it; None for another architecture."""
    encoder = getattr(bert, "encoder", None)
    if not hasattr(encoder, "relative_attention_bias"):
        return None
    longest = _most_positions(bert)
    buckets = encoder.relative_position_bucket(torch.arange(1 - longest, longest))
    return _array(encoder.relative_attention_bias(buckets).T)


def examples(model):
    """`Examples`: texts of random token ids, and the vectors that sentence-transformers computes for them."""
    longest = min(model_info(model).max_length, 512)
    vocabulary = model[0].model.config.vocab_size
    chance = np.random.default_rng(1)
    lengths = {min(length, longest) for length in (*_EXAMPLE_LENGTHS, longest)}
    ids = [chance.integers(vocabulary, size=length).tolist() for length in sorted(lengths)]
    engine = ReferenceEngine(model)
    return Examples(ids, np.concatenate([engine.forward([text]) for text in ids]))


def _layer_weights(layer, names):
    def joined(*parts):
        return _joined(*map(layer.get_submodule, parts))

    return LayerWeights(
        qkv=joined(names.query, names.key, names.value),
        output=joined(names.output),
        output_norm=joined(names.output_norm),
        up=joined(names.up),
        down=joined(names.down),
        norm=joined(names.norm),
    )


def _joined(*modules):
    weights = [module.weight for module in modules]
    # A module may have been made without a bias.
    biases = [torch.zeros(len(module.weight)) if module.bias is None else module.bias for module in modules]
    return _array(torch.cat(weights)), _array(torch.cat(biases))


def _array(tensor):
    return tensor.detach().float().contiguous().numpy()
