"""The queue of requests that wait for a worker: in the operating system, where it outlives any worker.

A request is its client's socket and a memory file that holds what the client sent. Both go as file descriptors through
one socket pair that the master makes before the fork; the worker that takes the message owns them.
"""

import array
import atexit
import errno
import fcntl
import io
import mmap
import os
import socket
import struct
import termios
import time
from dataclasses import dataclass

# Bytes of a body that count as one waiting request, so that large ones cannot fill the memory.
PLACE_BYTES = 64 * 1024
# What the socket's buffer, of the size that any Linux grants, can hold: each message takes 768 bytes of it.
MOST_PLACES = 512
_BUFFER_BYTES = 212992

# The lengths of head and body, and when it was put here. As long as all messages together are is how many places are
# taken: a message has _PLACE bytes for each of its own.
_MESSAGE = struct.Struct("QQd")
_PLACE = 64

_OPEN, _CLOSES, _REFUSES = range(3)
_WORKERS = 4096


class RequestQueue:
    """Requests that have arrived in whole, first come, first served."""

    def __init__(self):
        self._in, self._out = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._in, self._out):
            end.setblocking(False)
            atexit.register(end.close)
        self._in.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        # Whether it closes, and for each worker whether it is free.
        self._shared = mmap.mmap(-1, 1 + _WORKERS)

    def fileno(self):
        """What to wait for: it can be read when a request waits."""
        return self._out.fileno()

    @property
    def places(self):
        """How many places waiting requests take: one for each, and one more for each further 64 KB of a body."""
        queued = array.array("i", [0])
        fcntl.ioctl(self._out, termios.FIONREAD, queued)
        return queued[0] // _PLACE

    def has_room(self, max_waiting):
        """Whether a request may come: so few wait, or a worker is free, and they only wait for it to look."""
        return self.places < max_waiting or b"\1" in self._shared[1:]

    def set_free(self, worker, free):
        """Note that a worker, by its number, waits for a request, or no longer does: it has one, or has died."""
        self._shared[1 + worker % _WORKERS] = free

    def put(self, client, file, head, body):
        """Leave a request to whichever worker is free first.

        Args:
            client: the client's socket. The caller closes its own copy.
            file: the descriptor of the memory file: the body, and after it the head. The caller closes its own copy.
            head, body: their lengths in bytes.

        Raises:
            OSError: the queue is full, or the process has no descriptors left.
        """
        message = _MESSAGE.pack(head, body, time.monotonic())
        places = min(1 + body // PLACE_BYTES, MOST_PLACES)
        socket.send_fds(self._in, [message.ljust(places * _PLACE, b"\0")], [client.fileno(), file])

    def get(self):
        """The next `WaitingRequest`, or None.

        Raises:
            OSError: the process has no descriptors left for the next one, which is lost.
        """
        try:
            message, descriptors, _, _ = socket.recv_fds(self._out, _MESSAGE.size, 2)
        except BlockingIOError:
            return None
        if len(descriptors) < 2:
            for descriptor in descriptors:
                os.close(descriptor)
            raise OSError(errno.EMFILE, "a request is lost, as the process may open no more files")
        client, file = descriptors
        head_length, body_length, since = _MESSAGE.unpack(message)
        head = os.pread(file, head_length, body_length)
        os.ftruncate(file, body_length)
        os.lseek(file, 0, os.SEEK_SET)
        body = open(file, "rb", buffering=0)  # noqa: SIM115 - the reader closes it
        return WaitingRequest(socket.socket(fileno=client), head, body, body_length, since)

    @property
    def closes(self):
        """Whether the service is about to stop: what is in the queue is left to nobody else."""
        return self._shared[0] != _OPEN

    @property
    def refuses(self):
        """Whether the service is about to stop and no other has taken its place."""
        return self._shared[0] == _REFUSES

    def close(self, refuse):
        """Tell all workers that the service is about to stop, and whether to refuse who still comes."""
        self._shared[0] = _REFUSES if refuse else _CLOSES


@dataclass
class WaitingRequest:
    """A request that was taken from the queue.

    Attributes:
        client: the client's socket.
        head: the request line and the headers, as bytes.
        body: a file of the body.
        size: its length in bytes.
        since: when it was complete, in seconds of the monotonic clock.
    """

    client: socket.socket
    head: bytes
    body: io.FileIO
    size: int
    since: float

    @property
    def waited(self):
        """The seconds since it was complete."""
        return time.monotonic() - self.since


# Made before the fork, for all workers, once: a reload keeps it.
QUEUE = RequestQueue()
