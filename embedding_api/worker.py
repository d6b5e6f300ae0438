"""Gunicorn's sync worker, with errors in the service's own shape and an ear for clients that are still sending."""

import socket
import time

import orjson
from gunicorn import util
from gunicorn.http import errors as http
from gunicorn.workers.sync import SyncWorker

from embedding_api import request_id
from embedding_api.errors import error_body, trace

# What a refused client may still send. Closing the connection in the middle of that would lose its answer.
DISCARD_BYTES = 64 * 1024 * 1024
DISCARD_SECONDS = 10
SILENT_SECONDS = 1

_STATUS = {
    http.LimitRequestLine: (414, "URI Too Long", "uri_too_long"),
    http.LimitRequestHeaders: (431, "Request Header Fields Too Large", "headers_too_large"),
    http.ExpectationFailed: (417, "Expectation Failed", "expectation_failed"),
    http.ForbiddenProxyRequest: (403, "Forbidden", "forbidden"),
}
_BAD_REQUEST = (400, "Bad Request", "malformed_request")


class Worker(SyncWorker):
    def handle_request(self, listener, req, client, addr):
        super().handle_request(listener, req, client, addr)
        _close(client)

    def handle_error(self, req, client, addr, exc):
        """Answer what never reached the application, such as a request that is not HTTP."""
        name = request_id.new_id()
        about = {"request_id": name}
        if isinstance(exc, http.ParseException):
            status, reason, code = _STATUS.get(type(exc), _BAD_REQUEST)
            message = f"The request is not valid HTTP: {str(exc)[:200]}."
            self.log.warning("Refused with %d: %s", status, type(exc).__name__, extra=about)
        else:
            status, reason, code = 500, "Internal Server Error", "internal_error"
            message = f"The service failed on this request. The log has the reason, under request id {name}."
            self.log.error("Unexpected error: %s", trace(exc), extra=about)
        body = orjson.dumps(error_body(status, code, message))
        head = (
            f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n{request_id.HEADER}: {name}\r\n\r\n"
        )
        try:
            util.write_nonblock(client, head.encode() + body)
        except OSError:
            self.log.debug("The client has gone", extra=about)
        _close(client)


def _close(client):
    """Say that the answer is complete, let the client finish what it sends, and close the connection."""
    deadline = time.monotonic() + DISCARD_SECONDS
    left = DISCARD_BYTES
    try:
        client.shutdown(socket.SHUT_WR)
        client.settimeout(SILENT_SECONDS)
        while left > 0 and time.monotonic() < deadline and (data := client.recv(65536)):
            left -= len(data)
    except OSError:
        # The client has gone, or is silent.
        pass
    client.close()
