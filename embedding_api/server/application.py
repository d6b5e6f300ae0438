"""Calls the WSGI application for the requests of connections, each in a greenlet of its own."""

from http import HTTPStatus

import orjson
from greenlet import getcurrent
from gunicorn.http import wsgi

from embedding_api import logs, metrics
from embedding_api.api import request_id
from embedding_api.errors import error_body, internal_error, stopping, trace
from embedding_api.server import prefix
from embedding_api.server.batching import RequestTask
from embedding_api.server.request import NO_PASS_METHODS


class Application:
    """The WSGI application, as connections call it.

    Args:
        worker: the `Worker`: its application, configuration and log.
        batcher: the `Batcher`, which runs the requests.
        limits: the `Limits`.
    """

    def __init__(self, worker, batcher, limits):
        self._worker, self._batcher, self._limits = worker, batcher, limits
        self._loop = getcurrent()

    def start(self, connection):
        """Start the application for a connection's request, whose body may not have arrived yet."""
        self._worker.count_request()
        connection.task = RequestTask(self._answer, connection)
        self._batcher.run(connection.task, connection)

    def resume(self, connection):
        """Resume the application, which has waited for the body of the request."""
        self._batcher.run(connection.task)

    def _answer(self, connection):
        cfg, request = self._worker.cfg, connection.request
        request.must_close |= not self._worker.alive or not cfg.keepalive
        response = None
        try:
            cfg.pre_request(self._worker, request)
            refusal = prefix.admit(request) or self._refusal(connection)
            response, environ = wsgi.create(request, connection, connection.address, connection.server_address, cfg)
            environ["embedding.refusal"] = refusal
            environ["embedding.task"] = connection.task
            if not request.complete:
                environ["wsgi.input"] = _Body(connection, self._loop)
            parts = self._worker.wsgi(environ, response.start_response)
            try:
                for part in parts:
                    response.write(part)
                response.close()
            finally:
                if hasattr(parts, "close"):
                    parts.close()
            cfg.post_request(self._worker, request, environ, response)
        except Exception as error:
            if response and response.headers_sent:
                # A closed connection, as the client could take half an answer for a whole one.
                self._worker.log.error("Unexpected error: %s", trace(error))
                connection.close()
            else:
                self.answer_error(connection, error)
        else:
            connection.send_answer(close=response.should_close())

    def _refusal(self, connection):
        """The `ApiError` that the application must answer the request with, or None."""
        if connection.refusal:
            return connection.refusal
        if connection.request.method in NO_PASS_METHODS:
            return None
        if connection.late:
            return stopping()
        return self._limits.refuse_as_overloaded() if connection.refuse else None

    def answer_error(self, connection, error):
        """Answer without the application: the request is not valid, or the application has failed on it."""
        name = request_id.new_id()
        if hasattr(error, "status"):
            logs.log_unreadable(name, error.status, error.code)
        else:
            self._worker.log.error("Unexpected error: %s", trace(error), extra={"request_id": name})
            error = internal_error(name)
        status = error.status
        body = orjson.dumps(error_body(status, error.code, str(error), details=error.details))
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            "Connection: close",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            f"{request_id.HEADER}: {name}",
            *(f"{header}: {value}" for header, value in error.headers),
        ]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        connection.sendall(body)
        metrics.record_response(status, None, error_code=error.code)
        connection.send_answer(close=True)


class _Body:
    """A body that has not arrived yet. To read it switches to the event loop until it is complete."""

    def __init__(self, connection, loop):
        self._connection, self._loop = connection, loop

    def read(self, size=-1):
        self._connection.await_body(self._loop)
        return self._connection.request.body.read(size)
