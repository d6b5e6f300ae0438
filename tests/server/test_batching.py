"""Many requests, few forward passes: greenlets and an encoder that notes its passes, without threads and sockets."""

import os
import select
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest

from embedding_api.config import Settings
from embedding_api.errors import ApiError, ClientGone
from embedding_api.server.batching import Batcher, RequestTask
from embedding_api.server.limits import Limits
from tests.support.tiny import TinyEngine, tiny_encoder


class Engine(TinyEngine):
    """Notes each pass, and fails on a token of 99."""

    micro_batch_tokens = 10
    pads = False

    def __init__(self):
        self.passes, self.helped = [], []

    def forward(self, batch, with_helper=False):
        self.passes.append([list(text) for text in batch])
        self.helped.append(with_helper)
        if any(99 in text for text in batch):
            raise MemoryError
        return super().forward(batch)


class Threads:
    """Two compute threads that do nothing until a test calls `step`."""

    count = 2

    def __init__(self):
        self.queue = deque()

    def submit(self, function, *arguments):
        self.queue.append((function, arguments))

    def step(self, steps=1):
        for _ in range(steps):
            function, arguments = self.queue.popleft()
            function(*arguments)


class Connection(SimpleNamespace):
    """A connection whose client may go, with the result of its request."""

    gone = False
    result = None
    __hash__ = object.__hash__

    def __init__(self):
        super().__init__(request=SimpleNamespace(free=lambda: None))


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def encoder(engine):
    encoder = tiny_encoder(engine)
    engine.passes.clear()
    return encoder


@pytest.fixture
def threads():
    return Threads()


@pytest.fixture
def limits():
    return Limits(Settings(max_waiting=3, max_texts=10, max_body_bytes=1000), 1, [])


@pytest.fixture
def passes():
    """The requests and the tokens of each pass, as they were recorded; the tasks of shared ones; idle cores."""
    return SimpleNamespace(recorded=[], tasks=[], idle_cores=0)


@pytest.fixture
def batcher(encoder, threads, limits, passes):
    batcher = Batcher(
        encoder,
        threads,
        limits,
        lambda: passes.idle_cores > 0,
        passes.tasks.append,
        lambda *figures: passes.recorded.append(figures),
    )
    encoder.run_in_worker(compute=batcher.compute, heartbeat=batcher.heartbeat)
    encoder._engine.passes.clear()
    yield batcher
    os.close(batcher.event)


@pytest.fixture
def ask(batcher, encoder):
    """A function that starts a request for the vectors of texts; gives its connection."""

    def ask(*texts):
        def run():
            try:
                connection.result = encoder.encode(texts, normalize=False)
            except Exception as error:
                connection.result = error

        connection = Connection()
        connection.task = RequestTask(run, connection)
        batcher.run(connection.task)
        if sum(map(len, texts)) > Engine.micro_batch_tokens:
            # It begins with the next turn.
            batcher.turn()
        return connection

    return ask


@pytest.fixture
def right():
    """A function that says whether a request has got the vectors of its texts."""

    def right(connection, *texts):
        return isinstance(connection.result, np.ndarray) and np.allclose(
            connection.result, TinyEngine().forward(texts), atol=1e-6
        )

    return right


def drain(batcher, threads):
    """Go on until nothing is left to do."""
    while threads.queue or batcher.has_work or is_readable(batcher.event):
        if threads.queue:
            threads.step()
        if is_readable(batcher.event):
            batcher.collect()
        batcher.turn()


def is_readable(descriptor):
    return bool(select.select([descriptor], [], [], 0)[0])


def test_requests_that_wait_are_computed_in_one_pass(ask, batcher, engine, passes, right):
    requests = [([1, 2],), ([3], [4, 5]), ([6, 7, 8],)]
    connections = [ask(*texts) for texts in requests]
    assert engine.passes == []
    batcher.turn()
    [shared] = engine.passes
    assert sorted(shared) == [[1, 2], [3], [4, 5], [6, 7, 8]]
    assert all(right(connection, *texts) for connection, texts in zip(connections, requests, strict=True))
    assert passes.recorded == [(3, 8)]
    assert passes.tasks == [[connection.task for connection in connections]]
    assert not batcher.has_work


