"""Encode with every core of this machine: processes that share the weights, as they are forked with them."""

import gc
import os
import signal
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from threading import Thread

import numpy as np

from embedding_api.bulk import BulkError
from embedding_api.bulk.parts import Totals
from embedding_api.bulk.progress import Progress
from embedding_api.bulk.reading import WINDOW_ROWS, Window
from embedding_api.encoder.cores import Cores

# Micro-batches that wait, for each process: while they are computed, the next window is read and tokenized.
_AHEAD = 4
_STOPPING = signal.SIGINT, signal.SIGTERM


def encode(windows, progress, *, encoder, workers, is_query, normalize):
    """Encode windows with so many processes, each on one core.

    Micro-batches are the same whatever the number of processes, so vectors are, too, to the last bit.

    Args:
        windows: an iterable of `Window`s, of which no more are taken than keeps the processes busy.
        encoder: an `Encoder` that is not yet settled in a worker.
        progress: the `Progress` that is told of each window and each micro-batch.

    Yields:
        each window, its vectors, float32 of shape (rows, dimension) with NaN where there is no text, and its `Totals`.

    Raises:
        BulkError: a process has died; or what `windows` raised, after the windows before.
    """
    # What is allocated now stays shared: the collector would write to it.
    gc.freeze()
    with ProcessPoolExecutor(workers, get_context("fork"), _settle, (encoder,)) as executor:
        try:
            with _signals_wait():
                # This forks all of them: now, before any thread is started that might hold a lock.
                executor.submit(os.getpid)
            yield from _encode(windows, encoder, executor, workers * _AHEAD, is_query, normalize, progress)
        except BrokenProcessPool:
            raise BulkError(
                "A process that encodes has died, probably for want of memory: start again, with fewer --workers."
            ) from None
        finally:
            executor.shutdown(cancel_futures=True)


def encode_texts(texts, **how):
    """The vectors of texts, of shape (texts, dimension); the arguments are those of `encode`."""
    starts = range(0, len(texts), WINDOW_ROWS)
    windows = (
        Window(index, None, texts[start : start + WINDOW_ROWS], ("", start), min(1, (start + WINDOW_ROWS) / len(texts)))
        for index, start in enumerate(starts)
    )
    with closing(Progress()) as progress:
        return np.concatenate([vectors for _, vectors, _ in encode(windows, progress, **how)])


def _encode(windows, encoder, executor, enough, is_query, normalize, progress):
    jobs = (_Job(window, encoder, executor, is_query, normalize) for window in windows)
    under_way, waiting, failure = deque(), 0, None
    while True:
        while waiting < enough and len(under_way) < enough and jobs:
            try:
                under_way.append(next(jobs))
            except StopIteration:
                jobs = None
            except BulkError as error:
                jobs, failure = None, error
            else:
                waiting += len(under_way[-1].batches)
                progress.read(under_way[-1].window, under_way[-1].totals.tokens)
        if not under_way:
            break
        job = under_way[0]
        if job.batches:
            waiting -= 1
            progress.advance(*job.collect())
        else:
            under_way.popleft()
            yield job.window, job.vectors, job.totals
    if failure:
        raise failure


class _Job:
    """A window whose micro-batches are with the processes."""

    def __init__(self, window, encoder, executor, is_query, normalize):
        self.window = window
        self._rows = np.array(window.with_text, dtype=int)
        tokenized = encoder.tokenize([window.texts[row] for row in window.with_text], is_query=is_query)
        self.totals = Totals(
            rows=len(window.texts),
            tokens=tokenized.count,
            truncated=len(tokenized.truncated),
            without_text=len(window.texts) - len(self._rows),
        )
        self.vectors = np.full((len(window.texts), encoder.dimension), np.nan, dtype=np.float32)
        self.batches = deque()
        for batch in encoder.micro_batches(tokenized.ids):
            ids = [tokenized.ids[index] for index in batch]
            self.batches.append((batch, sum(map(len, ids)), executor.submit(_compute, ids, normalize)))

    def collect(self):
        """Wait for the next micro-batch; the numbers of its texts and tokens."""
        batch, tokens, future = self.batches.popleft()
        self.vectors[self._rows[batch]] = future.result()
        return len(batch), tokens


@contextmanager
def _signals_wait():
    """Have SIGINT and SIGTERM wait: what their handlers raise in the hooks that run after a fork would be lost."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


# In a process of the pool.
_encoder = None


def _settle(encoder):
    global _encoder
    # Ctrl-C goes to all processes of a terminal; the parent has the word.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    Thread(target=_end_with_parent, daemon=True).start()
    _encoder = encoder
    encoder.run_in_worker(Cores(1), 1, lambda: None)


def _end_with_parent():
    wait([parent_process().sentinel])
    os._exit(1)


def _compute(ids, normalize):
    return _encoder.encode(ids, normalize=normalize)
