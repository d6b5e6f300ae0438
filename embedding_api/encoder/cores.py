"""How the workers share the machine's cores."""

import mmap

from embedding_api.config import usable_cores


class Cores:
    """Tells each forward pass how many threads it may use: all cores if no other worker computes, or else one.

    A byte for each worker, in memory that forked workers share, says that it computes. Who started alone keeps all
    cores until its next forward pass, a fraction of a second.

    MEASURED

    Args:
        count: the number of cores to share.
    """

    def __init__(self, count):
        self.count = count
        # Workers are numbered from 1. Two that share a byte, 4,096 apart, would only use more threads than they should.
        self._computes = mmap.mmap(-1, 4096)

    def take(self, worker):
        """Note that the worker computes. Returns the number of threads it may use until it asks again."""
        self._computes[worker % len(self._computes)] = 1
        return self.count if self._computes[:].count(1) == 1 else 1

    def give_back(self, worker):
        """Note that the worker does not compute: it is done, or it has died."""
        self._computes[worker % len(self._computes)] = 0


# Made before the fork, for all workers; unlike Gunicorn's configuration it is not made anew at a reload.
MACHINE = Cores(usable_cores())
