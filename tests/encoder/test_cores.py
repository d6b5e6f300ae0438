import os
import runpy
from types import SimpleNamespace

import pytest

from embedding_api.encoder.cores import MACHINE, Cores
from server import ROOT


def test_one_alone_gets_all_cores_and_many_get_one_each():
    cores = Cores(4)
    assert [cores.take(worker) for worker in (1, 2, 3, 4, 5)] == [4, 1, 1, 1, 1]
    assert cores.take(1) == 1
    for worker in (2, 3, 4, 5):
        cores.give_back(worker)
    assert cores.take(1) == 4


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_workers_see_each_other():
    cores = Cores(2)
    child = os.fork()
    if child == 0:
        cores.take(1)
        os._exit(0)
    os.waitpid(child, 0)
    assert cores.take(2) == 1


@pytest.mark.parametrize("worker", [7, 4096, 100_000])
def test_the_cores_of_a_worker_that_died_are_given_back(worker, monkeypatch):
    monkeypatch.setattr(MACHINE, "count", 4)
    config = runpy.run_path(str(ROOT / "gunicorn.conf.py"))
    MACHINE.take(worker)
    assert MACHINE.take(8) == 1
    config["child_exit"](None, SimpleNamespace(age=worker))
    assert MACHINE.take(8) == 4
    MACHINE.give_back(8)
