"""The encoder: prompts, tokenizing, micro-batches, normalisation."""

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from embedding_api.encoder import Engine, TokenIds, TokenizedTexts
from embedding_api.encoder.compute_threads import ComputeThreads
from embedding_api.encoder.tokenizer import Tokenizer

# Self-test of /ready: the vector of this text is compared with the one at load time. A success is kept for this many
# seconds, as probes are frequent. The tolerance is relative to the largest number of the vector.
SELF_TEST = "a"
SELF_TEST_SECONDS = 1
SELF_TEST_TOLERANCE = 0.01

# The fewest tokens that get a thread of their own: with fewer, reading the weights takes longer than computing.
LEAST_TOKENS = 24


class Encoder:
    """Turns texts into vectors.

    Attributes:
        model_name: the name that responses carry.
        dimension: the length of a vector.
        engine: the name of what computes the forward pass, "kernel" or "reference".
        instruction_set: what the kernel is compiled for, such as "avx2"; None for the reference.
        micro_batch_tokens: the most tokens of a forward pass, unless one text has more.
        dtype: what it computes in, "float32" or "bfloat16".
        max_length: the most tokens a text keeps, special tokens and prompt included.
        query_prompt: what is put before a query; may be empty.
        document_prompt: what is put before any other text; may be empty.
        revision: the model's commit on the Hub, or None for a directory.
        heartbeat: a function that long work on a request calls about every 20 ms. What it raises ends the work.
    """

    def __init__(
        self,
        model_name: str,
        tokenizer: Tokenizer,
        engine: Engine,
        query_prompt: str = "",
        document_prompt: str = "",
        dtype: str = "float32",
        revision: str | None = None,
    ) -> None:
        self.model_name = model_name
        self.query_prompt = query_prompt
        self.document_prompt = document_prompt
        self.revision = revision
        self._tokenizer = tokenizer
        self.engine, self.instruction_set = engine.name, engine.instruction_set
        self.dtype = dtype
        self._engine = engine
        self.micro_batch_tokens = engine.micro_batch_tokens
        self.max_length = tokenizer.max_length
        # Tokens of each prompt alone, by whether it is the one for queries.
        document, query = tokenizer([document_prompt, query_prompt]).ids
        self._prompt_lengths = {False: len(document), True: len(query)}
        self._self_test_ids = tokenizer([SELF_TEST]).ids
        self._self_test_vector = engine.forward(self._self_test_ids)
        self._self_test_passed: float | None = None
        self.dimension = self._self_test_vector.shape[1]
        self.heartbeat = _do_nothing
        self._threads = ComputeThreads()
        self._compute: Callable[[Sequence[TokenIds]], np.ndarray] = self.compute

    @property
    def description(self) -> dict[str, str | int]:
        """What /health, /info and the metrics say of the model, by name."""
        return {
            "model": self.model_name,
            "dimension": self.dimension,
            "engine": self.engine,
            "dtype": self.dtype,
        }

    def run_in_worker(
        self,
        threads: ComputeThreads | None = None,
        heartbeat: Callable[[], None] | None = None,
        compute: Callable[[Sequence[TokenIds]], np.ndarray] | None = None,
    ) -> None:
        """Prepare to serve in a worker process, after the fork.

        Args:
            threads: the `ComputeThreads` for several micro-batches; by default one thread for each core.
            heartbeat: the new value of the attribute `heartbeat`.
            compute: called instead of the method `compute`, to compute for several callers at once.
        """
        self._threads = threads or self._threads
        self.heartbeat = heartbeat or self.heartbeat
        self._compute = compute or self._compute
        # So that the first request does not wait for the first read of the weights. Also, PyTorch makes a new thread
        # pool at its first use after a fork, and fails if two threads do so at once.
        self._engine.forward(self._self_test_ids)

    def passes_self_test(self) -> bool:
        """Whether a known text still has the vector it had when the model was loaded.

        A success is kept for SELF_TEST_SECONDS. It computes at once, and joins no forward pass that requests share.
        """
        now = time.monotonic()
        if self._self_test_passed is None or now - self._self_test_passed > SELF_TEST_SECONDS:
            difference = np.abs(self._engine.forward(self._self_test_ids) - self._self_test_vector).max()
            # Written so that it is false for a NaN.
            if not difference <= SELF_TEST_TOLERANCE * np.abs(self._self_test_vector).max():
                return False
            self._self_test_passed = now
        return True

    def tokenize(
        self, texts: Sequence[str], *, is_query: bool = False, max_tokens: int | None = None, whole: bool = False
    ) -> TokenizedTexts:
        """Texts to a `TokenizedTexts`, each with the prompt for queries or for documents before it.

        Args:
            max_tokens: the most tokens of all texts together; None for no limit.
            whole: whether to count the tokens that are cut as well, in `lengths` and towards `max_tokens`.

        Raises:
            TooManyTokens: the texts have more than `max_tokens` tokens together.
        """
        prompt = self.query_prompt if is_query else self.document_prompt
        tokens = self._tokenizer([prompt + text for text in texts], max_tokens, self.heartbeat, whole)
        if prompt:
            # A blank text adds no token to the prompt. Where another adds none, its letters have joined the prompt's.
            alone = self._prompt_lengths[is_query]
            short = [index for index, ids in enumerate(tokens.ids) if len(ids) <= alone < self.max_length]
            blank = self._tokenizer([texts[index] for index in short]).blank
            tokens.blank.extend(short[index] for index in blank)
        return tokens

    def encode(self, ids: Sequence[TokenIds], *, normalize: bool = True) -> np.ndarray:
        """Token ids to a float32 array of shape (len(ids), dimension), in their order.

        Each text is an int32 array of its token ids, or a list. With `normalize` each vector has L2 norm 1, computed as
        in sentence-transformers (torch's F.normalize and its eps).
        """
        self.heartbeat()
        vectors = self._compute(ids)
        if normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def compute(self, ids: Sequence[TokenIds]) -> np.ndarray:
        """The vectors of token ids before normalisation, as a float32 array of shape (len(ids), dimension).

        Several micro-batches go to the compute threads; this thread waits for them, and calls the heartbeat. The
        vectors do not depend on the number of threads.
        """
        batches = list(self.micro_batches(ids, self._threads.count))
        texts = [[ids[index] for index in batch] for batch in batches]
        if len(batches) == 1:
            return self._in_order(batches, map(self.forward, texts))
        return self._in_order(batches, self._threads.run(self.forward, texts, self.heartbeat))

    def compute_in_this_thread(self, ids: Sequence[TokenIds], with_helper: bool = False) -> np.ndarray:
        """What `compute` returns, without compute threads and heartbeats.

        Args:
            with_helper: whether the engine's helper thread takes part, if it has one that is free.
        """
        batches = list(self.micro_batches(ids))
        results = [self._engine.forward([ids[index] for index in batch], with_helper) for batch in batches]
        return self._in_order(batches, results)

    def _in_order(self, batches, results):
        """The vectors of micro-batches in the order of the texts."""
        vectors = np.empty((sum(map(len, batches)), self.dimension), dtype=np.float32)
        for batch, result in zip(batches, results, strict=True):
            vectors[batch] = result
        return vectors

    def free_scratch(self) -> None:
        """Free the memory that the engine keeps between forward passes."""
        self._engine.free_scratch()

    def micro_batches(self, ids: Sequence[TokenIds], threads: int = 1) -> Iterator[list[int]]:
        """Divide texts, given as token ids, into micro-batches: lists of their indexes, the longest texts first.

        Args:
            threads: the number of threads that are to get equal shares.
        """
        lengths, most = [len(text) for text in ids], self._engine.micro_batch_tokens
        total = sum(lengths)
        count = -(-total // most)
        count += -count % threads
        count = max(min(count, total // LEAST_TOKENS), 1)
        return _micro_batches(lengths, -(-total // count), most, self._engine.pads)

    def forward(self, ids: Sequence[TokenIds]) -> np.ndarray:
        """One forward pass: the vectors of token ids before normalisation. Any thread may call it at any time."""
        return self._engine.forward(ids)


def _micro_batches(lengths, enough, most, pads):
    """Indexes of texts, longest first, in batches of at most so many tokens (or one text).

    Args:
        lengths: of the texts, in tokens.
        enough: a batch of so many tokens is complete.
        most: the most tokens of a batch of several texts, padding included.
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