def test_the_helper_takes_part_in_a_pass_while_a_core_is_idle(ask, batcher, engine, passes, right):
    connections = []
    for passes.idle_cores in (0, 1, 0):
        connections.append(ask([5, 6]))
        batcher.turn()
    assert engine.helped[-3:] == [False, True, False]
    assert all(right(connection, [5, 6]) for connection in connections)


def test_a_pass_has_no_more_tokens_than_a_micro_batch_and_the_oldest_come_first(ask, batcher, engine):
    connections = [ask([n] * 4) for n in range(1, 6)]
    seen = []
    while batcher.has_work:
        batcher.turn()
        seen.append(sorted(text[0] for text in engine.passes[-1]))
    assert seen == [[1, 2], [3, 4], [5]]
    assert all(isinstance(connection.result, np.ndarray) for connection in connections)


def test_it_is_full_when_the_next_pass_can_carry_no_more(ask, batcher):
    assert not batcher.is_full
    ask([1] * 9)
    assert not batcher.is_full
    ask([2])
    assert batcher.is_full
    batcher.turn()
    assert not batcher.is_full


def test_a_request_does_not_pass_an_older_one_for_which_there_is_no_room(ask, batcher, engine):
    first, second, third = ask([1] * 6), ask([2] * 6), ask([3])
    batcher.turn()
    assert (first.result is None, second.result is None, third.result is None) == (False, True, True)
    batcher.turn()
    assert (second.result is None, third.result is None) == (False, False)


def test_an_error_in_a_pass_reaches_each_of_its_requests_and_the_next_pass_works(ask, batcher, right):
    failed = [ask([1]), ask([99])]
    batcher.turn()
    assert [type(connection.result) for connection in failed] == [MemoryError] * 2
    healthy = ask([1, 2])
    batcher.turn()
    assert right(healthy, [1, 2])


def test_requests_of_clients_that_have_gone_are_not_computed(ask, batcher, engine, right):
    gone, stays = ask([1, 1]), ask([2, 2])
    gone.gone = True
    batcher.turn()
    assert engine.passes == [[[2, 2]]]
    assert isinstance(gone.result, ClientGone)
    assert right(stays, [2, 2])
    alone = ask([3])
    alone.gone = True
    batcher.turn()
    assert len(engine.passes) == 1
    assert isinstance(alone.result, ClientGone)
    assert not batcher.is_full


def test_a_request_may_ask_for_vectors_again(batcher, encoder):
    results = []

    def run():
        for number in (1, 2):
            results.append(encoder.encode([[number]]))

    batcher.run(RequestTask(run, Connection()))
    batcher.turn()
    assert (len(results), batcher.has_work) == (1, True)
    batcher.turn()
    assert len(results) == 2


def test_outside_of_a_request_vectors_are_computed_at_once(batcher, encoder, engine):
    assert encoder.encode([[1, 2]]).shape == (1, 8)
    assert engine.passes == [[[1, 2]]]


def test_a_large_request_is_cut_into_micro_batches_for_the_compute_threads(ask, batcher, threads, passes, right):
    texts = [[n] * 4 for n in range(1, 8)]
    connection = ask(*texts)
    assert not batcher.has_work
    drain(batcher, threads)
    assert right(connection, *texts)
    assert sum(tokens for _, tokens in passes.recorded) == 28
    assert all(requests == 1 and tokens <= 10 for requests, tokens in passes.recorded)
    assert passes.tasks == []


def test_a_text_longer_than_a_micro_batch_is_a_large_request(ask, batcher, threads, engine, right):
    connection = ask([1] * 11)
    batcher.turn()
    assert engine.passes == []
    drain(batcher, threads)
    assert right(connection, [1] * 11)


