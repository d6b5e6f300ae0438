"""Texts to vectors; nothing in here knows HTTP. This module has the types that callers use."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


class TooManyTokens(Exception):
    """The texts have more tokens together than the caller allows."""


@dataclass(frozen=True)
class TokenizedTexts:
    """Texts as token ids.

    Attributes:
        ids: for each text, in their order, an int32 array of its token ids, special tokens included, cut to the model's
            length.
        lengths: for each text the number of its tokens before the cut. Unless the caller asked to count all of them,
            that of a text that was cut is only known to be greater than the length of its `ids`.
    """

    ids: list[np.ndarray]
    lengths: list[int]

    @cached_property
    def truncated(self):
        """The indexes of the texts that were cut."""
        lengths = enumerate(zip(self.ids, self.lengths, strict=True))
        return [index for index, (ids, length) in lengths if length > len(ids)]

    def __add__(self, other):
        return TokenizedTexts(self.ids + other.ids, self.lengths + other.lengths)

    @cached_property
    def count(self):
        """The number of tokens of all texts."""
        return sum(map(len, self.ids))
