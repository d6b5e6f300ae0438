"""The application on other WSGI servers than the service's own worker, where `encode()` computes at once."""

import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.support.server import ROOT, Server, wait_until

APP = "embedding_api.wsgi:app"


def test_gunicorns_threads_serve_it(model, encoder, queries, tmp_path, pool):
    command = ["gunicorn", "-k", "gthread", "--threads", "4", "--workers", "1", "wsgi:app"]
    with Server(model.environment, tmp_path, command) as server:
        replies = list(pool.map(server.embed, queries[:8]))
        expected = encoder.encode(encoder.tokenize(queries[:8]).ids)
        assert np.abs(np.array([reply.json["embeddings"][0] for reply in replies]) - expected).max() <= 2e-6
        # A large request: more tokens than one forward pass carries.
        assert len(server.embed(queries * 5).json["embeddings"]) == 5 * len(queries)
        for path in ("/health", "/ready", "/metrics", "/info", "/"):
            assert server.get(path).status == 200
        assert server.embed("").status == 422
        [worker] = server.workers()
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: server.workers() not in ([], [worker]))
        assert server.embed("a").status == 200
        os.kill(server.pid, signal.SIGTERM)
        server.wait(30)
        assert "Traceback" not in server.log()


@pytest.fixture
def flask_run(model, tmp_path):
    """Flask's own server with the real service; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environment = os.environ | model.environment
    command = [sys.executable, "-m", "flask", "--app", APP, "run", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(30)


def test_flasks_own_server_serves_it(flask_run, encoder, queries, pool):
    server = Server.__new__(Server)
    server.port = flask_run

    def listens():
        try:
            server.connect().close()
        except ConnectionRefusedError:
            return False
        return True

    wait_until(listens, 120)
    replies = list(pool.map(server.embed, queries[:8]))
    expected = encoder.encode(encoder.tokenize(queries[:8]).ids)
    assert np.abs(np.array([reply.json["embeddings"][0] for reply in replies]) - expected).max() <= 2e-6
    assert len(server.embed(queries * 5).json["embeddings"]) == 5 * len(queries)
    assert server.get("/ready").status == 200
