from types import SimpleNamespace

import pytest

from embedding_api.server.shared import SharedFlags
from embedding_api.server.worker import Worker


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
