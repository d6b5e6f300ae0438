"""The encoder: prompts, tokenizing, micro-batches, normalisation."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np


from embedding_api.encoder import Occupied
PLACES = 9
from embedding_api.encoder.cores import Cores
from embedding_api.encoder.sharing import Sharing

# Tokens in one forward pass, padding included: the fastest size measured for float32 on one core (activations of more
# no longer fit its cache), and short enough that a worker reports to Gunicorn every second or so.
MICRO_BATCH_TOKENS = 1024

# A request of more tokens is a large one. Where workers share their work, one of them remains for all others.
LARGE_TOKENS = 4096

# What a healthy model is known by, and how long that is believed: probes come from several places, and may be many.
CANARY = "a"
CANARY_SECONDS = 1
CANARY_TOLERANCE = 0.01


class Encoder:
    """Turns texts into vectors.

    Attributes:
        model_name: the name that responses carry.
        dimension: the length of a vector.
        engine: the name of what computes the forward pass, "packed" or "reference".
        dtype: what it computes in, "float32" or "bfloat16".
        max_length: the most tokens a text keeps, special tokens and query prompt included.
        query_prompt: what is put before a query; may be empty.
        revision: the model's commit on the Hub, or None for a directory.
    """

    def __init__(self, model_name, tokenizer, engine, query_prompt="", dtype="float32", revision=None):
        self.model_name = model_name
        self.query_prompt = query_prompt
        self.revision = revision
        self._tokenizer = tokenizer
        self.engine = engine.name
        self.dtype = dtype
        self._engine = engine
        self.max_length = tokenizer.max_length
        self._canary = tokenizer([CANARY]).ids
        self._canary_vector = engine.forward(self._canary)
        self._canary_lived = None
        self.dimension = self._canary_vector.shape[1]
        self._cores, self._worker = Cores(1), 0
        self._heartbeat = _do_nothing
        self._sharing = None

    @property
    def description(self):
        """What probes, people and metrics are told of the model, by the names they know it by."""
        return {
            "model": self.model_name,
            "dimension": self.dimension,
            "engine": self.engine,
            "dtype": self.dtype,
        }

    def warm(self, threads):
        """Have compiled, before the fork, what a forward pass on so many threads needs compiled.

        It leaves the process with one thread, so that it can fork: OpenMP's threads do not survive that, but end with
        the thread that started them.
        """

        def run():
            torch.set_num_threads(threads)
            self._engine.warm(MICRO_BATCH_TOKENS)

        with ThreadPoolExecutor(1) as thread:
            thread.submit(run).result()
        torch.set_num_threads(1)

    def run_in_worker(self, cores, worker, heartbeat, board=None, record=None):
        """Settle in a worker process after the fork.

        Args:
            cores: the `Cores` that all workers share.
            worker: this worker's number.
            heartbeat: called before each micro-batch, and every second or so while it tokenizes, so that a long
                request is not taken for a hang. What it raises ends the work.
            board: the `Board` by which workers share forward passes, or None to compute alone.
            record: is told of shared passes, see `Sharing`.
        """
        self._cores, self._worker = cores, worker
        self._heartbeat = heartbeat
        if board and self._engine.shares and worker <= PLACES:
            self._sharing = Sharing(board, worker, self._engine, self.dimension, heartbeat, record)
        # No request shall pay for the first touch of the layers' weights, nor for starting threads.
        torch.set_num_threads(cores.most)
        self._engine.forward(self._canary)

    def is_sane(self):
        """Whether a known text still gets the vector it got when the model was loaded, at most a second ago.

        For another thread than the one that encodes; it says nothing about that one, so there is no heartbeat.
        """
        now = time.monotonic()
        if self._canary_lived is None or now - self._canary_lived > CANARY_SECONDS:
            torch.set_num_threads(self._cores.share)
            difference = np.abs(self._engine.forward(self._canary) - self._canary_vector).max()
            # The threads' number may change the last bits. Written so that it is false for a NaN.
            if not difference <= CANARY_TOLERANCE * np.abs(self._canary_vector).max():
                return False
            self._canary_lived = now
        return True

    def tokenize(self, texts, *, is_query=False, max_tokens=None, whole=False):
        """Texts to a `TokenizedTexts`, each with the query prompt before it if they are queries.

        Args:
            whole: whether the tokens that are cut count as well.

        Raises:
            TooManyTokens: the texts have more than `max_tokens` tokens together.
        """
        if is_query and self.query_prompt:
            texts = [self.query_prompt + text for text in texts]
        return self._tokenizer(texts, max_tokens, self._heartbeat, whole)

    def encode(self, ids, *, normalize=True):
        """Token ids to a float32 array of shape (len(ids), dimension), in their order; equal texts are computed once.

        With `normalize` each vector has L2 norm 1, as sentence-transformers does it (torch's F.normalize).

        Raises:
            Occupied: it is a large request, and all workers but one have one already.
        """
        places = {}
        rows = [places.setdefault(tuple(text), len(places)) for text in ids]
        texts = list(places)
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        large = self._sharing and sum(map(len, texts)) > LARGE_TOKENS
        if large and not self._sharing.admit():
            raise Occupied
        try:
            for batch in self.micro_batches(texts):
                self._heartbeat()
                vectors[batch] = self._forward([texts[index] for index in batch], self._cores.take(self._worker))
        finally:
            self._cores.give_back(self._worker)
            if large:
                self._sharing.dismiss()
        if normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors if len(texts) == len(ids) else vectors[rows]

    def micro_batches(self, ids):
        """The indexes of texts, given as token ids, that are best computed together: longest first, batch by batch."""
        return _micro_batches([len(text) for text in ids], self._engine.pads)

    def _forward(self, texts, cores):
        if self._sharing:
            return self._sharing.forward(texts, cores)
        torch.set_num_threads(cores)
        return self._engine.forward(texts)


def _micro_batches(lengths, pads):
    """Indexes of texts, longest first, in batches of at most MICRO_BATCH_TOKENS (or one text).

    Args:
        lengths: of the texts, in tokens.
        pads: whether each text costs as much as the longest of its batch.
    """
    batch, cost = [], 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        own = lengths[batch[0]] if batch and pads else lengths[index]
        if batch and cost + own > MICRO_BATCH_TOKENS:
            yield batch
            batch, cost, own = [], 0, lengths[index]
        batch.append(index)
        cost += own
    if batch:
        yield batch


def _do_nothing():
    pass