def test_short_requests_are_answered_while_a_large_one_is_computed(ask, batcher, threads, right):
    large = ask(*[[n] * 8 for n in range(1, 5)])
    threads.step()
    short = ask([5])
    batcher.turn()
    assert right(short, [5])
    assert large.result is None
    assert not batcher.is_full
    drain(batcher, threads)
    assert large.result.shape == (4, 8)


def test_large_requests_take_turns(ask, batcher, threads, engine):
    for number in (1, 2, 3):
        ask(*[[10 * number + index] * 10 for index in range(4)])
    drain(batcher, threads)
    owners = [text[0] // 10 for [text] in engine.passes]
    # Each begins with one micro-batch a thread.
    assert owners == [1, 1, 2, 2, 3, 3] * 2


def test_a_short_large_request_does_not_wait_for_the_end_of_a_long_one(ask, batcher, threads):
    long = ask(*[[n] * 10 for n in range(1, 21)])
    threads.step(2)
    other = ask([30] * 10, [31] * 10)
    threads.step(8)
    batcher.collect()
    batcher.turn()
    assert other.result.shape == (2, 8)
    assert long.result is None
    drain(batcher, threads)
    assert long.result.shape == (20, 8)


def test_an_error_in_a_micro_batch_ends_its_request_alone(ask, batcher, threads, engine, right):
    failed = ask([99] * 10, *[[n] * 10 for n in range(1, 9)])
    other = ask([20] * 10, [21] * 10)
    drain(batcher, threads)
    assert isinstance(failed.result, MemoryError)
    assert right(other, [20] * 10, [21] * 10)
    # Of its nine micro-batches only those that had begun were computed.
    assert len(engine.passes) < 2 + 9
    assert batcher.seconds_without_progress() == 0


def test_a_large_request_of_a_client_that_has_gone_is_not_computed_to_its_end(ask, batcher, threads, engine, limits):
    connection = ask(*[[n] * 10 for n in range(1, 9)])
    assert limits.large == 1
    threads.step(2)
    connection.gone = True
    batcher.cancel(connection.task)
    assert isinstance(connection.result, ClientGone)
    assert limits.large == 0
    drain(batcher, threads)
    assert len(engine.passes) <= 4


def test_a_large_request_of_a_client_that_has_gone_is_not_begun(ask, batcher, threads, encoder, engine):
    def run():
        connection.gone = True
        with pytest.raises(ClientGone):
            encoder.encode([[1] * 30])
        connection.result = "told"

    connection = Connection()
    batcher.run(RequestTask(run, connection))
    assert connection.result == "told"
    assert engine.passes == []
    assert not threads.queue


def test_to_cancel_a_request_that_is_not_large_changes_nothing(ask, batcher, right):
    connection = ask([1])
    batcher.cancel(connection.task)
    batcher.turn()
    assert right(connection, [1])


def test_large_requests_beyond_the_limit_are_refused_and_short_ones_are_not(ask, batcher, threads, limits, right):
    accepted = [ask(*[[10 * number + n] * 10 for n in range(3)]) for number in range(1, 4)]
    assert limits.waiting == 3
    refused, short = ask([5] * 10, [6] * 10), ask([7])
    assert isinstance(refused.result, ApiError)
    assert refused.result.code == "overloaded"
    batcher.turn()
    assert right(short, [7])
    drain(batcher, threads)
    assert [connection.result.shape for connection in accepted] == [(3, 8)] * 3
    assert limits.large == 0


def test_a_large_answer_is_not_made_before_there_is_room_for_it(ask, batcher, threads, limits):
    reader = Connection()
    limits.answers.hold(reader, 10**9)
    connection = ask([1] * 10, [2] * 10)
    drain(batcher, threads)
    assert connection.result is None
    limits.answers.hold(reader, 0)
    assert batcher.has_work
    batcher.turn()
    assert connection.result.shape == (2, 8)


def test_a_large_request_waits_until_there_is_memory_for_its_vectors(ask, batcher, threads, limits):
    other = Connection()
    limits.vectors.hold(other, 10**9)
    connection = ask([1] * 10, [2] * 10)
    assert (limits.waiting, len(threads.queue), batcher.has_work) == (1, 0, False)
    limits.vectors.hold(other, 0)
    assert batcher.has_work
    drain(batcher, threads)
    assert connection.result.shape == (2, 8)
    assert connection not in limits.vectors
    assert connection not in limits.bodies


def test_a_large_request_of_a_client_that_goes_while_it_waits_for_memory_makes_room_at_once(
    ask, batcher, threads, limits, engine
):
    limits.vectors.hold(other := Connection(), 10**9)
    connection = ask([1] * 10, [2] * 10)
    connection.gone = True
    batcher.cancel(connection.task)
    assert isinstance(connection.result, ClientGone)
    assert (limits.large, connection in limits.bodies) == (0, False)
    limits.vectors.hold(other, 0)
    drain(batcher, threads)
    assert engine.passes == []


def test_a_short_request_of_many_texts_waits_for_room_for_its_answer(ask, batcher, limits):
    limits.answers.hold(reader := Connection(), 10**9)
    many, few = ask(*[[1]] * 9), ask([1])
    batcher.turn()
    assert (many.result is None, few.result is None) == (True, False)
    limits.answers.hold(reader, 0)
    batcher.turn()
    assert many.result.shape == (9, 8)


def test_a_request_for_which_there_are_no_threads_fails_alone(ask, batcher, threads, limits, right):
    def refuse(*arguments):
        raise RuntimeError("can't start new thread")

    threads.submit = refuse
    assert isinstance(ask([1] * 10, [2] * 10).result, RuntimeError)
    assert limits.large == 0
    short = ask([1])
    batcher.turn()
    assert right(short, [1])


def test_a_client_that_goes_before_there_is_room_for_its_answer_gets_none(ask, batcher, threads, limits):
    limits.answers.hold(reader := Connection(), 10**9)
    large, short = ask([1] * 10, [2] * 10), ask(*[[1]] * 9)
    drain(batcher, threads)
    for connection in (large, short):
        assert connection.result is None
        connection.gone = True
        batcher.cancel(connection.task)
        assert isinstance(connection.result, ClientGone)
    limits.answers.hold(reader, 0)
    assert not batcher.has_work


def test_a_request_that_holds_the_loop_for_long_lets_others_go_on(ask, batcher, monkeypatch, right):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    steps = []

    def run():
        for step in range(3):
            steps.append(step)
            batcher.heartbeat()
            now[0] += 1

    connection = Connection()
    connection.task = RequestTask(run, connection)
    batcher.run(connection.task)
    assert steps == [0, 1]
    assert batcher.has_work
    short = ask([1])
    batcher.turn()
    assert right(short, [1])
    while batcher.has_work:
        batcher.turn()
    assert steps == [0, 1, 2]


def test_a_pause_ends_the_work_for_a_client_that_has_gone(batcher):
    def run():
        connection.gone = True
        with pytest.raises(ClientGone):
            batcher.heartbeat()
        connection.result = "told"

    connection = Connection()
    batcher.run(RequestTask(run, connection))
    assert connection.result == "told"
    # Outside of a request a pause does nothing.
    batcher.heartbeat()


def test_it_is_known_for_how_long_the_compute_threads_have_finished_nothing(ask, batcher, threads, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    assert batcher.seconds_without_progress() == 0
    ask(*[[n] * 10 for n in range(1, 4)])
    now[0] += 5
    assert batcher.seconds_without_progress() == 5
    threads.step()
    batcher.collect()
    assert batcher.seconds_without_progress() == 0
    now[0] += 1
    assert batcher.seconds_without_progress() == 1
    drain(batcher, threads)
    assert batcher.seconds_without_progress() == 0


def test_a_request_knows_how_long_it_waited(ask, batcher, threads, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    large, short = ask([2] * 10, [3] * 10), ask([1])
    now[0] += 2
    batcher.turn()
    assert short.task.waited == 2
    now[0] += 1
    drain(batcher, threads)
    assert large.task.waited == 3
