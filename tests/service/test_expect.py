"""Clients that send `Expect: 100-continue` and wait with the body, on a real Gunicorn."""

import pytest

from tests.support.server import Server, post, wait_until

KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    """A service with one worker and a key."""
    environment = {
        "WEB_CONCURRENCY": "1",
        "EMBEDDING_API_KEYS": KEY,
        "EMBEDDING_METRICS": "open",
    }
    environment |= {"EMBEDDING_CLIENT_TIMEOUT": "2"}
    with Server(environment, tmp_path_factory.mktemp("keyed"), ["gunicorn", "tests.support.slow_wsgi:app"]) as server:
        yield server
        assert "Traceback" not in server.log()


def head(length, key=KEY):
    return post(b"", f"Content-Length: {length}", "Expect: 100-continue", f"Authorization: Bearer {key}")


def test_with_the_right_key_it_gets_100_and_then_its_answer(keyed):
    with keyed.client() as client:
        for body in (b'{"texts": "a"}', b'{"texts": "a"}'.ljust(3_000_000)):
            assert client.ask(head(len(body))).status == 100
            client.send(body)
            assert client.reply().status == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_with_a_wrong_key_it_gets_401_before_it_sends_the_body(keyed, chunked):
    request = head(3_000_000, key="wrong" * 4)
    if chunked:
        request = request.replace(b"Content-Length: 3000000", b"Transfer-Encoding: chunked")
    with keyed.client(request) as client:
        assert client.reply().status == 401
        assert client.rest() == b""


def test_with_a_body_that_is_too_large_it_gets_413_at_once(keyed):
    with keyed.client(head(99_999_999)) as client:
        assert client.reply().status == 413


def test_a_body_in_chunks_is_waited_for_as_well(keyed):
    request = head(14).replace(b"Content-Length: 14", b"Transfer-Encoding: chunked")
    with keyed.client(request) as client:
        assert client.reply().status == 100
        client.send(b'e\r\n{"texts": "a"}\r\n0\r\n\r\n')
        assert client.reply().status == 200


@pytest.mark.parametrize("sent", [b"", b'{"te'])
def test_a_client_that_goes_after_100_leaves_nothing_behind(keyed, sent):
    with keyed.client(head(14)) as client:
        assert client.reply().status == 100
        client.send(sent)
        wait_until(lambda: keyed.busy() == 1)
    wait_until(lambda: keyed.busy() == 0)


def test_a_client_that_sends_nothing_after_100_gets_a_timeout(keyed):
    with keyed.client(head(14)) as client:
        assert client.reply().status == 100
        assert client.reply().json["error"]["code"] == "request_timeout"
    wait_until(lambda: keyed.busy() == 0)


def test_several_clients_wait_at_a_time(keyed):
    clients = [keyed.client(head(14)) for _ in range(15)]
    assert {client.reply().status for client in clients} == {100}
    for client in reversed(clients):
        client.send(b'{"texts": "a"}')
    assert {client.reply().status for client in clients} == {200}
    for client in clients:
        client.__exit__()
