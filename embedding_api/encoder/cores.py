"""How the workers share the machine's cores."""

import mmap
import time

from embedding_api.config import usable_cores

# Threads of one forward pass: a micro-batch is little work, and every worker keeps its threads.
_MOST_THREADS = 8
# Seconds after two workers last computed at the same time: longer than a micro-batch takes.
_QUIET = 1.0
_WORKERS = 4096


class Cores:
    """Tells each forward pass how many threads it may use: all cores for a request alone on the machine, else a share.

    Workers see through memory that they share from the fork which of them compute. It is not enough to look who does at
    this moment: between two requests of the others a pass would start on all cores, and then contend with the next, and
    with OpenMP's threads, which spin for milliseconds after it. So a machine is under load until its workers have not
    overlapped for a second.

    Measured on two cores with two workers, beside a thread for each worker: one client with 32 texts of 100 tokens 1.8
    times as fast, with a query 1.2 times; two clients as fast, but 0.8 times without the second's wait. OpenMP threads
    that sleep instead of spin (GOMP_SPINCOUNT=1000) make a lone query slower than one thread does. Not measured on more
    cores than two.

    Attributes:
        count: the number of cores to share.
        most: the threads of a request alone.
        share: the threads of a worker under load; one where there are as many workers as cores.
    """

    def __init__(self, count):
        self.count = count
        self.most = min(count, _MOST_THREADS)
        self.share = 1
        memory = memoryview(mmap.mmap(-1, _WORKERS + 8))
        # A byte for each worker, by its number. Two that share one would only use more threads than they should.
        self._computes = memory[:_WORKERS]
        self._last_overlap = memory[_WORKERS:].cast("d")

    def share_among(self, workers):
        """Set what each of so many workers may use under load."""
        self.share = max(1, min(self.most, self.count // workers))

    def take(self, worker):
        """Note that the worker computes. Returns the number of threads it may use until it asks again."""
        self._computes[worker % _WORKERS] = 1
        now = time.monotonic()
        if self._computes.tobytes().count(1) > 1:
            self._last_overlap[0] = now
        alone = not self._last_overlap[0] or now - self._last_overlap[0] > _QUIET
        return self.most if alone else self.share

    def give_back(self, worker):
        """Note that the worker does not compute: it is done, or it has died."""
        self._computes[worker % _WORKERS] = 0


# Made before the fork, for all workers; unlike Gunicorn's configuration it is not made anew at a reload.
MACHINE = Cores(usable_cores())
