"""Bytes to requests, without a socket."""

from itertools import pairwise

import pytest
from gunicorn.config import Config
from hypothesis import given
from hypothesis import strategies as st

from embedding_api.errors import ApiError
from embedding_api.server.request import CHUNK_BYTES, HEAD_BYTES, Request

POST = b"POST /embed?a=b HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def feed():
    """A function that feeds pieces to a new request."""
    return parse


def parse(*pieces, **settings):
    cfg = Config()
    for name, value in settings.items():
        cfg.set(name, value)
    request = Request(cfg, ("127.0.0.1", 1), max_body_bytes=1000)
    for piece in pieces:
        request.feed(piece)
    return request


def error_of(*pieces, **settings):
    with pytest.raises(ApiError) as error:
        parse(*pieces, **settings)
    return error.value


@pytest.mark.parametrize(
    "pieces",
    [
        [POST + b"Content-Length: 4\r\n\r\nbody"],
        [POST + b"Content-Length: 4\r\n\r\n", b"bo", b"dy"],
        [CHUNKED + b"2\r\nbo\r\n", b"2\r\nd", b"y\r\n0\r\n\r\n"],
        [CHUNKED + b"4;a=b\r\nbody\r\n0\r\nX-Trailer: a\r\n\r\n"],
        [POST + b"Transfer-Encoding:  Chunked \r\n\r\n4\r\nbody\r\n0\r\n\r\n"],
        [b"\r\n", b"\r\n" + POST + b"Content-Length: 4\r\n\r\nbody"],
    ],
)
def test_a_request_is_the_same_however_it_comes(feed, pieces):
    request = feed(*pieces)
    assert request.complete
    assert (request.method, request.path, request.query, request.version) == ("POST", "/embed", "a=b", (1, 1))
    assert request.body.read() == b"body"
    assert ("HOST", "x") in request.headers
    assert not any(name == "X-TRAILER" for name, _ in request.headers)


@given(st.sets(st.integers(1, 388), max_size=8))
def test_it_may_be_cut_anywhere(cuts):
    data = b"\r\n" + CHUNKED + b"".join(b"%x\r\n%s\r\n" % (size, b"\n" * size) for size in (1, 100, 199)) + b"0\r\n\r\n"
    cuts = [0, *sorted(cuts), len(data)]
    request = parse(*[data[start:end] for start, end in pairwise(cuts)])
    assert request.complete
    assert not request.should_close()
    assert request.body.read() == b"\n" * 300


def test_it_begins_with_its_first_byte_and_not_with_an_empty_line(feed):
    assert not feed(b"\r\n").begun
    assert feed(b"\r\nP").begun


def test_the_head_is_known_before_the_body_has_come(feed):
    request = feed(POST + b"Content-Length: 900\r\n\r\n", b"a")
    assert (request.has_head, request.complete, request.body_to_come, request.body_bytes) == (True, False, 900, 1)


@pytest.mark.parametrize(
    "pieces",
    [[POST + b"Content-Length: 1001\r\n\r\n"], [CHUNKED + b"3e9\r\n", b"a" * 1001]],
    ids=["announced", "chunks"],
)
def test_a_body_that_is_too_large_is_noticed_before_it_is_complete(feed, pieces):
    request = feed(*pieces)
    assert request.is_too_large
    assert not request.complete
    assert request.should_close()


def test_a_body_as_large_as_it_may_be_is_not_too_large(feed):
    request = feed(POST + b"Content-Length: 1000\r\n\r\n" + b"a" * 1000)
    assert request.complete
    assert not request.is_too_large


@pytest.mark.parametrize(("sent", "expects"), [(b"100-continue", True), (b"100-Continue ", True), (None, False)])
def test_a_client_may_wait_for_100_continue(feed, sent, expects):
    field = b"Expect: " + sent + b"\r\n" if sent else b""
    assert feed(POST + field + b"Content-Length: 4\r\n\r\n").expects_continue is expects


def test_any_other_expectation_is_an_error():
    assert error_of(POST + b"Expect: a miracle\r\n\r\n").code == "expectation_failed"


@pytest.mark.parametrize(
    ("head", "closes"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: TE, Close\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nConnection: TE\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n", False),
        (b"GET / HTTP/1.0\r\n", True),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n", False),
    ],
)
def test_the_client_says_whether_the_connection_stays_open(feed, head, closes):
    request = feed(head + b"\r\n")
    assert request.complete
    assert request.should_close() is closes


@pytest.mark.parametrize(
    "more", [b"GET /second HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /sec", b"garbage\0", b"\x16\x03\x01"]
)
def test_bytes_after_a_complete_request_are_ignored_and_the_connection_closes(feed, more):
    request = feed(POST + b"Content-Length: 4\r\n\r\nbody" + more)
    assert (request.method, request.path, request.body.read()) == ("POST", "/embed", b"body")
    assert request.should_close()


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"


