"""Small models of random weights, in the layout of a sentence-transformers model."""

import numpy as np
import torch
import transformers
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

# The names of the values in the tests' shapes.
SHAPE = "hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "pooling"

# The architectures of the kernel, as transformers begins their classes' names.
ARCHITECTURES = "Bert", "Roberta", "XLMRoberta", "Camembert", "DistilBert", "MPNet"
# Those whose positions begin behind the padding's, which is 1.
PADDED = "Roberta", "XLMRoberta", "Camembert", "MPNet"
# What DistilBERT calls the parts of its configuration.
_DISTILBERT = {
    "hidden_size": "dim",
    "num_attention_heads": "n_heads",
    "num_hidden_layers": "n_layers",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
    "initializer_range": "initializer_range",
    "max_position_embeddings": "max_position_embeddings",
    "vocab_size": "vocab_size",
}


class Modules(list):
    """Enough of a SentenceTransformer for an engine: a list of modules."""


def small_bert(pooling="cls", architecture="Bert", dense=None, **changes):
    """One of three layers, 64 dimensions and 64 tokens, with changes to its configuration.

    Args:
        dense: the dimensions of a Dense module behind the pooling.
    """
    model = backbone(architecture, **changes)
    modules = assemble(model, pooling, model.config.hidden_size)
    if dense:
        modules.insert(2, Dense(model.config.hidden_size, dense))
    return modules


def backbone(architecture, **changes):
    """A model of transformers. Its biases and norms are random as well."""
    torch.manual_seed(1)
    config = {"vocab_size": 99, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    config |= {"intermediate_size": 100, "max_position_embeddings": 64, "initializer_range": 0.3} | changes
    if architecture in PADDED:
        config["max_position_embeddings"] += 2
        config["pad_token_id"] = 1
    if architecture == "DistilBert":
        config = {_DISTILBERT[name]: value for name, value in config.items()}
    config = getattr(transformers, f"{architecture}Config")(**config)
    model = getattr(transformers, f"{architecture}Model")(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def assemble(backbone, pooling, width):
    """Any transformer with the modules that follow it."""
    transformer = Transformer.__new__(Transformer)
    torch.nn.Module.__init__(transformer)
    transformer.model = backbone
    transformer.modality_config = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    return Modules([transformer, Pooling(width, pooling_mode=pooling), Normalize()])


@torch.inference_mode()
def reference(model, batch):
    """The vectors that transformers and the modules behind it compute, text by text, before normalisation."""
    vectors = []
    for ids in batch:
        ids = torch.tensor([ids])
        features = {"token_embeddings": model[0].model(ids).last_hidden_state, "attention_mask": torch.ones_like(ids)}
        for module in model[1:]:
            if not isinstance(module, Normalize):
                features = module(features)
        vectors.append(features["sentence_embedding"][0].numpy())
    return np.array(vectors)


def texts(*lengths, seed=1):
    """Random token ids of a small model's vocabulary."""
    chance = np.random.default_rng(seed)
    return [chance.integers(99, size=length).tolist() for length in lengths]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
