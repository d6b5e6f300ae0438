"""Connections over a pair of sockets: no server, no event loop, no sleeps."""

import errno
import logging
import math
import select
import socket
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
from greenlet import getcurrent
from gunicorn.config import Config

from embedding_api import metrics
from embedding_api.config import Settings
from embedding_api.errors import ClientGone
from embedding_api.server import connection as module
from embedding_api.server.batching import RequestTask
from embedding_api.server.connection import INPUT, MIN_BYTES_PER_SECOND, NO_INPUT, NOTHING, OUTPUT, Connection, State
from embedding_api.server.limits import Limits

POST = b"POST /embed HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
END = select.EPOLLRDHUP | select.EPOLLIN


class Application:
    """Keeps the requests of connections, and answers with `answer`, if that is set."""

    def __init__(self):
        self.answer = b"answer"
        self.started, self.resumed, self.refused = [], [], []
        self.bodies, self.large = [], []

    def start(self, connection):
        self.started.append(connection.request)
        self.bodies.append(connection.request.body.read())
        self.large.append(connection.request.is_too_large)
        if self.answer:
            connection.sendall(self.answer)
            connection.send_answer(close=connection.request.should_close())

    def resume(self, connection):
        self.resumed.append(connection)
        connection.task.switch()

    def answer_error(self, connection, error):
        self.refused.append(error.code)
        connection.sendall(b"refused")
        connection.send_answer(close=True)


class Worker:
    """A worker that notes what a connection calls it for."""

    def __init__(self, **settings):
        self.settings = Settings(**{"client_timeout": 10, "max_body_bytes": 1_000_000, "max_texts": 10} | settings)
        self.cfg = Config()
        self.cfg.set("keepalive", 75)
        self.application, self.limits = Application(), Limits(self.settings, 1, [])
        self.log = logging.getLogger("worker")
        self.watched, self.forgotten, self.cancelled = INPUT, [], []

    def watch(self, client, events, before):
        assert before == self.watched
        self.watched = events

    def forget(self, connection):
        self.forgotten.append(connection)
        self.limits.forget(connection)

    def cancel(self, connection):
        self.cancelled.append(connection)


class End:
    """The client's end of a connection."""

    def __init__(self, connection, theirs):
        self._connection, self._theirs = connection, theirs

    def send(self, *pieces):
        for piece in pieces:
            self._theirs.sendall(piece)
            self._connection.handle(select.EPOLLIN)

    def finish(self):
        """Close the sending half."""
        self._theirs.shutdown(socket.SHUT_WR)
        self._connection.handle(END)

    def got(self, size=1_000_000):
        """The bytes that have come: None if there are none yet, b"" at the end of the connection."""
        try:
            return self._theirs.recv(size)
        except BlockingIOError:
            return None


@pytest.fixture
def worker():
    return Worker()


@pytest.fixture
def application(worker):
    return worker.application


@pytest.fixture
def sockets():
    """The client's socket and ours."""
    theirs, ours = socket.socketpair()
    theirs.setblocking(False)
    ours.setblocking(False)
    with theirs, ours:
        yield theirs, ours


@pytest.fixture
def connection(worker, sockets):
    return Connection(sockets[1], ("127.0.0.1", 1), ("127.0.0.1", 2), worker)


@pytest.fixture
def client(connection, sockets):
    return End(connection, sockets[0])


@pytest.fixture
def counted():
    """A function that returns how many connections were dropped for a reason since the test began."""
    reasons = {reason: metrics._dropped.labels(reason)._value.get() for reason in ("slow", "gone", "failed", "limit")}
    return lambda reason: metrics._dropped.labels(reason)._value.get() - reasons[reason]


def test_several_requests_are_answered_on_one_connection(client, application, worker, connection):
    for number in range(1, 4):
        client.send(GET)
        assert client.got() == b"answer"
        assert len(application.started) == number
        assert (connection.state, worker.watched) == (State.READING, INPUT)
    assert len({id(request) for request in application.started}) == 3


def test_a_request_may_come_in_pieces_after_another(client, application):
    client.send(GET)
    assert client.got() == b"answer"
    client.send(POST + b"Content-", b"Length: 4\r\n\r\n", b"bo")
    assert client.got() is None
    client.send(b"dy")
    assert client.got() == b"answer"
    assert application.bodies[1] == b"body"


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        GET + GET,
        GET + b"garbage",
        GET + b"\0",
    ],
)
def test_it_closes_after_the_answer_if_it_cannot_go_on(client, application, worker, connection, request_):
    client.send(request_)
    assert client.got() == b"answer"
    assert client.got() == b""
    assert len(application.started) == 1
    assert (connection.state, worker.forgotten) == (State.CLOSED, [connection])


