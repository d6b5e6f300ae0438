"""The WSGI application as connections call it, over a pair of sockets."""

import logging
import select
import socket
from types import SimpleNamespace

import pytest
from gunicorn.config import Config

from embedding_api.app import create_app
from embedding_api.config import Settings
from embedding_api.server.application import Application
from embedding_api.server.batching import Batcher
from embedding_api.server.connection import Connection, State
from embedding_api.server.limits import Limits
from tests.support.server import Client, embed_request, get, post
from tests.support.tiny import TinyEngine, tiny_encoder

KEY = "0123456789abcdef"


class Worker:
    """A worker without an event loop: a test makes each turn."""

    def __init__(self, app):
        self.wsgi, self.settings, self.cfg = app, app.extensions["settings"], Config()
        self.cfg.set("keepalive", 75)
        self.log, self.alive, self.requests = logging.getLogger("worker"), True, 0
        self.limits = Limits(self.settings, 1, [])
        encoder, threads = app.extensions["encoder"], SimpleNamespace(count=1)
        self.batcher = Batcher(encoder, threads, self.limits, bool, lambda tasks: None, lambda *figures: None)
        encoder.run_in_worker(compute=self.batcher.compute, heartbeat=self.batcher.heartbeat)
        self.application = Application(self, self.batcher, self.limits)
        self.forgotten = []

    def count_request(self):
        self.requests += 1

    def watch(self, client, events, before):
        pass

    def forget(self, connection):
        self.forgotten.append(connection)
        self.limits.forget(connection)

    def cancel(self, connection):
        self.batcher.cancel(connection.task)


@pytest.fixture
def start():
    """A function that gives a worker for an application, a connection to it, and its client."""
    sockets = []

    def start(app):
        theirs, ours = socket.socketpair()
        ours.setblocking(False)
        theirs.settimeout(10)
        worker = Worker(app)
        connection = Connection(ours, ("127.0.0.1", 1), ("127.0.0.1", 2), worker)
        sockets.append((connection, Client(theirs)))
        return worker, connection, sockets[-1][1]

    yield start
    for connection, client in sockets:
        connection.close()
        client.__exit__()


@pytest.fixture
def ask(app, start):
    """A function that sends bytes to the service, takes one turn, and gives the reply."""
    worker, connection, client = start(app)

    def ask(data):
        client.send(data)
        connection.handle(select.EPOLLIN)
        worker.batcher.turn()
        return client.reply(is_head=data.startswith(b"HEAD"))

    ask.worker, ask.connection, ask.client = worker, connection, client
    return ask


def test_requests_are_answered_one_after_the_other(ask):
    for text in ("a", "b", "c"):
        reply = ask(embed_request(text))
        assert reply.status == 200
        assert reply.headers["Connection"] == "keep-alive"
        assert len(reply.json["embeddings"][0]) == 8
    assert ask.worker.requests == 3
    assert ask.connection.state is State.READING


@pytest.mark.parametrize("path", ["/", "/health", "/nothing"])
def test_head_has_no_body_and_the_connection_goes_on(ask, path):
    request = get(path)
    full = ask(request)
    head = ask(request.replace(b"GET", b"HEAD"))
    assert (head.status, head.body) == (full.status, b"")
    assert head.headers["Content-Length"] == str(len(full.body))
    assert ask(get("/health")).status == 200


def test_an_answer_without_a_body_leaves_the_connection_open(app, ask):
    @app.get("/empty")
    def empty():
        return "", 204

    @app.get("/same")
    def same():
        return "", 304

    for path, status in (("/empty", 204), ("/same", 304)):
        assert ask(get(path)).status == status
        assert ask(get("/health")).status == 200


@pytest.mark.parametrize(
    ("request_", "connection"),
    [
        (get("/health"), "keep-alive"),
        (get("/health", "Connection: close"), "close"),
        (b"GET /health HTTP/1.0\r\n\r\n", "close"),
        (b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "keep-alive"),
        (get("/health") + get("/health"), "close"),
    ],
)
def test_the_answer_says_whether_the_connection_stays_open(ask, request_, connection):
    reply = ask(request_)
    assert (reply.status, reply.headers["Connection"]) == (200, connection)
    if connection == "close":
        assert ask.client.reply() is None
    else:
        assert ask(request_).status == 200


def test_a_worker_that_stops_closes_the_connection(ask):
    ask.worker.alive = False
    assert ask(get("/health")).headers["Connection"] == "close"
    assert ask.connection.state is State.CLOSED


def test_without_keep_alive_each_connection_has_one_request(ask):
    ask.worker.cfg.set("keepalive", 0)
    assert ask(get("/health")).headers["Connection"] == "close"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_requests_without_a_pass_are_answered_though_there_is_no_room(ask, method):
    ask.connection.refuse = ask.connection.late = True
    assert ask(get("/health").replace(b"GET", method.encode())).status == 200


