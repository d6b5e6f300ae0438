"""Gunicorn's sync worker, behind a door: it takes whole requests from the queue that all workers share."""

import os
import resource
import select
import threading
import time
from http import HTTPStatus

import h11
import orjson
from gunicorn.glogging import Logger
from gunicorn.http import errors as http
from gunicorn.workers.sync import SyncWorker

from embedding_api import logs, memory, metrics, request_id
from embedding_api.admission import LARGE_BODIES
from embedding_api.config import process_settings
from embedding_api.door import Door
from embedding_api.errors import CODES, ClientGone, error_body, occupied, trace
from embedding_api.exchange import Exchange
from embedding_api.request_queue import QUEUE, WaitingRequest
from embedding_api.server import prefix
from embedding_api.visit import unread

# Seconds until a worker looks around that nobody has woken: should the one die that was woken for a request.
LOOK_SECONDS = 1
# File descriptors: a client needs two, and a request that waits two more.
DESCRIPTORS = 4096

_CODES = {
    http.LimitRequestLine: "uri_too_long",
    http.LimitRequestHeaders: "headers_too_large",
    http.ExpectationFailed: "expectation_failed",
    http.ForbiddenProxyRequest: "forbidden",
    TimeoutError: "request_timeout",
}
_MESSAGES = {"request_timeout": "The request took too long to arrive. Send it in one go, or over a faster connection."}


class Log(Logger):
    """Gunicorn's, without its access log, which would be prepared for every request though nobody sees it."""

    access_log_enabled = False