def test_a_client_that_still_sends_may_finish_before_the_connection_closes(client, application, connection):
    client.send(POST + b"Content-Length: 1000001\r\n\r\n" + bytes(2000))
    assert (client.got(), client.got()) == (b"answer", b"")
    assert connection.state is State.DISCARDING
    client.send(bytes(3000))
    assert connection.state is State.DISCARDING
    client.finish()
    assert connection.state is State.CLOSED
    assert len(application.started) == 1


def test_discarded_bytes_have_a_limit(client, connection, monkeypatch):
    monkeypatch.setattr(module, "DISCARD_BYTES", 5000)
    client.send(POST + b"Content-Length: 1000001\r\n\r\n", bytes(3000))
    assert connection.state is State.DISCARDING
    client.send(bytes(3000))
    assert connection.state is State.CLOSED


def test_discarding_has_little_time(client, connection, counted):
    client.send(POST + b"Content-Length: 1000001\r\n\r\n")
    before = connection.deadline
    client.send(bytes(100_000))
    assert connection.deadline == before < time.monotonic() + module.DISCARD_SECONDS
    connection.expire()
    assert connection.state is State.CLOSED
    assert counted("slow") == 0


def test_a_request_that_comes_before_the_answer_is_read_after_it(client, application, worker, connection):
    application.answer = b""
    client.send(GET)
    assert connection.state is State.WORKING
    client.send(POST + b"Content-Length: 4\r\n\r\nbody")
    assert (worker.watched, len(application.started)) == (NO_INPUT, 1)
    connection.sendall(b"first")
    connection.send_answer(close=False)
    assert (client.got(), worker.watched) == (b"first", INPUT)
    connection.handle(select.EPOLLIN)
    assert application.bodies[1] == b"body"


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"nonsense\r\n\r\n", "malformed_request"), (POST + b"X: " + b"x" * 9000 + b"\r\n\r\n", "headers_too_large")],
)
def test_an_error_of_http_is_refused_and_the_connection_closes(client, application, data, code):
    client.send(data)
    assert (application.refused, application.started) == ([code], [])
    assert (client.got(), client.got()) == (b"refused", b"")


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Length: 1000001\r\n\r\n", b""),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"F4241\r\n" + bytes(1_000_001)),
    ],
)
def test_a_body_that_is_too_large_is_answered_without_being_read_to_its_end(client, application, head, body):
    client.send(POST + head)
    for start in range(0, len(body), 50_000):
        if not application.started:
            client.send(body[start : start + 50_000])
    assert client.got() == b"answer"
    assert application.large == [True]


@pytest.mark.parametrize("beginning", [b"", b"\r\n"])
def test_a_client_that_closes_without_a_request_gets_nothing(client, application, connection, counted, beginning):
    client.send(beginning)
    client.finish()
    assert client.got() == b""
    assert connection.state is State.CLOSED
    assert application.started == application.refused == []
    assert counted("gone") == counted("slow") == 0


def test_a_client_that_closes_after_an_answer_gets_nothing_more(client, application, connection):
    client.send(GET)
    client.finish()
    assert (client.got(), client.got()) == (b"answer", b"")
    assert connection.state is State.CLOSED
    assert application.refused == []


def test_a_client_that_closes_within_a_request_gets_an_error(client, application):
    client.send(POST + b"Content-Length: 4\r\n\r\nbod")
    client.finish()
    assert application.refused == ["malformed_request"]
    assert client.got() == b"refused"


def test_the_worker_hears_of_a_client_that_closes_while_the_application_works(client, application, worker, connection):
    application.answer = b""
    client.send(GET)
    client.finish()
    assert connection.gone
    assert worker.cancelled == [connection]
    assert worker.watched == NOTHING
    # A client that has closed only its sending half reads the answer.
    connection.sendall(b"late")
    connection.send_answer(close=False)
    assert client.got() == b"late"


def test_a_client_that_takes_too_long_gets_an_error_if_it_has_begun_a_request(client, application, connection):
    client.send(POST)
    connection.expire()
    assert application.refused == ["request_timeout"]
    assert client.got() == b"refused"


def test_a_client_that_has_sent_nothing_is_closed_silently(client, application, connection, counted):
    assert connection.is_idle
    connection.expire()
    assert (client.got(), application.refused, counted("slow")) == (b"", [], 1)


def test_a_request_that_has_come_since_the_last_poll_is_answered(client, sockets, connection, counted):
    for _ in range(2):
        sockets[0].sendall(GET)
        connection.expire()
        assert not connection.evict()
        connection.handle(select.EPOLLIN)
        assert client.got() == b"answer"
    assert connection.evict()
    assert (client.got(), counted("limit")) == (b"", 1)


