"""One client's visit: its request is read, handed on or answered, and its connection closed, without ever blocking."""

import os
import re
import select
import socket
import time

import h11
from gunicorn.http.errors import LimitRequestHeaders

from embedding_api import memory
from embedding_api.errors import overloaded, stopping
from embedding_api.exchange import Exchange
from embedding_api.request_queue import QUEUE

READ, WRITE = select.EPOLLIN, select.EPOLLOUT

# All that a head may have; Gunicorn's limits for its parts are below that. Lines cost time, which the others wait.
HEAD_BYTES = 64 * 1024
HEAD_LINES = 110
# A client that moves so many bytes a second, either way, is not cut off.
SLOWEST = 32 * 1024
# What chunks may add to a body: so many bytes, and an eighth of it. Megabytes in chunks of a byte would cost minutes.
CHUNK_BYTES = 16 * 1024
# Chunks that are read before the other clients have their turn: about a millisecond.
CHUNKS = 100
# What a client that has its answer may still send: closing the connection in the middle of that would lose the answer.
DISCARD_BYTES = 64 * 1024 * 1024
DISCARD_SECONDS = 10

_READ_BYTES = 64 * 1024
_HEAD_END = re.compile(rb"\n\r?\n")
# What takes no time, and must be answered while every worker computes.
_ANSWERED_HERE = {b"GET", b"HEAD", b"OPTIONS"}


