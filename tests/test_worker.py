"""Overload, stops, reloads and deaths, under load: what was accepted is answered."""

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from embedding_api.admission import LARGE_BODY_BYTES, LARGE_TOKENS
from embedding_api.config import usable_cores
from support.server import Server, embed_request, is_alive, parse, read, wait_until


@pytest.fixture
def start(tmp_path):
    """A function that starts a service whose encoder takes a second for each letter but the first."""
    servers = []

    def start(*options, workers=2, **environment):
        environment = {"PYTHONPATH": "tests", "WEB_CONCURRENCY": str(workers)} | environment
        server = Server(environment, tmp_path, ["gunicorn", *options, "slow_wsgi:app"]).__enter__()
        servers.append(server)
        wait_until(lambda: len(server.workers()) == workers)
        return server

    yield start
    for server in servers:
        server.__exit__()


@pytest.fixture
def service_alone(model, tmp_path):
    """The real service, for a test that stops it."""
    with Server(model.environment | {"WEB_CONCURRENCY": "1"}, tmp_path) as server:
        yield server


@contextmanager
def load(server, clients=4):
    """Clients that ask without pause, for a `with` statement; gives the list of all that did not go well."""
    failures, stop = [], threading.Event()
    expected = server.embed("a").body

    def ask():
        while not stop.is_set():
            try:
                reply = server.embed("a")
                if (reply.status, reply.body) != (200, expected):
                    failures.append(reply)
            except OSError as error:
                failures.append(error)

    with ThreadPoolExecutor(clients) as pool:
        for _ in range(clients):
            pool.submit(ask)
        try:
            yield failures
        finally:
            stop.set()


def occupy(server, pool, text, workers=2):
    """Have all workers compute for some seconds; the replies to come."""
    replies = [pool.submit(server.embed, text) for _ in range(workers)]
    wait_until(lambda: server.busy() == workers)
    return replies


def test_more_waiting_requests_than_allowed_are_refused_and_the_others_answered(start):
    server = start(EMBEDDING_MAX_WAITING="4")
    with ThreadPoolExecutor(20) as pool:
        accepted = occupy(server, pool, "abc")
        accepted += [pool.submit(server.embed, "a") for _ in range(4)]
        wait_until(lambda: server.metrics()["embedding_requests_waiting"] == 4)
        refused = list(pool.map(server.embed, ["a"] * 10))
        assert not any(reply.done() for reply in accepted)
        assert [(reply.status, reply.headers["Retry-After"]) for reply in refused] == [(503, "1")] * 10
        assert {reply.json["error"]["code"] for reply in refused} == {"overloaded"}
        assert all(reply.headers["X-Request-ID"] in server.log() for reply in refused)
        assert [reply.result().status for reply in accepted] == [200] * 6
    assert server.metrics()['embedding_errors_total{code="overloaded"}'] == 10
    assert server.embed("a").status == 200


def test_a_large_body_takes_several_places(start):
    server = start(EMBEDDING_MAX_WAITING="4")
    with ThreadPoolExecutor(4) as pool:
        accepted = occupy(server, pool, "abc")
        accepted.append(pool.submit(server.embed, "a" + " " * 200_000))
        wait_until(lambda: server.metrics()["embedding_requests_waiting"] == 4)
        assert server.embed("a").status == 503
        assert [reply.result().status for reply in accepted] == [200] * 3


def test_as_many_large_bodies_as_cores_are_taken_up_at_a_time(start):
    cores = usable_cores()
    server = start(workers=cores + 1)
    large = "abc" + " " * LARGE_BODY_BYTES
    with ThreadPoolExecutor(cores) as pool:
        accepted = occupy(server, pool, large, workers=cores)
        refused = server.embed(large)
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert server.embed("a").status == 200
        assert [reply.result().status for reply in accepted] == [200] * cores
    assert server.embed(large).status == 200


