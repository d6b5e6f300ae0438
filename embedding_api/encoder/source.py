"""What the service needs of a model: text, numbers and tensors, whatever library they were read with."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Source:
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

    qkv: tuple[Tensor, Tensor]
    output: tuple[Tensor, Tensor]
    output_norm: tuple[Tensor, Tensor]
    up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]
    norm: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class BertWeights:
    """A BERT whose rows are pooled.

    Attributes:
        words: of shape (vocabulary, width).
        positions: of shape (most tokens, width), with the embedding of the only segment's type added.
        norm: weight and bias of the embeddings' norm.
        layers: a `LayerWeights` for each layer.
        heads: of the attention, in each layer.
        eps: what each norm adds to the variance.
        mean: whether a vector is the mean of a text's rows, or else the [CLS] row.
    """

    words: Tensor
    positions: Tensor
    norm: tuple[Tensor, Tensor]
    layers: list[LayerWeights]
    heads: int
    eps: float
    mean: bool
