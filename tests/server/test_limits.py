import time
from types import SimpleNamespace

import numpy as np
import pytest

from embedding_api.config import Settings
from embedding_api.errors import ApiError
from embedding_api.server import limits as module
from embedding_api.server.connection import State
from embedding_api.server.limits import MAX_RETRY_SECONDS, VECTOR_BYTES, Limits

MB = 1024 * 1024


class Connection(SimpleNamespace):
    """A connection that notes in its state what the limits call it for."""

    __hash__ = object.__hash__

    def __init__(self, size, state=State.READING):
        super().__init__(state=state, since=time.monotonic(), request=SimpleNamespace(body_to_come=size))
        self.waits_for_server = False

    def pause_reading(self):
        self.state = State.STALLED

    def resume_reading(self):
        self.state = State.READING

    def evict(self):
        self.state = State.CLOSED


@pytest.fixture
def queue(monkeypatch):
    """The number of connections in the backlog; a test may set it."""
    queue = SimpleNamespace(length=0)
    monkeypatch.setattr(module, "backlog", lambda listener: queue.length)
    return queue


@pytest.fixture
def limits(queue):
    """The limits of a single worker, with room for two bodies of 1 MB and for four requests that wait."""
    settings = Settings(max_body_bytes=MB, max_texts=10, max_waiting=4, client_timeout=10)
    return Limits(settings, 1, ["listener"])


def seconds(limits, large=False):
    """The seconds in the Retry-After of a refused client."""
    error = limits.refuse_as_overloaded(large)
    assert (error.status, error.code) == (503, "overloaded")
    [(name, value)] = error.headers
    assert name == "Retry-After"
    return int(value)


def test_requests_wait_in_the_backlog_or_for_a_pass_or_for_memory_or_for_compute_threads(limits, queue):
    assert limits.waiting == 0
    queue.length, limits.large, limits.postponed = 2, 3, 4
    for _ in range(3):
        limits.admit_body(Connection(MB))
    assert (limits.backlog, limits.waiting) == (2, 3 + 4 + 1)


def test_workers_share_what_may_wait_and_the_backlog(queue):
    limits = Limits(Settings(max_waiting=5), 2, ["listener"])
    assert limits.max_waiting == 3
    queue.length = 7
    assert limits.share_of_backlog == 4


def test_bodies_are_read_as_long_as_there_is_memory_and_others_wait_their_turn(limits):
    first, second, third, fourth = connections = [Connection(MB) for _ in range(4)]
    for connection in connections:
        limits.admit_body(connection)
    assert [connection.state for connection in connections] == [State.READING] * 2 + [State.STALLED] * 2
    limits.admit_waiting()
    assert third.state is State.STALLED
    limits.bodies.hold(second, 0)
    limits.admit_waiting()
    assert (third.state, fourth.state) == (State.READING, State.STALLED)
    limits.bodies.hold(first, 0)
    limits.admit_waiting()
    assert fourth.state is State.READING
    assert limits.waiting == 0


