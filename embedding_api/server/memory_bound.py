"""A bound on the memory that connections hold."""

from embedding_api.server.connection import Connection


class MemoryBound:
    """Counts the bytes that connections hold.

    Args:
        limit: bytes. A connection that is the only one to hold any may hold more.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[Connection, int] = {}
        self._sum = 0

    def __contains__(self, connection: Connection) -> bool:
        return connection in self._held

    @property
    def is_held(self) -> bool:
        """Whether any connection holds bytes."""
        return bool(self._held)

    @property
    def has_room(self) -> bool:
        """Whether less than the limit is held."""
        return self._sum < self._limit

    @property
    def holders(self) -> list[Connection]:
        """The connections that hold bytes, in the order in which they began to."""
        return list(self._held)

    def fits(self, size: int) -> bool:
        """Whether so many bytes more may be held."""
        return not self._held or self._sum + size <= self._limit

    def hold(self, connection: Connection, size: int) -> None:
        """Set how many bytes a connection holds from now on."""
        self._sum += size - self._held.get(connection, 0)
        if size:
            self._held[connection] = size
        else:
            self._held.pop(connection, None)