def test_empty_lines_are_no_request(client, sockets, connection):
    client.send(b"\r\n")
    sockets[0].sendall(b"\r\n")
    connection.expire()
    assert connection.state is State.CLOSED


def test_a_kept_connection_that_is_idle_is_closed_silently_and_is_not_slow(client, connection, worker, counted):
    client.send(GET)
    assert client.got() == b"answer"
    assert 70 < connection.deadline - time.monotonic() <= worker.cfg.keepalive
    connection.expire()
    assert (client.got(), counted("slow")) == (b"", 0)


def test_the_next_request_has_its_own_time(client, connection):
    client.send(GET)
    client.send(b"P")
    assert 5 < connection.deadline - time.monotonic() < 11
    assert not connection.is_idle


def test_bytes_add_to_the_time(client, connection):
    client.send(POST + b"Content-Length: 60000\r\n\r\n")
    before = connection.deadline
    client.send(bytes(MIN_BYTES_PER_SECOND))
    assert connection.deadline - before == pytest.approx(1)


def test_empty_lines_do_not_add_a_whole_new_time(client, connection):
    client.send(b"\r\n")
    before = connection.deadline
    client.send(b"\r\n" * 5)
    assert connection.deadline < before + 1


def test_an_answer_is_sent_as_fast_as_it_is_read(client, application, worker, connection):
    application.answer = bytes(range(256)) * 40_000
    client.send(GET)
    assert (connection.state, worker.watched) == (State.WRITING, OUTPUT)
    assert connection in worker.limits.answers
    before, received = connection.deadline, b""
    while connection.state is State.WRITING:
        received += client.got()
        connection.handle(select.EPOLLOUT)
    received += client.got() or b""
    while (more := client.got()) is not None:
        received += more
    assert received == application.answer
    assert before < time.monotonic() + 10 + len(received) / MIN_BYTES_PER_SECOND
    assert (connection.state, worker.watched) == (State.READING, INPUT)
    assert connection not in worker.limits.answers
    # The connection may have another request.
    application.answer = b"second"
    client.send(GET)
    assert client.got() == b"second"


def test_an_answer_in_many_parts_is_sent_whole(client, connection, application):
    application.answer = b""
    client.send(GET)
    for number in range(3000):
        connection.sendall(b"%04d" % number)
    connection.send_answer(close=False)
    received = b""
    while connection.state is State.WRITING:
        connection.handle(select.EPOLLOUT)
    while (more := client.got()) is not None:
        received += more
    assert received == b"".join(b"%04d" % number for number in range(3000))


def test_reading_the_answer_adds_to_the_time(client, application, connection):
    application.answer = bytes(10_000_000)
    client.send(GET)
    before = connection.deadline
    size = len(client.got(MIN_BYTES_PER_SECOND * 2))
    connection.handle(select.EPOLLOUT)
    assert connection.deadline <= before + 1 + size / MIN_BYTES_PER_SECOND
    assert connection.deadline > before


def test_a_client_that_does_not_read_its_answer_is_closed(client, application, connection, counted):
    application.answer = bytes(10_000_000)
    client.send(GET)
    connection.expire()
    assert (connection.state, counted("slow")) == (State.CLOSED, 1)


def test_a_client_that_resets_the_connection_counts_as_gone_and_not_as_an_error(
    client, application, connection, sockets, counted, caplog
):
    application.answer = bytes(10_000_000)
    client.send(GET)
    sockets[0].close()
    connection.handle(select.EPOLLOUT | select.EPOLLHUP)
    assert (connection.state, counted("gone"), caplog.text) == (State.CLOSED, 1, "")


@pytest.mark.parametrize("operation", ["recv", "sendmsg"])
def test_an_error_of_our_own_is_logged(worker, application, counted, caplog, operation):
    def fail(*arguments):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    client = SimpleNamespace(recv=lambda size: GET, sendmsg=len, close=lambda: None)
    setattr(client, operation, fail)
    connection = Connection(client, None, None, worker)
    connection.handle(select.EPOLLIN)
    assert (connection.state, counted("failed")) == (State.CLOSED, 1)
    assert "A connection is dropped: Cannot allocate memory" in caplog.text


def test_a_large_body_waits_for_memory_unread(client, application, worker, connection, sockets):
    worker.limits.bodies.hold("another", 2_000_000)
    client.send(POST + b"Content-Length: 900000\r\n\r\n")
    assert (connection.state, worker.watched, connection.deadline) == (State.STALLED, NO_INPUT, math.inf)
    worker.limits.bodies.hold("another", 0)
    worker.limits.admit_waiting()
    assert (connection.state, worker.watched) == (State.READING, INPUT)
    for _ in range(18):
        client.send(bytes(50_000))
    assert client.got() == b"answer"
    assert connection not in worker.limits.bodies


