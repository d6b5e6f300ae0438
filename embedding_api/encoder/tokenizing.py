"""Texts to token ids, in bounded time and memory however long a text is."""

import re
import unicodedata
from itertools import islice

from tokenizers.pre_tokenizers import BertPreTokenizer

from embedding_api.encoder import TokenizedTexts, TooManyTokens

# Characters the tokenizer gets at once. It needs some 300 bytes of memory and 3 µs for each of them.
CHUNK_CHARACTERS = 65536
# A text beyond this is tokenized piece by piece, and no further than the model reads.
PIECE_CHARACTERS = 8192
_SPACE = re.compile(r"[ \t\n\r]")
# Where BERT's pre-tokenizer always ends a word: white space, punctuation, Chinese characters.
_BOUNDARY = re.compile(r"[ \t\n\r!-/:-@\[-`{-~\u2010-\u2027\u3000-\u3003\u3008-\u3011\u3400-\u4dbf\u4e00-\u9fff\uff0c]")


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
        # Only there is it known that the pieces of a text give the tokens of the whole.
        self._splits = isinstance(backend.pre_tokenizer, BertPreTokenizer)

    def __call__(self, texts, max_tokens=None):
        """Tokenize texts.

        Raises:
            TooManyTokens: they have more than `max_tokens` together; found out as early as possible.
        """
        ids, truncated, count = [], [], 0
        for chunk in self._chunks(texts):
            for bare in self._encode(chunk):
                if len(bare) > self._room:
                    truncated.append(len(ids))
                ids.append([*self._prefix, *bare[: self._room], *self._suffix])
                count += len(ids[-1])
            if max_tokens is not None and count > max_tokens:
                raise TooManyTokens
        return TokenizedTexts(ids, truncated)

    def _chunks(self, texts):
        chunk, size = [], 0
        for text in texts:
            if chunk and size + len(text) > CHUNK_CHARACTERS:
                yield chunk
                chunk, size = [], 0
            chunk.append(text)
            size += len(text)
        yield chunk

    def _encode(self, chunk):
        if len(chunk) == 1 and len(chunk[0]) > PIECE_CHARACTERS and self._splits:
            return [self._encode_long(chunk[0])]
        return [encoding.ids for encoding in self._backend.encode_batch_fast(chunk, add_special_tokens=False)]

    def _encode_long(self, text):
        ids = []
        for piece in _pieces(text):
            ids += self._backend.encode_batch_fast([piece], add_special_tokens=False)[0].ids
            # One token more than there is room for tells that the text was truncated.
            if len(ids) > self._room:
                break
        return ids


def _pieces(text):
    """Cut a text where BERT's pre-tokenizer cuts it anyway, into pieces of 8,192 to 16,384 characters."""
    start = 0
    while len(text) - start > 2 * PIECE_CHARACTERS:
        window = start + PIECE_CHARACTERS, start + 2 * PIECE_CHARACTERS
        cut = _SPACE.search(text, *window) or _BOUNDARY.search(text, *window)
        if cut:
            yield text[start : cut.end()]
            start = cut.end()
        else:
            # In the middle of a word of over 8,000 characters. From 101 on a word is one unknown token to WordPiece,
            # whatever its rest, not counting the characters that BERT's normalizer drops.
            end = _BOUNDARY.search(text, window[1])
            end = end.start() if end else len(text)
            kept = (character for character in text[window[0] : end] if not _is_dropped(character))
            yield text[start : window[0]] + "".join(islice(kept, PIECE_CHARACTERS))
            start = end
    if start < len(text):
        yield text[start:]


def _is_dropped(character):
    return character == "\ufffd" or unicodedata.category(character) in ("Cc", "Cf", "Cn", "Co", "Mn")
