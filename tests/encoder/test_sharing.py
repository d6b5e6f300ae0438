"""Real processes that share their work; a text's first token id is how many milliseconds its forward pass takes."""

import os
import pickle
import signal
import time
from contextlib import suppress

import numpy as np
import pytest

from embedding_api.encoder.board import FREE, LOST, MOST_TOKENS, TAKEN, Board
from embedding_api.encoder.sharing import Sharing

LAYERS = 10
# More tokens than a batch may have that is shared.
LARGE = [1] * MOST_TOKENS


class Engine:
    def forward(self, batch, between_layers=None):
        for _ in range(LAYERS):
            if between_layers:
                between_layers()
            time.sleep(max(ids[0] for ids in batch) / 1000 / LAYERS)
        return vectors_of(batch)


class Record:
    """Remembers what there was to count."""

    def __init__(self):
        self.passes, self.waits, self.handovers = [], [], 0

    def passed(self, requests, tokens):
        self.passes.append((requests, tokens))

    def waited(self, seconds):
        self.waits.append(seconds)

    def handed_over(self):
        self.handovers += 1


class Process:
    """A worker that has one batch computed."""

    def __init__(self, board, place, batch, heartbeat):
        self._reader, writer = os.pipe()
        self.place, self.batch = place, batch
        self.pid = os.fork()
        if self.pid == 0:
            record = Record()
            try:
                sharing = Sharing(board, place, Engine(), 2, heartbeat, record)
                answer = sharing.forward(batch, cores=1), time.monotonic(), record
            except Exception as error:
                answer = error
            os.write(writer, pickle.dumps(answer))
            os._exit(0)
        os.close(writer)

    def result(self):
        """When it was done, and what was recorded. The vectors must be right."""
        with os.fdopen(self._reader, "rb") as file:
            answer = pickle.loads(file.read())
        if isinstance(answer, Exception):
            raise answer
        vectors, end, record = answer
        assert vectors.tolist() == vectors_of(self.batch).tolist()
        return end, record

    def signal(self, number):
        os.kill(self.pid, number)


def vectors_of(batch):
    return np.array([[sum(ids), len(ids)] for ids in batch], np.float32)


def is_used(board, place):
    return board._state[place] != FREE


def until(condition):
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def board():
    board = Board(cores=1, places=4)
    yield board
    for bell in board._bells:
        os.close(bell)


@pytest.fixture
def work(board):
    """A function that starts a worker at the next place and waits until it has posted."""
    processes = []

    def start(*batch, heartbeat=lambda: None):
        place = len(processes) + 1
        processes.append(Process(board, place, batch, heartbeat))
        until(lambda: is_used(board, place))
        return processes[-1]

    yield start
    for process in processes:
        with suppress(ProcessLookupError):
            process.signal(signal.SIGKILL)
        os.waitpid(process.pid, 0)


def test_who_waits_goes_together(work):
    first = work([200, 1])
    others = [work([20, 2], [20, 3, 4]), work([20, 5]), work([20, 6])]
    assert first.result()[1].passes == [(1, 2)]
    records = [other.result()[1] for other in others]
    assert sorted(record.passes for record in records) == [[], [], [(3, 9)]]
    assert sorted(record.handovers for record in records) == [0, 0, 1]
    (waits,) = (record.waits for record in records if record.waits)
    assert len(waits) == 3
    assert all(0 < seconds < 1 for seconds in waits)


def test_a_large_batch_makes_way_between_its_layers(work):
    large = work([500, *LARGE])
    short = work([20, 1])
    short_end, record = short.result()
    assert record.passes == []
    large_end, record = large.result()
    assert record.passes == [(1, MOST_TOKENS + 1), (1, 2)]
    assert short_end < large_end - 0.1


def test_short_work_that_keeps_coming_does_not_stop_a_large_batch(work, board):
    large = work([100, *LARGE])
    sharing = Sharing(board, 4, Engine(), 2, lambda: None, Record())
    passes = 0
    while is_used(board, large.place):
        sharing.forward([[5, 1]], cores=1)
        passes += 1
        assert passes < 5 * LAYERS
    large.result()


@pytest.mark.parametrize("takes", [500, 3000])
def test_the_work_of_a_killed_leader_goes_on(work, board, takes):
    first = work([100, 1])
    leader = work([takes, 2])
    waiter = work([10, 3])
    first.result()
    until(lambda: board._state[waiter.place] == TAKEN)
    killed = time.monotonic()
    leader.signal(signal.SIGKILL)
    board.bury(leader.place)
    end, record = waiter.result()
    assert record.passes == [(1, 2)]
    assert end - killed < LOST


def test_the_work_of_a_stopped_leader_goes_on_and_so_does_the_leader_later(work, board):
    first = work([100, 1])
    leader = work([500, 2])
    waiter = work([10, 3])
    first.result()
    until(lambda: board._state[waiter.place] == TAKEN)
    stopped = time.monotonic()
    leader.signal(signal.SIGSTOP)
    end, _ = waiter.result()
    # It looks around twice at most, and then computes what the leader had begun.
    assert end - stopped < 2 * LOST + 0.5 + 0.5
    leader.signal(signal.SIGCONT)
    leader.result()


def test_who_holds_the_lock_and_is_stopped_holds_up_nobody_for_long(work, board):
    pid = os.fork()
    if pid == 0:
        with board._lock:
            os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(pid, os.WUNTRACED)
    begin = time.monotonic()
    try:
        sharing = Sharing(board, 1, Engine(), 2, lambda: None, Record())
        assert sharing.admit()
        for _ in range(10):
            assert sharing.forward([[10, 1]], cores=1).tolist() == [[11, 2]]
        assert time.monotonic() - begin < 4 * LOST
    finally:
        os.kill(pid, signal.SIGCONT)
        os.waitpid(pid, 0)
    assert sharing.forward([[10, 1]], cores=1).tolist() == [[11, 2]]


class Gone(Exception):
    pass


@pytest.mark.parametrize("large", [False, True])
def test_the_work_of_a_client_that_has_gone_is_dropped(work, board, large):
    def gone():
        raise Gone

    first = work([1200, 1])
    quitter = work([50, *LARGE] if large else [50, 2], heartbeat=gone)
    waiter = work([10, 3])
    with pytest.raises(Gone):
        quitter.result()
    assert not is_used(board, quitter.place)
    first.result()
    assert waiter.result()[1].passes == [(1, 2)]
