import os
import resource
import socket

import pytest

from embedding_api.request_queue import MOST_PLACES, PLACE_BYTES, RequestQueue


@pytest.fixture
def queue():
    return RequestQueue()


@pytest.fixture
def put(queue):
    """A function that queues a request with a head and a body, and gives the client's end of its connection."""
    ends = []

    def put(head=b"head", body=b"body"):
        theirs, ours = socket.socketpair()
        ends.append(theirs)
        file = os.memfd_create("request")
        os.write(file, body + head)
        with ours:
            try:
                queue.put(ours, file, len(head), len(body))
            finally:
                os.close(file)
        return theirs

    yield put
    for end in ends:
        end.close()


def take(queue):
    """The head and the body of the next request."""
    request = queue.get()
    with request.client, request.body:
        return request.head, request.body.read()


def test_requests_come_out_whole_and_in_order(queue, put):
    put(b"head 1", b"")
    put(b"head 2", b"body 2")
    assert [take(queue), take(queue), queue.get()] == [(b"head 1", b""), (b"head 2", b"body 2"), None]


def test_a_request_brings_its_client_and_its_wait(queue, put):
    client = put()
    request = queue.get()
    with request.client, request.body:
        request.client.sendall(b"answer")
        assert client.recv(10) == b"answer"
        assert 0 <= request.waited < 60


@pytest.mark.parametrize(("size", "places"), [(0, 1), (PLACE_BYTES - 1, 1), (PLACE_BYTES, 2), (10 * PLACE_BYTES, 11)])
def test_a_request_takes_a_place_for_each_64_kb(queue, put, size, places):
    put(body=bytes(size))
    put()
    assert queue.places == places + 1
    assert len(take(queue)[1]) == size
    assert queue.places == 1
    take(queue)
    assert queue.places == 0


def test_all_places_that_a_setting_may_allow_are_there(queue, put):
    for _ in range(MOST_PLACES):
        put()
    assert queue.places == MOST_PLACES
    # What is beyond, the operating system refuses at some point.
    with pytest.raises(BlockingIOError):
        [put() for _ in range(MOST_PLACES)]
    while queue.places:
        take(queue)


def test_there_is_room_while_few_wait_or_a_worker_is_free(queue, put):
    put(body=bytes(3 * PLACE_BYTES))
    assert [queue.has_room(places) for places in (4, 5)] == [False, True]
    queue.set_free(7, True)
    assert queue.has_room(4)
    queue.set_free(7, False)
    assert not queue.has_room(4)
    take(queue)


def test_no_descriptor_is_left_behind(queue, put):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        put().close()
        take(queue)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_request_for_which_there_is_no_descriptor_is_lost_and_said_to_be(queue, put):
    put()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        with pytest.raises(OSError, match="may open no more files"):
            queue.get()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert queue.places == 0
    assert queue.get() is None


def test_it_closes_with_and_without_a_successor(queue):
    assert (queue.closes, queue.refuses) == (False, False)
    queue.close(refuse=False)
    assert (queue.closes, queue.refuses) == (True, False)
    queue.close(refuse=True)
    assert (queue.closes, queue.refuses) == (True, True)
