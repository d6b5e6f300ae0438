"""Stops, reloads and deaths, under load: what was accepted is answered."""

import json
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from embedding_api.encoder.compute_threads import usable_cores
from embedding_api.server.worker import MAX_THREADS
from tests.support.load import load
from tests.support.server import embed_request, get, is_alive, parse, post, read, wait_until
from tests.support.tiny import BLOCKING_TEXT, text_taking

KEPT = [True, False]


def test_a_stop_answers_accepted_requests_and_refuses_others(start, occupy):
    server = start()
    accepted = occupy(server, count=4, seconds=2)
    request = embed_request("a")
    with server.client(request[:-5]) as sending, server.client() as kept:
        assert kept.ask(request).status == 200
        time.sleep(0.2)
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: server.get("/ready").status == 503)
        assert server.get("/health").status == 200
        late = server.embed("a")
        assert (late.status, late.json["error"]["code"], late.headers["Retry-After"]) == (503, "stopping", "5")
        assert server.get("/ready").headers["Retry-After"] == "5"
        sending.send(request[-5:])
        reply = sending.reply()
        assert (reply.status, reply.headers["Connection"]) == (200, "close")
        assert not any(reply.done() for reply in accepted[-1:])
        # An idle connection is closed silently.
        assert kept.rest() == b""
    assert [reply.result().status for reply in accepted] == [200] * 4
    server.wait(30)
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("asked", [True, False])
def test_a_client_that_sends_nothing_does_not_hold_up_a_stop(start, asked):
    server = start(EMBEDDING_CLIENT_TIMEOUT="60")
    with server.client() as client:
        if asked:
            assert client.ask(get("/health")).status == 200
        time.sleep(0.2)
        began = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        assert client.rest() == b""
        server.wait(10)
        assert time.monotonic() - began < 10


def test_a_request_sent_after_the_stop_is_answered_or_refused(start, occupy):
    server = start()
    accepted = occupy(server, count=2, seconds=3)
    clients = [server.client() for _ in range(4)]
    time.sleep(0.2)
    os.kill(server.pid, signal.SIGTERM)
    wait_until(lambda: server.get("/ready").status == 503)
    for client in clients:
        client.send(embed_request("a"))
    replies = [client.reply() for client in clients]
    assert {reply.status for reply in replies} <= {200, 503}
    assert [reply.result().status for reply in accepted] == [200] * 2
    for client in clients:
        client.__exit__()


def test_a_burst_before_a_stop_is_answered_to_the_last(start):
    server = start(EMBEDDING_MAX_WAITING="256")
    connections = [server.connect(embed_request("a")) for _ in range(100)]
    os.kill(server.pid, signal.SIGTERM)
    replies = [parse(read(connection)) for connection in connections]
    for connection in connections:
        connection.close()
    assert [reply.body for reply in replies if reply.status != 200] == []


def test_requests_in_the_backlog_at_the_stop_are_answered(start):
    """A forward pass blocks the only worker, so that most connections are not accepted yet."""
    server = start(workers=1)
    connections = [server.connect(embed_request(BLOCKING_TEXT)) for _ in range(20)]
    os.kill(server.pid, signal.SIGTERM)
    assert [parse(read(connection)).status for connection in connections] == [200] * 20
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM"])
def test_a_large_answer_outlives_a_reload_and_a_stop(start, name):
    """It does not fit into the socket's buffer, and its client reads it only after its worker has been told to stop."""
    server = start(workers=1, EMBEDDING_MAX_TEXTS="200000", EMBEDDING_MAX_TOKENS="1000000")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with connection:
        connection.settimeout(120)
        connection.connect(("127.0.0.1", server.port))
        body = json.dumps({"texts": ["a"] * 1_200}).encode()
        connection.sendall(post(body, f"Content-Length: {len(body)}", path="/similarity"))
        assert connection.recv(5) == b"HTTP/"
        os.kill(server.pid, getattr(signal, name))
        time.sleep(3)
        reply = parse(b"HTTP/" + read(connection))
    assert len(reply.body) == int(reply.headers["Content-Length"]) > 4_000_000


@pytest.mark.parametrize("reload", [False, True])
def test_a_quick_stop_is_quick(start, occupy, reload):
    server = start()
    with server.connect(b"POST /embed HT"):
        replies = occupy(server, count=2, seconds=14)
        if reload:
            # The reload waits for the old workers.
            os.kill(server.pid, signal.SIGHUP)
            wait_until(lambda: len(server.workers()) == 4)
        os.kill(server.pid, signal.SIGINT)
        server.wait(10)
        assert all(isinstance(reply.exception(), OSError) for reply in replies)


def test_the_workers_of_a_killed_master_answer_and_stop(start, occupy):
    server = start()
    workers = server.workers()
    with server.client() as kept:
        assert kept.ask(get("/health")).status == 200
        accepted = occupy(server, count=4, seconds=2)
        os.kill(server.pid, signal.SIGKILL)
        assert [reply.result().status for reply in accepted] == [200] * 4
        assert kept.rest() == b""
    wait_until(lambda: not any(is_alive(pid) for pid in workers), seconds=10)


