"""What the service needs of a model: text, numbers and arrays of float32, whatever library they were read with."""

from dataclasses import dataclass

from numpy import ndarray


@dataclass(frozen=True)
class ModelInfo:
    """What every engine's model has.

    Attributes:
        tokenizer: the `tokenizers.Tokenizer` as JSON.
        max_length: the most tokens that the model reads of a text.
        prompts: the model's own, by name.
    """

    tokenizer: str
    max_length: int
    prompts: dict[str, str]


@dataclass(frozen=True)
class LayerWeights:
    """A layer of BERT: the weight, of shape (out, in), and bias of each product, and those of each norm, (width,).

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
        """In the order in which they are computed."""
        return self.qkv, self.output, self.up, self.down


@dataclass(frozen=True)
class BertWeights:
    """A BERT whose rows are pooled, its arrays float32.

    Attributes:
        words: of shape (vocabulary, width).
        positions: of shape (most tokens, width), with the embedding of the only segment's type added.
        norm: weight and bias of the embeddings' norm.
        layers: a `LayerWeights` for each layer.
        heads: of the attention, in each layer.
        eps: what each norm adds to the variance.
        mean: whether a vector is the mean of a text's rows, or else the [CLS] row.
    """

    words: ndarray
    positions: ndarray
    norm: tuple[ndarray, ndarray]
    layers: list[LayerWeights]
    heads: int
    eps: float
    mean: bool


@dataclass(frozen=True)
class Examples:
    """What an engine is tried with before it serves.

    Attributes:
        ids: texts as lists of token ids.
        vectors: what sentence-transformers makes of them, float32 of shape (texts, dimension), not normalised.
    """

    ids: list[list[int]]
    vectors: ndarray