class Worker(SyncWorker):
    """Computes in its main thread; its `Door` deals with the clients in another.

    A request that comes by its own door while it has nothing to do, or has just sent an answer, it takes at once: here
    the caches are warm, and nothing need be handed from process to process. All others go by way of the queue.
    """

    def init_process(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < DESCRIPTORS:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, hard), hard))
        self._exchange = None
        self._door = None
        # What its own door has for it, whether it would take that next, and whether it must be woken for it.
        self._own, self._takes, self._sleeps, self._taking = None, False, False, threading.Lock()
        super().init_process()

    def run(self):
        for listener in self.sockets:
            listener.setblocking(False)
        self._ready = select.epoll()
        self._ready.register(self.PIPE[0], select.EPOLLIN)
        # One worker wakes up for a request, and not all.
        self._ready.register(QUEUE, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        self._door = Door(self.sockets, self, process_settings(), self.log, on_empty=self._wake)
        self._door.start()
        while self.alive and self._door.is_alive() and self.is_parent_alive():
            self._serve_next()
        if QUEUE.refuses:
            # The end of all: probes and new clients are told so until what was accepted is answered.
            while self._door.is_alive() and (self._door.owes or QUEUE.places):
                self._serve_next()
        self._door.shut(last=self._is_last)
        if not self._is_last:
            self._leave()
        while self._door.is_alive() and not (self._door.is_empty and (self._waits_for_nobody or not self._is_last)):
            if self._is_last:
                self._serve_next()
            else:
                # At a reload, or when one worker is recycled, the others go on with the queue.
                self.notify()
                self._door.join(LOOK_SECONDS / 10)
        self._leave()
        self._door.end()
        self._door.join()

    @property
    def _is_last(self):
        return QUEUE.closes or self.ppid != os.getppid()

    @property
    def _waits_for_nobody(self):
        return QUEUE.places == 0 and self._own is None

    def _leave(self):
        """Take nothing more from its own door but by the queue."""
        while True:
            with self._taking:
                request, self._own, self._takes = self._own, None, False
            if request is None:
                return
            self._serve(request)

    def take(self, client, file, head, length):
        """Take a request at once, from the door's thread; whether it does.

        Args:
            client: the client's socket. The caller closes its own copy.
            file: the body, of so many bytes. The caller closes its own copy.
            head: the request's head, as bytes.
        """
        with self._taking:
            # Who has waited in the queue comes first.
            if not self._takes or self._own or QUEUE.places:
                return False
            try:
                body = open(os.dup(file.fileno()), "rb", buffering=0)  # noqa: SIM115 - the reader closes it
                own = client.dup()
            except OSError:
                # No descriptors: the queue says so.
                return False
            body.seek(0)
            self._own = WaitingRequest(own, head, body, length, time.monotonic())
            if self._sleeps:
                self._wake()
        return True

    def _wake(self):
        os.write(self.PIPE[1], b".")

    def _serve_next(self):
        self.notify()
        try:
            with self._taking:
                request, self._own = self._own or QUEUE.get(), None
                self._takes = self._sleeps = request is None
        except OSError as error:
            self.log.error("%s", error.strerror)
            return
        if request is None:
            QUEUE.set_free(self.place, True)
            self.wait(LOOK_SECONDS)
            QUEUE.set_free(self.place, False)
            return
        if max(self._serve(request), request.size) > memory.LARGE_BYTES:
            memory.give_back()

    def _serve(self, request):
        """Returns the size of a request's answer in bytes."""
        client = request.client
        client.setblocking(False)
        refusal = None if LARGE_BODIES.admit(request.size) else occupied()
        self._exchange = Exchange(client, request.head, request.body, request.waited, refusal)
        try:
            self.answer(self._exchange, _address(client))
            answer = b"".join(self._exchange.answer)
        finally:
            self._exchange = None
            LARGE_BODIES.release()
        self._send(client, answer)
        return len(answer)

    def _send(self, client, answer):
        # The client's next request may be here before this one's traces are gone.
        self._takes = len(answer) <= memory.LARGE_BYTES
        try:
            sent = client.send(answer)
            if sent == len(answer) and not unread(client):
                client.close()
                return
        except BlockingIOError:
            sent = 0
        except OSError:
            metrics.dropped.labels("gone").inc()
            client.close()
            return
        self._door.finish(client, memoryview(answer)[sent:])

    def wait(self, timeout):
        if any(descriptor == self.PIPE[0] for descriptor, _ in self._ready.poll(timeout)):
            os.read(self.PIPE[0], 4096)

    def notify(self):
        """Tell Gunicorn that this worker lives, and stop computing what nobody waits for any longer."""
        super().notify()
        if self._exchange and self._exchange.client_has_gone():
            raise ClientGone

    def handle_exit(self, sig, frame):
        super().handle_exit(sig, frame)
        if self._door and not QUEUE.refuses:
            self._door.shut()

    def handle_quit(self, sig, frame):
        # At once: what is raised in a request would be answered with a 500 first.
        os._exit(0)

    def handle_request(self, listener, req, client, addr):
        client.refusal = client.refusal or prefix.admit(req)
        super().handle_request(listener, req, client, addr)

    def answer(self, exchange, address):
        """Have Gunicorn read a request, and the application answer it."""
        self.handle(exchange.client, exchange, address)

    def handle_error(self, req, client, addr, exc):
        """Answer what never reached the application, such as a request that is not HTTP."""
        name = request_id.new_id()
        if isinstance(exc, http.ParseException | h11.RemoteProtocolError | TimeoutError):
            code = _CODES.get(type(exc), "malformed_request")
            if getattr(exc, "error_status_hint", 400) == 431:
                code = "headers_too_large"
            message = _MESSAGES.get(code, f"The request is not valid HTTP: {str(exc)[:200]}.")
            logs.log_unreadable(name, CODES[code][0], exc)
        else:
            code = "internal_error"
            message = f"The service failed on this request. The log has the reason, under request id {name}."
            self.log.error("Unexpected error: %s", trace(exc), extra={"request_id": name})
        status = CODES[code][0]
        body = orjson.dumps(error_body(status, code, message))
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n{request_id.HEADER}: {name}\r\n\r\n"
        )
        client.sendall(head.encode() + body)
        metrics.count(status)
        metrics.errors.labels(code).inc()


def _address(client):
    try:
        return client.getpeername()
    except OSError:
        # It has gone; so the application will find.
        return ""
