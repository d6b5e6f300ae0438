"""Gunicorn's sync worker as an event loop: it reads, computes and answers for all of its connections in turn."""

import gc
import math
import os
import resource
import select
import time

from gunicorn.glogging import Logger
from gunicorn.workers.sync import SyncWorker

from embedding_api import metrics
from embedding_api.config import process_settings
from embedding_api.encoder.compute_threads import ComputeThreads, usable_cores
from embedding_api.errors import trace
from embedding_api.server import malloc
from embedding_api.server.application import Application
from embedding_api.server.batching import Batcher
from embedding_api.server.connection import INPUT, Connection, State
from embedding_api.server.limits import Limits
from embedding_api.server.shared import SharedFlags

# Seconds after which a deadline may be noticed.
TICK = 1
# Connections that are accepted before those that are open have their turn.
ACCEPTS = 8
# Compute threads of a worker. Each keeps scratch memory of some MB, and there may be as many workers as cores.
MOST_THREADS = 8
# Seconds that a worker which leaves waits for clients that send nothing, and at most for any of them.
QUIET_SECONDS = 1
FAREWELL_SECONDS = 30


class Log(Logger):
    """Gunicorn's, without its access log, which would be prepared for every request though nobody sees it."""

    access_log_enabled = False


class Worker(SyncWorker):
    """One process: one thread for all connections and short requests, and compute threads for large requests.

    Attributes:
        settings: the service's `Settings`.
        place: its number among the workers that live, from 1.
        application, limits: what its connections call.
    """

    # Made by the master before the first fork, for all workers.
    shared = None
    place = 0

    def __init__(self, *arguments):
        super().__init__(*arguments)
        Worker.shared = Worker.shared or SharedFlags()

    def init_process(self):
        # A descriptor for each connection, and those of the process.
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = min(self.cfg.worker_connections + 256, hard)
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        super().init_process()

    def run(self):
        self._begin()
        while self.alive and self.is_parent_alive():
            self._turn()
        self._leave()

    def _begin(self):
        self.settings = process_settings()
        self.limits = Limits(self.settings, self.cfg.workers, self.sockets)
        encoder = self.wsgi.extensions["encoder"]
        # They give way to the passes of the event loops, of this worker and of others.
        threads = ComputeThreads(min(usable_cores(), MOST_THREADS), nice=10)
        self._batcher = Batcher(encoder, threads, self.limits, self._spread, metrics.record_forward_pass)
        encoder.run_in_worker(compute=self._batcher.compute, heartbeat=self._batcher.pause)
        self.application = Application(self, self._batcher, self.limits)
        self.wsgi.extensions["server"] = self
        self._connections = {}
        self._ready = {}
        self._was_large = False
        # When it began to leave, and how many connections were in the backlog then.
        self._left_at, self._on_time = None, 0
        self._next_tick = 0.0
        self._epoll = select.epoll()
        self._epoll.register(self.PIPE[0], select.EPOLLIN)
        self._epoll.register(self._batcher.event, select.EPOLLIN)
        self._listeners = {listener.fileno(): (listener, listener.getsockname()) for listener in self.sockets}
        # Listeners that have failed, until the next tick.
        self._blocked = set()
        for listener in self.sockets:
            listener.setblocking(False)
            self._watch_listener(listener)

    def _watch_listener(self, listener):
        # One worker wakes up for a connection, and not all.
        self._epoll.register(listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)

    # The event loop

    def _turn(self):
        """Wait for something to do, read and start requests, and do one forward pass."""
        if self._batcher.seconds_without_progress() < (self.timeout or math.inf):
            self.notify()
        self._ready.update(self._poll())
        while self._ready and not self._batcher.is_full:
            self._handle(next(iter(self._ready)))
        self._postpone()
        self._batcher.turn()
        self.limits.admit_waiting()
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + TICK
            self._tick(now)

    def _poll(self):
        if self._ready or self._batcher.has_work:
            return self._epoll.poll(0)
        if self._was_large:
            self._was_large = False
            self.wsgi.extensions["encoder"].free_scratch()
            # Among what refers to itself are errors, whose traces refer to texts.
            gc.collect()
            malloc.trim()
        self.shared.set_idle(self.place, self._left_at is None)
        events = self._epoll.poll(TICK)
        self.shared.set_idle(self.place, False)
        return events

    def _postpone(self):
        """Of what is ready while the next pass is full, do what needs no pass; the rest waits, up to the limit."""
        for descriptor in self._listeners.keys() & self._ready.keys():
            self._handle(descriptor)
        postponed = []
        for descriptor in list(self._ready):
            connection = self._connections.get(descriptor)
            if connection and connection.postpone():
                postponed.append(descriptor)
            elif descriptor in self._ready and descriptor not in self._listeners:
                self._handle(descriptor)
        self.limits.postponed = min(len(postponed), self.limits.share)
        for descriptor in postponed[self.limits.share :]:
            self._handle(descriptor, refuse=True)

    def _handle(self, descriptor, refuse=False):
        """Go on with what is ready."""
        events = self._ready.pop(descriptor)
        if connection := self._connections.get(descriptor):
            connection.refuse |= refuse
            try:
                connection.handle(events)
            except Exception as error:
                # It shall cost this connection, and not all of them.
                self.log.error("Unexpected error: %s", trace(error))
                connection.close()
        elif descriptor in self._listeners:
            self._accept(*self._listeners[descriptor])
        elif descriptor == self._batcher.event:
            self._was_large = True
            self._batcher.collect()
        elif descriptor == self.PIPE[0]:
            os.read(self.PIPE[0], 4096)

    def _accept(self, listener, server_address):
        """Accept connections; while the next pass is full, this worker's share, as probes may be among them."""
        for _ in range(self.limits.share_of_backlog if self._batcher.is_full else ACCEPTS):
            try:
                client, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                self.log.error("Cannot accept a connection: %s", error.strerror)
                self._close_one()
                # Where that has not helped, it would fail again at once: it is tried at the next tick.
                self._epoll.unregister(listener)
                self._blocked.add(listener)
                return
            client.setblocking(False)
            connection = Connection(client, address, server_address, self)
            connection.late = self._left_at is not None and not self._on_time
            self._on_time = max(self._on_time - 1, 0)
            self._connections[client.fileno()] = connection
            self._epoll.register(client, INPUT)
            if len(self._connections) > self.cfg.worker_connections:
                self._close_one(but=connection)
            # Its request has arrived, as a rule.
            self._ready[client.fileno()] = select.EPOLLIN
        # There may be more, after the requests of these.
        self._ready[listener.fileno()] = select.EPOLLIN

    def _close_one(self, but=None):
        """Make room for a connection: close the one that has been quiet or slow for longest."""
        others = (other for other in self._connections.values() if not other.waits_for_us and other is not but)
        longest = min(others, key=lambda other: other.since, default=None)
        if longest:
            longest.give_way()

    def _tick(self, now):
        self.limits.tick(now)
        metrics.set_waiting(self.waiting)
        for listener in self._blocked:
            self._watch_listener(listener)
        self._blocked.clear()
        # A connection for which another worker was woken, that has died since, wakes nobody else.
        self._ready.update(dict.fromkeys(self._listeners, select.EPOLLIN))
        for connection in [other for other in self._connections.values() if self._deadline(other) < now]:
            connection.expire()

    # What connections and requests call

    def watch(self, client, events, before):
        """Have epoll report these events of a socket from now on, in place of those before."""
        if not before:
            self._epoll.register(client, events)
        elif events:
            self._epoll.modify(client, events)
        else:
            self._epoll.unregister(client)

    def forget(self, connection):
        """Know nothing more of a connection that closes now."""
        descriptor = connection.client.fileno()
        self._connections.pop(descriptor, None)
        self._ready.pop(descriptor, None)
        self.limits.forget(connection)
        self.cancel(connection)

    def cancel(self, connection):
        """End what is computed for a client that has gone."""
        if connection.task:
            self._batcher.cancel(connection.task)

    def count_request(self):
        """Leave for another worker after so many requests, if Gunicorn's configuration says so."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False

    def _spread(self, tasks):
        """Close connections of a pass while others wait and another worker is idle: their clients find that."""
        if (len(tasks) > 1 or self.limits.postponed) and self.shared.any_idle():
            for task in tasks[: max(len(tasks) // 2, 1)]:
                task.connection.request.must_close = True

    # What the application asks, as its extension "server"

    @property
    def waiting(self):
        """How many requests wait in this worker."""
        return self.limits.waiting

    @property
    def backlog(self):
        """How many connections no worker has accepted yet."""
        return self.limits.backlog

    @property
    def stopping(self):
        """Whether the service is about to end."""
        return self.shared.stopping

    # The end

    def _leave(self):
        """Answer what has been accepted. At the end of the service that is all that has reached the backlog."""
        self.alive = False
        self._left_at = time.monotonic()
        for connection in self._connections.values():
            connection.request.must_close = True
        if self.shared.stopping or self.ppid != os.getppid():
            self._on_time = self.limits.backlog
        else:
            self._close_listeners()
        while self._owes:
            self._turn()
        self._close_listeners()

    def _close_listeners(self):
        for descriptor, (listener, _) in self._listeners.items():
            if listener not in self._blocked:
                self._epoll.unregister(descriptor)
            self._ready.pop(descriptor, None)
            listener.close()
        self._listeners = {}
        self._blocked.clear()

    @property
    def _owes(self):
        """Whether some client still waits for an answer, or may have sent a request, from before it began to leave."""
        if self._on_time and self.limits.backlog:
            return True
        others = self._connections.values()
        return any(not connection.late or connection.state is State.WRITING for connection in others)

    def _deadline(self, connection):
        """When a client has taken too long; sooner where the worker leaves."""
        if connection.waits_for_us:
            return math.inf
        if self._left_at is None:
            return connection.deadline
        seconds = QUIET_SECONDS if connection.is_quiet else FAREWELL_SECONDS
        return min(connection.deadline, max(self._left_at, connection.since) + seconds)

    def handle_quit(self, sig, frame):
        # At once: what is raised in a request would be answered with a 500 first.
        os._exit(0)

    def handle_abort(self, sig, frame):
        # Gunicorn's master has not heard of this worker for too long. The log has it.
        os._exit(1)
