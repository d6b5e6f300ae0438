"""The real Gunicorn with the real model, end to end."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from embedding_api.api.schemas import (
    EmbedRequest,
    EmbedResponse,
    SimilarityRequest,
    SimilarityResponse,
    TokenizeRequest,
    TokenizeResponse,
)
from embedding_api.encoder.compute_threads import usable_cores
from tests.support.server import Server, post

HELLO = b'{"texts": "hello world"}'


def chunked(*chunks):
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)


def is_error(reply, status, code):
    assert reply.headers["Content-Type"] == "application/json"
    # One answer, and nothing after it.
    assert reply.headers["Content-Length"] == str(len(reply.body))
    return (reply.status, reply.json["error"]["code"]) == (status, code)


def peak_memory(service, request):
    """Send a request twice at once; returns the replies, and the most memory seen meanwhile, in MB."""
    with ThreadPoolExecutor(2) as clients:
        replies = [clients.submit(service.raw, request) for _ in range(2)]
        peak = service.memory()
        while not all(reply.done() for reply in replies):
            peak = max(peak, service.memory())
            time.sleep(0.02)
    return [reply.result() for reply in replies], peak


@pytest.fixture
def same_workers(service):
    """The workers of the service, which must be the same ones after the test."""
    workers = service.workers()
    assert len(workers) == 3
    yield workers
    assert service.workers() == workers


def test_vectors_equal_sentence_transformers_from_several_clients(
    service, model, encoder, sentence_transformer, documents, queries, document_vectors
):
    requests = [(documents[start : start + 5], {}, document_vectors[start : start + 5]) for start in range(0, 100, 5)]
    query_vectors = sentence_transformer.encode(queries, prompt=encoder.query_prompt)
    requests += [([query], {"is_query": True}, query_vectors[[i]]) for i, query in enumerate(queries)]
    requests += [(queries, {"is_query": True, "normalize": True}, query_vectors)]
    with ThreadPoolExecutor(4) as clients:
        replies = list(clients.map(lambda request: service.embed(request[0], **request[1]), requests))
    for reply, (texts, _, expected) in zip(replies, requests, strict=True):
        assert reply.status == 200
        assert reply.json["model"] == model.name
        assert reply.json["dimension"] == expected.shape[1]
        assert reply.headers["X-Texts"] == str(len(texts))
        assert np.abs(np.array(reply.json["embeddings"]) - expected).max() <= 2e-6


def test_raw_vectors_have_the_lengths_before_normalisation(service, encoder, queries):
    expected = encoder.encode(encoder.tokenize(queries, is_query=True).ids, normalize=False)
    vectors = np.array(service.embed(queries, is_query=True, normalize=False).json["embeddings"])
    assert np.linalg.norm(vectors, axis=1).min() > 1.1
    assert np.abs(vectors - expected).max() <= 2e-5


@pytest.mark.bge
def test_known_numbers(service):
    reply = service.embed("hello world")
    assert reply.body.startswith(b'{"embeddings":[[0.0151')
    assert reply.json["embeddings"][0][:3] == pytest.approx([0.0151961, -0.0225707, 0.0085471], abs=2e-6)
    assert reply.json["model"] == "BAAI/bge-small-en-v1.5"
    assert reply.json["dimension"] == 384


@pytest.mark.bge
@pytest.mark.parametrize(
    ("path", "schema", "answer"),
    [("/similarity", SimilarityRequest, SimilarityResponse), ("/tokenize", TokenizeRequest, TokenizeResponse)],
)
def test_examples_are_what_the_service_answers(service, path, schema, answer):
    for name, example in schema.examples.items():
        expected = answer.examples[name]
        reply = service.post(path, example).json
        assert list(reply) == list(expected)
        if "scores" in reply:
            assert np.array(reply.pop("scores")) == pytest.approx(np.array(expected["scores"]), abs=2e-6)
        assert reply.items() <= expected.items()


@pytest.mark.bge
def test_the_example_of_a_vector_is_one(service):
    [text, *_] = EmbedRequest.examples["documents"]["texts"]
    [example] = EmbedResponse.examples.values()
    assert service.embed(text).json["embeddings"][0][:3] == pytest.approx(example["embeddings"][0], abs=2e-6)


@pytest.mark.parametrize("count", [3, 6, 11, 40])
def test_equal_texts_have_equal_scores_and_keep_their_order(service, count):
    for fields in ({"query": "some query"}, {}):
        reply = service.post("/similarity", {"texts": ["A cat sat on the mat."] * count, "rank": True, **fields}).json
        assert len(set(np.array(reply["scores"]).flat)) == 1
        ranking = np.array(reply["ranking"])
        assert np.array_equal(ranking, np.sort(ranking))


def test_health_and_index(service, model):
    assert service.get("/health").json["model"] == model.name
    assert service.get("/").status == 200
    assert service.raw(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n").status == 200


def test_the_master_has_one_thread(service):
    assert len(list(Path(f"/proc/{service.pid}/task").iterdir())) == 1


def test_the_log_shows_the_curl_to_try_and_no_texts(service):
    service.embed("a-text-nobody-may-read")
    service.embed(["a-text-nobody-may-read", 1])
    service.raw(b"a-text-nobody-may-read\r\n\r\n")
    assert f"Try: curl -X POST {service.url}/embed" in service.log()
    assert "nobody-may-read" not in service.log()


@pytest.mark.usefixtures("same_workers")
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (chunked(HELLO, b"") + b"trailing", 200, None),
        (chunked(HELLO[:9], HELLO[9:], b""), 200, None),
        (chunked(HELLO) + b"5\r\nabc", 400, "malformed_request"),
        (chunked(HELLO), 400, "malformed_request"),
        (b"zz\r\n" + HELLO, 400, "malformed_request"),
        (b"-1\r\n" + HELLO, 400, "malformed_request"),
        (b"5\r\nabcdefgh\r\n0\r\n\r\n", 400, "malformed_request"),
        (chunked(*[b" " * 65536] * 129, b""), 413, "body_too_large"),
        (chunked(HELLO, *[b" " * 65536] * 129, b""), 413, "body_too_large"),
    ],
)
def test_chunked_bodies(service, body, status, code):
    reply = service.raw(post(body, "Transfer-Encoding: chunked"), half_close=status == 400)
    assert reply.status == status
    assert code is None or is_error(reply, status, code)


@pytest.mark.usefixtures("same_workers")
def test_a_body_shorter_than_its_content_length(service):
    reply = service.raw(post(HELLO, f"Content-Length: {len(HELLO) + 1}"), half_close=True)
    assert is_error(reply, 400, "malformed_request")


@pytest.mark.usefixtures("same_workers")
@pytest.mark.parametrize(
    ("path", "content_type", "status"),
    [("/embed", "application/json", 413), ("/embed", "text/plain", 415), ("/nothing", "application/json", 404)],
)
def test_a_client_that_sends_much_gets_its_answer(service, path, content_type, status):
    """The connection is not reset while the client is still sending."""
    body = b" " * 20_000_000
    request = post(body, f"Content-Length: {len(body)}", path=path, content_type=content_type)
    assert service.raw(request).status == status


@pytest.mark.usefixtures("same_workers")
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nbad name: x\r\n\r\n", 400),
        (b"G\x00T / HTTP/1.1\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: x\r\n" % n for n in range(200)) + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (b"POST /embed HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /embed HTTP/1.1\r\nHost: x\r\nExpect: a miracle\r\n\r\n", 417),
        (post(b" " * 5_000_000, "Content-Length: 5000000", "X: " + "a" * 9000), 431),
        (b"GET /nothing%00%ff%2e%2e/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    ],
)
def test_an_invalid_request_gets_an_error_in_the_one_shape(service, request_, status):
    reply = service.raw(request_, half_close=True)
    assert reply.status == status
    assert reply.headers["Content-Type"] == "application/json"
    assert list(reply.json["error"]) == ["message", "type", "param", "code", "details"]
    assert reply.headers["X-Request-ID"]


@pytest.mark.usefixtures("same_workers")
@pytest.mark.parametrize("text", ["." * 8_000_000, "a" * 8_000_000, "a " * 4_000_000, "中" * 2_500_000])
def test_a_text_of_megabytes_costs_no_more_memory_than_one_of_kilobytes(service, same_workers, encoder, text):
    body = json.dumps({"texts": text}, ensure_ascii=False).encode()
    replies, memory = peak_memory(service, post(body, f"Content-Length: {len(body)}"))
    assert [reply.status for reply in replies] == [200, 200]
    assert int(replies[0].headers["X-Tokens"]) <= encoder.max_length
    assert memory < 1000


@pytest.mark.usefixtures("same_workers")
@pytest.mark.parametrize("value", ["[]", '""', '"a"', "1e1", '"中"'])
def test_megabytes_of_small_values_cost_no_memory(service, value):
    body = f'{{"texts": [{",".join([value] * (8_000_000 // (len(value.encode()) + 1)))}]}}'.encode()
    replies, memory = peak_memory(service, post(body, f"Content-Length: {len(body)}"))
    assert [is_error(reply, 422, "invalid_fields") for reply in replies] == [True, True]
    assert memory < 1000


def compute_threads(service):
    """The niceness, by its path, of each thread that has computed for a tenth of a second, without the main threads."""
    niceness = {}
    for task in (task for pid in service.workers() for task in Path(f"/proc/{pid}/task").iterdir()):
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        if task.name != task.parent.parent.name and int(fields[11]) >= os.sysconf("SC_CLK_TCK") / 10:
            niceness[task] = int(fields[16])
    return niceness


def test_a_large_request_alone_uses_all_cores_at_a_lower_priority(model, encoder, tmp_path):
    with Server(model.environment | {"WEB_CONCURRENCY": "1"}, tmp_path) as server:
        texts = [f"{number} " + "word " * 600 for number in range(10_000 // encoder.max_length)]
        assert server.embed(texts).status == 200
        of_threads = compute_threads(server)
        assert len(of_threads) >= min(usable_cores(), 8)
        assert set(of_threads.values()) == {min(os.getpriority(os.PRIO_PROCESS, 0) + 10, 19)}


def test_the_file_of_the_weights_does_not_stay_in_memory(service, model):
    """Only the engine's copy stays: not the file, and not the memory by which the child that read it passed it on."""
    maps = Path(f"/proc/{service.pid}/maps").read_text()
    assert str((model.directory / "model.safetensors").resolve()) not in maps
    assert "memfd" not in maps


def test_limits_of_the_service(service):
    assert is_error(service.embed(["a"] * 2049), 422, "invalid_fields")
    assert is_error(service.embed([]), 422, "invalid_fields")
    assert is_error(service.embed(["a " * 600] * 1100, truncate=False), 413, "too_many_tokens")
