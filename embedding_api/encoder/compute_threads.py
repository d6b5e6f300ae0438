"""Threads that compute: the micro-batches of large requests in a worker, and those of the bulk command."""

import os
import signal
import warnings
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress

# Seconds between two heartbeats at most.
HEARTBEAT_SECONDS = 0.5


def usable_cores():
    """The number of cores this process may use: its CPU affinity and its cgroup's quota, rounded up."""
    # joblib.cpu_count() is 1 where /dev/shm cannot be written to, and the import warns of that.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        from joblib.externals.loky import cpu_count
    return cpu_count()


class ComputeThreads(ThreadPoolExecutor):
    """A pool of threads, each of which takes whole micro-batches.

    A thread starts when there is work for it and not before, so that a process can make a pool and then fork.

    Args:
        count: the number of threads; by default one for each usable core.
        nice: added to the niceness of each thread. One of 10 more gets a tenth of the CPU time of its rivals.

    Attributes:
        count: the number of threads.
    """

    def __init__(self, count=None, nice=0):
        self.count = count or usable_cores()
        super().__init__(self.count, "compute", _begin, (nice,))

    def run(self, function, batches, heartbeat):
        """What the function returns for each batch, as a list in the order of the batches.

        Args:
            heartbeat: called in this thread after each batch, and at least every HEARTBEAT_SECONDS.

        Raises:
            Exception: what the function or the heartbeat has raised. Batches that have not begun are then cancelled,
                and nobody waits for the others.
        """
        futures, results = [self.submit(function, batch) for batch in batches], []
        try:
            for future in futures:
                while wait([future], HEARTBEAT_SECONDS).not_done:
                    heartbeat()
                heartbeat()
                results.append(future.result())
        finally:
            for future in futures:
                future.cancel()
        return results


def _begin(nice):
    # On Linux this is the niceness of the calling thread alone. Lowering the priority needs no privilege, but a sandbox
    # may forbid it.
    with suppress(OSError):
        os.nice(nice)
    # Signals are for the main thread: one that is delivered here would not wake it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
