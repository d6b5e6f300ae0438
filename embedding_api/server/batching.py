"""Forward passes for several requests at once: each request waits in a greenlet, and the event loop serves others."""

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from greenlet import getcurrent, greenlet

from embedding_api.encoder import TokenIds
from embedding_api.encoder.compute_threads import ComputeThreads
from embedding_api.encoder.encoder import Encoder
from embedding_api.errors import ClientGone
from embedding_api.server.limits import VECTOR_BYTES, Limits

# A request of more texts waits until there is memory for its answer.
FEW_TEXTS = 8
# Seconds for which a request may hold the event loop without a pause.
STEP_SECONDS = 0.01


class RequestTask(greenlet):
    """The greenlet of a connection's request; it runs until it waits for vectors or pauses.

    Attributes:
        waited: the seconds from the moment it asked for vectors until their computation began.
    """

    def __init__(self, run, connection):
        super().__init__(run)
        self.connection = connection
        self.waited = 0.0


class Batcher:
    """Computes the vectors of all requests of a worker. The greenlet that makes it is the event loop.

    A short request waits for the next forward pass, which computes the texts of several requests. A large request is
    cut into micro-batches for the compute threads, which take one micro-batch of each large request in turn.

    Args:
        encoder: an `Encoder`.
        threads: the `ComputeThreads` for large requests.
        limits: the worker's `Limits`.
        has_idle_core: called before each forward pass; if it returns true, the engine's helper computes as well.
        on_pass: called with the tasks of a forward pass before they are resumed.
        record: called with the number of requests and of tokens of each forward pass.

    Attributes:
        event: an eventfd, readable when compute threads have finished a micro-batch.
    """

    def __init__(
        self,
        encoder: Encoder,
        threads: ComputeThreads,
        limits: Limits,
        has_idle_core: Callable[[], bool],
        on_pass: Callable[[list[RequestTask]], None],
        record: Callable[[int, int], None],
    ) -> None:
        self.event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._encoder, self._threads, self._limits = encoder, threads, limits
        self._has_idle_core, self._on_pass, self._record = has_idle_core, on_pass, record
        self._loop = getcurrent()
        self._resumed = self._progress = self._computed_at = time.monotonic()
        # Short requests that wait for the next forward pass, and the number of their tokens.
        self._parked: deque[_Parked] = deque()
        self._tokens = 0
        # Large requests that wait for memory for their vectors.
        self._queued: dict[RequestTask, _Job] = {}
        # Large requests that the compute threads work on.
        self._jobs: dict[RequestTask, _Job] = {}
        # Requests that are computed, and wait for memory for their answer.
        self._computed: dict[RequestTask, np.ndarray] = {}
        # Requests that wait for their turn after a pause.
        self._paused: deque[RequestTask] = deque()
        # Micro-batches that the compute threads have finished and `collect` has not seen.
        self._finished: deque[tuple[RequestTask, int]] = deque()

    # Called by requests, in their greenlets.

    def compute(self, texts: Sequence[TokenIds]) -> np.ndarray:
        """The vectors of texts, given as token ids, as a float32 array of shape (texts, dimension).

        Raises:
            ClientGone: the client has closed the connection.
            ApiError: the request is large, and too many large requests wait.
        """
        task = getcurrent()
        if not isinstance(task, RequestTask):
            return self._encoder.compute(texts)
        if task.connection.gone:
            raise ClientGone
        tokens = sum(map(len, texts))
        asked = time.monotonic()
        if tokens > self._encoder.micro_batch_tokens:
            return self._compute_large(task, texts, tokens, asked)
        self._parked.append(_Parked(task, texts, tokens, asked))
        self._tokens += tokens
        return self._loop.switch()

    def _compute_large(self, task, texts, tokens, asked):
        self._limits.check_room()
        # The body is no longer needed: its texts are tokens now.
        task.connection.request.free()
        self._limits.bodies.hold(task.connection, 4 * tokens)
        self._queued[task] = _Job(self._encoder, texts, self._threads.count, asked)
        self._limits.large += 1
        return self._loop.switch()

    def heartbeat(self) -> None:
        """Let other requests run, if this one has held the event loop for more than STEP_SECONDS.

        Raises:
            ClientGone: the client has closed the connection.
        """
        task = getcurrent()
        if not isinstance(task, RequestTask):
            return
        if time.monotonic() - self._resumed > STEP_SECONDS:
            self._paused.append(task)
            self._loop.switch()
        if task.connection.gone:
            raise ClientGone

    # Called by the compute threads.

    def _compute_next(self, task, job):
        """Compute one micro-batch of a job, and queue the next behind those of other jobs."""
        try:
            rows, texts = job.batches.popleft()
        except IndexError:
            return
        try:
            job.began = job.began or time.monotonic()
            job.vectors[rows] = self._encoder.forward(texts)
        except Exception as error:
            job.error = error
        if job.batches:
            # If no thread can be started, it fails after it has queued the work, and a running thread takes it.
            with suppress(RuntimeError):
                self._threads.submit(self._compute_next, task, job)
        self._finished.append((task, sum(map(len, texts))))
        os.eventfd_write(self.event, 1)

    # Called by the event loop.

    @property
    def is_full(self) -> bool:
        """Whether the next forward pass has all the tokens that it can carry."""
        return self._tokens >= self._encoder.micro_batch_tokens

    @property
    def has_work(self) -> bool:
        """Whether `turn` would do something."""
        return bool(self._parked or self._paused or self._can_begin() or self._can_answer())

    @property
    def computes(self) -> bool:
        """Whether the compute threads have work."""
        return bool(self._jobs)

    def _can_begin(self):
        return self._queued and self._limits.vectors.fits(next(iter(self._queued.values())).vector_bytes)

    def _can_answer(self):
        return self._computed and self._limits.answers.has_room

    def seconds_without_progress(self) -> float:
        """For how many seconds the compute threads have had work and finished no micro-batch."""
        return time.monotonic() - self._progress if self._jobs else 0.0

    def run(self, task, *values):
        """Run a request until it waits or pauses."""
        self._resumed = time.monotonic()
        task.switch(*values)

    def turn(self) -> None:
        """Do one forward pass, and some steps of large requests."""
        while self._can_begin():
            self._begin(*_pop_first(self._queued))
        if self._parked:
            self._run_pass()
        until = time.monotonic() + STEP_SECONDS
        while self._can_answer() and time.monotonic() < until:
            self._answer(*_pop_first(self._computed))
        if self._paused:
            self.run(self._paused.popleft())

    def _begin(self, task, job):
        """Give a large request to the compute threads."""
        if not self._jobs:
            self._progress = time.monotonic()
        self._jobs[task] = job
        try:
            job.vectors = np.empty((job.rows, self._encoder.dimension), np.float32)
            self._limits.vectors.hold(task.connection, job.vector_bytes)
            for _ in range(min(job.left, self._threads.count)):
                self._threads.submit(self._compute_next, task, job)
        except (RuntimeError, MemoryError) as error:
            # The operating system gives the process no more threads, or no more memory.
            self._end(task)
            task.throw(error)

    def _answer(self, task, vectors):
        self._limits.vectors.hold(task.connection, 0)
        # An estimate: the connection replaces it by the bytes of the answer.
        self._limits.answers.hold(task.connection, len(vectors) * VECTOR_BYTES)
        self.run(task, vectors)

    def _run_pass(self):
        batch, room = [], self._encoder.micro_batch_tokens
        while self._parked and (not batch or self._parked[0].tokens <= room):
            parked = self._parked.popleft()
            self._tokens -= parked.tokens
            if parked.task.connection.gone:
                parked.task.throw(ClientGone)
                continue
            room -= parked.tokens
            batch.append(parked)
        if not batch:
            return
        began = time.monotonic()
        try:
            # One forward pass, unless padding makes several cheaper.
            texts = [text for parked in batch for text in parked.texts]
            vectors = self._encoder.compute_in_this_thread(texts, with_helper=self._has_idle_core())
        except Exception as error:
            for parked in batch:
                parked.task.throw(error)
            return
        self._limits.record_seconds(time.monotonic() - began, len(batch))
        self._record(len(batch), sum(parked.tokens for parked in batch))
        self._on_pass([parked.task for parked in batch])
        start = 0
        for task, texts, _, asked in batch:
            task.waited = began - asked
            own = vectors[start : start + len(texts)]
            start += len(texts)
            if len(own) <= FEW_TEXTS:
                self.run(task, own)
            elif self._limits.answers.has_room:
                self._answer(task, own)
            else:
                self._computed[task] = own

    def collect(self) -> None:
        """Handle the micro-batches that the compute threads have finished."""
        os.eventfd_read(self.event)
        self._progress = time.monotonic()
        while self._finished:
            task, tokens = self._finished.popleft()
            job = self._jobs.get(task)
            self._record(1, tokens)
            if job is None:
                # It was cancelled.
                continue
            job.left -= 1
            if job.error:
                self._end(task)
                task.throw(job.error)
            elif not job.left:
                self._end(task)
                self._limits.record_seconds(self._progress - max(job.began, self._computed_at), large=True)
                self._computed_at = self._progress
                task.waited = job.began - job.asked
                self._computed[task] = job.vectors

    def cancel(self, task: RequestTask) -> None:
        """End a request whose client has gone, and free what it holds; a short one ends when its pass begins."""
        if task in self._queued or task in self._jobs:
            self._end(task)
        elif self._computed.pop(task, None) is None:
            return
        task.throw(ClientGone)

    def _end(self, task):
        job = self._queued.pop(task, None) or self._jobs.pop(task)
        job.batches.clear()
        self._limits.large -= 1
        self._limits.bodies.hold(task.connection, 0)


def _pop_first(tasks):
    task = next(iter(tasks))
    return task, tasks.pop(task)


class _Parked(NamedTuple):
    """A short request: its texts, their number of tokens, and when it asked for their vectors."""

    task: RequestTask
    texts: Sequence[TokenIds]
    tokens: int
    asked: float


class _Job:
    """A large request: its micro-batches as pairs of rows and texts, and its vectors, once there is memory for them."""

    def __init__(self, encoder, texts, threads, asked):
        self.batches = deque((rows, [texts[row] for row in rows]) for rows in encoder.micro_batches(texts, threads))
        self.left = len(self.batches)
        self.rows, self.vectors = len(texts), None
        self.vector_bytes = 4 * encoder.dimension * self.rows
        self.asked, self.began = asked, None
        self.error = None
