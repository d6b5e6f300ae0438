"""Clients that are slow, silent, hostile or gone do not hold up the others."""

import http.client
import json
import random
import select
import socket
import time

import pytest

from tests.support.server import embed_request, get, parse, post, read, wait_until
from tests.support.tiny import text_taking

HEAD = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
GONE = 'embedding_errors_total{code="client_gone"}'


def test_probes_are_answered_while_every_worker_computes(slow, occupy):
    bulk = occupy(slow, count=4, seconds=2)
    for path in ("/health", "/ready", "/info", "/", "/metrics"):
        assert slow.get(path).status == 200
    assert slow.embed("a").status == 200
    assert not all(reply.done() for reply in bulk)
    assert [reply.result().status for reply in bulk] == [200] * 4


def test_200_idle_and_half_sent_requests_hold_up_no_others_and_are_closed(slow):
    beginnings = [b"", b"\r\n", b"P", HEAD, HEAD + b"Content-Length: 100\r\n\r\n" + b'{"texts":']
    connections = [slow.connect(beginnings[number % 5]) for number in range(200)]
    for _ in range(20):
        assert slow.embed("a").status == 200
    answers = [read(connection) for connection in connections]
    for connection in connections:
        connection.close()
    assert set(answers[0::5] + answers[1::5]) == {b""}
    for answer in answers[2::5] + answers[3::5] + answers[4::5]:
        assert parse(answer).status == 408
        assert parse(answer).json["error"]["code"] == "request_timeout"
    assert slow.metrics()['embedding_connections_dropped_total{reason="slow"}'] >= 40


def test_200_kept_connections_that_are_idle_hold_up_no_others(slow):
    clients = [slow.client(get("/health")) for _ in range(200)]
    assert [client.reply().status for client in clients] == [200] * 200
    for _ in range(20):
        assert slow.embed("a").status == 200
    assert [client.ask(embed_request("a")).status for client in clients] == [200] * 200
    for client in clients:
        client.__exit__()