def test_a_client_that_leaves_while_its_body_waits_for_memory_is_forgotten(client, worker, connection):
    worker.limits.bodies.hold("another", 2_000_000)
    client.send(POST + b"Content-Length: 900000\r\n\r\n")
    client.finish()
    assert connection.state is State.CLOSED
    worker.limits.bodies.hold("another", 0)
    worker.limits.admit_waiting()
    assert connection.state is State.CLOSED


def test_a_large_body_for_which_too_many_wait_is_refused(client, application, worker, connection):
    worker.limits.bodies.hold("another", 2_000_000)
    worker.limits.large = 1000
    client.send(POST + b"Content-Length: 900000\r\n\r\n")
    assert connection.refusal.code == "overloaded"
    assert client.got() == b"answer"
    assert (application.refused, connection.state) == ([], State.DISCARDING)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS"])
def test_a_request_that_needs_no_pass_is_not_postponed(sockets, connection, method):
    assert not connection.postpone()
    sockets[0].sendall(GET.replace(b"GET", method))
    assert not connection.postpone()


def test_a_request_that_may_need_a_pass_is_postponed_unread_and_has_its_time_later(client, sockets, connection):
    sockets[0].sendall(POST)
    assert connection.postpone()
    assert (connection.waits_for_server, connection.request.received) == (True, 0)
    connection.handle(select.EPOLLIN)
    assert not connection.waits_for_server
    assert 5 < connection.deadline - time.monotonic() < 11
    # The rest of it may be postponed as well, and its deadline moves by the wait.
    before = connection.deadline
    assert connection.postpone()
    client.send(b"Content-Length: 40\r\n\r\n")
    assert connection.deadline > before
    client.send(bytes(40))
    assert client.got() == b"answer"
    assert not connection.postpone()


def test_a_request_that_is_refused_is_answered_before_its_body_has_come(client, application, connection):
    connection.refuse = True
    client.send(POST + b"Content-Length: 400\r\n\r\n")
    assert client.got() == b"answer"
    assert len(application.started) == 1
    assert connection.state is State.DISCARDING


def test_a_refusal_is_for_one_request(client, connection):
    connection.refuse = True
    client.send(GET)
    assert client.got() == b"answer"
    assert not connection.refuse


@pytest.fixture
def asking(worker, application, connection, client):
    """A client that has asked with Expect: 100-continue, and whose application waits for the body."""
    outcome, loop = [], getcurrent()

    def run():
        try:
            connection.await_body(loop)
            outcome.append(connection.request.body.read())
            connection.sendall(b"answer")
            connection.send_answer(close=connection.request.should_close())
        except Exception as error:
            outcome.append(error)
            raise

    def start(connection):
        application.started.append(connection.request)
        connection.task = RequestTask(lambda: _caught(run), connection)
        connection.task.switch()

    application.start = start
    client.send(POST + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")
    return outcome


def _caught(run):
    try:
        run()
    except Exception as error:
        return error


def test_a_client_that_expects_100_gets_it_when_the_application_reads_the_body(asking, client, connection, application):
    assert client.got() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (connection.state, asking) == (State.READING, [])
    client.send(b"bo")
    assert asking == []
    client.send(b"dy")
    assert (asking, client.got()) == ([b"body"], b"answer")
    assert connection.state is State.READING
    assert len(application.started) == 1


@pytest.fixture
def unread(connection):
    """The client reads nothing, so that nothing more can be sent to it."""
    with suppress(BlockingIOError):
        while True:
            connection.client.send(bytes(65536))


def test_a_client_that_cannot_be_sent_100_may_send_its_body(unread, asking, client):
    assert asking == []
    client.send(b"body")
    assert asking == [b"body"]


def test_a_client_that_expects_100_and_goes_leaves_nothing_behind(asking, client, connection, worker):
    connection.close()
    assert isinstance(asking[0], ClientGone)
    assert connection.task.dead


def test_a_client_that_expects_100_and_sends_no_body_gets_an_error(asking, client, connection):
    connection.expire()
    assert str(asking[0]).startswith("The request took too long to arrive")
    assert connection.task.dead


def test_a_client_that_expects_100_and_closes_within_the_body_gets_an_error(asking, client, connection):
    client.send(b"bo")
    client.finish()
    assert "closed before the request was complete" in str(asking[0])


def test_a_client_that_expects_100_and_sends_the_body_at_once_does_not_get_it(client, application):
    client.send(POST + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\nbody")
    assert client.got() == b"answer"


def test_a_closed_connection_takes_no_answer(client, application, connection, worker):
    application.answer = b""
    client.send(GET)
    connection.close()
    connection.close()
    connection.sendall(b"late")
    connection.send_answer(close=False)
    assert connection.state is State.CLOSED
    assert worker.forgotten == [connection]
