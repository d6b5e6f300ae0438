"""More than the service can do: what is beyond the limits is refused, or waits, and the rest is answered."""

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.server import embed_request, get, parse, post, read, wait_until
from tests.support.tiny import BLOCKING_TEXT, text_taking

MB = 1_000_000


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "unix"])
def test_more_waiting_requests_than_allowed_are_refused_and_the_others_answered(start, pool, tmp_path, bind):
    bind = f"unix:{tmp_path}/socket" if bind == "unix" else bind
    server = start(workers=1, EMBEDDING_MAX_WAITING="4", BIND=bind)
    replies = [pool.submit(server.embed, BLOCKING_TEXT) for _ in range(40)]
    # Requests that need no forward pass are answered meanwhile.
    for path in ("/health", "/ready", "/info", "/metrics", "/nothing", "/"):
        assert server.get(path).status == (404 if path == "/nothing" else 200)
    replies = [reply.result() for reply in replies]
    refused = [reply for reply in replies if reply.status == 503]
    assert {reply.status for reply in replies} == {200, 503}
    assert len(replies) - len(refused) >= 4
    assert len(refused) >= 10
    assert {reply.json["error"]["code"] for reply in refused} == {"overloaded"}
    assert all(1 <= int(reply.headers["Retry-After"]) <= 60 for reply in refused)
    assert len({reply.headers["Retry-After"] for reply in refused}) > 1
    assert all(reply.headers["X-Request-ID"] in server.log() for reply in refused)
    assert server.metrics()['embedding_errors_total{code="overloaded"}'] == len(refused)
    assert server.embed("a").status == 200


def test_a_burst_within_the_limit_is_answered_to_the_last(start, pool):
    server = start(workers=1, EMBEDDING_MAX_WAITING="64")
    assert [reply.status for reply in pool.map(server.embed, [BLOCKING_TEXT] * 20)] == [200] * 20


def test_new_connections_without_end_do_not_hold_up_the_next_pass(start, pool):
    """As soon as the worker has answered some of them, others wait in the backlog."""
    server = start(workers=1)
    answered = threading.Event()

    def flood():
        deadline = time.monotonic() + 10
        while not answered.is_set() and time.monotonic() < deadline:
            assert server.raw(get("/health", "Connection: close")).status == 200

    floods = [pool.submit(flood) for _ in range(32)]
    try:
        wait_until(lambda: server.log().count("GET /health") > 100)
        assert server.embed("a").status == 200
        assert not any(flood.done() for flood in floods), "it was answered when the flood was over"
    finally:
        answered.set()
    for flood in floods:
        flood.result()


def test_large_requests_leave_room_for_short_ones_and_for_probes(start, pool, occupy):
    server = start(workers=1, EMBEDDING_MAX_WAITING="6")
    large = occupy(server, count=6, seconds=2)
    for _ in range(5):
        assert server.embed("a").status == 200
        for path in ("/health", "/ready", "/metrics", "/"):
            assert server.get(path).status == 200
    assert not all(reply.done() for reply in large)
    assert [reply.result().status for reply in large] == [200] * 6


def times_freed(server):
    return server.log().count("Scratch memory is freed.")


def test_memory_is_freed_when_the_compute_threads_have_no_more_work(start):
    server = start(workers=1)
    for _ in range(2):
        before = times_freed(server)
        assert server.embed([text_taking(seconds=0.25)] * 8).status == 200
        wait_until(lambda before=before: times_freed(server) > before)


def test_memory_is_freed_when_a_client_has_gone_whose_body_is_large(start):
    server = start(workers=1)
    head, body = padded(MB)
    with server.client(head + body[:-1]):
        # Time to read some of it.
        time.sleep(0.3)
    wait_until(lambda: times_freed(server))


def test_large_requests_beyond_the_limit_are_refused(start, occupy):
    server = start(workers=1, EMBEDDING_MAX_WAITING="3")
    accepted = occupy(server, count=3, seconds=2)
    assert server.metrics()["embedding_requests_waiting"] == 3
    refused = server.embed(text_taking(seconds=1))
    assert (refused.status, refused.json["error"]["code"]) == (503, "overloaded")
    assert int(refused.headers["Retry-After"]) >= 1
    assert server.embed("a").status == 200
    assert [reply.result().status for reply in accepted] == [200] * 3
    assert server.embed(text_taking(seconds=0.25)).status == 200


def padded(size):
    """The head and the body of a request of so many bytes."""
    body = b'{"texts": "a"}'.ljust(size)
    return post(b"", f"Content-Length: {size}"), body


