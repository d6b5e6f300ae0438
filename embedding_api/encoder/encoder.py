"""The encoder: prompts, tokenizing, micro-batches, normalisation."""

import numpy as np
import torch

# Tokens in one forward pass: the fastest size measured for float32 on one core (activations of more no longer fit its
# cache), and short enough that a worker reports to Gunicorn every second or so.
MICRO_BATCH_TOKENS = 1024


class Encoder:
    """Turns texts into vectors.

    Attributes:
        model_name: the name that responses carry.
        dimension: the length of a vector.
        engine: the name of what computes the forward pass, "packed" or "reference".
        max_length: the most tokens a text keeps, special tokens and query prompt included.
        query_prompt: what is put before a query; may be empty.
    """

    def __init__(self, model_name, tokenizer, engine, query_prompt=""):
        self.model_name = model_name
        self.query_prompt = query_prompt
        self._tokenizer = tokenizer
        self.engine = engine.name
        self._engine = engine
        self.max_length = tokenizer.max_length
        self.dimension = engine.forward(tokenizer(["dimension"]).ids).shape[1]
        self._heartbeat = _do_nothing

    def run_in_worker(self, threads, heartbeat):
        """Settle in a worker process after the fork.

        Args:
            threads: how many cores one forward pass may use.
            heartbeat: called every second or so while it tokenizes and encodes, so that a long request is not taken
                for a hang.
        """
        torch.set_num_threads(threads)
        self._heartbeat = heartbeat

    def tokenize(self, texts, *, is_query=False, max_tokens=None):
        """Texts to a `TokenizedTexts`, each with the query prompt before it if they are queries.

        Raises:
            TooManyTokens: the texts have more than `max_tokens` tokens together.
        """
        if is_query and self.query_prompt:
            texts = [self.query_prompt + text for text in texts]
        return self._tokenizer(texts, max_tokens, self._heartbeat)

    def encode(self, ids, *, normalize=True):
        """Token ids to a float32 array of shape (len(ids), dimension), in their order; equal texts are computed once.

        With `normalize` each vector has L2 norm 1, as sentence-transformers does it (torch's F.normalize).
        """
        places = {}
        rows = [places.setdefault(tuple(text), len(places)) for text in ids]
        texts = list(places)
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for batch in _micro_batches([len(text) for text in texts]):
            vectors[batch] = self._engine.forward([texts[index] for index in batch])
            self._heartbeat()
        if normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors if len(texts) == len(ids) else vectors[rows]


def _micro_batches(lengths):
    """Indexes of texts of like length, longest first, in batches of at most MICRO_BATCH_TOKENS with their padding."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    start = 0
    while start < len(order):
        size = max(1, MICRO_BATCH_TOKENS // lengths[order[start]])
        yield order[start : start + size]
        start += size


def _do_nothing():
    pass
