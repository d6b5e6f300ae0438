"""A client's connection: bytes to requests, answers to bytes, one request at a time, without ever blocking."""

import errno
import math
import select
import socket
import time
from contextlib import suppress
from enum import Enum, auto

from embedding_api import metrics
from embedding_api.errors import ApiError, ClientGone
from embedding_api.server.request import NO_PASS_METHODS, Request

# Events that epoll reports of a connection: input and its end; its end only; room for output; none.
INPUT, NO_INPUT, OUTPUT, NOTHING = select.EPOLLIN | select.EPOLLRDHUP, select.EPOLLRDHUP, select.EPOLLOUT, 0

# A client that sends a request, or reads an answer, at this rate is never too slow.
MIN_BYTES_PER_SECOND = 32 * 1024
# What a client may still send after its answer: closing the connection while it sends could destroy the answer.
DISCARD_BYTES = 256 * 1024 * 1024
DISCARD_SECONDS = 10

# Bytes of one read: few, so that other connections have their turn; more when more of a body is to come.
_READ_BYTES = 64 * 1024
_READ_MORE_BYTES = 512 * 1024
# The first bytes of requests that need no forward pass.
_NO_PASS = tuple(f"{method} ".encode() for method in NO_PASS_METHODS)
# Buffers in one call of sendmsg; the operating system's limit is 1,024.
_BUFFERS = 1000

# Errors of a socket that the client has not caused: descriptors or memory have run out.
_SERVER_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.ENOBUFS}


class State(Enum):
    """What a connection does."""

    READING = auto()  # a request, or it waits for one
    STALLED = auto()  # for memory, before it reads a body of more than 64 KB
    WORKING = auto()  # the application works on the request
    WRITING = auto()  # the answer
    DISCARDING = auto()  # what the client still sends after its answer
    CLOSED = auto()