def test_a_large_body_waits_until_there_is_memory_for_it(start):
    server = start(workers=1, EMBEDDING_MAX_BODY_BYTES=str(MB), EMBEDDING_MAX_TEXTS="10", EMBEDDING_CLIENT_TIMEOUT="60")
    head, body = padded(MB)
    first, second = (server.client(head + body[:-1]) for _ in range(2))
    time.sleep(0.3)
    third = server.client(head)
    third.socket.setblocking(False)
    wait_until(lambda: server.metrics()["embedding_requests_waiting"] == 1)
    sent = send_what_fits(third.socket, body)
    assert server.embed("a").status == 200
    assert server.get("/ready").status == 200
    assert server.metrics()["embedding_requests_waiting"] == 1
    third.socket.settimeout(60)
    first.send(body[-1:])
    assert first.reply().status == 200
    third.send(body[sent:])
    assert third.reply().status == 200
    second.send(body[-1:])
    assert second.reply().status == 200
    for client in (first, second, third):
        client.__exit__()
    assert server.metrics()["embedding_requests_waiting"] == 0


def send_what_fits(connection, data):
    sent = 0
    while sent < len(data):
        try:
            sent += connection.send(data[sent:])
        except BlockingIOError:
            break
    return sent


def test_a_client_that_holds_memory_for_long_is_closed_when_others_wait_for_it(start):
    server = start(workers=1, EMBEDDING_MAX_BODY_BYTES=str(MB), EMBEDDING_MAX_TEXTS="10", EMBEDDING_CLIENT_TIMEOUT="2")
    head, body = padded(MB)
    slow = [server.client(head) for _ in range(2)]
    time.sleep(0.3)
    waiting = server.client(head)
    wait_until(lambda: server.metrics()["embedding_requests_waiting"] == 1)
    # They send more than 32 KB a second, so that only the memory they hold is a reason to close them.
    closed, sent = None, 0
    while closed is None:
        time.sleep(0.2)
        assert sent < 0.8 * MB, "nobody was closed"
        for client in slow:
            try:
                client.send(body[sent : sent + 16_000])
            except OSError:
                closed = client
        sent += 16_000
    waiting.send(body)
    assert waiting.reply().status == 200
    assert server.metrics()['embedding_connections_dropped_total{reason="limit"}'] >= 1
    for client in (*slow, waiting):
        client.__exit__()


def _sockets(pid):
    """The number of a process's sockets, the listening one among them."""
    count = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            count += os.readlink(descriptor).startswith("socket:")
    return count


def test_beyond_a_number_of_connections_the_oldest_is_closed(start):
    server = start("--worker-connections", "3", workers=1)
    [worker] = server.workers()
    # The connection by which the start was noticed closes soon.
    wait_until(lambda: _sockets(worker) == 1)
    clients = []
    for count in (1, 2, 3):
        clients.append(server.client(b"GET / "))
        wait_until(lambda count=count: _sockets(worker) == 1 + count)
    for oldest in clients[:2]:
        clients.append(server.client(b"GET / "))
        wait_until(oldest.is_closed)
    for client in clients[2:]:
        client.send(b"HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert [client.reply().status for client in clients[2:]] == [200] * 3
    for client in clients:
        client.__exit__()
    assert server.metrics()['embedding_connections_dropped_total{reason="limit"}'] == 2


def test_idle_kept_connections_make_room_for_new_ones(start):
    server = start("--worker-connections", "3", workers=1)
    clients = []
    for _ in range(9):
        clients.append(server.client())
        assert clients[-1].ask(get("/health")).status == 200
    assert server.embed("a").status == 200
    for client in clients:
        client.__exit__()


def test_a_request_that_has_arrived_is_not_dropped_to_make_room(start):
    server = start("--worker-connections", "3", workers=1)
    [worker] = server.workers()
    os.kill(worker, signal.SIGSTOP)
    clients = [server.client(embed_request("a")) for _ in range(8)]
    os.kill(worker, signal.SIGCONT)
    assert [client.reply().status for client in clients] == [200] * 8
    for client in clients:
        client.__exit__()


def test_without_descriptors_the_oldest_connection_is_closed(start):
    server = start(workers=1, command=("/usr/bin/prlimit", "--nofile=60", "/usr/bin/env", "gunicorn"), PATH=path())
    clients = []

    def is_full():
        clients.append(server.client(b"GET / "))
        return "Cannot accept a connection: Too many open files" in server.log()

    wait_until(is_full)
    clients[-1].send(b"HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert clients[-1].reply().status == 200
    assert clients[0].rest() == b""
    for client in clients:
        client.__exit__()
    assert server.embed("a").status == 200


def path():
    """Where programs are, those of this environment first."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def test_a_client_that_retries_after_a_refusal_gets_through(start, pool):
    server = start(workers=1, EMBEDDING_MAX_WAITING="4")

    def ask(number):
        for _ in range(20):
            with server.connect(embed_request(BLOCKING_TEXT, "Connection: close")) as connection:
                reply = parse(read(connection))
            if reply.status == 200:
                return reply.status
            time.sleep(min(int(reply.headers["Retry-After"]), 5))
        return None

    assert list(pool.map(ask, range(30))) == [200] * 30