class Visit:
    """A client's connection from the first byte to the last.

    Args:
        client: its socket, which does not block.
        address: its address, as `accept` gives it.
        door: the `Door` it came in by.
        answer: what is to be sent, if that is all there is left to do.

    Attributes:
        course: a generator that does all that can be done, and yields READ or WRITE for what it waits for.
        began, deadline: when it began, and is over at the latest, in seconds of the monotonic clock.
        waits_for: what it has yielded last, for the door.
        held: the bytes of memory it takes.
        silent: whether nothing has come from the client yet.
        large: whether its answer took much memory.
        late: whether it came after the service had been told to stop.
    """

    def __init__(self, client, address, door, answer=None):
        self.client = client
        self.waits_for = None
        self.held = 0
        self.silent = answer is None
        self.large = False
        self.late = QUEUE.refuses and answer is None
        self._address = address
        self._door = door
        self._complete = answer is not None
        self._received = self._events = 0
        self._allow(door.timeout)
        self.began = time.monotonic()
        self.course = self._attend() if answer is None else self._send(answer)

    def _allow(self, seconds):
        self.deadline = time.monotonic() + seconds

    def _attend(self):
        try:
            exchange = yield from self._receive()
        except (h11.RemoteProtocolError, LimitRequestHeaders, TimeoutError) as error:
            if self.silent:
                raise
            exchange = Exchange(self.client, b"")
            self._door.refuse(None, exchange, self._address, error)
        else:
            if exchange is None:
                return
            self._door.answer(exchange, self._address)
        self.held = 0
        yield from self._send(b"".join(exchange.answer))

    def _receive(self):
        """Read the request. Returns its `Exchange`, or None if there is nothing to answer, or a worker will do it."""
        head = yield from self._read_head()
        if head is None:
            return None
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        parser.receive_data(head)
        request = parser.next_event()
        headers = dict(request.headers)
        length = int(headers.get(b"content-length", 0))
        if length and b"transfer-encoding" in headers:
            raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding say where the body ends")
        if length > self._door.max_body_bytes:
            # The application says so without reading it.
            return Exchange(self.client, _head(request, length))
        with open(os.memfd_create("body"), "r+b", buffering=0) as body:
            while not isinstance(event := (yield from self._next_event(parser)), h11.EndOfMessage):
                body.write(event.data)
                self.held = body.tell()
                if self.held > self._door.max_body_bytes:
                    return Exchange(self.client, _head(request, self.held))
            self._complete = not parser.trailing_data[0]
            return self._hand_on(request, body)

    def _read_head(self):
        """All that has come when the head is whole; None if the client leaves before, or never says anything."""
        data, end = bytearray(), None
        while not end:
            if len(data) > HEAD_BYTES:
                raise LimitRequestHeaders("the headers are too large")
            more = yield from self._read()
            if not more:
                return None
            data += more
            if data[0] <= 0x20:
                # TLS, for example, which would go on waiting for an answer.
                raise h11.RemoteProtocolError("it does not begin with a method")
            end = _HEAD_END.search(data, max(0, len(data) - len(more) - 2))
        if data.count(b"\n", 0, end.start()) > HEAD_LINES:
            raise LimitRequestHeaders("there are too many headers")
        self._received = len(data) - end.end()
        return data

    def _next_event(self, parser):
        """The next part of the body, or its end."""
        self._events += 1
        if self._events % CHUNKS == 0:
            # It may be written to at any time: it is soon its turn again.
            yield WRITE
        while (event := parser.next_event()) is h11.NEED_DATA:
            if parser.they_are_waiting_for_100_continue:
                self.client.send(parser.send(h11.InformationalResponse(status_code=100, headers=[])))
            if self._received - self.held > CHUNK_BYTES + self.held // 8:
                raise h11.RemoteProtocolError("the chunks of the body are too small")
            # A client that sends fast leaves the others their turn.
            yield READ
            data = yield from self._read()
            self._received += len(data)
            parser.receive_data(data)
        return event

    def _read(self):
        """What has arrived; nothing if the client has closed."""
        while True:
            try:
                data = self.client.recv(_READ_BYTES)
            except BlockingIOError:
                yield READ
            else:
                self.silent = False
                self.deadline += len(data) / SLOWEST
                return data

    def _hand_on(self, request, body):
        """Give the request to a worker; if none of them need or can take it, return its `Exchange`."""
        length = body.tell()
        head = _head(request, length)
        if request.method in _ANSWERED_HERE:
            return Exchange(self.client, head)
        if self.late:
            return Exchange(self.client, head, refusal=stopping())
        if self._door.serve_here(self.client, body, head, length):
            return None
        if QUEUE.has_room(self._door.max_waiting):
            body.write(head)
            try:
                QUEUE.put(self.client, body.fileno(), len(head), length)
            except OSError as error:
                # The operating system's own limits: its buffer, or the descriptors under way.
                self._door.log.warning("A request cannot be queued: %s", error.strerror)
            else:
                return None
        return Exchange(self.client, head, refusal=overloaded())

    def _send(self, answer):
        rest = memoryview(answer)
        self.large = len(answer) > memory.LARGE_BYTES
        self.began = time.monotonic()
        self._allow(self._door.timeout)
        while rest:
            try:
                sent = self.client.send(rest)
            except BlockingIOError:
                self.held = len(rest)
                yield WRITE
            else:
                rest = rest[sent:]
                self.deadline += sent / SLOWEST
        self.held = 0
        if not self._complete or unread(self.client):
            yield from self._discard()

    def _discard(self):
        """Say that the answer is complete, and let the client finish what it sends."""
        self.client.shutdown(socket.SHUT_WR)
        self._allow(DISCARD_SECONDS)
        discarded = 0
        while discarded < DISCARD_BYTES:
            yield READ
            try:
                data = self.client.recv(_READ_BYTES)
            except BlockingIOError:
                continue
            if not data:
                return
            discarded += len(data)


def unread(client):
    """Whether a client has sent what nobody has read: closing the connection would take its answer from it."""
    try:
        return bool(client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False


def _head(request, length):
    """The request's head as Gunicorn will read it: what was sent, with the length of the body as it has arrived."""
    lines = [b"%s %s HTTP/%s" % (request.method, request.target, request.http_version)]
    for name, value in request.headers:
        chunked = name == b"transfer-encoding"
        asks = name == b"expect" and value.lower() == b"100-continue"
        if not chunked and not asks and name != b"content-length":
            lines.append(b"%s: %s" % (name, value))
    if length or request.method not in _ANSWERED_HERE:
        lines.append(b"content-length: %d" % length)
    return b"\r\n".join([*lines, b"", b""])
