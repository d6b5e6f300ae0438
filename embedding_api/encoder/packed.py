"""BERT's forward pass on packed sequences: no padding, all texts of a batch one after the other in one matrix.

It computes what transformers' BertModel (https://arxiv.org/abs/1810.04805) and sentence-transformers' Pooling compute,
to rounding. It is faster for three reasons: nothing is spent on padding; query, key and value come from one product;
and where only the [CLS] row is pooled, only those rows go on after the keys and values of the last layer.
"""

from dataclasses import dataclass
from itertools import accumulate, chain, groupby

import torch
import torch.nn.functional as F
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import BertModel


def obstacle(model):
    """Why a sentence-transformers model cannot be run packed, in a few words, or None if it can."""
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
    if pooling.pooling_mode not in ("cls", "mean"):
        return f"its pooling is {pooling.pooling_mode}, not cls or mean"
    return None


class PackedEngine:
    """A sentence-transformers BERT without its final L2 normalisation.

    Args:
        model: one to which `obstacle` has no objection. It is not needed afterwards: query, key and value weights are
            copied into one matrix, the others are kept as they are.
    """

    name = "packed"

    def __init__(self, model):
        bert, pooling = model[0].model, model[1]
        embeddings = bert.embeddings
        self._words = embeddings.word_embeddings.weight.detach()
        # One text has one segment: its type's embedding is a constant.
        self._positions = (embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]).detach()
        self._norm = _Norm(embeddings.LayerNorm)
        self._layers = [_Layer(layer, bert.config.num_attention_heads) for layer in bert.encoder.layer]
        self._mean = pooling.pooling_mode == "mean"

    @torch.inference_mode()
    def forward(self, batch):
        """The vectors of a batch of token id lists, as a float32 array of shape (len(batch), dimension).

        Texts of equal length should stand together: their attention is one operation.
        """
        pack = _Pack([len(ids) for ids in batch])
        ids = torch.tensor(list(chain.from_iterable(batch)))
        positions = torch.cat([self._positions[:length] for length in pack.lengths])
        rows = self._norm(self._words[ids] + positions)
        for layer in self._layers[:-1]:
            rows = layer(rows, pack)
        rows = self._layers[-1](rows, pack, first_rows=not self._mean)
        if self._mean:
            rows = torch.cat([rows[run.tokens].view(run.count, run.length, -1).mean(1) for run in pack.runs])
        return rows.numpy()


@dataclass(frozen=True)
class _Run:
    """Texts of equal length that stand together: where their tokens are, and where they are among the texts."""

    tokens: slice
    texts: slice
    count: int
    length: int


class _Pack:
    """Where each text is in the matrix of all tokens."""

    def __init__(self, lengths):
        self.lengths = lengths
        self.starts = [0, *accumulate(lengths[:-1])]
        self.runs = []
        text = 0
        for length, run in groupby(lengths):
            count, start = len(list(run)), self.starts[text]
            self.runs.append(_Run(slice(start, start + count * length), slice(text, text + count), count, length))
            text += count


class _Norm:
    def __init__(self, norm):
        self._weights = norm.normalized_shape, norm.weight.detach(), norm.bias.detach(), norm.eps

    def __call__(self, rows):
        return F.layer_norm(rows, *self._weights)


class _Layer:
    def __init__(self, layer, heads):
        attention = layer.attention.self
        projections = attention.query, attention.key, attention.value
        self._heads = heads
        self._qkv = [torch.cat([getattr(p, name).detach() for p in projections]) for name in ("weight", "bias")]
        self._output = _weights(layer.attention.output.dense)
        self._output_norm = _Norm(layer.attention.output.LayerNorm)
        self._up = _weights(layer.intermediate.dense)
        self._down = _weights(layer.output.dense)
        self._norm = _Norm(layer.output.LayerNorm)

    def __call__(self, rows, pack, first_rows=False):
        """From the rows of all tokens to those of all tokens, or of each text's first token only."""
        width = rows.shape[1]
        weight, bias = self._qkv
        if first_rows:
            key_value = F.linear(rows, weight[width:], bias[width:])
            rows = rows[pack.starts]
            query = F.linear(rows, weight[:width], bias[:width])
        else:
            qkv = F.linear(rows, weight, bias)
            query, key_value = qkv[:, :width], qkv[:, width:]
        context = torch.empty_like(rows)
        for run in pack.runs:
            mine = run.texts if first_rows else run.tokens
            shape = run.count, -1, self._heads, width // self._heads
            key, value = key_value[run.tokens].view(run.count, run.length, 2, *shape[2:]).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(query[mine].view(shape).transpose(1, 2), key, value)
            context[mine].view(shape).copy_(mixed.transpose(1, 2))
        rows = self._output_norm(rows + F.linear(context, *self._output))
        return self._norm(rows + F.linear(F.gelu(F.linear(rows, *self._up)), *self._down))


def _weights(linear):
    return linear.weight.detach(), linear.bias.detach()
