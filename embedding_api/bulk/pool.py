"""Encode on every core of this machine: compute threads encode, while this thread reads, tokenizes and writes."""

from collections import deque
from contextlib import closing

import numpy as np

from embedding_api.bulk import BulkError
from embedding_api.bulk.checkpoint import WindowStats
from embedding_api.bulk.progress import Progress
from embedding_api.bulk.window import WINDOW_ROWS, Window
from embedding_api.encoder.compute_threads import ComputeThreads

# Micro-batches that wait for each thread. While they are computed, the next window is read and tokenized.
_AHEAD = 4


def encode(windows, progress, *, encoder, workers, is_query, normalize):
    """Encode windows on `workers` threads, each on one core.

    The micro-batches do not depend on the number of threads, so neither do the vectors, to the last bit.

    Args:
        windows: an iterable of `Window`s, of which no more are taken than keeps the threads busy.
        encoder: an `Encoder`.
        progress: the `Progress` that notes each window and each micro-batch.

    Yields:
        each window, its vectors, float32 of shape (rows, dimension) with NaN where there is no text, and its
            `WindowStats`.

    Raises:
        BulkError: raised by `windows`; the windows before were yielded.
    """
    threads = ComputeThreads(workers)
    try:
        yield from _encode(windows, encoder, threads, workers * _AHEAD, is_query, normalize, progress)
    finally:
        # It waits for the micro-batches that have begun.
        threads.shutdown(cancel_futures=True)


def encode_texts(texts, **options):
    """The vectors of texts, of shape (texts, dimension); the arguments are those of `encode`."""
    starts = range(0, len(texts), WINDOW_ROWS)
    windows = (
        Window(index, None, texts[start : start + WINDOW_ROWS], [], "", "", min(1, (start + WINDOW_ROWS) / len(texts)))
        for index, start in enumerate(starts)
    )
    with closing(Progress()) as progress:
        return np.concatenate([vectors for _, vectors, _ in encode(windows, progress, **options)])


def _encode(windows, encoder, threads, enough, is_query, normalize, progress):
    jobs = (_Job(window, encoder, threads, is_query, normalize) for window in windows)
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
    """A window whose micro-batches the threads have to compute."""

    def __init__(self, window, encoder, threads, is_query, normalize):
        self.window = window
        self._rows = np.array(window.with_text, dtype=int)
        tokenized = encoder.tokenize([window.texts[row] for row in window.with_text], is_query=is_query)
        self.totals = WindowStats(
            rows=len(window.texts),
            tokens=tokenized.count,
            truncated=len(tokenized.truncated),
            without_text=len(window.texts) - len(self._rows),
        )
        self.vectors = np.full((len(window.texts), encoder.dimension), np.nan, dtype=np.float32)
        self.batches = deque()
        for batch in encoder.micro_batches(tokenized.ids):
            ids = [tokenized.ids[index] for index in batch]
            self.batches.append((batch, sum(map(len, ids)), threads.submit(encoder.encode, ids, normalize=normalize)))

    def collect(self):
        """Wait for the next micro-batch; returns the numbers of its texts and tokens."""
        batch, tokens, future = self.batches.popleft()
        self.vectors[self._rows[batch]] = future.result()
        return len(batch), tokens
