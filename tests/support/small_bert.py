"""Small BERTs of random weights, in the layout of a sentence-transformers model."""

import numpy as np
import torch
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import BertConfig, BertModel

# The names of the values in the tests' shapes.
SHAPE = "hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "pooling"


class Modules(list):
    """Enough of a SentenceTransformer for an engine: a list of modules."""


def small_bert(pooling="cls", **changes):
    """A BERT of three layers and 64 dimensions, with changes to its configuration."""
    torch.manual_seed(1)
    config = {"vocab_size": 99, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    config |= {"intermediate_size": 100, "max_position_embeddings": 64, "initializer_range": 0.3} | changes
    return assemble(BertModel(BertConfig(**config)).eval(), pooling, config["hidden_size"])


def assemble(backbone, pooling, width):
    """Any transformer with the modules that follow it."""
    transformer = Transformer.__new__(Transformer)
    torch.nn.Module.__init__(transformer)
    transformer.model = backbone
    transformer.modality_config = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    return Modules([transformer, Pooling(width, pooling_mode=pooling), Normalize()])


def reference(model, batch):
    """The vectors that transformers computes, text by text."""
    vectors = []
    for ids in batch:
        ids = torch.tensor([ids])
        features = {"token_embeddings": model[0].model(ids).last_hidden_state, "attention_mask": torch.ones_like(ids)}
        vectors.append(model[1](features)["sentence_embedding"][0].detach().numpy())
    return np.array(vectors)


def texts(*lengths, seed=1):
    """Random token ids of a small BERT's vocabulary."""
    chance = np.random.default_rng(seed)
    return [chance.integers(99, size=length).tolist() for length in lengths]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