@pytest.mark.parametrize(("flag", "code"), [("refuse", "overloaded"), ("late", "stopping")])
def test_any_other_request_is_refused_where_there_is_no_room(ask, flag, code):
    setattr(ask.connection, flag, True)
    reply = ask(embed_request("a"))
    assert (reply.status, reply.json["error"]["code"]) == (503, code)
    assert int(reply.headers["Retry-After"]) >= 1
    assert reply.headers["X-Request-ID"]
    # The next request on the same connection is answered.
    setattr(ask.connection, flag, False)
    assert ask(embed_request("a")).status == 200


@pytest.mark.parametrize(("path", "status", "kind"), [("/embed", 503, dict), ("/", 429, str), ("/api/embed", 503, str)])
def test_a_large_body_that_there_is_no_room_for_is_refused_in_the_dialect_of_its_path(start, path, status, kind):
    worker, connection, client = start(create_app(Settings(), tiny_encoder()))
    worker.limits.large = 1000
    worker.limits.bodies.hold("another", 10**9)
    client.send(post(b"", "Content-Length: 900000", path=path))
    connection.handle(select.EPOLLIN)
    reply = client.reply()
    assert reply.status == status
    assert isinstance(reply.json["error"], kind)
    assert int(reply.headers["Retry-After"]) >= 1
    assert reply.headers["Connection"] == "close"


def test_a_client_without_a_key_gets_401_and_not_503(start):
    app = create_app(Settings(api_keys=(KEY,)), tiny_encoder())
    _, connection, client = start(app)
    connection.refuse = True
    client.send(embed_request("a"))
    connection.handle(select.EPOLLIN)
    assert client.reply().status == 401


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "malformed_request"),
        (get("/health", "X-Long: " + "a" * 9000), 431, "headers_too_large"),
        (get("/" + "a" * 9000), 414, "uri_too_long"),
        (post(b"", "Expect: a miracle"), 417, "expectation_failed"),
    ],
)
def test_errors_before_the_application_have_the_one_shape(ask, data, status, code):
    reply = ask(data)
    assert reply.status == status
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Connection"] == "close"
    assert reply.headers["X-Request-ID"]
    error = reply.json["error"]
    assert list(error) == ["message", "type", "param", "code", "details"]
    assert error["code"] == code


def test_an_invalid_request_is_logged_and_counted(app, ask, caplog):
    caplog.set_level(logging.INFO, "embedding_api")
    name = 'embedding_requests_total{route="none",status="400"}'
    before = figure(app, name)
    caplog.clear()
    reply = ask(b"a-private-text\r\n\r\n")
    [line] = caplog.records
    assert (line.request_id, line.status) == (reply.headers["X-Request-ID"], 400)
    assert line.message == "- - 400 malformed_request"
    assert "private" not in caplog.text
    assert figure(app, name) == before + 1


def figure(app, name):
    lines = (line.rpartition(" ") for line in app.test_client().get("/metrics").text.splitlines())
    return next((float(value) for found, _, value in lines if found == name), 0)


def test_an_error_of_the_application_itself_is_a_500_that_tells_nothing(start, caplog):
    app = create_app(Settings(), tiny_encoder())
    app.wsgi_app = lambda environ, start_response: 1 / 0
    _, connection, client = start(app)
    client.send(get("/health"))
    connection.handle(select.EPOLLIN)
    reply = client.reply()
    assert (reply.status, reply.json["error"]["code"]) == (500, "internal_error")
    assert reply.json["error"]["details"]["request_id"] == reply.headers["X-Request-ID"]
    assert "ZeroDivisionError" in caplog.text
    assert "Zero" not in reply.body.decode()


def test_half_an_answer_is_not_sent(start, caplog):
    def broken(environ, start_response):
        start_response("200 OK", [("Content-Length", "10")])
        yield b"half"
        raise MemoryError

    app = create_app(Settings(), tiny_encoder())
    app.wsgi_app = broken
    _, connection, client = start(app)
    client.send(get("/health"))
    connection.handle(select.EPOLLIN)
    assert client.reply() is None
    assert "MemoryError" in caplog.text


def test_the_applications_result_is_closed_and_the_hooks_are_called(start):
    class Parts(list):
        closed = False

        def close(self):
            Parts.closed = True

    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", "2")])
        return Parts([b"a", b"b"])

    called = []
    app = create_app(Settings(), tiny_encoder())
    app.wsgi_app = application
    worker, connection, client = start(app)
    worker.cfg.set("pre_request", lambda worker, request: called.append(request.path))
    worker.cfg.set("post_request", lambda worker, request, environ, response: called.append(response.status_code))
    client.send(get("/health"))
    connection.handle(select.EPOLLIN)
    assert client.reply().body == b"ab"
    assert Parts.closed
    assert called == ["/health", 200]


