"""A bound on the memory that connections hold."""


class MemoryBound:
    """Counts the bytes that connections hold.

    Args:
        limit: bytes. A connection that is the only one to hold any may hold more.
    """

    def __init__(self, limit):
        self._limit = limit
        self._held = {}
        self._sum = 0

    def __contains__(self, connection):
        return connection in self._held

    @property
    def has_room(self):
        """Whether less than the limit is held."""
        return self._sum < self._limit

    @property
    def holders(self):
        """The connections that hold bytes, in the order in which they began to."""
        return list(self._held)

    def fits(self, size):
        """Whether so many bytes more may be held."""
        return not self._held or self._sum + size <= self._limit

    def hold(self, connection, size):
        """Set how many bytes a connection holds from now on."""
        self._sum += size - self._held.get(connection, 0)
        if size:
            self._held[connection] = size
        else:
            self._held.pop(connection, None)
