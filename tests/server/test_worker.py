from types import SimpleNamespace

import pytest

from embedding_api.server.worker import Worker


@pytest.mark.parametrize(
    ("cores", "workers", "idle", "expected"),
    [
        (1, 1, 0, False),
        (2, 1, 0, True),
        (2, 2, 1, True),
        (2, 2, 0, False),
        (8, 8, 4, True),
        (8, 8, 3, False),
        (2, 8, 7, True),
    ],
)
def test_a_helper_gets_a_core_if_each_worker_that_is_not_idle_can_have_one(cores, workers, idle, expected):
    worker = SimpleNamespace(_cores=cores, cfg=SimpleNamespace(workers=workers), shared=SimpleNamespace(idle=idle))
    assert Worker._has_idle_core(worker) is expected
