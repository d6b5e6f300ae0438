from types import SimpleNamespace

import pytest

from embedding_api.server.shared import SharedFlags
from embedding_api.server.worker import Worker


class Connection:
    """A connection that is idle since a moment, or whose next request has just arrived."""

    waits_for_server = False

    def __init__(self, since, has_request=False):
        self.since, self._has_request = since, has_request
        self.closed = False

    def evict(self):
        self.closed = not self._has_request
        return self.closed


@pytest.mark.parametrize(
    ("since", "with_request", "closed"),
    [([3, 1, 2], [], [1]), ([3, 1, 2], [1], [2]), ([3, 1, 2], [1, 2, 3], [])],
)
def test_the_connection_that_is_idle_for_longest_makes_room(since, with_request, closed):
    connections = {moment: Connection(moment, moment in with_request) for moment in since}
    # One whose events are not handled yet is older than all, and stays.
    connections[0] = Connection(0)
    Worker._evict_one(SimpleNamespace(_connections=connections, _ready={0: 1}))
    assert [moment for moment, connection in connections.items() if connection.closed] == closed


# The last is of workers that were added by a signal, on two cores.
@pytest.mark.parametrize(
    ("cores", "busy", "idle", "expected"),
    [
        (1, 1, 0, False),
        (2, 1, 0, True),
        (2, 1, 1, True),
        (2, 2, 0, False),
        (8, 4, 4, True),
        (8, 5, 3, False),
        (2, 2, 2, False),
    ],
)
def test_a_helper_gets_a_core_if_each_busy_worker_can_have_one(cores, busy, idle, expected):
    shared = SharedFlags()
    for number in range(busy):
        shared.set_busy(number)
    for number in range(busy, busy + idle):
        shared.set_idle(number)
    assert Worker._has_idle_core(SimpleNamespace(_cores=cores, shared=shared)) is expected