class Connection:
    """A client's connection. Gunicorn and the application see it as `environ["gunicorn.socket"]`.

    Args:
        client: its socket, which does not block.
        address: its address, as `accept` gives it.
        server_address: that of the socket it was accepted from.
        worker: the `Worker`.

    Attributes:
        state: a `State`.
        request: the `Request` that is read or answered.
        task: the `RequestTask` of that request, while the application works on it.
        since: when the state began, in seconds of the monotonic clock.
        deadline: when the client is too slow, on the same clock.
        gone: whether the client has closed the connection, or its sending half.
        refuse: whether the request must be refused, as too many wait.
        refusal: the `ApiError` for a request whose body there is no room for, or None.
        late: whether it has reached the backlog after the drain began.
    """

    def __init__(self, client, address, server_address, worker):
        self.client = client
        self.address, self.server_address = address, server_address
        self.gone = self.late = False
        self.task = None
        self._worker = worker
        self._answer = []
        self._discarded = 0
        self._awaits_body = self._kept = False
        self._watched = INPUT
        self._expect_request(worker.settings.client_timeout)

    @property
    def is_idle(self):
        """Whether the client has not begun to send a request."""
        return self.state is State.READING and not self.request.begun

    @property
    def waits_for_server(self):
        """Whether the next step is the server's and not the client's."""
        return bool(self._postponed) or self.state in (State.WORKING, State.STALLED)

    def postpone(self):
        """Postpone the request, if it may need a forward pass: it waits unread. Returns whether it is postponed."""
        if self.state is not State.READING:
            return False
        if not self._postponed and (self.request.received or self._may_need_a_pass()):
            self._postponed = time.monotonic()
        return bool(self._postponed)

    def _may_need_a_pass(self):
        start = self._peek(max(map(len, _NO_PASS)))
        return bool(start) and not start.startswith(_NO_PASS)

    def _peek(self, size):
        """At most `size` bytes of what has arrived, which stays unread; nothing where the socket has failed."""
        try:
            return self.client.recv(size, socket.MSG_PEEK)
        except OSError:
            return b""

    def handle(self, events):
        """Handle the events that epoll has reported."""
        self.gone = self.gone or bool(events & ~(select.EPOLLIN | select.EPOLLOUT))
        if self.state is State.READING:
            self._read()
        elif self.state is State.WRITING:
            self.write()
        elif self.state is State.DISCARDING:
            self._discard()
        elif self.gone:
            self._handle_gone()
        else:
            # The client sends its next request already: read it after this answer.
            self.watch(NO_INPUT)

    def watch(self, events):
        """Have epoll report these events from now on."""
        if events != self._watched:
            self._worker.watch(self.client, events, before=self._watched)
            self._watched = events

    def enter(self, state, seconds=math.inf):
        """Change the state, with a deadline for the client in so many seconds."""
        self.state = state
        self.since = time.monotonic()
        self.deadline = self.since + seconds

    def _expect_request(self, seconds):
        self.refuse, self.refusal, self._postponed = False, None, 0.0
        self.request = Request(self._worker.cfg, self.address, self._worker.settings.max_body_bytes)
        self.enter(State.READING, seconds)

    # Reading

    def _read(self):
        request = self.request
        reads_more = request.has_head and request.body_to_come > _READ_BYTES
        try:
            data = self.client.recv(_READ_MORE_BYTES if reads_more else _READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.drop(error)
            return
        if not data and not request.begun:
            self.close()
            return
        if not request.received:
            self.enter(State.READING, self._worker.settings.client_timeout)
        elif self._postponed:
            self.deadline += time.monotonic() - self._postponed
        self._postponed = 0.0
        self.deadline += len(data) / MIN_BYTES_PER_SECOND
        try:
            if not data:
                raise ApiError("malformed_request", "The connection was closed before the request was complete.")
            request.feed(data)
        except ApiError as error:
            self._fail(error)
        else:
            self._dispatch_if_ready()

    def _dispatch_if_ready(self):
        """Start or resume the application, if enough of the request has arrived."""
        request = self.request
        # Start it before the body arrives, so that a client that will get an error need not send the body.
        answers_early = not self.task and request.has_head and (self.refuse or request.expects_continue)
        if request.complete or request.is_too_large or answers_early:
            self._dispatch()
        elif request.has_head and request.body_to_come > _READ_BYTES:
            try:
                self._worker.limits.admit_body(self)
            except ApiError as error:
                self._refuse(error)

    def pause_reading(self):
        """Read nothing until there is memory for the body."""
        self.enter(State.STALLED)
        self.watch(NO_INPUT)

    def resume_reading(self):
        """Read the body, with a new deadline."""
        self.enter(State.READING, self._worker.settings.client_timeout)
        self.watch(INPUT)

    def _dispatch(self):
        """Start or resume the application."""
        self.enter(State.WORKING)
        if self.task:
            self._awaits_body = False
            self._worker.application.resume(self)
        else:
            self._worker.application.start(self)

    def _refuse(self, error):
        """Answer a valid request with an error. The application does, in the dialect of the path."""
        if self.task:
            self._fail(error)
        else:
            self.refusal = error
            self._dispatch()

    def _fail(self, error):
        if self.task:
            self.enter(State.WORKING)
            self._awaits_body = False
            self.task.throw(error)
        else:
            self._worker.application.answer_error(self, error)

    def await_body(self, loop):
        """Wait until the request is complete, or too large. Called in the request's task.

        Args:
            loop: the greenlet of the event loop.

        Raises:
            ApiError: the rest of the request is not valid, or too slow, or there is no room for it.
            ClientGone: the connection was closed.
        """
        if self.request.complete or self.request.is_too_large:
            return
        # Not for a client that has gone, which the event loop will notice, or that has not read its last answer.
        with suppress(OSError):
            self.client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._awaits_body = True
        self.resume_reading()
        loop.switch()

    def _handle_gone(self):
        if self.state is State.STALLED:
            self.close()
            return
        self.watch(NOTHING)
        self._worker.cancel(self)

    # Writing

    def sendall(self, data):
        """Add to the answer. Gunicorn's response calls it."""
        if data:
            self._answer.append(data)

    def send_answer(self, close):
        """Send the answer, and close the connection after it, or expect another request."""
        if self.state is State.CLOSED:
            return
        self.task = None
        self.request.must_close |= close
        self.request.free()
        self._worker.limits.bodies.hold(self, 0)
        self._worker.limits.vectors.hold(self, 0)
        self.enter(State.WRITING, self._worker.settings.client_timeout)
        self.write()

    def write(self):
        """Send as much of the answer as the socket takes."""
        try:
            sent = self.client.sendmsg(self._answer[:_BUFFERS])
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.drop(error)
            return
        self.deadline += sent / MIN_BYTES_PER_SECOND
        self._remove(sent)
        if self._answer:
            self._worker.limits.answers.hold(self, sum(map(len, self._answer)))
            self.watch(OUTPUT)
            return
        self._worker.limits.answers.hold(self, 0)
        self.watch(INPUT)
        if not self.request.must_close:
            self._kept = True
            self._expect_request(self._worker.cfg.keepalive)
        elif self.request.complete and not self._peek(1):
            self.close()
        else:
            self._begin_to_discard()

    def _remove(self, sent):
        while sent:
            first = self._answer[0]
            if sent < len(first):
                self._answer[0] = memoryview(first)[sent:]
                return
            sent -= len(first)
            del self._answer[0]

    def _begin_to_discard(self):
        """Close the sending half, and discard what the client still sends."""
        try:
            self.client.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.drop(error)
            return
        self.enter(State.DISCARDING, DISCARD_SECONDS)
        self._discard()

    def _discard(self):
        try:
            data = self.client.recv(_READ_MORE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._discarded += len(data)
        if not data or self._discarded > DISCARD_BYTES:
            self.close()

    # The end

    def expire(self):
        """End the request or the connection, as the client is too slow; not if a new request has just arrived."""
        if self._has_new_request():
            return
        if self.state is State.READING and self.request.begun:
            self._fail(
                ApiError(
                    "request_timeout",
                    "The request took too long to arrive. Send it in one go, or over a faster connection.",
                )
            )
            return
        if self.state is State.WRITING or (self.state is State.READING and not self._kept):
            metrics.record_dropped("slow")
        self.close()

    def drop(self, error):
        """Close, as the socket has failed."""
        ours = error.errno in _SERVER_ERRORS
        metrics.record_dropped("failed" if ours else "gone")
        if ours:
            self._worker.log.error("A connection is dropped: %s", error.strerror)
        self.close()

    def evict(self):
        """Close to make room for others, unless a new request has just arrived; returns whether it has closed."""
        if self._has_new_request():
            return False
        metrics.record_dropped("limit")
        self.close()
        return True

    def _has_new_request(self):
        """Whether a new request has arrived since the last poll, such as during a forward pass; it is read next."""
        return self.is_idle and not self.request.received and bool(self._peek(1))

    def close(self):
        """Close the connection, and end what is computed for it."""
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        self.gone = True
        self._answer = []
        self.request.free()
        self._worker.forget(self)
        self.client.close()
        if self._awaits_body:
            self._awaits_body = False
            self.task.throw(ClientGone)
