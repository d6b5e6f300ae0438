import logging
import socket
import time
from itertools import islice
from types import SimpleNamespace

import pytest

from embedding_api import visit as module
from embedding_api.request_queue import RequestQueue
from embedding_api.visit import READ, WRITE, Visit

POST = b"POST /embed HTTP/1.1\r\nHost: x\r\n"


class Door(SimpleNamespace):
    """A door whose worker answers with what it was asked for."""

    def __init__(self, **changes):
        super().__init__(timeout=10, max_waiting=2, max_body_bytes=1000, log=logging.getLogger("door"), seen=[])
        self.serve_here = lambda *request: False
        vars(self).update(changes)

    def answer(self, exchange, address):
        self.seen.append(exchange)
        exchange.sendall(exchange.refusal.code.encode() if exchange.refusal else b"answer")

    def refuse(self, request, exchange, address, error):
        exchange.sendall(f"refused: {type(error).__name__}".encode())


@pytest.fixture
def queue(monkeypatch):
    queue = RequestQueue()
    monkeypatch.setattr(module, "QUEUE", queue)
    yield queue
    while request := queue.get():
        request.client.close()
        request.body.close()


@pytest.fixture
def ends():
    """The client's end of a connection, and ours."""
    theirs, ours = socket.socketpair()
    ours.setblocking(False)
    with theirs, ours:
        yield theirs, ours


@pytest.fixture
def come(queue, ends):
    """A function for a visit in which the client sends pieces, and what it gets."""

    def come(*pieces, door=None, close=False):
        theirs, ours = ends
        visit = Visit(ours, ("127.0.0.1", 1), door or Door())
        waits = []
        for piece in [*pieces, None]:
            if piece is not None:
                theirs.sendall(piece)
            elif close:
                theirs.shutdown(socket.SHUT_WR)
            for _ in range(3):
                waits.append(next(visit.course, None))
        theirs.setblocking(False)
        try:
            return theirs.recv(65536), visit
        except BlockingIOError:
            return None, visit

    return come


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS"])
def test_what_takes_no_time_is_answered_here(come, queue, method):
    door = Door()
    answer, _ = come(method + b" /health HTTP/1.1\r\n", b"Host: x\r\n", b"\r\n", door=door)
    assert answer == b"answer"
    assert door.seen[0].recv(100) == method + b" /health HTTP/1.1\r\nhost: x\r\n\r\n"
    assert queue.places == 0


@pytest.mark.parametrize(
    "pieces",
    [
        [POST + b"Content-Length: 4\r\n\r\nbody"],
        [POST + b"Content-Length: 4\r\n\r\n", b"bo", b"dy"],
        [POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n", b"2\r\nd", b"y\r\n0\r\n\r\n"],
        [POST + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n", b"body"],
    ],
)
def test_any_other_request_waits_for_a_worker_in_one_form(come, queue, pieces):
    come(*pieces)
    request = queue.get()
    with request.client, request.body:
        assert request.head == b"POST /embed HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n"
        assert request.body.read() == b"body"


def test_who_asks_first_is_told_to_go_on(come):
    answer, _ = come(POST + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")
    assert answer == b"HTTP/1.1 100 \r\n\r\n"


def test_another_expectation_is_left_to_gunicorn(come, queue):
    come(POST + b"Expect: a miracle\r\n\r\n")
    request = queue.get()
    with request.client, request.body:
        assert b"expect: a miracle" in request.head


@pytest.mark.parametrize(
    "end", [b"Content-Length: 1001\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n3E9\r\n" + b"x" * 1001]
)
def test_a_body_that_is_too_large_is_answered_without_being_read(come, queue, end):
    door = Door()
    answer, visit = come(POST + end, door=door)
    assert answer == b"answer"
    assert b"content-length: 1001\r\n" in door.seen[0].recv(1000)
    assert visit.held == 0
    assert queue.places == 0


def test_more_requests_than_may_wait_are_refused(come, queue):
    come(POST + b"\r\n")
    come(POST + b"\r\n")
    assert come(POST + b"\r\n")[0] == b"overloaded"
    assert queue.places == 2


def test_who_comes_after_the_service_was_told_to_stop_is_refused(come, queue):
    queue.close(refuse=True)
    assert come(POST + b"\r\n")[0] == b"stopping"
    assert come(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n")[0] == b"answer"


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        POST + b"Content-Length: 4\r\n\r\nbod",
    ],
)
def test_what_is_not_http_is_refused(come, request_):
    assert come(request_, close=True)[0] == b"refused: RemoteProtocolError"


@pytest.mark.parametrize("request_", [POST + b"X: " + b"x" * 70_000, POST + b"a: b\r\n" * 200 + b"\r\n"])
def test_too_much_of_a_head_is_refused(come, request_):
    assert come(request_)[0] == b"refused: LimitRequestHeaders"


def test_a_greeting_in_tls_is_refused_at_once(come):
    assert come(b"\x16\x03\x01\x02\x00\x01")[0] == b"refused: RemoteProtocolError"


def test_a_head_may_come_byte_by_byte_and_a_body_with_blank_lines(come, queue):
    head = POST + b"Content-Length: 300\r\n\r\n"
    come(*[head[index : index + 1] for index in range(len(head))], b"\n" * 300)
    request = queue.get()
    with request.client, request.body:
        assert request.body.read() == b"\n" * 300


def test_chunks_leave_the_others_their_turn(ends, queue):
    theirs, ours = ends
    theirs.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 950 + b"0\r\n\r\n")
    visit = Visit(ours, None, Door())
    assert list(islice(visit.course, 200)) == [WRITE] * 9
    assert queue.places == 1


def test_chunks_that_are_too_small_are_refused(ends, queue):
    theirs, ours = ends
    theirs.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 4000)
    visit = Visit(ours, None, Door(max_body_bytes=10**6))
    list(islice(visit.course, 200))
    assert theirs.recv(100) == b"refused: RemoteProtocolError"