def slow_reader(server, request):
    """A connection that has sent a request and takes few bytes of the answer at a time."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(request)
    return connection


def test_200_slow_readers_hold_up_no_others(slow):
    """Of so many large requests some are refused."""
    readers = [slow_reader(slow, embed_request(["a"] * 300, "Connection: close")) for _ in range(200)]
    for _ in range(20):
        assert slow.embed("a").status == 200
        assert slow.get("/ready").status == 200
    answers = [read(reader) for reader in readers]
    for reader in readers:
        reader.close()
    # The part of an answer that the client's socket buffer has taken arrives; answers this small may fit whole.
    whole = [parse(answer) for answer in answers if answer and answer.endswith(b"}")]
    assert {reply.status for reply in whole} <= {200, 503}
    assert slow.embed("a").status == 200


def test_a_client_that_reads_slowly_holds_up_no_worker(service):
    with slow_reader(service, embed_request(["a"] * 2048, "Connection: close")) as connection:
        answer = connection.recv(100)
        wait_until(lambda: service.busy() == 0)
        assert [service.embed("hello").status for _ in range(4)] == [200] * 4
        reply = parse(answer + read(connection))
    assert len(reply.body) == int(reply.headers["Content-Length"]) > 8_000_000
    assert len(reply.json["embeddings"]) == 2048


def test_a_client_that_sends_a_byte_now_and_then_gets_a_timeout(slow):
    with slow.connect(HEAD) as connection:
        while not select.select([connection], [], [], 0.2)[0]:
            connection.sendall(b"x")
        assert parse(connection.recv(65536)).status == 408


def test_a_client_that_sends_steadily_may_take_longer_than_the_timeout(slow):
    body = json.dumps({"texts": "a"}).encode() + b" " * 400_000
    with slow.client(post(b"", f"Content-Length: {len(body)}")) as client:
        for start in range(0, len(body), 50_000):
            client.send(body[start : start + 50_000])
            time.sleep(0.4)
        assert client.reply().status == 200


def test_a_client_that_stops_within_a_body_gets_a_timeout(slow):
    with slow.client(post(b'{"texts": ', "Content-Length: 99")) as client:
        assert client.reply().json["error"]["code"] == "request_timeout"


def test_requests_of_clients_that_have_gone_are_not_computed(slow, occupy):
    before = slow.metrics()
    bulk = occupy(slow, count=4, seconds=2)
    gone = [slow.connect(embed_request([text_taking(seconds=8)] * 8)) for _ in range(8)]
    wait_until(lambda: slow.busy() == 12)
    for connection in gone:
        connection.close()
    # The requests of the clients that have gone would take minutes.
    assert [reply.result().status for reply in bulk] == [200] * 4
    wait_until(lambda: slow.metrics().get(GONE, 0) == before.get(GONE, 0) + 8)
    assert slow.busy() == 0
    assert slow.embed("a").status == 200
    assert slow.metrics()["embedding_texts_total"] - before["embedding_texts_total"] == 5
    requests = 'embedding_requests_total{route="/embed",status="499"}'
    assert slow.metrics()[requests] == slow.metrics()[GONE]


def test_a_request_whose_client_goes_is_not_computed_to_its_end(slow):
    before = slow.metrics()
    with slow.connect(embed_request([text_taking(seconds=1)] * 16)):
        wait_until(lambda: slow.busy() == 1)
    wait_until(lambda: slow.metrics().get(GONE, 0) == before.get(GONE, 0) + 1, seconds=5)
    # The compute threads are free again.
    assert slow.embed(text_taking(seconds=0.25)).status == 200


def test_a_client_that_closes_its_sending_half_counts_as_gone(slow):
    with slow.client(embed_request(text_taking(seconds=1))) as client:
        wait_until(lambda: slow.busy() == 1)
        client.socket.shutdown(socket.SHUT_WR)
        reply = client.reply()
    assert (reply.status, reply.json["error"]["code"]) == (499, "client_gone")


def test_a_client_that_leaves_is_no_error_of_the_service(slow):
    failed = 'embedding_connections_dropped_total{reason="failed"}'
    before = slow.metrics().get(failed, 0)
    for data in (b"P", HEAD, HEAD + b"Content-Length: 10\r\n\r\nabc", embed_request("a"), embed_request(["a"] * 2000)):
        for _ in range(5):
            slow.connect(data).close()
    assert slow.embed("a").status == 200
    assert slow.metrics().get(failed, 0) == before


def test_a_client_that_still_sends_after_its_answer_is_closed_after_seconds(slow):
    with slow.connect(post(b"", "Content-Length: 99999999")) as connection:
        assert parse(connection.recv(65536)).status == 413
        for _ in range(60):
            time.sleep(0.3)
            try:
                connection.sendall(b" ")
            except OSError:
                break
        else:
            raise AssertionError("the worker still listens")


def test_pythons_http_client_may_send_80_mb_and_reads_that_it_was_too_much(service):
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    connection.request("POST", "/embed", b" " * 80_000_000, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    assert (reply.status, json.loads(reply.read())["error"]["code"]) == (413, "body_too_large")
    connection.close()


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


def test_200_malformed_requests_get_a_4xx_or_a_closed_connection(service):
    workers = service.workers()
    statuses = []
    for seed in range(200):
        with service.client(malformed(seed)) as client:
            # So that the service does not wait for the rest of an incomplete request.
            client.socket.shutdown(socket.SHUT_WR)
            reply = client.reply()
            # After an error the connection ends.
            assert reply is None or reply.status < 400 or client.rest() == b""
        statuses.append(reply and reply.status)
    assert not [status for status in statuses if status and not 200 <= status < 500]
    assert sum(status is not None and status >= 400 for status in statuses) > 100
    assert service.workers() == workers
    assert service.embed("hello").status == 200


@pytest.mark.parametrize("length", ["99999999999999999999", "18446744073709551616", "8388609"])
def test_a_body_announced_as_too_large_is_refused_before_it_comes(service, length):
    reply = service.raw(post(b"", f"Content-Length: {length}"))
    assert reply.status in (400, 413)