@pytest.mark.parametrize(("workers", "allowed"), [(1, 1), (2, 1), (3, 2)])
def test_all_workers_but_one_have_a_large_request_at_a_time(start, workers, allowed):
    """Gunicorn's own option for the number of workers counts."""
    server = start("--workers", str(workers), workers=workers, WEB_CONCURRENCY="5")
    # Equal texts are computed once, in three seconds.
    large = ["abcd"] * (LARGE_TOKENS // 4)
    with ThreadPoolExecutor(workers) as pool:
        accepted = [pool.submit(server.embed, large) for _ in range(allowed)]
        wait_until(lambda: server.busy() == allowed)
        if workers > allowed:
            refused = server.embed(large)
            assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
            assert "large" in refused.json["error"]["message"]
            assert server.embed("a").status == 200
            assert not any(reply.done() for reply in accepted)
        assert [reply.result().status for reply in accepted] == [200] * allowed
    assert server.embed(large).status == 200


def test_a_stop_finishes_what_was_accepted_and_says_so_to_the_others(start):
    server = start()
    with ThreadPoolExecutor(8) as pool:
        accepted = occupy(server, pool, "abc")
        accepted += [pool.submit(server.embed, "ab") for _ in range(4)]
        wait_until(lambda: server.metrics()["embedding_requests_waiting"] == 4)
        request = embed_request("a")
        sending = server.connect(request[:-5])
        time.sleep(0.2)
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: server.get("/ready").status == 503)
        assert server.get("/health").status == 200
        late = server.embed("a")
        assert (late.status, late.json["error"]["code"], late.headers["Retry-After"]) == (503, "stopping", "5")
        sending.sendall(request[-5:])
        assert parse(read(sending)).status == 200
        sending.close()
        assert [reply.result().status for reply in accepted] == [200] * 6
    server.wait(30)
    assert "Traceback" not in server.log()


def test_a_silent_client_does_not_hold_up_a_stop(start):
    server = start(EMBEDDING_CLIENT_TIMEOUT="60")
    with server.connect():
        time.sleep(0.2)
        os.kill(server.pid, signal.SIGTERM)
        server.wait(10)


def test_a_client_that_was_silent_at_the_stop_is_answered_or_told(start):
    server = start()
    with ThreadPoolExecutor(2) as pool:
        accepted = occupy(server, pool, "abc")
        connections = [server.connect() for _ in range(4)]
        time.sleep(0.2)
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: server.get("/ready").status == 503)
        for connection in connections:
            connection.sendall(embed_request("a"))
            time.sleep(0.5)
        assert {parse(read(connection)).status for connection in connections} <= {200, 503}
        assert [reply.result().status for reply in accepted] == [200] * 2
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM"])
def test_a_large_answer_outlives_a_reload_and_a_stop(service_alone, name):
    """It does not fit into the socket's buffer, and its client reads it only when its worker has been told to leave."""
    server = service_alone
    texts = [f"{number // 100} {number % 100}" for number in range(2048)]
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with connection:
        connection.settimeout(60)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(embed_request(texts))
        wait_until(lambda: server.busy() == 1)
        os.kill(server.pid, getattr(signal, name))
        time.sleep(3)
        reply = parse(read(connection))
    assert len(reply.body) == int(reply.headers["Content-Length"]) > 8_000_000


def test_a_burst_before_a_stop_is_answered_to_the_last(start):
    server = start()
    request = embed_request("a")
    connections = [server.connect(request) for _ in range(150)]
    os.kill(server.pid, signal.SIGTERM)
    statuses = {parse(read(connection)).status for connection in connections}
    for connection in connections:
        connection.close()
    assert statuses <= {200, 503}


@pytest.mark.parametrize("reload", [False, True])
def test_a_quick_stop_is_quick(start, reload):
    server = start()
    with ThreadPoolExecutor(4) as pool, server.connect(b"POST /embed HT"):
        replies = occupy(server, pool, "abcdefghijklmnopqrstuvwxyz", workers=2)
        if reload:
            # Which waits for the workers.
            os.kill(server.pid, signal.SIGHUP)
            wait_until(lambda: len(server.workers()) == 4)
        os.kill(server.pid, signal.SIGINT)
        server.wait(5)
        assert all(isinstance(reply.exception(), OSError) for reply in replies)


