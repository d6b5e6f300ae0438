"""How the workers share the machine's cores."""

import mmap


class Cores:
    """Tells each forward pass how many threads it may use, by how many workers compute at that moment.

    A request alone on the machine gets every core, one among many gets one core, and all together no more threads run
    than there are cores (or computing workers). A byte for each worker, in memory that forked workers share, says
    that it computes.

    Args:
        count: the number of cores to share out.
    """

    def __init__(self, count):
        self.count = count
        # Workers are numbered from 1; two that live at the same time are never 4,096 apart.
        self._computes = mmap.mmap(-1, 4096)

    def take(self, worker):
        """Note that the worker computes. Returns the number of threads it may use until it asks again."""
        self._computes[worker % len(self._computes)] = 1
        return max(1, self.count // self._computes[:].count(1))

    def give_back(self, worker):
        """Note that the worker does not compute: it is done, or it has died."""
        self._computes[worker % len(self._computes)] = 0
