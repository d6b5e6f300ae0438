"""What the service needs of a model, as text, numbers and float32 arrays, whatever library has read them."""

from dataclasses import dataclass
from enum import IntEnum

from numpy import ndarray


class Activation(IntEnum):
    """What follows a product; the numbers are those of `enum activation` in kernel/product.h."""

    NONE, GELU, GELU_TANH, RELU, TANH = range(5)


class PoolingMode(IntEnum):
    """What makes one row of a text's rows; the numbers are those of `enum pooling` in kernel/bert.h."""

    FIRST, MEAN, MEAN_SQRT, MAX = range(4)


@dataclass(frozen=True)
class ModelInfo:
    """What every engine's model has.

    Attributes:
        tokenizer: the `tokenizers.Tokenizer` as JSON.
        max_length: the most tokens that the model reads of a text, special tokens included.
        prompts: the model's own prompts, by name.
    """

    tokenizer: str
    max_length: int
    prompts: dict[str, str]


@dataclass(frozen=True)
class LayerWeights:
    """A layer: of each product the weight, of shape (out, in), and the bias; of each norm both, as (width,).

    Query, key and value are one product, in this order.
    """

    qkv: tuple[ndarray, ndarray]
    output: tuple[ndarray, ndarray]
    output_norm: tuple[ndarray, ndarray]
    up: tuple[ndarray, ndarray]
    down: tuple[ndarray, ndarray]
    norm: tuple[ndarray, ndarray]

    @property
    def products(self):
        """The products in the order in which they are computed."""
        return self.qkv, self.output, self.up, self.down


@dataclass(frozen=True)
class BertWeights:
    """A BERT, or a model of another architecture that computes the same, and its pooling; as float32 arrays.

    Attributes:
        words: of shape (vocabulary, width).
        positions: of shape (positions, width), with the embedding of the only token type added, if there is one.
        padding: the id of the padding token, and its position, where the positions of a text begin behind it; -1 where
            they begin at 0.
        norm: weight and bias of the embeddings' norm.
        layers: a `LayerWeights` for each layer.
        heads: the number of attention heads in each layer.
        eps: what each norm adds to the variance.
        activation: what follows each layer's product `up`.
        pooling: how the rows of a text become one.
        dense: weight, of shape (dimension, width), and bias of the product from that row to the vector; None where the
            row is the vector.
        dense_activation: what follows this product.
        attention_bias: of shape (heads, 2 * max_length - 1), what is added to the scores of attention in each layer, by
            how far the key is behind the query, from 1 - max_length on; None for nothing.
    """

    words: ndarray
    positions: ndarray
    padding: int
    norm: tuple[ndarray, ndarray]
    layers: list[LayerWeights]
    heads: int
    eps: float
    activation: Activation
    pooling: PoolingMode
    dense: tuple[ndarray, ndarray] | None = None
    dense_activation: Activation = Activation.NONE
    attention_bias: ndarray | None = None

    @property
    def max_length(self):
        """The most tokens of a text that there are positions for."""
        return len(self.positions) - self.padding - 1

    @property
    def dimension(self):
        """The numbers of a vector."""
        return len(self.dense[0]) if self.dense else self.words.shape[1]


@dataclass(frozen=True)
class Examples:
    """Texts to test an engine with before it serves.

    Attributes:
        ids: texts as lists of token ids.
        vectors: sentence-transformers' vectors of them, float32 of shape (texts, dimension), not normalised.
    """

    ids: list[list[int]]
    vectors: ndarray
