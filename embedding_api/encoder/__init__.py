"""Texts to vectors; nothing in here knows HTTP. This module has the types that callers use."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self

import numpy as np

# A text's token ids, special tokens included.
TokenIds = Sequence[int] | np.ndarray


class Engine(Protocol):
    """What computes forward passes.

    Attributes:
        name: "kernel" or "reference".
        instruction_set: what the kernel is compiled for, or None.
        micro_batch_tokens: the most tokens of a forward pass, unless one text has more.
        pads: whether each text costs as much as the longest of its micro-batch.
    """

    name: str
    instruction_set: str | None
    micro_batch_tokens: int
    pads: bool

    def forward(self, batch: Sequence[TokenIds], with_helper: bool = False) -> np.ndarray:
        """The vectors of some texts before normalisation, as a float32 array of shape (texts, dimension).

        Any thread may call it at any time.

        Args:
            with_helper: whether the engine's helper thread takes part, if it has one that is free.
        """

    def free_scratch(self) -> None:
        """Free the memory that is kept between forward passes."""


class TooManyTokens(Exception):
    """The texts have more tokens together than the caller allows.

    Attributes:
        fit: how many of the texts, from the first one on, have no more than that.
        estimate: about how many tokens all of them have, as far as they were tokenized.
    """

    def __init__(self, fit: int, estimate: int) -> None:
        super().__init__(f"some {estimate} tokens; the first {fit} texts fit")
        self.fit, self.estimate = fit, estimate


@dataclass(frozen=True)
class TokenizedTexts:
    """Texts as token ids.

    Attributes:
        ids: for each text, in their order, an int32 array of its token ids, special tokens included, cut to the model's
            length.
        lengths: for each text the number of its tokens before the cut. Unless the caller asked to count all of them,
            that of a text that was cut is only known to be greater than the length of its `ids`.
        unknown: for each text how many of its ids are the unknown token.
        blank: the indexes of the texts that leave no token but the special ones and those of a query prompt.
    """

    ids: list[np.ndarray]
    lengths: list[int]
    unknown: list[int]
    blank: list[int]

    @cached_property
    def truncated(self) -> list[int]:
        """The indexes of the texts that were cut."""
        lengths = enumerate(zip(self.ids, self.lengths, strict=True))
        return [index for index, (ids, length) in lengths if length > len(ids)]

    def __add__(self, other: Self) -> "TokenizedTexts":
        blank = self.blank + [len(self.ids) + index for index in other.blank]
        return TokenizedTexts(self.ids + other.ids, self.lengths + other.lengths, self.unknown + other.unknown, blank)

    @cached_property
    def count(self) -> int:
        """The number of tokens of all texts."""
        return sum(map(len, self.ids))
