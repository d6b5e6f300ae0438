"""Connections that stay open, on a real Gunicorn."""

import http.client
import json
import os
import re
import signal
import socket
import time

import pytest

from tests.support.load import load
from tests.support.server import Client, embed_request, get, post, wait_until
from tests.support.tiny import BLOCKING_TEXT, text_taking

JSON = {"Content-Type": "application/json"}
UPGRADE = "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"


@pytest.fixture
def client(slow):
    with slow.client() as client:
        yield client


def test_requests_of_all_kinds_are_answered_in_order(slow, client):
    for _ in range(3):
        assert client.ask(get("/health")).json["status"] == "ok"
        for text in ("a", "b", text_taking(seconds=0.25)):
            reply = client.ask(embed_request(text))
            assert (reply.status, reply.headers["Connection"]) == (200, "keep-alive")
            assert reply.body == slow.embed(text).body
        assert client.ask(embed_request("")).status == 422
        assert client.ask(get("/nothing")).status == 404
        assert client.ask(get("/health").replace(b"GET", b"HEAD")).status == 200
    assert not client.is_closed()


def test_pythons_http_client_keeps_its_connection(slow):
    connection = http.client.HTTPConnection("127.0.0.1", slow.port, timeout=60)
    connection.connect()
    first = connection.sock
    for text in "abc":
        connection.request("POST", "/embed", json.dumps({"texts": text}), JSON)
        assert connection.getresponse().read() == slow.embed(text).body
        assert connection.sock is first
    connection.close()


def test_http_1_0_may_ask_for_keep_alive(client):
    request = b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    for _ in range(2):
        assert client.ask(request).status == 200
    assert client.ask(b"GET /health HTTP/1.0\r\n\r\n").headers["Connection"] == "close"
    assert client.rest() == b""


def test_a_client_may_ask_to_close_the_connection(client):
    assert client.ask(get("/health")).headers["Connection"] == "keep-alive"
    assert client.ask(embed_request("a", "Connection: close")).headers["Connection"] == "close"
    assert client.rest() == b""


def test_requests_that_are_sent_at_once_are_answered_in_order_or_not_at_all(slow, client):
    texts = ["a", "b", "c"]
    client.send(b"".join(map(embed_request, texts)))
    answered = 0
    while reply := client.reply():
        assert (reply.status, reply.body) == (200, slow.embed(texts[answered]).body)
        answered += 1
        if reply.headers["Connection"] == "close":
            assert client.rest() == b""
            break
    assert answered >= 1


@pytest.mark.parametrize("is_answered", [True, False])
def test_a_request_may_be_sent_before_the_answer_to_the_one_before_is_read(slow, client, is_answered):
    first = "a" if is_answered else text_taking(seconds=0.5)
    client.send(embed_request(first))
    if is_answered:
        wait_until(client.has_reply)
    else:
        wait_until(lambda: slow.busy() == 1)
    client.send(embed_request("b"))
    replies = [client.reply(), client.reply()]
    assert [reply.body for reply in replies] == [slow.embed(first).body, slow.embed("b").body]


def test_half_a_request_may_follow_an_answer(slow, client):
    request = embed_request("b")
    assert client.ask(embed_request("a")).status == 200
    for part in (request[:10], request[10:-5], request[-5:]):
        client.send(part)
        time.sleep(0.05)
    assert client.reply().body == slow.embed("b").body


@pytest.mark.parametrize("garbage", [b"garbage", b"\0" * 100, b"\x16\x03\x01"])
def test_invalid_bytes_after_a_request_end_the_connection_after_the_answer(client, garbage):
    reply = client.ask(embed_request("a") + garbage)
    assert (reply.status, reply.headers["Connection"]) == (200, "close")
    assert client.rest() == b""


def test_empty_lines_before_a_request_mean_nothing(client):
    for _ in range(2):
        assert client.ask(b"\r\n" + get("/health")).status == 200
        assert client.ask(b"\r\n\r\n" + embed_request("a")).status == 200


def test_a_client_that_asks_for_http_2_is_answered_in_http_1(slow, client):
    assert client.ask(get("/health", *UPGRADE)).status == 200
    with slow.client(embed_request("a", *UPGRADE)) as other:
        assert other.reply().body == slow.embed("a").body


def test_a_client_that_asks_for_a_websocket_is_answered_in_http_1(client):
    upgrade = "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAA"
    assert client.ask(get("/health", *upgrade)).status == 200


def test_a_client_that_speaks_http_2_gets_an_error(client):
    reply = client.ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert reply.status == 400
    assert "HTTP/2" in reply.json["error"]["message"]


def test_large_answers_come_whole_though_they_are_read_slowly(slow):
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", slow.port))
    with connection, Client(connection) as client:
        for count in (1_200, 1_199):
            body = json.dumps({"texts": ["a"] * count}).encode()
            client.send(post(body, f"Content-Length: {len(body)}", path="/similarity"))
            time.sleep(0.2)
            reply = client.reply()
            assert len(reply.body) > 4_000_000
            assert len(reply.json["scores"]) == count
        assert client.ask(get("/health")).status == 200


@pytest.fixture
def impatient(start):
    """A service that keeps idle connections for a second, and gives clients a minute for a request."""
    return start("--keep-alive", "1", workers=1, EMBEDDING_CLIENT_TIMEOUT="60")


def test_a_connection_that_is_idle_for_long_is_closed_silently(impatient):
    with impatient.client() as client, impatient.client() as silent, impatient.client(b"POST /em") as slow:
        assert client.ask(get("/health")).status == 200
        assert client.rest() == b""
        # The limit holds between requests, and not for a request that is being sent.
        assert not silent.is_closed()
        assert not slow.is_closed()
        assert not [name for name in impatient.metrics() if "dropped_total" in name]


def test_connections_of_a_busy_worker_move_to_an_idle_one(start):
    server = start()
    busy, idle = server.workers()
    os.kill(idle, signal.SIGSTOP)

    def answered():
        return {int(pid) for pid in re.findall(r"\[(\d+)\] \[INFO\] \[\w+\] POST /embed 200", server.log())}

    try:
        with load(server, clients=6, text=BLOCKING_TEXT) as failures:
            wait_until(lambda: server.log().count("POST /embed 200") > 12)
            assert answered() == {busy}
            os.kill(idle, signal.SIGCONT)
            wait_until(lambda: answered() == {busy, idle})
        assert failures == []
    finally:
        os.kill(idle, signal.SIGCONT)


def test_a_body_may_come_in_chunks_again_and_again(client):
    body = b'7\r\n{"texts\r\n6\r\n": "a"\r\n1\r\n}\r\n0\r\n\r\n'
    for _ in range(3):
        reply = client.ask(post(body, "Transfer-Encoding: chunked"))
        assert (reply.status, reply.headers["Connection"]) == (200, "keep-alive")
