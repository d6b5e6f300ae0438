"""Admission of large requests: a bound on how many of them all workers together work on at a time."""

import fcntl
import os

from embedding_api.config import usable_cores

# Bytes. All the tokens of the largest request fit in less, unless texts are longer than the model reads.
LARGE_BODY_BYTES = 1024 * 1024
LARGE_TOKENS = 4096


class Admission:
    """Admits so many processes at a time to requests larger than a threshold. Smaller ones are always admitted.

    A process has one request at a time. What it holds is a lock of the operating system, which ends with the process.

    Args:
        threshold: the size up to which a request is not large.
        limit: the number of processes.

    Attributes:
        limit: may be changed, if all processes change it alike.
    """

    def __init__(self, threshold, limit):
        self.limit = limit
        self._threshold = threshold
        self._file = os.memfd_create("admission")

    def admit(self, size):
        """Whether a request of this size may begin; if so, `release` ends it."""
        return size <= self._threshold or any(map(self._lock, range(self.limit)))

    def release(self):
        """Give back what `admit` has taken."""
        fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _lock(self, number):
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except BlockingIOError:
            return False
        return True


# Made before the fork, for all workers, once: a reload keeps them.

# There may be more workers than cores, for the sake of short requests. With the largest bodies a worker needs 40 MB
# more than usual, and more of them than cores save no time.
LARGE_BODIES = Admission(LARGE_BODY_BYTES, usable_cores())
# By tokens. Gunicorn's configuration sets the limit to the number of workers but one, which remains for short requests.
LARGE_REQUESTS = Admission(LARGE_TOKENS, 1)
