"""How a worker computes in company: it posts its batches on the board, and then leads or waits for who does."""

import contextlib
import os
import select
from time import monotonic, perf_counter

import numpy as np
import torch

from embedding_api import memory
from embedding_api.encoder.board import LOST

# Seconds that a leader waits for as many requests as the last forward passes had: begun at once, every other pass would
# be small. It costs little, as those who are about to post need the core meanwhile. Of 0, 3, 6, 12 and 20 ms, 12 gave
# the most requests a second with 4 and with 16 clients on two cores.
PATIENCE = 0.012

# Seconds that a worker does without the board after it could not have the lock.
ALONE = 10

# What a course asks its worker to do: wait for more work; wait until it is rung for; compute a batch of its own.
MORE, BELL, OWN = "more", "bell", "own"


def share(board, place, texts, cores):
    """The course of a batch that any worker may compute.

    A generator, so that its steps can be tried in every order. It yields MORE; or BELL, for which it is sent whether
    the worker has waited for as long as LOST in vain; or a list of `Work`, for which it is sent the vectors of all its
    texts. It returns the vectors of the batch.
    """
    leads = board.post(place, texts, cores)
    while True:
        late = False
        if leads:
            yield MORE
            works = board.take(place)
            vectors = (yield works) if works else None
            board.finish(place, works, vectors)
        else:
            late = yield BELL
        vectors = board.collect(place)
        if vectors is not None:
            return vectors
        leads = board.look(place, late)


def keep(board, place, cores):
    """The course of a batch too large to share, which only waits for a core. Like `share`, but it yields OWN."""
    leads = board.post(place, cores=cores)
    while not leads:
        late = yield BELL
        leads = board.look(place, late)
    vectors = yield OWN
    if board.finish(place):
        # With many large requests each worker would keep what it needs for its turn.
        memory.give_back()
    return vectors


class Sharing:
    """A worker's part in it.

    Args:
        board: the `Board`, which all workers share.
        place: the worker's place on it.
        engine: what computes.
        dimension: of its vectors.
        heartbeat: called now and then. What it raises ends the work, but not that of others.
        record: is told what there is to count: `passed(requests, tokens)`, `waited(seconds)` and `handed_over()`.
    """

    def __init__(self, board, place, engine, dimension, heartbeat, record):
        self._board = board
        self._place = place
        self._engine = engine
        self._dimension = dimension
        self._heartbeat = heartbeat
        self._record = record
        self._alone_until = 0
        self._bell = select.poll()
        self._bell.register(board.bell(place), select.POLLIN)
        with contextlib.suppress(TimeoutError):
            board.settle(place)

    def admit(self):
        """Whether a large request may begin; `dismiss` ends it."""
        try:
            return self._board.admit(self._place)
        except TimeoutError:
            return True

    def dismiss(self):
        self._board.dismiss(self._place)

    def forward(self, texts, cores):
        """The vectors of a batch of token id lists, as a float32 array of shape (texts, dimension).

        Args:
            cores: on how many to compute, if they are free.
        """
        if monotonic() < self._alone_until:
            return self._forward_alone(texts)
        board, place = self._board, self._place
        shared = board.fits(texts, self._dimension)
        course = share(board, place, texts, cores) if shared else keep(board, place, cores)
        try:
            return self._follow(course, texts)
        except TimeoutError:
            # Somebody holds the lock who does not go on.
            self._alone_until = monotonic() + ALONE
            return self._forward_alone(texts)
        except BaseException:
            with contextlib.suppress(TimeoutError):
                board.withdraw(place)
            raise

    def _forward_alone(self, texts):
        torch.set_num_threads(1)
        return self._engine.forward(texts)

    def _follow(self, course, texts):
        posted = perf_counter()
        waited, answer = False, None
        while True:
            try:
                wish = course.send(answer)
            except StopIteration as end:
                return end.value
            if wish is BELL:
                waited = True
                answer = not self._wait(LOST)
                self._heartbeat()
                continue
            if waited:
                self._record.handed_over()
                waited = False
            if wish is MORE:
                if self._board.expect(self._place):
                    self._wait(PATIENCE)
                self._board.expect_nothing(self._place)
            else:
                torch.set_num_threads(self._board.held(self._place))
                if wish is OWN:
                    self._record.passed(1, sum(map(len, texts)))
                    self._record.waited(perf_counter() - posted)
                    answer = self._engine.forward(texts, self._make_way)
                else:
                    answer = self._compute(wish, self._beat)

    def _wait(self, seconds):
        """Returns whether the bell has rung."""
        if not self._bell.poll(1000 * seconds):
            return False
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._board.bell(self._place))
        return True

    def _make_way(self):
        """Between two layers of a batch of its own: compute the short ones that have come."""
        self._beat()
        self._heartbeat()
        if self._board.has_posted() and (works := self._board.take(self._place)):
            self._board.deliver(self._place, works, self._compute(works, self._beat))

    def _beat(self):
        self._board.beat(self._place)

    def _compute(self, works, between_layers):
        texts = [text for work in works for text in work.texts]
        self._record.passed(len(works), sum(map(len, texts)))
        for work in works:
            self._record.waited(work.waited)
        # Texts of equal length are less work where they stand together.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        vectors = np.empty((len(texts), self._dimension), np.float32)
        vectors[order] = self._engine.forward([texts[index] for index in order], between_layers)
        return vectors
