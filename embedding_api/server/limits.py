"""What a worker takes in: requests up to a number, what they hold up to a size. Others wait, or are refused."""

import math
import random

from embedding_api.errors import overloaded
from embedding_api.server.backlog import backlog
from embedding_api.server.connection import State
from embedding_api.server.memory_bound import MemoryBound

# Bodies, vectors and answers under way, each of the largest size that the limits allow. A vector takes 8 KB of JSON.
LARGE_PAYLOADS = 2
VECTOR_BYTES = 8 * 1024
# Of the newest value in an average.
_WEIGHT = 0.1
# Seconds that a refused client is told to wait at most.
MOST_RETRY_SECONDS = 60


class Limits:
    """Admits requests to a worker.

    Args:
        settings: the service's `Settings`.
        workers: the number of workers.
        listeners: the listening sockets, which all workers share.

    Attributes:
        bodies, vectors, answers: the `MemoryBound`s of requests that are read, computed and answered.
        share: of the requests that may wait, those that may in this worker.
        postponed: the number of those that wait for a forward pass; the worker counts them.
        large: the number of large requests that are computed; the batcher counts them.
    """

    def __init__(self, settings, workers, listeners):
        largest = max(settings.max_body_bytes, settings.max_texts * VECTOR_BYTES)
        self.bodies, self.vectors, self.answers = (MemoryBound(LARGE_PAYLOADS * largest) for _ in range(3))
        self.share = -(-settings.max_waiting // workers)
        self.postponed = self.large = 0
        self._client_timeout = settings.client_timeout
        self._workers, self._listeners = workers, listeners
        self._waiting = {}
        # Averages for a short and a large request, before any is known.
        self._seconds = {False: 0.01, True: 1.0}
        self._refused = 0

    @property
    def backlog(self):
        """How many connections no worker has accepted yet."""
        return sum(map(backlog, self._listeners))

    @property
    def share_of_backlog(self):
        """How many connections this worker accepts, if others accept as many."""
        return self.backlog // self._workers + 1

    @property
    def waiting(self):
        """How many requests wait in this worker: unread, for memory, and for the compute threads."""
        return self.postponed + len(self._waiting) + self.large

    def note(self, seconds, requests=1, large=False):
        """Take note of the time that requests have taken one after the other."""
        self._seconds[large] += _WEIGHT * (seconds / requests - self._seconds[large])

    def overloaded(self, large=False):
        """The error for a request that there is no room for. It says when there may be.

        Those that wait here and those that were refused need some time; each client is told another moment until twice
        that, or they would all come back at once.
        """
        self._refused += 1
        here = self.large + len(self._waiting) if large else self.postponed
        seconds = (here + self._refused) * self._seconds[large]
        return overloaded(min(math.ceil(random.uniform(0, 1 + 2 * seconds)), MOST_RETRY_SECONDS))

    def check_room(self):
        """Check whether another large request, or large body, may wait.

        Raises:
            ApiError: too many do.
        """
        if self.large + len(self._waiting) >= self.share:
            raise self.overloaded(large=True)

    def admit_body(self, connection):
        """Let a connection read a large body, or have it wait until there is memory.

        Raises:
            ApiError: too many wait.
        """
        size = connection.request.body_to_come
        if connection in self.bodies:
            return
        if not self._waiting and self.bodies.fits(size):
            self.bodies.hold(connection, size)
            return
        self.check_room()
        self._waiting[connection] = size
        connection.wait()

    def admit_waiting(self):
        """Let those read on for whom there is memory now, first come first served."""
        while self._waiting:
            connection, size = next(iter(self._waiting.items()))
            if not self.bodies.fits(size):
                return
            del self._waiting[connection]
            self.bodies.hold(connection, size)
            connection.read_on()

    def forget(self, connection):
        """Know nothing more of a connection that closes."""
        self._waiting.pop(connection, None)
        for bound in (self.bodies, self.vectors, self.answers):
            bound.hold(connection, 0)

    def tick(self, now):
        """What is due every second; `now` is that of the monotonic clock."""
        self._refused //= 2
        if self._waiting:
            self._close_slow(self.bodies, now)
        if not self.answers.has_room:
            self._close_slow(self.answers, now)

    def _close_slow(self, bound, now):
        """Close connections that have moved a large body or answer for long, as others wait for their memory."""
        for connection in bound.holders:
            is_moving = connection.state in (State.READING, State.WRITING) and not connection.waits_for_us
            if is_moving and now - connection.since > self._client_timeout:
                connection.give_way()