@pytest.mark.parametrize("beginning", [b"", b"POST /emb"])
def test_who_leaves_without_asking_gets_nothing(come, beginning):
    assert come(beginning, close=True)[0] is None


@pytest.mark.parametrize(
    ("beginning", "answer"),
    [
        (b"", None),
        (b"P", b"refused: TimeoutError"),
        (POST + b"Content-Length: 4\r\n\r\nb", b"refused: TimeoutError"),
    ],
)
def test_whose_time_is_over_is_refused_or_left(ends, queue, beginning, answer):
    theirs, ours = ends
    theirs.sendall(beginning)
    visit = Visit(ours, None, Door())
    assert [next(visit.course) for _ in range(2)] == [READ, READ]
    if answer is None:
        with pytest.raises(TimeoutError):
            visit.course.throw(TimeoutError)
    else:
        assert visit.course.throw(TimeoutError) == READ
        assert theirs.recv(100) == answer


def test_time_is_added_for_what_moves(ends, queue):
    theirs, ours = ends
    visit = Visit(ours, None, Door(max_body_bytes=10**6))
    theirs.sendall(POST + b"Content-Length: 500000\r\n\r\n")
    next(visit.course)
    began = visit.deadline
    assert 9 < began - time.monotonic() < 11
    theirs.sendall(bytes(65536))
    for _ in range(4):
        next(visit.course)
    assert 1 <= visit.deadline - began <= 2.1


def test_an_answer_is_sent_as_fast_as_it_is_read(ends):
    theirs, ours = ends
    answer = bytes(range(256)) * 40_000
    visit = Visit(ours, None, Door(), answer)
    received = b""
    while (waits := next(visit.course, None)) is not None:
        assert waits == WRITE
        assert 0 < visit.held < len(answer)
        received += theirs.recv(1_000_000)
    assert visit.held == 0
    while len(received) < len(answer):
        received += theirs.recv(1_000_000)
    assert received == answer


def test_who_reads_nothing_until_its_time_is_over_is_left(ends):
    visit = Visit(ends[1], None, Door(), bytes(10_000_000))
    next(visit.course)
    with pytest.raises(TimeoutError):
        visit.course.throw(TimeoutError)


def test_who_still_sends_may_finish_before_the_connection_closes(ends, queue):
    theirs, ours = ends
    theirs.sendall(POST + b"Content-Length: 5000\r\n\r\n" + bytes(2000))
    visit = Visit(ours, None, Door())
    assert next(visit.course) == READ
    assert theirs.recv(100) == b"answer"
    theirs.sendall(bytes(3000))
    assert next(visit.course) == READ
    theirs.close()
    assert next(visit.course, None) is None
