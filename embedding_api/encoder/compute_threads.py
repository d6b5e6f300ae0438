"""Compute threads: for the micro-batches of large requests in a worker, and for those of the bulk command."""

import os
import signal
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from typing import TypeVar

# The most seconds between two heartbeats.
HEARTBEAT_SECONDS = 0.5


Batch = TypeVar("Batch")
Result = TypeVar("Result")


def usable_cores() -> int:
    """The number of cores this process may use: the lower of its CPU affinity and its cgroup's quota, rounded up."""
    # Not joblib.cpu_count(): it is 1 where /dev/shm cannot be written to. The import warns of that.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        from joblib.externals.loky import cpu_count
    return cpu_count()


class ComputeThreads(ThreadPoolExecutor):
    """A pool of threads, each of which computes whole micro-batches.

    A thread starts only when there is work for it, so that a process can make a pool and then fork.

    Args:
        count: the number of threads; by default one for each usable core.
        nice: added to the niceness of each thread. With 10, a thread gets a tenth of the CPU time of a thread without
            (sched(7): a factor of 1.25 for each step).

    Attributes:
        count: the number of threads.
    """

    def __init__(self, count: int | None = None, nice: int = 0) -> None:
        self.count = count or usable_cores()
        super().__init__(self.count, "compute", _begin, (nice,))

    def run(
        self, function: Callable[[Batch], Result], batches: Iterable[Batch], heartbeat: Callable[[], None]
    ) -> list[Result]:
        """Call a function for each batch; returns its results, as a list in the order of the batches.

        Args:
            heartbeat: called in this thread after each batch, and at least every HEARTBEAT_SECONDS.

        Raises:
            Exception: what the function or the heartbeat has raised. Batches that have not begun are cancelled; those
                that have begun are not waited for.
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
    # On Linux this is the niceness of the calling thread alone. To raise it needs no privilege, but a sandbox may
    # forbid it.
    with suppress(OSError):
        os.nice(nice)
    block_signals()


def block_signals() -> None:
    """Have no signal delivered to this thread: the main thread handles them, and would not be woken."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
