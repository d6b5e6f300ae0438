"""A small encoder with a token for each letter, for tests that need no real model."""

import time

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from embedding_api.encoder.encoder import Encoder
from embedding_api.encoder.tokenizer import Tokenizer


def tiny_encoder(engine=None, max_length=16):
    """An encoder of 8 dimensions with one token for each letter, [CLS] and [SEP]."""
    return Encoder("tiny", Tokenizer(tiny_backend(), max_length), engine or TinyEngine(), query_prompt="q: ")


def tiny_backend():
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.:"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *("##" + letter for letter in letters)]
    backend = Backend(WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = BertNormalizer()
    backend.pre_tokenizer = BertPreTokenizer()
    backend.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return backend


class TinyEngine:
    """Vectors that depend on a text's token ids and their order, and on nothing else."""

    name = "tiny"
    pads = True
    micro_batch_tokens = 1024
    instruction_set = None

    def free_scratch(self):
        pass

    def forward(self, batch, with_helper=False):
        return np.array([[np.sin(np.dot(ids, range(1, len(ids) + 1)) * k) for k in range(1, 9)] for ids in batch])


class SlowEngine(TinyEngine):
    """Takes no time for a short text, and seconds for one of `text_taking`, which makes its request a large one."""

    micro_batch_tokens = 8
    step_seconds = 0.25

    def forward(self, batch, with_helper=False):
        most = max(map(len, batch))
        time.sleep(self.step_seconds * max(most - self.micro_batch_tokens, BLOCKING_ID in batch[0]))
        return super().forward(batch)


# A short text whose forward pass blocks its worker for a quarter of a second; and its token.
BLOCKING_TEXT, BLOCKING_ID = "z", 29


def text_taking(*, seconds):
    """A text for which the slow engine takes so many seconds, a multiple of 0.25 up to 14."""
    # [CLS] and [SEP] are two more tokens.
    return "a" * (SlowEngine.micro_batch_tokens - 2 + round(seconds / SlowEngine.step_seconds))
