"""What workers know of each other: which of them are idle, and whether all of them must stop."""

import mmap

# More than anybody runs. Workers beyond share flags, which only makes the spreading of connections less exact.
_FLAGS = 4096
_IDLE, _BUSY = 1, 2


class SharedFlags:
    """Flags in memory that the master makes before it forks, and all workers see."""

    def __init__(self):
        self._flags = mmap.mmap(-1, 1 + _FLAGS)

    @property
    def stopping(self) -> bool:
        """Whether the service is about to stop, and no other process takes over."""
        return bool(self._flags[0])

    def stop(self) -> None:
        """Tell all workers that the service is about to stop."""
        self._flags[0] = 1

    def set_idle(self, number: int) -> None:
        """Count the worker of this number as idle: it has nothing to do."""
        self._flags[1 + number % _FLAGS] = _IDLE

    def set_busy(self, number: int) -> None:
        """Count the worker of this number as busy."""
        self._flags[1 + number % _FLAGS] = _BUSY

    def forget(self, number: int) -> None:
        """Count the worker of this number neither as idle nor as busy."""
        self._flags[1 + number % _FLAGS] = 0

    @property
    def any_idle(self) -> bool:
        """Whether some worker has nothing to do."""
        return self._flags.find(_IDLE.to_bytes(), 1) > 0

    @property
    def busy(self) -> int:
        """How many workers have something to do."""
        return self._flags[1:].count(_BUSY)
