"""Fixtures for services whose requests take as many seconds as a test wants."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.server import Server, wait_until
from tests.support.tiny import text_taking


@pytest.fixture
def start(tmp_path):
    """A function that starts the slow service, with options of Gunicorn's; returns it when all workers serve."""
    servers = []

    def start(*options, workers=2, command=("gunicorn",), **environment):
        environment = {"WEB_CONCURRENCY": str(workers)} | environment
        server = Server(environment, tmp_path, [*command, *options, "tests.support.slow_wsgi:app"]).__enter__()
        servers.append(server)
        wait_until(lambda: server.started() == workers)
        return server

    yield start
    for server in servers:
        server.__exit__()
        assert "Traceback" not in server.log()


@pytest.fixture
def pool():
    """Threads for clients."""
    with ThreadPoolExecutor(64) as pool:
        yield pool


@pytest.fixture
def occupy(pool):
    """A function that sends large requests, each of so many seconds; returns the futures of their replies.

    It returns when all of them are in progress.
    """

    def occupy(server, count=2, seconds=3):
        before = server.busy()
        replies = [pool.submit(server.embed, text_taking(seconds=seconds)) for _ in range(count)]
        wait_until(lambda: server.busy() == before + count)
        return replies

    return occupy


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """The slow service with two workers; clients have two seconds, and answers may have many vectors."""
    environment = {"WEB_CONCURRENCY": "2", "EMBEDDING_CLIENT_TIMEOUT": "2"}
    environment |= {"EMBEDDING_MAX_TEXTS": "200000", "EMBEDDING_MAX_TOKENS": "1000000"}
    with Server(environment, tmp_path_factory.mktemp("slow"), ["gunicorn", "tests.support.slow_wsgi:app"]) as server:
        wait_until(lambda: server.started() == 2)
        workers = server.workers()
        yield server
        assert server.workers() == workers
        assert "Unexpected" not in server.log()
        assert "Traceback" not in server.log()