def test_the_workers_of_a_killed_master_answer_and_leave(start):
    server = start()
    workers = server.workers()
    with ThreadPoolExecutor(8) as pool:
        accepted = occupy(server, pool, "abc")
        accepted += [pool.submit(server.embed, "a") for _ in range(4)]
        wait_until(lambda: server.metrics()["embedding_requests_waiting"] == 4)
        os.kill(server.pid, signal.SIGKILL)
        assert [reply.result().status for reply in accepted] == [200] * 6
    wait_until(lambda: not any(is_alive(pid) for pid in workers), seconds=10)


def test_a_worker_that_is_stopped_while_it_is_born_is_replaced(start):
    server = start(workers=1)
    for _ in range(60):
        (old,) = server.workers()
        os.kill(old, signal.SIGKILL)
        wait_until(lambda old=old: server.workers() not in ([old], []))
        os.kill(server.workers()[0], signal.SIGTERM)
        wait_until(lambda: len(server.workers()) == 1)
    assert server.get("/ready").status == 200
    assert server.embed("a").status == 200


def test_a_reload_under_load_fails_no_request(start):
    server = start()
    workers = server.workers()
    with load(server) as failures:
        for _ in range(3):
            old = set(server.workers())
            os.kill(server.pid, signal.SIGHUP)
            wait_until(lambda old=old: len(server.workers()) == 2 and not old & set(server.workers()))
    assert failures == []
    assert not set(workers) & set(server.workers())


def test_a_new_master_takes_over_under_load_without_a_failed_request(start):
    server = start()
    with load(server) as failures:
        old = set(server.workers())
        os.kill(server.pid, signal.SIGUSR2)
        wait_until(lambda: server.log().count("Listening at") == 2 and len(set(server.workers()) - old) == 1)
        (new,) = set(server.workers()) - old
        children = Path(f"/proc/{new}/task/{new}/children")
        wait_until(lambda: len(children.read_text().split()) == 2)
        # Both masters serve now; the old one leaves.
        os.kill(server.pid, signal.SIGTERM)
        server.wait(30)
        for _ in range(20):
            assert server.embed("a").status == 200
    server.adopt(new)
    assert failures == []


def test_a_killed_worker_is_replaced_and_only_its_own_request_is_lost(start):
    server = start(workers=1)
    (victim,) = server.workers()
    with ThreadPoolExecutor(4) as pool:
        (reply,) = occupy(server, pool, "abcd", workers=1)
        waiting = [pool.submit(server.embed, "a") for _ in range(2)]
        wait_until(lambda: server.metrics()["embedding_requests_waiting"] == 2)
        os.kill(victim, signal.SIGKILL)
        assert isinstance(reply.exception(), OSError)
        assert [reply.result().status for reply in waiting] == [200] * 2
    assert server.workers() not in ([victim], [])
    assert server.metrics()["embedding_requests_in_progress"] == 1


def test_workers_are_recycled_under_load_without_a_failed_request(start):
    server = start("--max-requests", "20", "--max-requests-jitter", "10")
    first = set(server.workers())
    with load(server) as failures:
        wait_until(lambda: server.started() > 6)
    assert failures == []
    assert not first & set(server.workers())


def test_tls_and_the_proxy_protocol_stop_the_start(tmp_path):
    for options in (["--certfile", "x", "--keyfile", "y"], ["--proxy-protocol", "v1"]):
        with pytest.raises(RuntimeError, match="Error: The service speaks neither TLS nor the PROXY protocol"):
            Server({"PYTHONPATH": "tests"}, tmp_path, ["gunicorn", *options, "slow_wsgi:app"]).__enter__()
