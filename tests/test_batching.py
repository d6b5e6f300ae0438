"""Workers that share forward passes: the real Gunicorn with the real model."""

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from server import Server, wait_until

WORKERS = 4
LARGE = ["a long text " * 200] * 9 + ["a short one"]


@pytest.fixture(scope="module")
def start(model, tmp_path_factory):
    """A function that starts the service with so many workers, all of which have begun to serve."""
    servers = []

    def start(workers=WORKERS, **environment):
        environment |= model.environment | {"WEB_CONCURRENCY": str(workers)}
        server = Server(environment, tmp_path_factory.mktemp("batching")).__enter__()
        servers.append(server)
        wait_until(lambda: server.started() == workers)
        return server

    yield start
    for server in servers:
        server.__exit__()


@pytest.fixture(scope="module")
def sharing(start):
    return start()


def ask(server, queries, clients=16):
    """Send each query by itself, from several clients at once. Returns the vectors."""
    with ThreadPoolExecutor(clients) as pool:
        replies = list(pool.map(lambda query: server.embed(query, is_query=True), queries))
    assert {reply.status for reply in replies} == {200}
    return np.array([reply.json["embeddings"][0] for reply in replies])


def large(server, number):
    """A large request, unlike the others: nobody computes the same text twice."""
    return server.embed([f"{number}-{index} {text}" for index, text in enumerate(LARGE)])


def test_requests_go_together_and_get_the_vectors_of_sentence_transformers(
    sharing, sentence_transformer, encoder, queries
):
    before = sharing.metrics()
    vectors = ask(sharing, queries)
    assert np.abs(vectors - sentence_transformer.encode(queries, prompt=encoder.query_prompt)).max() <= 2e-6
    figures = sharing.metrics()
    requests, passes, tokens, waits, handovers = (
        figures[f"embedding_{name}"] - before[f"embedding_{name}"]
        for name in (
            "batch_requests_sum",
            "batch_requests_count",
            "batch_tokens_sum",
            "core_seconds_count",
            "handovers_total",
        )
    )
    assert requests == waits == len(queries)
    assert passes < len(queries)
    assert tokens == encoder.tokenize(queries, is_query=True).count
    assert 0 < handovers <= passes


@pytest.mark.parametrize(("workers", "batching"), [(2, "off"), (1, "on")])
def test_without_company_or_leave_nothing_is_shared(start, encoder, queries, workers, batching):
    server = start(workers, EMBEDDING_BATCHING=batching)
    assert np.abs(ask(server, queries) - encoder.encode(encoder.tokenize(queries, is_query=True).ids)).max() <= 2e-6
    assert server.metrics()["embedding_batch_requests_count"] == 0


def test_one_worker_remains_for_short_requests(sharing):
    with ThreadPoolExecutor(WORKERS) as clients:
        replies = [clients.submit(large, sharing, number) for number in range(WORKERS)]
        wait_until(lambda: any(reply.done() for reply in replies), 60)
        (refused,) = (reply for reply in replies if reply.done())
        assert sharing.embed("short").status == 200
        assert sum(reply.done() for reply in replies) == 1, "the short one did not wait for the large ones"
        replies.remove(refused)
        assert {reply.result().status for reply in replies} == {200}
    reply = refused.result()
    assert (reply.status, reply.json["error"]["code"], reply.headers["Retry-After"]) == (503, "overloaded", "1")
    assert "large" in reply.json["error"]["message"]
    assert large(sharing, 9).status == 200


def test_killed_workers_cost_only_what_they_were_at(sharing, encoder, queries):
    """Each worker killed has one request, and the connections at its door; all others are right."""
    expected = encoder.encode(encoder.tokenize(queries, is_query=True).ids)
    kills, lost, ends = 12, [], time.monotonic() + 60
    done = False

    def client(seed):
        numbers = random.Random(seed)
        while not done and time.monotonic() < ends:
            index = numbers.randrange(len(queries))
            try:
                reply = sharing.embed(queries[index], is_query=True)
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
                os.kill(sharing.workers()[number % WORKERS], signal.SIGKILL)
                wait_until(lambda number=number: sharing.started() == WORKERS + number + 1)
        finally:
            done = True
        for future in clients:
            future.result()
    assert len(lost) <= 3 * kills
    assert sharing.busy() == 0
    # No place is left over: as many large requests as before are taken.
    with ThreadPoolExecutor(WORKERS) as pool:
        replies = list(pool.map(lambda number: large(sharing, number), range(WORKERS - 1)))
    assert {reply.status for reply in replies} == {200}
