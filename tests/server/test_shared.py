import os

import pytest

from embedding_api.server.shared import SharedFlags


@pytest.fixture
def flags():
    return SharedFlags()


def run_forked(function):
    """Call a function in a forked process; it ends before this comes back."""
    if not (child := os.fork()):
        function()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_at_first_no_worker_is_idle_and_the_service_does_not_stop(flags):
    assert not flags.any_idle
    assert not flags.stopping


def test_a_worker_sees_that_another_is_idle(flags):
    run_forked(lambda: flags.set_idle(2))
    assert flags.any_idle
    run_forked(lambda: flags.set_idle(1))
    run_forked(lambda: flags.set_busy(2))
    assert flags.any_idle
    run_forked(lambda: flags.set_busy(1))
    assert not flags.any_idle


def test_all_workers_see_the_stop_and_it_makes_no_worker_idle(flags):
    run_forked(flags.stop)
    assert flags.stopping
    assert not flags.any_idle
    flags.set_idle(1)
    assert flags.any_idle


def test_any_number_of_workers_has_flags(flags):
    flags.set_idle(10_000)
    assert flags.any_idle
    assert not flags.stopping


def test_busy_workers_are_counted(flags):
    assert flags.busy == 0
    for number in (1, 2, 3):
        flags.set_busy(number)
    flags.set_idle(2)
    assert flags.busy == 2
    flags.forget(3)
    flags.forget(2)
    assert flags.busy == 1
    assert not flags.any_idle
