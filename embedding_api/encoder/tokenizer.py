"""Texts to token ids; with BERT's tokenizers in bounded memory, and no further than needed, however long a text is."""

import math

import numpy as np
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer

from embedding_api.encoder import TokenizedTexts, TooManyTokens

# Characters the tokenizer gets at once, between two heartbeats. It needs some 300 bytes of memory and up to 5 µs for
# each of them. More would be no faster.
CHUNK_CHARACTERS = 4096
# A text beyond this is tokenized window by window, and no further than the model reads. Smaller windows would be slower
# for texts of some pages.
WINDOW_CHARACTERS = 8192
# Longer than any special token: what stands at the end of a window may be the first half of "[MASK]".
MARGIN_CHARACTERS = 64


class Tokenizer:
    """The model's own tokenizer, with its truncation.

    Args:
        backend: a `tokenizers.Tokenizer`.
        max_length: the most tokens a text may have, special tokens included.
    """

    def __init__(self, backend, max_length):
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
        # There the words of a text are tokenized one by one, each without a look at its neighbours.
        self._word_by_word = isinstance(backend.pre_tokenizer, BertPreTokenizer) and isinstance(
            backend.model, WordPiece
        )

    def __call__(self, texts, max_tokens=None, heartbeat=lambda: None, whole=False):
        """Tokenize texts, with a `heartbeat` between chunks of them, some every 20 ms.

        Args:
            whole: whether to count the tokens that are cut as well.

        Raises:
            TooManyTokens: they have more than `max_tokens` together; found out as early as possible.
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
        """The token ids of a text, or its first ones: more than `most`.

        They are those of the whole text, but for one oddity: of combining marks at the start of a word that stand in
        another order than Unicode's canonical one, the end of a window may lose the first.
        """
        ids, carry = [], ""
        for start in range(0, len(text), WINDOW_CHARACTERS):
            window = carry + text[start : start + WINDOW_CHARACTERS]
            if start + WINDOW_CHARACTERS >= len(text):
                ids += self._backend.encode(window, add_special_tokens=False).ids
            else:
                # The letter joins a word that the end of the window may have cut, and is a word of its own otherwise.
                encoding = self._backend.encode(window + "a", add_special_tokens=False)
                whole = _whole_words(encoding, len(window) - MARGIN_CHARACTERS)
                ids += encoding.ids[:whole]
                carry = self._carry(window[encoding.offsets[whole][0] :])
            if len(ids) > most:
                break
            heartbeat()
        return ids

    def _carry(self, rest):
        """What stands for the rest of a window at the start of the next one.

        In front of the margin a rest longer than that is a part of one word. From `max_input_chars_per_word`
        characters on, as the normalizer leaves them, WordPiece makes one unknown token of a word: no more are kept.
        """
        if len(rest) <= 2 * MARGIN_CHARACTERS:
            return rest
        word, margin = rest[:-MARGIN_CHARACTERS], rest[-MARGIN_CHARACTERS:]
        if self._backend.normalizer:
            word = self._backend.normalizer.normalize_str(word)
        return word[: self._backend.model.max_input_chars_per_word + 1] + margin


def _whole_words(encoding, end):
    """How many of the tokens belong to words before `end`, the last word not among them."""
    words, offsets = encoding.word_ids, encoding.offsets
    count = 0
    while words[count] != words[-1] and offsets[count][1] <= end:
        count += 1
    while count and words[count - 1] == words[count]:
        count -= 1
    return count
