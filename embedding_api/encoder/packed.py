"""BERT's forward pass on packed sequences: no padding, all texts of a batch one after the other in one matrix.

It computes what transformers' BertModel (https://arxiv.org/abs/1810.04805) and sentence-transformers' Pooling compute,
to rounding. It is faster for four reasons: nothing is spent on padding; weights are prepacked; query, key and value
come from one product; and where only the [CLS] row is pooled, only those rows go on after the keys and values of the
last layer.
"""

from dataclasses import dataclass
from itertools import accumulate, chain, groupby

import torch
import torch.nn.functional as F

from embedding_api.encoder.linear import Linear, padded_count

# Rows of a text for which the last layer computes attention, though it keeps one: on AMD, MKL sums products of one or
# two rows in another order on two threads than on one.
_QUERIES = 8


class PackedEngine:
    """BERT and its pooling, without a final L2 normalisation.

    Args:
        weights: a `BertWeights`; what is computed is in its dtype.
    """

    name = "packed"
    pads = False
    # Activations of more no longer fit a core's cache: the fastest size measured for float32 on one core.
    micro_batch_tokens = 1024

    def __init__(self, weights):
        self._words, self._positions = weights.words, weights.positions
        self._norm = _Norm(weights.norm, weights.eps)
        self._mean = weights.mean
        *layers, last = weights.layers
        self._layers = [
            *(_Layer(layer, weights.heads, weights.eps) for layer in layers),
            _Layer(last, weights.heads, weights.eps, first_rows=not self._mean),
        ]

    @torch.inference_mode()
    def forward(self, batch, between_layers=None):
        """The vectors of a batch of token id lists, as a float32 array of shape (len(batch), dimension).

        Texts of equal length should stand together: their attention is one operation.

        Args:
            between_layers: called before each layer; it may compute another batch.
        """
        pack = _Pack([len(ids) for ids in batch])
        filling = [0] * (pack.rows - pack.tokens)
        ids = torch.tensor([*chain.from_iterable(batch), *filling])
        positions = torch.tensor([*chain.from_iterable(map(range, pack.lengths)), *filling])
        rows = self._norm(F.embedding(ids, self._words).add_(F.embedding(positions, self._positions)))
        for layer in self._layers:
            if between_layers:
                between_layers()
            rows = layer(rows, pack)
        if self._mean:
            rows = torch.cat([rows[run.tokens].view(run.count, run.length, -1).mean(1) for run in pack.runs])
        return rows[: len(batch)].float().numpy()

    def warm(self, most_tokens):
        """Have all products of up to so many tokens compiled; those of one shape share what is compiled."""
        products = [value for layer in self._layers for value in vars(layer).values() if isinstance(value, Linear)]
        for product in {(product.shape, product.gelu): product for product in products}.values():
            product.warm(most_tokens)


@dataclass(frozen=True)
class _Run:
    """Texts of equal length that stand together, and where their tokens are."""

    tokens: slice
    count: int
    length: int


class _Pack:
    """Where each text is in the matrix of all tokens, which may have more rows than there are tokens."""

    def __init__(self, lengths):
        self.lengths = lengths
        self.tokens = sum(lengths)
        self.rows = padded_count(self.tokens)
        starts = [0, *accumulate(lengths[:-1])]
        self.first = torch.tensor([*starts, *[0] * (padded_count(len(starts)) - len(starts))])
        self.runs = []
        start = 0
        for length, run in groupby(lengths):
            count = len(list(run))
            self.runs.append(_Run(slice(start, start + count * length), count, length))
            start += count * length


class _Norm:
    def __init__(self, norm, eps):
        self._weight, self._bias = norm
        self._eps = eps

    def __call__(self, rows):
        return F.layer_norm(rows, self._weight.shape, self._weight, self._bias, self._eps)


class _Layer:
    """A transformer layer; the last one may be asked for each text's first row only."""

    def __init__(self, weights, heads, eps, first_rows=False):
        self._heads = heads
        self._first_rows = first_rows
        self._qkv = Linear(*weights.qkv)
        self._output = Linear(*weights.output)
        self._output_norm = _Norm(weights.output_norm, eps)
        self._up = Linear(*weights.up, gelu=True)
        self._down = Linear(*weights.down)
        self._norm = _Norm(weights.norm, eps)

    def __call__(self, rows, pack):
        """From the rows of all tokens to those of all tokens, or of each text's first token only."""
        qkv = self._qkv(rows)
        if self._first_rows:
            rows = rows[pack.first]
        context = self._attention(qkv, pack, len(rows))
        rows = self._output_norm(self._output(context).add_(rows))
        return self._norm(self._down(self._up(rows)).add_(rows))

    def _attention(self, qkv, pack, count):
        # As few operations as can be: for a short query, calling them takes longer than what they compute.
        contexts = []
        for run in pack.runs:
            shape = run.count, run.length, 3, self._heads, -1
            query, key, value = qkv[run.tokens].view(shape).permute(2, 0, 3, 1, 4)
            if self._first_rows:
                query = query[:, :, :_QUERIES]
            mixed = F.scaled_dot_product_attention(query, key, value)
            if self._first_rows:
                mixed = mixed[:, :, :1]
            contexts.append(mixed.transpose(1, 2).reshape(-1, qkv.shape[1] // 3))
        filling = qkv.new_zeros(count - sum(map(len, contexts)), qkv.shape[1] // 3)
        return torch.cat([*contexts, filling])
