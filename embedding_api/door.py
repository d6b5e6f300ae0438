"""The door of a worker: a thread that deals with all clients, so that none of them costs the worker any time.

The worker's main thread computes, and the kernel lets other threads run meanwhile. So probes and refusals are answered
while every worker is busy, and a client that is slow to send or to read holds up nobody.
"""

import collections
import errno
import os
import resource
import select
import signal
import threading
import time

from embedding_api import memory, metrics
from embedding_api.visit import Visit

# Seconds after which a deadline may be noticed.
TICK = 1
# Seconds that a worker which leaves waits for clients that have not said anything yet or can only be refused, and at
# most for any of them: while it is there, Gunicorn's master cannot replace others.
SILENCE = 1
FAREWELL = 30
# Of a worker; beyond them the oldest clients are left.
MOST_VISITS = 1000
# Bodies and answers under way, of the largest size that the limits allow. A vector takes some 5 KB for 384 dimensions.
MOST_PAYLOADS = 4
VECTOR_BYTES = 8 * 1024

# What is no client's doing.
_OURS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.ENOBUFS}


class Door(threading.Thread):
    """Lets clients in, and sees them off.

    Args:
        listeners: the listening sockets, which all workers share.
        worker: the `Worker`, which writes the answers, and may take a request at once.
        settings: the service's `Settings`.
        log: a logger.
        on_empty: called when it lets nobody in and the last client has left.
    """

    def __init__(self, listeners, worker, settings, log, on_empty):
        super().__init__(name="door", daemon=True)
        self.answer, self.refuse, self.serve_here = worker.answer, worker.handle_error, worker.take
        self.timeout = settings.client_timeout
        self.max_waiting = settings.max_waiting
        self.max_body_bytes = settings.max_body_bytes
        self.log = log
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._bell, select.EPOLLIN)
        self._on_empty = on_empty
        self._most_bytes = MOST_PAYLOADS * max(settings.max_body_bytes, settings.max_texts * VECTOR_BYTES)
        # Each may need two descriptors, and the process has others.
        self._most_visits = max(1, min(MOST_VISITS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 - 100))
        self._unsent = collections.deque()
        self._visits = {}
        self._looked = 0.0
        self._shut = self._last = self._over = False
        self._shut_at = None

    def finish(self, client, answer):
        """Send the rest of an answer, from another thread."""
        self._unsent.append((client, answer))
        os.eventfd_write(self._bell, 1)

    def shut(self, last=False):
        """Let nobody else in; from another thread or a signal handler.

        Args:
            last: whether nobody else will let in who is at the door already.
        """
        self._last = last
        self._shut = True
        os.eventfd_write(self._bell, 1)

    def end(self):
        """End the thread, from the one that calls `finish`: it will not do so again."""
        self._over = True
        os.eventfd_write(self._bell, 1)

    @property
    def owes(self):
        """Whether there are clients who asked for something before the service was told to stop."""
        return bool(self._unsent) or any(not visit.late and not visit.silent for visit in list(self._visits.values()))

    @property
    def is_empty(self):
        """Whether it lets nobody in and all clients have left. To be asked by the thread that calls `finish`."""
        return self._shut_at is not None and not self._unsent and not self._visits

    def run(self):
        # Signals are for the main thread: one that is delivered here would not wake it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
        for listener in self._listeners:
            # One worker wakes up for a client, and not all.
            self._epoll.register(listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        while not self._over:
            was_empty = self.is_empty
            for descriptor, _ in self._epoll.poll(TICK):
                if descriptor in self._listeners:
                    self._accept(self._listeners[descriptor])
                elif descriptor == self._bell:
                    os.eventfd_read(self._bell)
                elif visit := self._visits.get(descriptor):
                    self._resume(visit)
            while self._unsent:
                self._begin_unsent()
            if self._shut and self._shut_at is None:
                self._close()
            self._expire()
            if self.is_empty and not was_empty:
                self._on_empty()

    def _close(self):
        for descriptor, listener in self._listeners.items():
            while self._last and self._accept(listener):
                pass
            self._epoll.unregister(descriptor)
            # Who comes now shall not wait for a door that nobody opens.
            listener.close()
        self._listeners = {}
        self._shut_at = time.monotonic()

    def _accept(self, listener):
        """Let a client in; whether there was one."""
        try:
            client, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            # Another worker was faster, or the client has gone again.
            return False
        except OSError as error:
            self.log.error("Cannot accept a client: %s", error.strerror)
            self._leave_oldest()
            # Without a descriptor the client waits on, and would be tried again at once.
            time.sleep(TICK / 10)
            return False
        client.setblocking(False)
        self._begin(Visit(client, address, self))
        return True

    def _begin(self, visit):
        self._visits[visit.client.fileno()] = visit
        self._resume(visit)
        if len(self._visits) > self._most_visits:
            self._leave_oldest()

    def _begin_unsent(self):
        # In a method of its own, as one that goes on would keep the last answer in memory.
        client, answer = self._unsent[0]
        self._begin(Visit(client, None, self, answer))
        self._unsent.popleft()

    def _leave_oldest(self):
        if self._visits:
            self._leave(next(iter(self._visits.values())))

    def _leave(self, visit):
        metrics.dropped.labels("crowded").inc()
        self._end(visit)

    def _resume(self, visit, error=None):
        """Go on with a visit until it has to wait again, or is over."""
        descriptor = visit.client.fileno()
        if self._visits.get(descriptor) is not visit:
            return
        try:
            event = visit.course.throw(error) if error else next(visit.course)
        except StopIteration:
            self._end(visit)
        except TimeoutError:
            metrics.dropped.labels("slow").inc()
            self._end(visit)
        except OSError as error:
            metrics.dropped.labels("failed" if error.errno in _OURS else "gone").inc()
            if error.errno in _OURS:
                self.log.error("A client is dropped: %s", error.strerror)
            self._end(visit)
        except Exception:
            metrics.dropped.labels("failed").inc()
            self.log.exception("A client's visit failed")
            self._end(visit)
        else:
            if visit.waits_for is None:
                self._epoll.register(descriptor, event)
            elif visit.waits_for != event:
                self._epoll.modify(descriptor, event)
            visit.waits_for = event
            if visit.held:
                self._make_room()

    def _make_room(self):
        """Leave those who hold more than the others, the oldest first; who holds something alone may hold all."""
        while True:
            holders = [visit for visit in self._visits.values() if visit.held]
            held = sum(visit.held for visit in holders)
            if len(holders) < 2 or held <= self._most_bytes:
                return
            self._leave(next(visit for visit in holders if visit.held >= held / len(holders)))

    def _end(self, visit):
        descriptor = visit.client.fileno()
        del self._visits[descriptor]
        if visit.waits_for is not None:
            self._epoll.unregister(descriptor)
        visit.course.close()
        visit.client.close()
        if visit.large:
            memory.give_back()

    def _expire(self):
        now = time.monotonic()
        if now - self._looked < TICK:
            return
        self._looked = now
        for visit in [visit for visit in self._visits.values() if self._deadline(visit) < now]:
            self._resume(visit, TimeoutError())

    def _deadline(self, visit):
        """When a visit is over; sooner where the worker is about to leave."""
        if self._shut_at is None:
            return visit.deadline
        grace = SILENCE if visit.silent or visit.late else FAREWELL
        return min(visit.deadline, max(self._shut_at, visit.began) + grace)