def test_a_request_for_another_protocol_is_answered_as_if_it_had_not_asked(feed):
    request = feed(b"GET /health HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"\r\n")
    assert (request.complete, request.path, request.version) == (True, "/health", (1, 1))


PIECES = pytest.mark.parametrize(
    "pieces",
    [
        [b"Content-Length: 4\r\n\r\nbody"],
        [b"Content-Length: 4\r\n\r\n", b"bo", b"dy"],
        [b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"],
        [b"Transfer-Encoding: chunked\r\n\r\n", b"4\r\nbody\r\n0\r\n\r\n"],
    ],
)


@PIECES
def test_such_requests_may_follow_each_other(feed, pieces):
    upgrade = b"GET /second HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"\r\n"
    for first in (POST + UPGRADE + b"".join(pieces), POST + b"".join(pieces)):
        request = feed(first + upgrade)
        assert (request.complete, request.method, request.path) == (True, "POST", "/embed")
        assert request.body.read() == b"body"
        assert request.should_close()


@PIECES
def test_such_a_request_may_have_a_body(feed, pieces):
    """Java's HttpClient asks for HTTP/2 in its first POST."""
    request = feed(POST + UPGRADE + pieces[0], *pieces[1:])
    assert (request.complete, request.path, request.method) == (True, "/embed", "POST")
    assert request.body.read() == b"body"
    with pytest.raises(ApiError):
        feed(POST + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"nonsense\r\n\r\n", "method"),
        (b"GET /hea lth HTTP/1.1\r\nHost: x\r\n\r\n", "a space in a path is %20"),
        (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", "HTTP"),
        (b"GET / HTTP/1.1\r\n\r\n", "no header Host"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", "'Name: value'"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nbad name: x\r\n\r\n", "'Name: value'"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", "HOST"),
        (b"G\0T / HTTP/1.1\r\n\r\n", "method"),
        (b"\x16\x03\x01\x02\x00\x01", "TLS"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n", "Transfer-Encoding"),
        (POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", "Content-Length"),
        (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n", "Transfer-Encoding"),
        (POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\n", "Content-Length"),
        (POST + b"Content-Length: -1\r\n\r\n", "Content-Length"),
        (POST + b"Content-Length: x\r\n\r\n", "Content-Length"),
        (CHUNKED + b"zz\r\n", "hexadecimal"),
        (CHUNKED + b"-1\r\n", "hexadecimal"),
        (CHUNKED + b"5\r\nabcdefgh\r\n0\r\n\r\n", "chunk is longer"),
    ],
)
def test_errors_of_http_are_explained_in_words(data, says):
    error = error_of(data)
    assert (error.status, error.code) == (400, "malformed_request")
    assert says.lower() in str(error).lower()
    assert not any(part in str(error) for part in ("bytearray", "b'", "\\x", "Error", "0x"))


@pytest.mark.parametrize(
    ("data", "code", "parts"),
    [
        (b"GET /" + b"a" * 4090 + b" HTTP/1.1\r\n", "uri_too_long", ["4094"]),
        (b"GET /" + b"a" * 9000, "uri_too_long", ["4094"]),
        (POST + b"X-Long: " + b"a" * 9000 + b"\r\nX: y\r\n", "headers_too_large", ["X-Long", "8190"]),
        (POST + b"X-Long: " + b"a" * 9000 + b"\r\n\r\n", "headers_too_large", ["X-Long", "8190"]),
        (POST + b"X-Long: " + b"a" * HEAD_BYTES, "headers_too_large", [str(HEAD_BYTES)]),
        (POST + b"a: b\r\n" * 101 + b"\r\n", "headers_too_large", ["100 headers"]),
        (POST + b"a: b\r\n" * 101, "headers_too_large", ["100 headers"]),
        (POST + (b"a: " + b"b" * 8000 + b"\r\n") * 9, "headers_too_large", [str(HEAD_BYTES)]),
    ],
)
def test_the_head_has_limits_that_are_named(data, code, parts):
    error = error_of(data)
    assert error.code == code
    assert all(part in str(error) for part in parts)


def test_gunicorns_options_for_the_head_work(feed):
    assert error_of(b"GET /" + b"a" * 99 + b" HTTP/1.1\r\n", limit_request_line=99).code == "uri_too_long"
    assert error_of(POST + b"a: b\r\nc: d\r\n\r\n", limit_request_fields=2).code == "headers_too_large"
    assert error_of(POST + b"a: " + b"b" * 99 + b"\r\n\r\n", limit_request_field_size=99).code == "headers_too_large"
    assert feed(POST + b"a: " + b"b" * 9000 + b"\r\n\r\n", limit_request_field_size=0).complete


@pytest.fixture
def roomy():
    """A request in chunks that may have a large body."""
    request = Request(Config(), ("127.0.0.1", 1), max_body_bytes=10**6)
    request.feed(CHUNKED)
    return request


def test_chunks_that_are_too_small_are_an_error(roomy):
    roomy.feed(b"1\r\nx\r\n" * 3000)
    with pytest.raises(ApiError, match="chunks of the body are too small"):
        roomy.feed(b"1\r\nx\r\n" * CHUNK_BYTES)


def test_chunks_may_add_an_eighth_to_a_body(roomy):
    for _ in range(10_000):
        roomy.feed(b"40\r\n" + b"x" * 64 + b"\r\n")
    assert roomy.body_bytes == 640_000


def test_a_pipelined_request_after_a_body_does_not_count_as_chunks():
    request = Request(Config(), ("127.0.0.1", 1), max_body_bytes=10**6)
    request.feed(POST + b"Content-Length: 2\r\n\r\n")
    request.feed(b"{}" + POST + b"Content-Length: 50000\r\n\r\n" + b" " * 50_000)
    assert request.complete
    assert request.body.read() == b"{}"
