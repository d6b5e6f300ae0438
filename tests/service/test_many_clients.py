"""Many clients at once: the real Gunicorn with the real model."""

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.support.server import Server, wait_until

WORKERS = 2
FIGURES = "requests_count", "requests_sum", "tokens_sum"


@pytest.fixture(scope="module", params=["auto", "reference"])
def server(request, model, tmp_path_factory):
    """The service with each engine, when all of its workers serve."""
    environment = model.environment | {"WEB_CONCURRENCY": str(WORKERS), "EMBEDDING_ENGINE": request.param}
    with Server(environment, tmp_path_factory.mktemp("many")) as server:
        wait_until(lambda: server.started() == WORKERS)
        yield server


@pytest.fixture(scope="module")
def expected(encoder, queries):
    """The vectors of the queries."""
    return encoder.encode(encoder.tokenize(queries, is_query=True).ids)


def passes(server):
    """Forward passes so far, and the requests and the tokens in them."""
    metrics = server.metrics()
    return np.array([metrics.get(f"embedding_batch_{name}", 0) for name in FIGURES])


def test_everyone_gets_the_vectors_of_sentence_transformers_from_few_passes(
    server, sentence_transformer, encoder, queries
):
    before = passes(server)
    with ThreadPoolExecutor(16) as clients:
        replies = list(clients.map(lambda query: server.embed(query, is_query=True), queries))
    assert {reply.status for reply in replies} == {200}
    vectors = np.array([reply.json["embeddings"][0] for reply in replies])
    assert np.abs(vectors - sentence_transformer.encode(queries, prompt=encoder.query_prompt)).max() <= 2e-6
    count, requests, tokens = passes(server) - before
    assert requests == len(queries)
    assert tokens == encoder.tokenize(queries, is_query=True).count
    assert count < requests


def test_vectors_do_not_depend_on_requests_at_the_same_time(server, queries):
    # With sentence-transformers they do depend on them, in the last digits.
    tolerance = 0 if server.get("/info").json["engine"] == "kernel" else 2e-6
    alone = [server.embed(query).json["embeddings"] for query in queries[:10]]
    with ThreadPoolExecutor(10) as clients:
        for _ in range(3):
            together = [reply.json["embeddings"] for reply in clients.map(server.embed, queries[:10])]
            assert np.abs(np.array(together) - np.array(alone)).max() <= tolerance


def large_texts(encoder, number, tokens=4096):
    """Long texts of so many tokens together, different ones for each number."""
    texts = range(tokens // encoder.max_length)
    return [f"{number} {index} " + "a long text " * encoder.max_length for index in texts]


def test_no_large_request_is_refused_and_short_ones_are_answered_meanwhile(server, encoder, queries, expected):
    with ThreadPoolExecutor(6) as clients:
        large = [clients.submit(server.embed, large_texts(encoder, number)) for number in range(6)]
        wait_until(lambda: server.busy() == 6)
        for query, vector in zip(queries[:5], expected, strict=False):
            reply = server.embed(query, is_query=True)
            assert np.abs(np.array(reply.json["embeddings"][0]) - vector).max() <= 2e-6
            assert server.get("/ready").status == 200
        assert not all(reply.done() for reply in large), "the short ones waited for the large ones"
        replies = [reply.result() for reply in large]
    assert {reply.status for reply in replies} == {200}
    for number, reply in enumerate(replies):
        vector = server.embed(large_texts(encoder, number)[0]).json["embeddings"][0]
        assert np.abs(np.array(reply.json["embeddings"][0]) - vector).max() <= 2e-6


def test_killed_workers_lose_only_their_own_requests(server, queries, expected):
    """A killed worker has at most the requests of eight clients; all others are answered right."""
    started, kills, lost, ends = server.started(), 6, [], time.monotonic() + 120
    done = False

    def client(seed):
        numbers = random.Random(seed)
        while not done and time.monotonic() < ends:
            index = numbers.randrange(len(queries))
            try:
                reply = server.embed(queries[index], is_query=True)
            except OSError as error:
                lost.append(error)
                continue
            assert reply.status == 200
            assert np.abs(np.array(reply.json["embeddings"][0]) - expected[index]).max() <= 2e-6

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client, seed) for seed in range(8)]
        try:
            for number in range(kills):
                time.sleep(0.1)
                os.kill(server.workers()[number % WORKERS], signal.SIGKILL)
                wait_until(lambda number=number: server.started() == started + number + 1)
        finally:
            done = True
        for future in clients:
            future.result()
    assert len(lost) <= 8 * kills
    assert server.busy() == 0


def test_killed_workers_leave_no_large_request_behind(server, encoder):
    with ThreadPoolExecutor(3) as clients:
        large = [clients.submit(server.embed, large_texts(encoder, number, 20 * 1024)) for number in range(3)]
        wait_until(lambda: server.busy() == 3)
        started = server.started()
        for pid in server.workers():
            os.kill(pid, signal.SIGKILL)
        assert all(isinstance(reply.exception(), OSError) for reply in large)
        wait_until(lambda: server.started() == started + WORKERS)
    assert server.embed(large_texts(encoder, 1, 1024)).status == 200
    # A worker says once a second how many requests wait in it.
    wait_until(lambda: server.metrics()["embedding_requests_waiting"] == 0)
    assert server.metrics()["embedding_requests_in_progress"] == 1
