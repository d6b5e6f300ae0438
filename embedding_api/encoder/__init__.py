"""From texts to vectors, without a word of HTTP. Here: what its callers need to know of it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


class TooManyTokens(Exception):
    """The texts have more tokens together than the caller allows."""


@dataclass(frozen=True)
class TokenizedTexts:
    """Texts as token ids.

    Attributes:
        ids: for each text its token ids, special tokens included, as an int32 array; in the order of the texts.
        lengths: for each text the tokens it has in whole; if that was not asked for, at least one more than `ids` has
            where it was cut.
    """

    ids: list[np.ndarray]
    lengths: list[int]

    @cached_property
    def truncated(self):
        """The indexes of the texts that were cut to the model's length."""
        lengths = enumerate(zip(self.ids, self.lengths, strict=True))
        return [index for index, (ids, length) in lengths if length > len(ids)]

    def __add__(self, other):
        return TokenizedTexts(self.ids + other.ids, self.lengths + other.lengths)

    @cached_property
    def count(self):
        """The number of tokens of all texts."""
        return sum(map(len, self.ids))
