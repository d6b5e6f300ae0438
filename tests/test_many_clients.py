"""Many clients at once: the real Gunicorn with the real model."""

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embedding_api.admission import LARGE_TOKENS
from support.server import Server, wait_until

WORKERS = 4


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    """The service, of which all workers have begun to serve."""
    environment = model.environment | {"WEB_CONCURRENCY": str(WORKERS)}
    with Server(environment, tmp_path_factory.mktemp("many")) as server:
        wait_until(lambda: server.started() == WORKERS)
        yield server


@pytest.fixture
def embed_large(server, encoder):
    """A function that sends a large request; with another number, other texts."""
    count = 2 * LARGE_TOKENS // encoder.max_length

    def embed_large(number):
        return server.embed([f"{number} {index} " + "a long text " * encoder.max_length for index in range(count)])

    return embed_large


def test_everyone_gets_the_vectors_of_sentence_transformers(server, sentence_transformer, encoder, queries):
    before = server.metrics()
    with ThreadPoolExecutor(16) as clients:
        replies = list(clients.map(lambda query: server.embed(query, is_query=True), queries))
    assert {reply.status for reply in replies} == {200}
    vectors = np.array([reply.json["embeddings"][0] for reply in replies])
    assert np.abs(vectors - sentence_transformer.encode(queries, prompt=encoder.query_prompt)).max() <= 2e-6
    after = server.metrics()
    requests, tokens = (
        after[f"embedding_batch_{name}_sum"] - before[f"embedding_batch_{name}_sum"] for name in ("requests", "tokens")
    )
    assert requests == len(queries)
    assert tokens == encoder.tokenize(queries, is_query=True).count


def test_one_worker_remains_for_short_requests(server, embed_large):
    with ThreadPoolExecutor(WORKERS) as clients:
        replies = [clients.submit(embed_large, number) for number in range(WORKERS)]
        wait_until(lambda: any(reply.done() for reply in replies))
        (refused,) = (reply for reply in replies if reply.done())
        assert server.embed("short").status == 200
        assert sum(reply.done() for reply in replies) == 1, "the short one waited for a large one"
        replies.remove(refused)
        assert {reply.result().status for reply in replies} == {200}
    reply = refused.result()
    assert (reply.status, reply.json["error"]["code"], reply.headers["Retry-After"]) == (503, "overloaded", "1")
    assert "large" in reply.json["error"]["message"]
    assert embed_large(9).status == 200


def test_killed_workers_cost_only_what_they_were_at(server, embed_large, encoder, queries):
    """Each worker killed has one request, and the connections at its door; all others are right."""
    expected = encoder.encode(encoder.tokenize(queries, is_query=True).ids)
    kills, lost, ends = 12, [], time.monotonic() + 60
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
                wait_until(lambda number=number: server.started() == WORKERS + number + 1)
        finally:
            done = True
        for future in clients:
            future.result()
    assert len(lost) <= 3 * kills
    assert server.busy() == 0


def test_a_killed_worker_no_longer_counts_as_one_with_a_large_request(server, embed_large):
    with ThreadPoolExecutor(WORKERS) as clients:
        replies = [clients.submit(embed_large, number) for number in range(WORKERS - 1)]
        wait_until(lambda: server.busy() == WORKERS - 1)
        started = server.started()
        for pid in server.workers():
            os.kill(pid, signal.SIGKILL)
        assert all(isinstance(reply.exception(), OSError) for reply in replies)
        wait_until(lambda: server.started() == started + WORKERS)
        replies = list(clients.map(embed_large, range(WORKERS - 1)))
    assert {reply.status for reply in replies} == {200}
