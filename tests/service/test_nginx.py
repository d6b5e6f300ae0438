"""The real nginx with the configuration of deploy/, over two replicas that are slow on purpose."""

import contextlib
import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.support import nginx
from tests.support.server import ROOT, Server, embed_request, post, wait_until
from tests.support.tiny import text_taking

pytestmark = pytest.mark.skipif(nginx.NGINX is None, reason="needs nginx, such as Debian's package")

ENVIRONMENT = {"WEB_CONCURRENCY": "2"}
SLOW = ["gunicorn", "tests.support.slow_wsgi:app"]


def is_error(reply, status, code):
    assert reply.headers["Content-Type"] == "application/json"
    error = reply.json["error"]
    assert set(error) == {"message", "type", "param", "code", "details"}
    return (reply.status, error["code"]) == (status, code)


class Replica:
    """A replica that can be started again at the same port."""

    def __init__(self, directory):
        self.port = nginx.free_port()
        self._directory = directory
        self.start()

    def start(self):
        environment = ENVIRONMENT | {"BIND": f"127.0.0.1:{self.port}"}
        self.server = Server(environment, self._directory, SLOW).__enter__()

    def stop(self):
        self.server.__exit__()

    def kill(self):
        for pid in (self.server.pid, *self.server.workers()):
            os.kill(pid, signal.SIGKILL)
        self.server.wait(10)


class Clients:
    """Four clients that send requests of half a second one after the other."""

    def __init__(self, front):
        self._front = front
        self._end = threading.Event()
        self.statuses = []
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _run(self):
        while not self._end.is_set():
            self.statuses.append(self._front.embed(text_taking(seconds=0.5), timeout=30).status)


class Forgetful:
    """A replica that closes each connection when a second request comes over it, instead of answering."""

    ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"

    def __enter__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.closed = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *error):
        # Ends `accept`.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(self.ANSWER)
                    # Nothing comes if nginx has ended.
                    self.closed += bool(connection.recv(65536))


def connections_to(port):
    """The open connections to a port of 127.0.0.1, by the ports of their clients."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {local for _, local, remote, state, *_ in lines if remote.endswith(f":{port:04X}") and state == "01"}


@pytest.fixture(scope="module")
def replicas(tmp_path_factory):
    replicas = [Replica(tmp_path_factory.mktemp("replica")) for _ in range(2)]
    yield replicas
    for replica in replicas:
        replica.stop()


@pytest.fixture(scope="module")
def front(replicas, tmp_path_factory):
    with nginx.Nginx([replica.port for replica in replicas], tmp_path_factory.mktemp("nginx")) as front:
        yield front


def test_requests_go_to_the_replica_with_fewer_in_progress(front, replicas):
    before = [replica.server.metrics().get("embedding_texts_total", 0) for replica in replicas]
    with Clients(front) as clients:
        time.sleep(3)
    assert set(clients.statuses) == {200}
    after = [replica.server.metrics()["embedding_texts_total"] for replica in replicas]
    shares = [late - early for early, late in zip(before, after, strict=True)]
    assert min(shares) > 0.3 * sum(shares)


def test_the_clients_name_of_a_request_goes_through(front):
    body = b'{"texts": "a"}'
    named = front.raw(post(body, f"Content-Length: {len(body)}", "X-Request-ID: mine", "Connection: close"))
    assert (named.status, named.headers["X-Request-ID"]) == (200, "mine")
    assert len(front.embed("a").headers["X-Request-ID"]) == 32


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400, "malformed_request"),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 404, "not_found"),
        (post(b"", f"Content-Length: {9 << 20}", "Connection: close"), 413, "body_too_large"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "uri_too_long"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 400, "malformed_request"),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 400, "malformed_request"),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 400, "malformed_request"),
        (post(b"", "Transfer-Encoding: zip", "Connection: close"), 400, "malformed_request"),
    ],
)
def test_its_own_errors_have_the_services_shape(front, request_bytes, status, code):
    assert is_error(front.raw(request_bytes, half_close=True), status, code)


def test_a_client_of_http_1_0_needs_no_host(front):
    assert front.raw(b"GET /health HTTP/1.0\r\n\r\n").status == 200


def test_requests_from_one_address_are_limited(front):
    # Texts of a second only: a forward pass that has begun is computed to its end, and the next tests wait for it.
    request = embed_request(text_taking(seconds=1), "Connection: close")
    held = [front.connect(request) for _ in range(100)]
    replies = []

    def is_refused():
        replies.append(front.embed("a"))
        return replies[-1].status == 429

    wait_until(is_refused)
    for connection in held:
        connection.close()
    assert is_error(replies[-1], 429, "too_many_requests")
    assert replies[-1].headers["Retry-After"] == "1"


def test_the_services_errors_pass_as_they_are(front):
    assert is_error(front.post("/embed", {"text": "a"}), 422, "invalid_fields")
    assert is_error(front.get("/nowhere"), 404, "not_found")


def test_without_a_replica_it_says_when_to_try_again(tmp_path):
    with nginx.Nginx([nginx.free_port()], tmp_path) as front:
        reply = front.embed("a")
    assert is_error(reply, 503, "unavailable")
    assert reply.headers["Retry-After"] == "5"


def test_there_is_room_for_a_thousand_replicas(tmp_path):
    with nginx.Nginx([*range(20000, 21000)], tmp_path) as front:
        assert front.get("/metrics").status == 404


def test_replicas_that_are_gone_are_passed_over(replicas, tmp_path):
    ports = [nginx.free_port(), nginx.free_port(), *(replica.port for replica in replicas)]
    with nginx.Nginx(ports, tmp_path) as front, Clients(front) as clients:
        time.sleep(2)
    assert len(clients.statuses) > 4
    assert set(clients.statuses) == {200}


def test_replicas_that_are_restarted_one_after_the_other_lose_no_request(front, replicas):
    with Clients(front) as clients:
        for replica in replicas:
            time.sleep(0.3)
            replica.stop()
            replica.start()
        time.sleep(0.3)
    assert len(clients.statuses) > 8
    assert set(clients.statuses) == {200}


def test_requests_at_a_killed_replica_are_sent_to_another(front, replicas):
    with Clients(front) as clients:
        time.sleep(0.7)
        replicas[0].kill()
        time.sleep(1)
        replicas[0].start()
    assert set(clients.statuses) == {200}


def test_connections_to_a_replica_are_kept_and_used_again(replicas, tmp_path):
    port = replicas[0].port
    others = connections_to(port)
    with nginx.Nginx([port], tmp_path) as front:
        assert front.get("/health").status == 200
        kept = connections_to(port) - others
        assert len(kept) == 1
        assert [front.get("/health").status for _ in range(5)] == [200] * 5
        assert front.embed("").status == 422
        assert connections_to(port) - others == kept


def test_a_request_over_a_kept_connection_that_the_replica_closes_is_asked_again(tmp_path):
    with Forgetful() as replica, nginx.Nginx([replica.port], tmp_path) as front:
        assert [front.embed("a").status for _ in range(4)] == [200] * 4
        # The first request made a connection. Each of the others found its connection closed and was sent again.
        assert replica.closed == 3


def test_nginx_closes_idle_connections_before_the_service_does():
    configured = nginx.CONFIG.read_text()
    service = re.search(r"^keepalive = (\d+)", (ROOT / "gunicorn.conf.py").read_text(), re.MULTILINE)
    assert int(re.search(r"keepalive_timeout (\d+)s;", configured)[1]) < int(service[1])
