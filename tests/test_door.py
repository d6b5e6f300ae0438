"""Clients that are slow, silent, hostile or gone, and what they cost the others."""

import json
import logging
import random
import select
import socket
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from embedding_api import door as module
from embedding_api.config import Settings
from embedding_api.door import Door
from support.server import Server, embed_request, parse, post, read, wait_until

HEAD = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture
def door(monkeypatch):
    """A door by itself, which lets in three clients at a time, and the address it listens on."""
    monkeypatch.setattr(module, "MOST_VISITS", 3)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    worker = SimpleNamespace(
        answer=lambda exchange, address: exchange.sendall(b"answer"),
        handle_error=lambda request, exchange, address, error: exchange.sendall(b"refused"),
        take=lambda *request: False,
    )
    empty = threading.Event()
    settings = Settings(client_timeout=60, max_body_bytes=2_000_000, max_texts=200)
    door = Door([listener], worker, settings, logging.getLogger("door"), empty.set)
    door.start()
    yield door, listener.getsockname()
    door.shut()
    assert empty.wait(10)
    assert door.is_empty
    door.end()
    door.join(10)
    assert not door.is_alive()
    listener.close()


def test_beyond_a_number_of_clients_the_oldest_is_left(door):
    _, address = door
    clients = []
    for _ in range(5):
        clients.append(socket.create_connection(address, timeout=10))
        clients[-1].sendall(b"GET / ")
        time.sleep(0.05)
    assert [read(client) for client in clients[:2]] == [b"", b""]
    for client in clients[2:]:
        client.sendall(b"HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read(client) == b"answer"
    for client in clients:
        client.close()


def test_beyond_a_number_of_bytes_the_oldest_is_left(door):
    door, _ = door
    ends = [socket.socketpair() for _ in range(3)]
    for _, ours in ends:
        ours.setblocking(False)
        door.finish(ours, bytes(8_000_000))
        time.sleep(0.1)
    assert [len(read(theirs)) == 8_000_000 for theirs, _ in ends] == [False, False, True]
    for theirs, _ in ends:
        theirs.close()


def test_who_holds_little_is_not_left_for_those_who_hold_much(door):
    door, address = door
    with socket.create_connection(address, timeout=10) as innocent:
        innocent.sendall(b"GET / ")
        time.sleep(0.1)
        ends = [socket.socketpair() for _ in range(2)]
        for _, ours in ends:
            ours.setblocking(False)
            door.finish(ours, bytes(8_000_000))
        time.sleep(0.2)
        innocent.sendall(b"HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read(innocent) == b"answer"
        for theirs, _ in ends:
            theirs.close()


def test_an_answer_alone_may_be_of_any_size(door):
    door, _ = door
    theirs, ours = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        door.finish(ours, bytes(20_000_000))
        time.sleep(0.1)
        assert len(read(theirs)) == 20_000_000


def test_an_answer_that_was_sent_is_not_kept(door):
    class Answer(bytearray):
        """One that tells when it is gone."""

    door, _ = door
    theirs, ours = socket.socketpair()
    ours.setblocking(False)
    answer = Answer(8_000_000)
    gone = weakref.ref(answer)
    door.finish(ours, answer)
    del answer
    assert len(read(theirs)) == 8_000_000
    theirs.close()
    wait_until(lambda: gone() is None, 10)


def test_who_leaves_in_the_middle_is_no_error_of_ours(door, caplog):
    _, address = door
    for _ in range(9):
        with socket.create_connection(address) as client:
            client.sendall(HEAD + b"Content-Length: 10\r\n\r\nabc")
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read(client) == b"answer"
    assert caplog.text == ""


def test_who_is_at_the_door_when_it_is_shut_for_good_is_let_in(door, monkeypatch):
    door, address = door
    monkeypatch.setattr(door, "answer", lambda exchange, address: (time.sleep(0.2), exchange.sendall(b"answer")))
    clients = [socket.create_connection(address, timeout=10) for _ in range(3)]
    for client in clients:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    door.shut(last=True)
    assert [read(client) for client in clients] == [b"answer"] * 3
    for client in clients:
        client.close()
    wait_until(lambda: door.is_empty)
    with pytest.raises(ConnectionError):
        socket.create_connection(address)


def test_a_client_that_cannot_be_accepted_takes_the_place_of_the_oldest(door, monkeypatch, caplog):
    door, address = door
    with socket.create_connection(address) as oldest, caplog.at_level(logging.ERROR):
        oldest.sendall(b"GET ")
        time.sleep(0.1)
        (listener,) = door._listeners.values()
        broken = SimpleNamespace(accept=lambda: (_ for _ in ()).throw(OSError(24, "Too many open files")))
        monkeypatch.setitem(door._listeners, listener.fileno(), broken)
        with socket.create_connection(address, timeout=10) as new:
            assert read(oldest) == b""
            monkeypatch.setitem(door._listeners, listener.fileno(), listener)
            new.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read(new) == b"answer"
    assert "Cannot accept a client: Too many open files" in caplog.text


def test_a_failed_visit_ends_alone(door, caplog):
    door, address = door
    door.answer = lambda exchange, address: 1 / 0
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(request)
        assert read(client) == b""
    assert "ZeroDivisionError" in caplog.text
    door.answer = lambda exchange, address: exchange.sendall(b"answer")
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(request)
        assert read(client) == b"answer"


def test_a_door_that_is_shut_sees_its_clients_off(door, monkeypatch):
    door, address = door
    monkeypatch.setattr(module, "FAREWELL", 2)
    with socket.create_connection(address, timeout=10) as silent, socket.create_connection(address, timeout=10) as slow:
        slow.sendall(b"GET ")
        time.sleep(0.1)
        door.shut()
        theirs, ours = socket.socketpair()
        ours.setblocking(False)
        # What was computed meanwhile is sent as well.
        door.finish(ours, bytes(8_000_000))
        assert len(read(theirs)) == 8_000_000
        assert not door.is_empty
        assert read(silent) == b""
        assert read(slow) == b"refused"
        theirs.close()


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """Two workers with an encoder that takes a second for each letter but the first, and clients have two seconds."""
    environment = {"PYTHONPATH": "tests", "WEB_CONCURRENCY": "2", "EMBEDDING_CLIENT_TIMEOUT": "2"}
    with Server(environment, tmp_path_factory.mktemp("slow"), ["gunicorn", "slow_wsgi:app"]) as server:
        wait_until(lambda: len(server.workers()) == 2)
        workers = server.workers()
        yield server
        assert server.workers() == workers
        assert "Unexpected" not in server.log()
        assert "Traceback" not in server.log()


def test_probes_are_answered_while_every_worker_computes(slow):
    with ThreadPoolExecutor(2) as clients:
        bulk = [clients.submit(slow.embed, "abcdef") for _ in range(2)]
        wait_until(lambda: slow.busy() == 2)
        for path in ("/health", "/ready", "/info", "/", "/metrics"):
            assert slow.get(path).status == 200
        assert not any(reply.done() for reply in bulk)
        assert [reply.result().status for reply in bulk] == [200, 200]


def test_200_idle_and_dribbling_connections_cost_nobody_anything_and_are_closed(slow):
    beginnings = [b"", b"\r\n", b"P", HEAD, HEAD + b"Content-Length: 100\r\n\r\n" + b'{"texts":']
    connections = [slow.connect(beginnings[number % 5]) for number in range(200)]
    for _ in range(20):
        assert slow.embed("a").status == 200
    answers = [read(connection) for connection in connections]
    for connection in connections:
        connection.close()
    assert set(answers[0::5]) == {b""}
    for answer in answers[2::5] + answers[3::5] + answers[4::5]:
        assert parse(answer).status == 408
        assert parse(answer).json["error"]["code"] == "request_timeout"
    assert slow.embed("a").status == 200


def test_who_sends_a_byte_now_and_then_is_cut_off(slow):
    with slow.connect(HEAD) as connection:
        while not select.select([connection], [], [], 0.2)[0]:
            connection.sendall(b"x")
        assert parse(connection.recv(65536)).status == 408


def test_who_sends_steadily_may_take_longer_than_the_timeout(slow):
    body = json.dumps({"texts": "a"}).encode() + b" " * 400_000
    with slow.connect(post(b"", f"Content-Length: {len(body)}")) as connection:
        for start in range(0, len(body), 50_000):
            connection.sendall(body[start : start + 50_000])
            time.sleep(0.4)
        assert parse(read(connection)).status == 200


def test_what_nobody_waits_for_is_not_computed(slow):
    before = slow.metrics()
    with ThreadPoolExecutor(2) as clients:
        bulk = [clients.submit(slow.embed, "abc") for _ in range(2)]
        wait_until(lambda: slow.busy() == 2)
        gone = [slow.connect(embed_request("abcdefghijk")) for _ in range(8)]
        wait_until(lambda: slow.metrics()["embedding_requests_waiting"] == 8)
        for connection in gone:
            connection.close()
        # They would take 40 seconds.
        assert [reply.result().status for reply in bulk] == [200, 200]
    assert slow.embed("a").status == 200
    wait_until(lambda: slow.metrics().get('embedding_errors_total{code="client_gone"}') == 8)
    assert slow.metrics()["embedding_texts_total"] - before["embedding_texts_total"] == 3


def test_what_nobody_waits_for_any_longer_is_not_computed_to_its_end(slow):
    before = slow.metrics()['embedding_errors_total{code="client_gone"}']
    with slow.connect(embed_request(["ab", "bc", "cd", "de", "ef", "fg", "gh", "hi", "ij"])):
        wait_until(lambda: slow.busy() == 1)
    wait_until(lambda: slow.metrics()['embedding_errors_total{code="client_gone"}'] == before + 1, seconds=5)


def test_who_reads_slowly_holds_up_no_worker(service):
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with connection:
        connection.connect(("127.0.0.1", service.port))
        connection.sendall(embed_request(["a"] * 2048))
        connection.settimeout(60)
        answer = connection.recv(100)
        wait_until(lambda: service.busy() == 0)
        assert [service.embed("hello").status for _ in range(4)] == [200] * 4
        reply = parse(answer + read(connection))
    assert len(reply.body) == int(reply.headers["Content-Length"]) > 8_000_000
    assert len(reply.json["embeddings"]) == 2048


def test_a_client_that_asks_first_is_told_to_go_on(service):
    body = b'{"texts": "hello"}'
    with service.connect(post(b"", f"Content-Length: {len(body)}", "Expect: 100-continue")) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 100")
        connection.sendall(body)
        assert parse(read(connection)).status == 200


def test_a_client_that_asks_first_is_told_at_once_that_its_body_is_too_large(service):
    with service.connect(post(b"", "Content-Length: 99999999", "Expect: 100-continue")) as connection:
        assert parse(read(connection)).status == 413


def test_chunks_of_a_byte_each_are_no_way_to_send_megabytes(service):
    chunks = b"1\r\n \r\n" * 1_000_000
    reply = service.raw(post(b'8\r\n{"texts"\r\n' + chunks, "Transfer-Encoding: chunked"))
    assert (reply.status, reply.json["error"]["code"]) == (400, "malformed_request")
    small = b"".join(b"1\r\n%c\r\n" % byte for byte in b'{"texts": "hello"}') + b"0\r\n\r\n"
    assert service.raw(post(small, "Transfer-Encoding: chunked")).status == 200


GOOD = embed_request("hello")
PIECES = [b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"{", b"}", b'"', b"\xff", b"HTTP/1.1", b"Content-Length: 5\r\n"]
PIECES += [b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"[[[[", b"\\u0000", b"-1", b"9" * 30, b"\xed\xa0\x80"]


def malformed(seed):
    """A good request with up to four faults: bytes cut out, doubled, or put in."""
    chance = random.Random(seed)
    request = GOOD
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(request))
        end = start + chance.randrange(20)
        piece = chance.choice([b"", request[start:end] * 2, chance.choice(PIECES)])
        request = request[:start] + piece + request[end:]
    return request


def test_100_malformed_requests_get_a_4xx_or_a_closed_connection(service):
    workers = service.workers()
    statuses = []
    for seed in range(100):
        with service.connect(malformed(seed)) as connection:
            # What waits for more of a request finds out that there is none.
            connection.shutdown(socket.SHUT_WR)
            answer = read(connection)
        statuses.append(parse(answer).status if answer else None)
    assert not [status for status in statuses if status and not 200 <= status < 500]
    assert sum(status is not None and status >= 400 for status in statuses) > 50
    assert service.workers() == workers
    assert service.embed("hello").status == 200
