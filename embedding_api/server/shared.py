"""What the workers of a service know of each other: whether one is idle, and whether all of them are to stop."""

import mmap

# More workers than anybody runs; places beyond are used twice, which only misleads the spreading of connections.
_PLACES = 4096


class SharedFlags:
    """Flags in memory that the master makes before it forks, and all workers see."""

    def __init__(self):
        self._flags = mmap.mmap(-1, 1 + _PLACES)

    @property
    def stopping(self):
        """Whether the service is about to end, and nobody takes its place."""
        return bool(self._flags[0])

    def stop(self):
        """Tell all workers that the service is about to end."""
        self._flags[0] = 1

    def set_idle(self, place, idle):
        """Note whether a worker, by its place among its siblings, has nothing to do."""
        self._flags[1 + place % _PLACES] = idle

    def any_idle(self):
        """Whether some worker has nothing to do. A worker that asks is not idle."""
        return self._flags.find(b"\1", 1) > 0
