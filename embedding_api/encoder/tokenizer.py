"""Texts to token ids. With BERT's tokenizers, a text of any length takes bounded memory, and is read only as needed."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer

from embedding_api.encoder import TokenizedTexts, TooManyTokens

# Characters that are tokenized at once, between two heartbeats. Each takes some 300 bytes of memory and up to 5 µs.
# Larger chunks are no faster.
CHUNK_CHARACTERS = 4096
# A longer text is tokenized window by window, and only as far as the model reads. Smaller windows are slower for texts
# of some pages.
WINDOW_CHARACTERS = 8192
# Characters at the end of a window that are tokenized with the next one: they may be the first half of a special token,
# such as "[MASK]". Every special token is shorter.
MARGIN_CHARACTERS = 64


class Tokenizer:
    """The model's own tokenizer, with its truncation.

    Args:
        backend: a `tokenizers.Tokenizer`.
        max_length: the most tokens a text may have, special tokens included.
    """

    def __init__(self, backend: Backend, max_length: int) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.max_length = max_length
        bare = backend.encode("a", add_special_tokens=False).ids
        full = backend.encode("a").ids
        start = full.index(bare[0])
        self._prefix, self._suffix = full[:start], full[start + len(bare) :]
        self._room = max_length - len(self._prefix) - len(self._suffix)
        # WordPiece and WordLevel name it; byte-level BPE has none.
        self._unknown = backend.token_to_id(getattr(backend.model, "unk_token", None) or "<unk>")
        # BERT's tokenizers treat each word on its own, so that a text can be cut between words.
        self._word_by_word = isinstance(backend.pre_tokenizer, BertPreTokenizer) and isinstance(
            backend.model, WordPiece
        )

    def __call__(
        self,
        texts: Sequence[str],
        max_tokens: int | None = None,
        heartbeat: Callable[[], None] = lambda: None,
        whole: bool = False,
    ) -> TokenizedTexts:
        """Tokenize texts; returns a `TokenizedTexts`.

        Args:
            max_tokens: the most tokens of all texts together; None for no limit.
            heartbeat: called between chunks and windows of texts, about every 20 ms.
            whole: whether to count the tokens that are cut as well, in `lengths` and towards `max_tokens`.

        Raises:
            TooManyTokens: the texts have more than `max_tokens` together; raised as early as possible.
        """
        tokens, count, fit = TokenizedTexts([], [], [], []), 0, 0
        special = len(self._prefix) + len(self._suffix)
        for chunk in self._chunks(texts):
            if tokens.ids:
                heartbeat()
            most = self._room if not whole else math.inf if max_tokens is None else max_tokens - count
            for bare in self._encode(chunk, most, heartbeat):
                if not bare:
                    tokens.blank.append(len(tokens.ids))
                kept = bare[: self._room]
                tokens.unknown.append(kept.count(self._unknown))
                tokens.ids.append(np.array([*self._prefix, *kept, *self._suffix], np.int32))
                tokens.lengths.append(len(bare) + special)
                count += tokens.lengths[-1] if whole else len(tokens.ids[-1])
                fit += max_tokens is None or count <= max_tokens
            if max_tokens is not None and count > max_tokens:
                raise TooManyTokens(fit, count * len(texts) // len(tokens.ids))
        return tokens

    def _chunks(self, texts):
        chunk, size = [], 0
        for text in texts:
            alone = self._is_long(text)
            if chunk and (alone or size + len(text) > CHUNK_CHARACTERS):
                yield chunk
                chunk, size = [], 0
            if alone:
                yield [text]
            else:
                chunk.append(text)
                size += len(text)
        if chunk:
            yield chunk

    def _is_long(self, text):
        return self._word_by_word and len(text) > WINDOW_CHARACTERS

    def _encode(self, chunk, most, heartbeat):
        if len(chunk) == 1 and self._is_long(chunk[0]):
            return [self._encode_long(chunk[0], most, heartbeat)]
        return [encoding.ids for encoding in self._backend.encode_batch_fast(chunk, add_special_tokens=False)]

    def _encode_long(self, text, most, heartbeat):
        """The token ids of a long text; if it has more than `most`, only its first ones, more than `most`.

        They are those of the whole text, with one exception: where combining marks at the start of a word are not in
        Unicode's canonical order, and a window ends there, the first mark may be lost.
        """
        ids, carry = [], ""
        for start in range(0, len(text), WINDOW_CHARACTERS):
            window = carry + text[start : start + WINDOW_CHARACTERS]
            if start + WINDOW_CHARACTERS >= len(text):
                ids += self._backend.encode(window, add_special_tokens=False).ids
            else:
                # The added letter joins a word that the window has cut, or else is a word of its own. So the last word
                # is always one to leave to the next window.
                encoding = self._backend.encode(window + "a", add_special_tokens=False)
                whole = _whole_words(encoding, len(window) - MARGIN_CHARACTERS)
                ids += encoding.ids[:whole]
                carry = self._carry(window[encoding.offsets[whole][0] :])
            if len(ids) > most:
                break
            heartbeat()
        return ids

    def _carry(self, rest):
        """The rest of a window as the next one begins with it, in bounded size.

        What is before the margin is a part of one word. WordPiece makes one unknown token of a word of more than
        `max_input_chars_per_word` characters, counted after the normalizer: one more than these is enough.
        """
        if len(rest) <= 2 * MARGIN_CHARACTERS:
            return rest
        word, margin = rest[:-MARGIN_CHARACTERS], rest[-MARGIN_CHARACTERS:]
        if self._backend.normalizer:
            word = self._backend.normalizer.normalize_str(word)
        return word[: self._backend.model.max_input_chars_per_word + 1] + margin


def _whole_words(encoding, end):
    """The number of tokens in words that end at or before character `end`, the last word excluded."""
    words, offsets = encoding.word_ids, encoding.offsets
    count = 0
    while words[count] != words[-1] and offsets[count][1] <= end:
        count += 1
    while count and words[count - 1] == words[count]:
        count -= 1
    return count