def test_a_small_body_does_not_pass_a_large_one_that_waits(limits):
    for size in (MB, MB // 2, MB):
        limits.admit_body(Connection(size))
    small = Connection(MB // 4)
    limits.admit_body(small)
    assert small.state is State.STALLED


def test_a_body_is_admitted_once(limits):
    connection = Connection(MB)
    limits.admit_body(connection)
    limits.admit_body(connection)
    assert limits.bodies.fits(MB)


def test_a_connection_that_closes_is_forgotten(limits):
    first, _, third, fourth = connections = [Connection(MB) for _ in range(4)]
    for connection in connections:
        limits.admit_body(connection)
    for bound in (limits.vectors, limits.answers):
        bound.hold(first, 5 * MB)
    limits.forget(third)
    limits.forget(first)
    limits.admit_waiting()
    assert (third.state, fourth.state) == (State.STALLED, State.READING)
    assert not any(first in bound for bound in (limits.bodies, limits.vectors, limits.answers))


def test_no_more_large_bodies_wait_than_the_setting_says(limits):
    for _ in range(2 + 4):
        limits.admit_body(Connection(MB))
    with pytest.raises(ApiError) as refused:
        limits.admit_body(Connection(MB))
    assert refused.value.code == "overloaded"


def test_no_more_large_requests_wait_than_the_setting_says(limits):
    limits.large = 3
    limits.check_room()
    limits.large = 4
    with pytest.raises(ApiError) as refused:
        limits.check_room()
    assert refused.value.code == "overloaded"


def test_a_refused_client_is_told_a_whole_number_of_seconds_from_1_on(limits):
    assert 1 <= seconds(limits) <= 2
    limits.postponed = 10**6
    told = {seconds(limits) for _ in range(200)}
    assert 1 <= min(told) <= max(told) == MAX_RETRY_SECONDS


def told(limits, each, large=False):
    """The seconds that 400 clients are told to wait, each as the first to be refused.

    Args:
        each: the seconds that a request takes.
    """
    for _ in range(100):
        limits.record_seconds(each, large=large)
    told = []
    for _ in range(400):
        told.append(seconds(limits, large))
        limits.tick(now=0)
    return np.array(told)


def test_clients_that_are_refused_in_the_same_state_are_told_different_times(limits):
    limits.postponed = 128
    assert len(set(told(limits, each=0.05))) > 5


def test_the_time_grows_with_what_waits_and_with_what_a_request_takes(limits):
    limits.postponed = 50
    few = told(limits, each=0.1).mean()
    limits.postponed = 200
    many = told(limits, each=0.1).mean()
    assert 2 * few < many
    assert told(limits, each=0.01).mean() < many / 2
    # 200 requests of 0.1 seconds are 20 seconds of work.
    assert 15 < many < 27


def test_large_requests_have_a_time_of_their_own(limits):
    limits.large = 4
    assert 5 < told(limits, each=2, large=True).mean() < 15
    assert told(limits, each=0.01).mean() < 1.2


def test_several_requests_of_a_pass_share_its_time(limits):
    limits.postponed = 100
    for _ in range(100):
        limits.record_seconds(1, requests=100)
    assert max(seconds(limits) for _ in range(20)) <= 4


def test_the_time_grows_with_those_that_were_refused_already(limits):
    for _ in range(100):
        limits.record_seconds(0.1)
    early = [seconds(limits) for _ in range(20)]
    for _ in range(200):
        seconds(limits)
    late = [seconds(limits) for _ in range(20)]
    assert sum(early) < sum(late)


def later(limits):
    """A tick after all clients have had twice their time."""
    limits.tick(now=time.monotonic() + 20)


def test_a_client_that_holds_memory_for_long_is_closed_while_others_wait_for_it(limits):
    slow, late, third = connections = [Connection(MB) for _ in range(3)]
    for connection in connections:
        limits.admit_body(connection)
    late.since += 15
    limits.tick(now=time.monotonic() + 5)
    assert slow.state is State.READING
    later(limits)
    assert (slow.state, late.state) == (State.CLOSED, State.READING)
    # The worker then forgets the closed connection.
    limits.forget(slow)
    limits.admit_waiting()
    assert third.state is State.READING


def test_a_client_that_holds_memory_for_long_is_not_closed_while_no_other_waits(limits):
    connections = [Connection(MB), Connection(MB)]
    for connection in connections:
        limits.admit_body(connection)
    later(limits)
    assert [connection.state for connection in connections] == [State.READING] * 2


def test_a_client_whose_request_is_computed_is_not_closed_for_others(limits):
    working, moving, _ = connections = [Connection(MB) for _ in range(3)]
    for connection in connections:
        limits.admit_body(connection)
    working.state = State.WORKING
    later(limits)
    assert (working.state, moving.state) == (State.WORKING, State.CLOSED)


def test_a_client_that_reads_a_large_answer_for_long_is_closed_while_others_have_no_room(limits):
    slow, late = Connection(0, State.WRITING), Connection(0, State.WRITING)
    late.since += 15
    limits.answers.hold(slow, 2 * MB - 1)
    later(limits)
    assert slow.state is State.WRITING
    limits.answers.hold(late, 1)
    later(limits)
    assert (slow.state, late.state) == (State.CLOSED, State.WRITING)


def test_there_is_room_for_two_bodies_and_two_answers_of_the_largest_size(queue):
    limits = Limits(Settings(max_body_bytes=1000, max_texts=100), 1, [])
    limits.answers.hold("a", 2 * 100 * VECTOR_BYTES - 1)
    assert limits.answers.has_room
    limits.answers.hold("a", 2 * 100 * VECTOR_BYTES)
    assert not limits.answers.has_room
