"""The encoder: prompts, tokenizing, micro-batches, normalisation."""

import time

import numpy as np

from embedding_api.encoder.compute_threads import ComputeThreads

# What a healthy model is known by, and how long that is believed: probes come from several places, and may be many.
SELF_TEST = "a"
SELF_TEST_SECONDS = 1
SELF_TEST_TOLERANCE = 0.01

# Tokens that are worth a thread of their own: with fewer it waits for weights rather than computes.
LEAST_TOKENS = 24


class Encoder:
    """Turns texts into vectors.

    Attributes:
        model_name: the name that responses carry.
        dimension: the length of a vector.
        engine: the name of what computes the forward pass, "kernel" or "reference".
        instruction_set: what the kernel is compiled for, or None.
        micro_batch_tokens: the tokens that one forward pass has at most, unless one text has more.
        dtype: what it computes in, "float32" or "bfloat16".
        max_length: the most tokens a text keeps, special tokens and query prompt included.
        query_prompt: what is put before a query; may be empty.
        revision: the model's commit on the Hub, or None for a directory.
        heartbeat: a function to call at least every 20 ms in long work on a request. What it raises ends the work.
    """

    def __init__(self, model_name, tokenizer, engine, query_prompt="", dtype="float32", revision=None):
        self.model_name = model_name
        self.query_prompt = query_prompt
        self.revision = revision
        self._tokenizer = tokenizer
        self.engine, self.instruction_set = engine.name, engine.instruction_set
        self.dtype = dtype
        self._engine = engine
        self.micro_batch_tokens = engine.micro_batch_tokens
        self.max_length = tokenizer.max_length
        self._self_test_ids = tokenizer([SELF_TEST]).ids
        self._self_test_vector = engine.forward(self._self_test_ids)
        self._self_test_passed = None
        self.dimension = self._self_test_vector.shape[1]
        self.heartbeat = _do_nothing
        self._threads = ComputeThreads()
        self._compute = self.compute

    @property
    def description(self):
        """What probes, people and metrics are told of the model, by the names they know it by."""
        return {
            "model": self.model_name,
            "dimension": self.dimension,
            "engine": self.engine,
            "dtype": self.dtype,
        }

    def run_in_worker(self, threads=None, heartbeat=None, compute=None):
        """Settle in a worker process after the fork.

        Args:
            threads: the `ComputeThreads` for what is worth more than one core; by default one for each core.
            heartbeat: what becomes the attribute of this name.
            compute: called in place of the method `compute`, to compute for several callers at once.
        """
        self._threads = threads or self._threads
        self.heartbeat = heartbeat or self.heartbeat
        self._compute = compute or self._compute
        # No request shall pay for the first touch of the weights. And PyTorch makes its thread pool anew at its first
        # use after a fork: of two threads that do so at once, one fails.
        self._engine.forward(self._self_test_ids)

    def passes_self_test(self):
        """Whether a known text still gets the vector it got when the model was loaded, at most a second ago.

        It computes at once, also where others share a forward pass.
        """
        now = time.monotonic()
        if self._self_test_passed is None or now - self._self_test_passed > SELF_TEST_SECONDS:
            difference = np.abs(self._engine.forward(self._self_test_ids) - self._self_test_vector).max()
            # Written so that it is false for a NaN.
            if not difference <= SELF_TEST_TOLERANCE * np.abs(self._self_test_vector).max():
                return False
            self._self_test_passed = now
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
        return self._tokenizer(texts, max_tokens, self.heartbeat, whole)

    def encode(self, ids, *, normalize=True):
        """Token ids to a float32 array of shape (len(ids), dimension), in their order.

        Each text is an int32 array of its token ids, or a list. With `normalize` each vector has L2 norm 1, as
        sentence-transformers does it (torch's F.normalize).
        """
        self.heartbeat()
        vectors = self._compute(ids)
        if normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def compute(self, ids, in_this_thread=False):
        """The vectors of token ids before normalisation, as a float32 array of shape (len(ids), dimension).

        Several micro-batches go to the compute threads; this thread waits for them, and calls the heartbeat. The
        vectors do not depend on the number of threads.

        Args:
            in_this_thread: whether to compute all micro-batches in this thread, without heartbeats.
        """
        batches = list(self.micro_batches(ids, 1 if in_this_thread else self._threads.count))
        batched_ids = [[ids[index] for index in batch] for batch in batches]
        if in_this_thread or len(batches) == 1:
            results = map(self.forward, batched_ids)
        else:
            results = self._threads.run(self.forward, batched_ids, self.heartbeat)
        vectors = np.empty((len(ids), self.dimension), dtype=np.float32)
        for batch, result in zip(batches, results, strict=True):
            vectors[batch] = result
        return vectors

    def free_scratch(self):
        """Free the memory that the engine keeps between forward passes."""
        self._engine.free_scratch()

    def micro_batches(self, ids, threads=1):
        """The indexes of texts, given as token ids, that are best computed together: longest first, batch by batch.

        Args:
            threads: how many shall have equal shares.
        """
        lengths, most = [len(text) for text in ids], self._engine.micro_batch_tokens
        total = sum(lengths)
        count = -(-total // most)
        count += -count % threads
        count = max(min(count, total // LEAST_TOKENS), 1)
        return _micro_batches(lengths, -(-total // count), most, self._engine.pads)

    def forward(self, ids):
        """One forward pass: the vectors of token ids before normalisation. Any thread may call it at any time."""
        return self._engine.forward(ids)


def _micro_batches(lengths, enough, most, pads):
    """Indexes of texts, longest first, in batches of at most so many tokens (or one text).

    Args:
        lengths: of the texts, in tokens.
        enough: a batch that has so many tokens is complete.
        most: what a batch of several texts has at most, padding included.
        pads: whether each text costs as much as the longest of its batch.
    """
    batch, cost = [], 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        own = lengths[batch[0]] if batch and pads else lengths[index]
        if batch and (cost >= enough or cost + own > most):
            yield batch
            batch, cost, own = [], 0, lengths[index]
        batch.append(index)
        cost += own
    if batch:
        yield batch


def _do_nothing():
    pass
