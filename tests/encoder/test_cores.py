import os
import runpy
from types import SimpleNamespace

import pytest

from embedding_api.encoder import cores
from embedding_api.encoder.cores import MACHINE, Cores
from server import ROOT


@pytest.fixture
def clock(monkeypatch):
    """A function that lets time pass."""
    now = [1000.0]
    monkeypatch.setattr(cores, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def wait(seconds):
        now[0] += seconds

    return wait


def test_one_alone_gets_all_cores_and_many_get_one_each(clock):
    shared = Cores(4)
    assert [shared.take(worker) for worker in (1, 2, 3, 4, 5)] == [4, 1, 1, 1, 1]
    assert shared.take(1) == 1
    for worker in (2, 3, 4, 5):
        shared.give_back(worker)
    clock(1.1)
    assert shared.take(1) == 4


@pytest.mark.parametrize(
    ("count", "workers", "most", "share"), [(2, 2, 2, 1), (8, 2, 8, 4), (2, 5, 2, 1), (64, 2, 8, 8)]
)
def test_fewer_workers_than_cores_share_them_all(clock, count, workers, most, share):
    shared = Cores(count)
    shared.share_among(workers)
    assert [shared.take(worker) for worker in (1, 2)] == [most, share]


def test_a_pause_between_two_requests_does_not_end_the_load(clock):
    shared = Cores(4)
    shared.take(1)
    shared.take(2)
    shared.give_back(2)
    clock(0.5)
    assert shared.take(1) == 1
    clock(0.4)
    assert shared.take(1) == 1
    clock(0.2)
    assert shared.take(1) == 4


def test_one_client_whose_requests_go_to_different_workers_is_alone(clock):
    shared = Cores(4)
    for worker in (1, 2, 1, 2):
        assert shared.take(worker) == 4
        shared.give_back(worker)


def test_forked_workers_see_each_other():
    shared = Cores(2)
    child = os.fork()
    if child == 0:
        shared.take(1)
        os._exit(0)
    os.waitpid(child, 0)
    assert shared.take(2) == 1


@pytest.mark.parametrize("worker", [7, 4096, 100_000])
def test_the_cores_of_a_worker_that_died_are_given_back(worker, monkeypatch, clock):
    monkeypatch.setattr(MACHINE, "most", 4)
    config = runpy.run_path(str(ROOT / "gunicorn.conf.py"))
    MACHINE.take(worker)
    assert MACHINE.take(8) == 1
    config["child_exit"](None, SimpleNamespace(place=worker))
    clock(1.1)
    assert MACHINE.take(8) == 4
    MACHINE.give_back(8)
