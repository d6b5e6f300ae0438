"""Limits of a worker: how many requests may wait, and how much memory requests may hold."""

import math
import random
import socket
from collections.abc import Sequence

from embedding_api.config import Settings
from embedding_api.errors import ApiError, overloaded
from embedding_api.server.backlog import backlog
from embedding_api.server.connection import Connection, State
from embedding_api.server.memory_bound import MemoryBound

# Bodies, vectors and answers may each hold the memory of so many of the largest body or answer.
LARGE_PAYLOADS = 2
# What a vector in JSON is taken to have.
VECTOR_BYTES = 8 * 1024
# Weight of the newest value in a moving average.
_AVERAGE_WEIGHT = 0.1
# The most seconds in Retry-After.
MAX_RETRY_SECONDS = 60


class Limits:
    """Admits requests to a worker.

    Args:
        settings: the service's `Settings`.
        workers: the number of workers.
        listeners: the listening sockets, which all workers share.

    Attributes:
        bodies, vectors, answers: the `MemoryBound`s of requests that are read, computed and answered.
        max_waiting: the limit of `postponed`, and of large requests and stalled bodies together.
        postponed: the number of postponed requests; the worker counts them.
        large: the number of large requests that wait or are computed; the batcher counts them.
    """

    def __init__(self, settings: Settings, workers: int, listeners: Sequence[socket.socket]) -> None:
        largest = max(settings.max_body_bytes, settings.max_texts * VECTOR_BYTES)
        self.bodies, self.vectors, self.answers = (MemoryBound(LARGE_PAYLOADS * largest) for _ in range(3))
        self.max_waiting = -(-settings.max_waiting // workers)
        self.postponed = self.large = 0
        self._client_timeout = settings.client_timeout
        self._workers, self._listeners = workers, listeners
        self._stalled: dict[Connection, int] = {}
        # Moving averages of the seconds that a request takes, by whether it is large. They begin with guesses.
        self._average_seconds = {False: 0.01, True: 1.0}
        self._refused = 0

    @property
    def backlog(self) -> int:
        """How many connections no worker has accepted yet."""
        return sum(map(backlog, self._listeners))

    @property
    def share_of_backlog(self) -> int:
        """The backlog divided by the workers, plus one."""
        return self.backlog // self._workers + 1

    @property
    def waiting(self) -> int:
        """How many requests wait in this worker: postponed, with a stalled body, or large."""
        return self.postponed + len(self._stalled) + self.large

    @property
    def memory_is_held(self) -> bool:
        """Whether a request holds memory for its body, its vectors or its answer."""
        return self.bodies.is_held or self.vectors.is_held or self.answers.is_held

    def record_seconds(self, seconds: float, requests: int = 1, large: bool = False) -> None:
        """Add to the averages that so many requests together have taken so many seconds."""
        self._average_seconds[large] += _AVERAGE_WEIGHT * (seconds / requests - self._average_seconds[large])

    def refuse_as_overloaded(self, large: bool = False) -> ApiError:
        """The error for a request that there is no room for. It says when there may be.

        The requests that wait here, and those that were refused before, need some time. Retry-After is random, up to
        twice that time, or the clients would all come back at once.
        """
        self._refused += 1
        here = self.large + len(self._stalled) if large else self.postponed
        seconds = (here + self._refused) * self._average_seconds[large]
        return overloaded(min(math.ceil(random.uniform(0, 1 + 2 * seconds)), MAX_RETRY_SECONDS))

    def check_room(self) -> None:
        """Check whether another large request, or body for which there is no memory, may wait.

        Raises:
            ApiError: too many do.
        """
        if self.large + len(self._stalled) >= self.max_waiting:
            raise self.refuse_as_overloaded(large=True)

    def admit_body(self, connection: Connection) -> None:
        """Let a connection read its body if there is memory, or pause it until there is.

        Raises:
            ApiError: too many wait.
        """
        size = connection.request.body_to_come
        if connection in self.bodies:
            return
        if not self._stalled and self.bodies.fits(size):
            self.bodies.hold(connection, size)
            return
        self.check_room()
        self._stalled[connection] = size
        connection.pause_reading()

    def admit_waiting(self) -> None:
        """Resume the connections for whose bodies there is memory now, first come, first served."""
        while self._stalled:
            connection, size = next(iter(self._stalled.items()))
            if not self.bodies.fits(size):
                return
            del self._stalled[connection]
            self.bodies.hold(connection, size)
            connection.resume_reading()

    def forget(self, connection: Connection) -> None:
        """Release what a connection that closes has held."""
        self._stalled.pop(connection, None)
        for bound in (self.bodies, self.vectors, self.answers):
            bound.hold(connection, 0)

    def tick(self, now: float) -> None:
        """Called every second; `now` is the time of the monotonic clock."""
        self._refused //= 2
        if self._stalled:
            self._evict_slow(self.bodies, now)
        if not self.answers.has_room:
            self._evict_slow(self.answers, now)

    def _evict_slow(self, bound, now):
        """Evict connections whose body or answer has been on its way for long, as others wait for their memory."""
        for connection in bound.holders:
            is_moving = connection.state in (State.READING, State.WRITING) and not connection.waits_for_server
            if is_moving and now - connection.since > self._client_timeout:
                connection.evict()
