"""A bound on the large bodies that are taken up at a time: with the largest, a worker needs 40 MB more than usual.

There are more workers than cores, for the sake of short requests; with large ones they would need more memory together
than they save time.
"""

import fcntl
import os

from embedding_api.encoder.cores import MACHINE

# Bytes. All the tokens of the largest request fit in less, unless texts are longer than the model reads.
LARGE = 1024 * 1024


class LargeBodies:
    """Places for as many as there are cores. A place is a lock in the kernel, which ends with the process that has it.

    Args:
        places: how many there are.
    """

    def __init__(self, places):
        self._places = places
        self._file = os.memfd_create("large bodies")

    def begin(self, size):
        """Whether a request with a body of so many bytes may be taken up."""
        return size <= LARGE or any(map(self._lock, range(self._places)))

    def end(self):
        """Give back what `begin` has taken."""
        fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _lock(self, place):
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except BlockingIOError:
            return False
        return True


# Made before the fork, for all workers, once: a reload keeps it.
LARGE_BODIES = LargeBodies(MACHINE.count)