def test_a_worker_that_is_stopped_while_it_starts_is_replaced(start):
    server = start(workers=1)
    for _ in range(40):
        wait_until(server.workers)
        old = server.workers()
        # The one that was stopped last may end at any time.
        with suppress(ProcessLookupError, IndexError):
            os.kill(old[0], signal.SIGKILL)
        wait_until(lambda old=old: server.workers() not in (old, []))
        with suppress(ProcessLookupError, IndexError):
            os.kill(server.workers()[0], signal.SIGTERM)
    wait_until(lambda: len(server.workers()) == 1)
    assert server.get("/ready").status == 200
    assert server.embed("a").status == 200


@pytest.mark.parametrize("keep_alive", KEPT)
def test_a_reload_under_load_fails_no_request(start, keep_alive):
    server = start()
    workers = server.workers()
    with load(server, keep_alive=keep_alive) as failures:
        for _ in range(3):
            old = set(server.workers())
            os.kill(server.pid, signal.SIGHUP)
            wait_until(lambda old=old: len(server.workers()) == 2 and not old & set(server.workers()))
    assert failures == []
    assert not set(workers) & set(server.workers())


def test_a_reload_lets_large_requests_end(start, occupy):
    server = start()
    old = set(server.workers())
    accepted = occupy(server, count=4, seconds=2)
    os.kill(server.pid, signal.SIGHUP)
    assert [reply.result().status for reply in accepted] == [200] * 4
    wait_until(lambda: len(server.workers()) == 2 and not old & set(server.workers()))
    assert server.busy() == 0


@pytest.mark.parametrize("keep_alive", KEPT)
def test_a_new_master_takes_over_under_load_without_a_failed_request(start, keep_alive):
    server = start()
    with load(server, keep_alive=keep_alive) as failures:
        old = set(server.workers())
        os.kill(server.pid, signal.SIGUSR2)
        wait_until(lambda: server.log().count("Listening at") == 2 and len(set(server.workers()) - old) == 1)
        (new,) = set(server.workers()) - old
        children = Path(f"/proc/{new}/task/{new}/children")
        wait_until(lambda: len(children.read_text().split()) == 2)
        # Both masters serve now; the old one stops.
        os.kill(server.pid, signal.SIGTERM)
        server.wait(30)
        for _ in range(20):
            assert server.embed("a").status == 200
    server.adopt(new)
    assert failures == []


@pytest.mark.parametrize("keep_alive", KEPT)
def test_workers_are_recycled_under_load_without_a_failed_request(start, keep_alive):
    server = start("--max-requests", "20", "--max-requests-jitter", "10")
    first = set(server.workers())
    with load(server, keep_alive=keep_alive) as failures:
        wait_until(lambda: server.started() > 6 and not first & set(server.workers()))
    assert failures == []


def test_workers_come_and_go_under_load_without_a_failed_request(start):
    server = start()
    with load(server) as failures:
        for name, count in (("SIGTTIN", 3), ("SIGTTIN", 4), ("SIGTTOU", 3), ("SIGTTOU", 2), ("SIGTTOU", 1)):
            os.kill(server.pid, getattr(signal, name))
            wait_until(lambda count=count: len(server.workers()) == count)
            assert server.embed("a").status == 200
    assert failures == []


def test_a_killed_worker_is_replaced_and_loses_only_its_own_request(start, occupy, pool):
    server = start(workers=1)
    (victim,) = server.workers()
    (lost,) = occupy(server, count=1, seconds=10)
    # Connections in the backlog belong to no worker yet.
    os.kill(victim, signal.SIGSTOP)
    waiting = [server.connect(embed_request("a", "Connection: close")) for _ in range(8)]
    os.kill(victim, signal.SIGKILL)
    assert isinstance(lost.exception(), OSError)
    assert [parse(read(connection)).status for connection in waiting] == [200] * 8
    for connection in waiting:
        connection.close()
    assert server.workers() not in ([victim], [])
    assert server.busy() == 0


def test_a_killed_worker_no_longer_counts_as_idle(start):
    """Otherwise the other worker would close connections for ever, for an idle worker that does not exist."""
    server = start("--timeout", "0")
    idle, _ = server.workers()
    # It is killed while it is stopped, and not replaced.
    os.kill(idle, signal.SIGSTOP)
    os.kill(server.pid, signal.SIGTTOU)
    os.kill(idle, signal.SIGKILL)
    wait_until(lambda: len(server.workers()) == 1)
    clients = [server.client() for _ in range(4)]
    for _ in range(3):
        for client in clients:
            client.send(embed_request(BLOCKING_TEXT))
        assert {client.reply().headers["Connection"] for client in clients} == {"keep-alive"}
    for client in clients:
        client.__exit__()


def test_a_long_request_outlives_the_timeout(start):
    server = start("--timeout", "2", workers=1)
    worker = server.workers()
    # Four micro-batches of a second for each compute thread: twice the timeout.
    assert server.embed([text_taking(seconds=1)] * (4 * min(usable_cores(), MAX_THREADS))).status == 200
    assert server.workers() == worker


@pytest.mark.parametrize("how", ["stopped", "computes for ever"])
def test_a_worker_that_hangs_is_replaced(start, how):
    server = start("--timeout", "2", workers=1)
    worker = server.workers()
    with server.connect() as connection:
        if how == "stopped":
            os.kill(worker[0], signal.SIGSTOP)
        else:
            # Its event loop works, but its compute threads have finished nothing for long.
            connection.sendall(embed_request(text_taking(seconds=14)))
        wait_until(lambda: server.workers() not in (worker, []))
        assert server.get("/health").status == 200
        assert server.embed("a").status == 200
