"""Small BERTs of random weights, in the layout of a sentence-transformers model."""

import torch
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import BertConfig, BertModel


class Modules(list):
    """Enough of a SentenceTransformer for an engine: a list of modules."""


def small_bert(pooling="cls", **changes):
    """One of three layers and 64 dimensions, with changes to its configuration."""
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
