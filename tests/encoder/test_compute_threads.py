import os
import threading

import pytest

from embedding_api.encoder import compute_threads
from embedding_api.encoder.compute_threads import ComputeThreads, usable_cores


class Gone(Exception):
    pass


@pytest.fixture
def make():
    """A function that makes a pool. The pool ends with the test."""
    pools = []

    def make(*arguments, **options):
        pools.append(ComputeThreads(*arguments, **options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.shutdown()


def do_nothing():
    pass


def test_there_is_no_thread_before_there_is_work(make):
    threads = make(3)
    assert not threads._threads
    threads.run(abs, [1], do_nothing)
    assert len(threads._threads) == 1


def test_a_forked_process_can_use_its_parents_pool(make):
    threads = make(2)
    child = os.fork()
    if not child:
        os._exit(threads.run(abs, [-1, -2, -3], do_nothing) != [1, 2, 3])
    assert os.waitpid(child, 0)[1] == 0


def test_as_many_batches_as_cores_are_computed_at_a_time(make):
    meeting = threading.Barrier(usable_cores(), timeout=60)
    make().run(lambda batch: meeting.wait(), range(usable_cores()), do_nothing)


def test_results_are_in_the_order_of_the_batches(make):
    second_is_done = threading.Event()

    def compute(batch):
        if batch == 0:
            assert second_is_done.wait(60)
        if batch == 1:
            second_is_done.set()
        return -batch

    assert make(2).run(compute, range(5), do_nothing) == [0, -1, -2, -3, -4]


def test_the_heartbeat_goes_on_while_a_batch_takes_long(make, monkeypatch):
    monkeypatch.setattr(compute_threads, "HEARTBEAT_SECONDS", 0.01)
    beats, enough = [], threading.Event()

    def heartbeat():
        beats.append(threading.current_thread())
        if len(beats) == 3:
            enough.set()

    assert make(1).run(lambda batch: enough.wait(60), [0], heartbeat) == [True]
    assert set(beats) == {threading.current_thread()}


def test_the_heartbeat_comes_after_each_batch(make):
    beats = []
    make(1).run(abs, range(5), lambda: beats.append("beat"))
    assert len(beats) >= 5


def test_an_error_of_the_heartbeat_cancels_the_rest_without_waiting(make, monkeypatch):
    monkeypatch.setattr(compute_threads, "HEARTBEAT_SECONDS", 0.01)
    begun, end = [], threading.Event()

    def compute(batch):
        begun.append(batch)
        assert end.wait(60)

    def heartbeat():
        if begun:
            raise Gone

    threads = make(1)
    with pytest.raises(Gone):
        threads.run(compute, range(5), heartbeat)
    end.set()
    threads.shutdown()
    assert begun == [0]


def test_an_error_of_a_batch_is_raised_and_cancels_the_rest(make):
    begun, caught = [], threading.Event()

    def compute(batch):
        begun.append(batch)
        if batch == 1:
            assert caught.wait(60)
        raise MemoryError

    threads = make(1)
    with pytest.raises(MemoryError):
        threads.run(compute, range(5), do_nothing)
    caught.set()
    threads.shutdown()
    assert begun in ([0], [0, 1])


@pytest.mark.parametrize("nice", [0, 10])
def test_only_the_priority_of_the_threads_is_lower(make, nice):
    before = os.getpriority(os.PRIO_PROCESS, 0)
    [of_thread] = make(1, nice).run(lambda batch: os.getpriority(os.PRIO_PROCESS, 0), [0], do_nothing)
    assert of_thread == min(before + nice, 19)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