def test_an_error_of_a_forward_pass_is_a_500_for_each_request_and_the_next_is_answered(start):
    class Broken(TinyEngine):
        broken = False

        def forward(self, batch, with_helper=False):
            if self.broken:
                raise MemoryError
            return super().forward(batch)

    engine = Broken()
    worker, connection, client = start(create_app(Settings(), tiny_encoder(engine)))
    for broken, status in ((True, 500), (False, 200)):
        engine.broken = broken
        client.send(embed_request("a"))
        connection.handle(select.EPOLLIN)
        worker.batcher.turn()
        assert client.reply().status == status


def test_a_client_that_goes_before_its_pass_is_counted_as_gone(app, ask):
    name = 'embedding_errors_total{code="client_gone"}'
    before = figure(app, name)
    ask.client.send(embed_request("a"))
    ask.connection.handle(select.EPOLLIN)
    ask.connection.handle(select.EPOLLIN | select.EPOLLRDHUP)
    ask.worker.batcher.turn()
    assert figure(app, name) == before + 1
    assert figure(app, "embedding_requests_in_progress") == 1
    assert ask.client.reply().status == 499


@pytest.fixture
def ask_first(start):
    """A function that sends a head with Expect: 100-continue and a key; gives the connection and its client."""
    app = create_app(Settings(api_keys=(KEY,), max_body_bytes=1000), tiny_encoder())

    def ask_first(key=KEY, length=14):
        worker, connection, client = start(app)
        key = f"Authorization: Bearer {key}"
        client.send(post(b"", f"Content-Length: {length}", "Expect: 100-continue", key))
        connection.handle(select.EPOLLIN)
        return worker, connection, client

    ask_first.app = app
    return ask_first


def test_a_client_that_expects_100_gets_it_with_the_right_key_and_then_its_answer(ask_first):
    worker, connection, client = ask_first()
    assert client.reply().status == 100
    client.send(b'{"texts"')
    connection.handle(select.EPOLLIN)
    client.send(b': "a"}')
    connection.handle(select.EPOLLIN)
    worker.batcher.turn()
    reply = client.reply()
    assert (reply.status, reply.headers["Connection"]) == (200, "keep-alive")
    client.send(get("/health"))
    connection.handle(select.EPOLLIN)
    assert client.reply().status == 200


def test_a_client_that_expects_100_may_send_the_beginning_of_its_body_at_once(start):
    worker, connection, client = start(create_app(Settings(), tiny_encoder()))
    client.send(post(b"", "Content-Length: 14", "Expect: 100-continue") + b'{"texts"')
    connection.handle(select.EPOLLIN)
    assert client.reply().status == 100
    client.send(b': "a"}')
    connection.handle(select.EPOLLIN)
    worker.batcher.turn()
    assert client.reply().status == 200


@pytest.mark.parametrize(("key", "length", "status"), [("wrong" * 4, 14, 401), (KEY, 1001, 413)])
def test_a_client_that_expects_100_is_refused_at_once(ask_first, key, length, status):
    _, _, client = ask_first(key, length)
    reply = client.reply()
    assert (reply.status, reply.headers["Connection"]) == (status, "close")


def test_a_client_that_expects_100_and_goes_is_no_longer_in_progress(ask_first):
    def in_progress():
        headers = {"Authorization": f"Bearer {KEY}"}
        text = ask_first.app.test_client().get("/metrics", headers=headers).text
        return next(line for line in text.splitlines() if line.startswith("embedding_requests_in_progress "))

    before = in_progress()
    _, connection, _ = ask_first()
    assert in_progress() != before
    connection.close()
    assert in_progress() == before
    assert connection.task.dead


def test_the_environ_describes_the_client_and_its_request(start):
    seen = {}

    def application(environ, start_response):
        seen.update(environ, body=environ["wsgi.input"].read())
        start_response("200 OK", [("Content-Length", "0")])
        return []

    app = create_app(Settings(), tiny_encoder())
    app.wsgi_app = application
    _, connection, client = start(app)
    client.send(post(b"body", "Content-Length: 4", "X-Some: thing", path="/a%20b?c=d"))
    connection.handle(select.EPOLLIN)
    assert client.reply().status == 200
    assert (seen["REQUEST_METHOD"], seen["PATH_INFO"], seen["QUERY_STRING"]) == ("POST", "/a b", "c=d")
    assert (seen["REMOTE_ADDR"], seen["HTTP_X_SOME"], seen["CONTENT_LENGTH"]) == ("127.0.0.1", "thing", "4")
    assert seen["body"] == b"body"
    assert seen["wsgi.url_scheme"] == "http"
    assert seen["SERVER_PROTOCOL"] == "HTTP/1.1"
