"""Gunicorn's sync worker as an event loop: it reads, computes and answers for all of its connections in turn."""

import gc
import math
import os
import resource
import select
import time
from contextlib import contextmanager

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

# Seconds between two checks of the deadlines.
TICK = 1
# Connections accepted at a time: few, so that open ones have their turn.
ACCEPTS = 8
# Seconds of a turn for which connections are accepted: while others came without end, there would be no forward pass.
ACCEPT_SECONDS = 0.05
# The most compute threads of a worker: each keeps scratch memory of some MB, and there may be as many workers as cores.
MAX_THREADS = 8
# Grace periods of a drain, in seconds: for clients that send nothing, and for those that send or read.
IDLE_GRACE_SECONDS = 1
GRACE_SECONDS = 30


class Log(Logger):
    """Gunicorn's, without its access log: a line would be formatted for every request, and never written."""

    access_log_enabled = False


class Worker(SyncWorker):
    """One process: one thread for all connections and short requests, and compute threads for large requests.

    Attributes:
        settings: the service's `Settings`.
        number: its number among the workers that live, from 1. A new worker gets that of a dead one.
        application, limits: what its connections call.
    """

    # Made by the master before the first fork, for all workers.
    shared = None
    number = 0

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
        self._set_up()
        while self.alive and self.is_parent_alive():
            self._turn()
        self._drain()

    def _set_up(self):
        self.settings = process_settings()
        self.limits = Limits(self.settings, self.cfg.workers, self.sockets)
        encoder = self.wsgi.extensions["encoder"]
        # nice: the forward passes of all workers' event loops go first.
        self._cores = usable_cores()
        threads = ComputeThreads(min(self._cores, MAX_THREADS), nice=10)
        self._batcher = Batcher(
            encoder, threads, self.limits, self._has_idle_core, self._spread_load, metrics.record_forward_pass
        )
        encoder.run_in_worker(compute=self._batcher.compute, heartbeat=self._batcher.heartbeat)
        self.application = Application(self, self._batcher, self.limits)
        self.wsgi.extensions["server"] = self
        # By file descriptor: the open connections, and the events of what is ready and not handled yet.
        self._connections = {}
        self._ready = {}
        # Whether requests hold memory, and whether they or compute threads have freed some that is not given back yet.
        self._memory_is_held = self._memory_to_free = False
        # When the drain began, and how many connections that were in the backlog then are not accepted yet.
        self._draining_since, self._backlog_to_drain = None, 0
        self._next_tick = self._accept_until = 0.0
        self._epoll = select.epoll()
        self._epoll.register(self.PIPE[0], select.EPOLLIN)
        self._epoll.register(self._batcher.event, select.EPOLLIN)
        self._listeners = {listener.fileno(): (listener, listener.getsockname()) for listener in self.sockets}
        # Listeners that have failed to accept, until the next tick.
        self._blocked = set()
        for listener in self.sockets:
            listener.setblocking(False)
            self._watch_listener(listener)

    def _watch_listener(self, listener):
        # Exclusive: a connection wakes one worker and not all.
        self._epoll.register(listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)

    # The event loop

    def _turn(self):
        """Wait for something to do, read and start requests, and do one forward pass."""
        if self._batcher.seconds_without_progress() < (self.timeout or math.inf):
            self.notify()
        self._ready.update(self._poll())
        self._accept_until = time.monotonic() + ACCEPT_SECONDS
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
        was_held, self._memory_is_held = self._memory_is_held, self.limits.memory_is_held
        self._memory_to_free |= was_held and not self._memory_is_held
        if self._ready or self._batcher.has_work:
            return self._epoll.poll(0)
        if self._memory_to_free and not self._batcher.computes:
            self._memory_to_free = False
            self.wsgi.extensions["encoder"].free_scratch()
            # Exceptions are in reference cycles, and their tracebacks refer to texts.
            gc.collect()
            malloc.trim()
        if self._draining_since is None:
            self.shared.set_idle(self.number)
        else:
            # It has nothing to do, and accepts nothing.
            self.shared.forget(self.number)
        events = self._epoll.poll(TICK)
        self.shared.set_busy(self.number)
        return events

    def _postpone(self):
        """While the next pass is full: handle what needs none, postpone requests up to the limit, refuse the others."""
        for descriptor in self._listeners.keys() & self._ready.keys():
            self._handle(descriptor)
        postponed = []
        for descriptor in list(self._ready):
            connection = self._connections.get(descriptor)
            if connection and connection.postpone():
                postponed.append(descriptor)
            elif descriptor in self._ready and descriptor not in self._listeners:
                self._handle(descriptor)
        self.limits.postponed = min(len(postponed), self.limits.max_waiting)
        for descriptor in postponed[self.limits.max_waiting :]:
            self._handle(descriptor, refuse=True)

    def _handle(self, descriptor, refuse=False):
        """Handle the events of a descriptor that is ready."""
        events = self._ready.pop(descriptor)
        if connection := self._connections.get(descriptor):
            connection.refuse |= refuse
            with self._error_ends(connection):
                connection.handle(events)
        elif descriptor in self._listeners:
            self._accept(*self._listeners[descriptor])
        elif descriptor == self._batcher.event:
            self._memory_to_free = True
            self._batcher.collect()
        elif descriptor == self.PIPE[0]:
            os.read(self.PIPE[0], 4096)

    def _accept(self, listener, server_address):
        """Accept some connections; while the next pass is full, the worker's share, as it may contain probes."""
        for _ in range(self.limits.share_of_backlog if self._batcher.is_full else ACCEPTS):
            try:
                client, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                self.log.error("Cannot accept a connection: %s", error.strerror)
                self._evict_one()
                # It may fail again at once: try again at the next tick.
                self._epoll.unregister(listener)
                self._blocked.add(listener)
                return
            client.setblocking(False)
            connection = Connection(client, address, server_address, self)
            connection.late = self._draining_since is not None and not self._backlog_to_drain
            self._backlog_to_drain = max(self._backlog_to_drain - 1, 0)
            self._connections[client.fileno()] = connection
            self._epoll.register(client, INPUT)
            # Its request has usually arrived.
            self._ready[client.fileno()] = select.EPOLLIN
            if len(self._connections) > self.cfg.worker_connections:
                self._evict_one()
        if time.monotonic() < self._accept_until:
            # There may be more: accept them after the requests of these.
            self._ready[listener.fileno()] = select.EPOLLIN

    def _evict_one(self):
        """Evict the connection that has been idle or slow for longest, to make room for another.

        Not one whose request may have arrived.
        """
        unready = (connection for descriptor, connection in self._connections.items() if descriptor not in self._ready)
        evictable = (connection for connection in unready if not connection.waits_for_server)
        for connection in sorted(evictable, key=lambda connection: connection.since):
            if connection.evict():
                return

    def _tick(self, now):
        self.limits.tick(now)
        metrics.set_waiting(self.waiting)
        for listener in self._blocked:
            self._watch_listener(listener)
        self._blocked.clear()
        # Look for connections whose wake-up went to a worker that has died since.
        self._ready.update(dict.fromkeys(self._listeners, select.EPOLLIN))
        for connection in [other for other in self._connections.values() if self._deadline(other) < now]:
            with self._error_ends(connection):
                connection.expire()

    @contextmanager
    def _error_ends(self, connection):
        """Have an unexpected error end this connection alone, and not the worker."""
        try:
            yield
        except Exception as error:
            self.log.error("Unexpected error: %s", trace(error))
            connection.close()

    # Called by connections and requests

    def watch(self, client, events, before):
        """Have epoll report these events of a socket from now on, in place of those before."""
        if not before:
            self._epoll.register(client, events)
        elif events:
            self._epoll.modify(client, events)
        else:
            self._epoll.unregister(client)

    def forget(self, connection):
        """Remove a connection that closes now, and end what is computed for it."""
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
        """Count a request. After --max-requests of them the worker drains, and another takes over."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False

    def _has_idle_core(self):
        """Whether each busy worker, and a helper for it, have a core."""
        return 2 * self.shared.busy <= self._cores

    def _spread_load(self, tasks):
        """Close a quarter of a pass's connections if another worker is idle, which accepts when their clients return.

        With half of them the other worker soon has more than this one, and the connections move to and fro.
        """
        if (len(tasks) > 1 or self.limits.postponed) and self.shared.any_idle:
            for task in tasks[: max(len(tasks) // 4, 1)]:
                task.connection.request.must_close = True

    # Read by the application, as its extension "server"

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
        """Whether the service is about to stop."""
        return self.shared.stopping

    # The end

    def _drain(self):
        """Answer what has been accepted; when the service stops, also what is in the backlog."""
        self.alive = False
        self._draining_since = time.monotonic()
        for connection in self._connections.values():
            connection.request.must_close = True
        if self.shared.stopping or self.ppid != os.getppid():
            self._backlog_to_drain = self.limits.backlog
        else:
            self._close_listeners()
        while not self._is_drained:
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
    def _is_drained(self):
        """Whether no client from before the drain, and no late one that reads its answer, is left."""
        if self._backlog_to_drain and self.limits.backlog:
            return False
        others = self._connections.values()
        return all(connection.late and connection.state is not State.WRITING for connection in others)

    def _deadline(self, connection):
        """When a client is too slow; sooner in a drain."""
        if connection.waits_for_server:
            return math.inf
        if self._draining_since is None:
            return connection.deadline
        seconds = IDLE_GRACE_SECONDS if connection.is_idle else GRACE_SECONDS
        return min(connection.deadline, max(self._draining_since, connection.since) + seconds)

    def handle_quit(self, sig, frame):
        # Exit at once. Gunicorn's own handler sleeps, and raises SystemExit in whatever runs.
        os._exit(0)

    def handle_abort(self, sig, frame):
        # Gunicorn's master sends SIGABRT, and logs it, when it has not heard from this worker for too long.
        os._exit(1)
