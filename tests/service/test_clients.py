"""Common client packages against the real service, and the code that docs/clients.md shows for them."""

import asyncio
import base64
import json
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest

from tests.support import python_clients
from tests.support.server import ROOT, Server, wait_until
from tests.support.tiny import text_taking

PYTHON = ROOT / ".venv-clients" / "bin" / "python"
JAVASCRIPT = ROOT / "tests" / "clients-js"
DOCUMENT = (ROOT / "docs" / "clients.md").read_text()
README = (ROOT / "README.md").read_text()
URL = "http://127.0.0.1:7860"
TEXTS = ["A cat sat on the mat.", "Stocks fell on Monday."]
QUERY = "where did the cat sit?"
KEY = "k" * 20
# What a client must show of an error.
WORDS = {
    "wrong key": "The API key is not valid. Send one",
    "blank text": "Must not be blank",
    "too many texts": "Holds 5 texts; one request takes at most 4. Send them in several requests.",
}

needs_packages = pytest.mark.skipif(
    not PYTHON.exists(), reason="needs the packages of requirements-clients.txt: make test has them"
)
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="needs Node.js")
needs_modules = pytest.mark.skipif(
    not (JAVASCRIPT / "node_modules").exists(), reason="needs the packages of tests/clients-js: make test has them"
)


@pytest.fixture(scope="module")
def service(service, model, tmp_path_factory):
    """The real service; a model without a query prompt, such as the demo model, gets one, as clients ask for it."""
    if service.get("/info").json["query_prompt"]:
        yield service
        return
    environment = model.environment | {"EMBEDDING_QUERY_PROMPT": "query: "}
    with Server(environment, tmp_path_factory.mktemp("prompt")) as server:
        yield server


@pytest.fixture(scope="module")
def client(service):
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def embeddings(service):
    """A function that gives the vectors of /embed."""
    return lambda texts, **fields: service.embed(texts, **fields).json["embeddings"]


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """A service without the model, with a key, one worker, room for one large request of four texts, and only its own
    name."""
    environment = {
        "WEB_CONCURRENCY": "1",
        "EMBEDDING_MAX_WAITING": "1",
        "EMBEDDING_MAX_TEXTS": "4",
        "EMBEDDING_API_KEYS": KEY,
        "EMBEDDING_METRICS": "open",
        "EMBEDDING_ACCEPT_MODELS": "served",
    }
    with Server(environment, tmp_path_factory.mktemp("strict"), ["gunicorn", "tests.support.slow_wsgi:app"]) as server:
        yield server


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A service without the model that computes almost nothing, for the largest requests."""
    directory = tmp_path_factory.mktemp("quick")
    with Server({"WEB_CONCURRENCY": "1"}, directory, ["gunicorn", "tests.support.quick_wsgi:app"]) as server:
        yield server


def vectors(reply):
    assert [item.index for item in reply.data] == list(range(len(reply.data)))
    return [item.embedding for item in reply.data]


@pytest.mark.parametrize("format", [openai.omit, "float", "base64"])
def test_openai_gets_the_vectors_of_embed(client, embeddings, service, format):
    reply = client.embeddings.create(model="text-embedding-3-small", input=TEXTS, encoding_format=format)
    ours = vectors(reply)
    if format == "base64":
        # The package decodes base64 only if it has chosen it by itself.
        ours = [np.frombuffer(base64.b64decode(vector), "<f4") for vector in ours]
    assert np.array_equal(np.float32(ours), np.float32(embeddings(TEXTS)))
    assert reply.model == service.get("/health").json["model"]
    assert reply.usage.prompt_tokens == reply.usage.total_tokens == int(service.embed(TEXTS).headers["X-Tokens"])


def test_openai_queries(client, embeddings):
    reply = client.embeddings.create(model="any", input=QUERY, extra_body={"input_type": "query"})
    assert np.array_equal(np.float32(vectors(reply)), np.float32(embeddings(QUERY, is_query=True)))


def test_openai_async(service, embeddings):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none") as client:
            return await asyncio.gather(*(client.embeddings.create(model="any", input=text) for text in TEXTS))

    replies = asyncio.run(ask())
    for reply, expected in zip(replies, embeddings(TEXTS), strict=True):
        assert vectors(reply)[0] == pytest.approx(expected, abs=1e-6)


def test_openai_with_500_requests_at_once(service):
    async def ask():
        # Its own timeout for connecting is 5 s, which 500 coroutines on a busy core may exceed.
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none", timeout=300) as client:
            requests = (client.embeddings.create(model="any", input=f"query number {number}") for number in range(500))
            return await asyncio.gather(*requests, return_exceptions=True)

    replies = asyncio.run(ask())
    failures = [reply for reply in replies if isinstance(reply, Exception)]
    assert all(isinstance(failure, openai.InternalServerError) for failure in failures)
    assert len(failures) <= 10


def test_openai_with_as_many_texts_as_it_takes(client, embeddings):
    texts = [f"text {number % 300}" for number in range(2048)]
    reply = client.embeddings.create(model="any", input=texts)
    assert np.array_equal(np.float32(vectors(reply)), np.float32(embeddings(texts)))


def test_openai_lists_the_model(client, service):
    name = service.get("/health").json["model"]
    assert [model.id for model in client.models.list()] == [name]
    assert client.models.retrieve(name).id == client.models.retrieve("text-embedding-3-small").id == name


@pytest.mark.parametrize(
    ("fields", "error", "code", "param"),
    [
        ({"input": [[1, 2]]}, openai.BadRequestError, "token_ids", "input"),
        ({"dimensions": 256}, openai.BadRequestError, "invalid_fields", "dimensions"),
        ({"input": ["a", ""]}, openai.BadRequestError, "invalid_fields", "input[1]"),
        ({"extra_body": {"truncat": True}}, openai.BadRequestError, "invalid_fields", "truncat"),
        (
            {"input": ["a " * 510] * 1030, "extra_body": {"truncate": False}},
            openai.APIStatusError,
            "too_many_tokens",
            "input",
        ),
    ],
)
def test_openai_raises_the_right_errors(client, fields, error, code, param):
    with pytest.raises(error) as raised:
        client.embeddings.create(**{"model": "any", "input": "a"} | fields)
    assert (raised.value.code, raised.value.param) == (code, param)
    assert raised.value.type == "invalid_request_error"
    assert raised.value.body["message"] in str(raised.value)


def test_openai_keys_and_names(strict):
    with (
        openai.OpenAI(base_url=f"{strict.url}/v1", api_key="wrong", max_retries=0) as wrong,
        openai.OpenAI(base_url=f"{strict.url}/v1", api_key=KEY, max_retries=0) as right,
    ):
        with pytest.raises(openai.AuthenticationError) as raised:
            wrong.embeddings.create(model="tiny", input="a")
        assert raised.value.code == "invalid_api_key"
        assert len(vectors(right.embeddings.create(model="tiny", input="a"))) == 1
        with pytest.raises(openai.NotFoundError) as raised:
            right.embeddings.create(model="text-embedding-3-small", input="a")
        assert raised.value.code == "model_not_found"
        with pytest.raises(openai.NotFoundError):
            right.models.retrieve("text-embedding-3-small")


def test_openai_tries_again_when_there_is_room(strict):
    with (
        openai.OpenAI(base_url=f"{strict.url}/v1", api_key=KEY, max_retries=0) as once,
        openai.OpenAI(base_url=f"{strict.url}/v1", api_key=KEY, max_retries=10) as patient,
        ThreadPoolExecutor(2) as pool,
    ):

        def ask(client, text):
            return client.embeddings.create(model="tiny", input=text)

        slow = pool.submit(ask, once, text_taking(seconds=3))
        wait_until(lambda: strict.metrics()["embedding_requests_waiting"] == 1)
        with pytest.raises(openai.InternalServerError) as raised:
            ask(once, text_taking(seconds=0.25))
        assert raised.value.status_code == 503
        assert int(raised.value.response.headers["Retry-After"]) >= 1
        assert len(vectors(ask(patient, text_taking(seconds=0.25)))) == 1
        assert len(vectors(slow.result())) == 1


@pytest.fixture(scope="module")
def asked(service, strict):
    """What the programs for other clients are asked."""
    return {"url": service.url, "strict": strict.url, "model": "tiny", "key": KEY, "texts": TEXTS, "query": QUERY}


@pytest.fixture(scope="module")
def in_python(asked):
    return answers([PYTHON, python_clients.__file__], asked)


@pytest.fixture(scope="module")
def in_javascript(asked, quick):
    # A word with a letter that the quick service's model does not know is one token: 200 in 1,000 characters, about as
    # many as English has for BGE.
    chunks = ["weiß " * 200] * 2048
    return answers(["node", JAVASCRIPT / "clients.mjs"], asked | {"large": quick.url, "chunks": chunks})


def answers(command, asked):
    return json.loads(run(command, json.dumps(asked)).splitlines()[-1])


@needs_packages
@pytest.mark.parametrize("name", [client.__name__ for client in python_clients.CLIENTS])
def test_python_clients(in_python, embeddings, name):
    answer = in_python[name]
    assert np.array_equal(np.float32(answer["documents"]), np.float32(embeddings(TEXTS)))
    assert np.array_equal(np.float32(answer["query"]), np.float32(embeddings(QUERY, is_query=True)[0]))
    for kind, words in WORDS.items():
        for message in answer["errors"][kind]:
            assert message is not None, kind
            assert words in message


@needs_node
@needs_modules
@pytest.mark.parametrize("name", ["openai", "langchain", "ai"])
def test_javascript_clients(in_javascript, embeddings, name):
    answer, query = in_javascript[name], np.float32(embeddings(QUERY, is_query=True)[0])
    assert np.array_equal(np.float32(answer["documents"]), np.float32(embeddings(TEXTS)))
    assert np.array_equal(np.float32(answer["queries"]), query)
    # The others have no field to say it.
    assert np.array_equal(np.float32(answer["query"]), query) == (name == "openai")
    for kind, words in WORDS.items():
        assert answer["errors"][kind] is not None, kind
        assert words in answer["errors"][kind]["message"]
        # None of them may repeat what cannot succeed.
        assert answer["errors"][kind]["seconds"] < 1
    assert answer["chunks"] == 2048


def blocks(language):
    """The blocks of code in the documents that talk to the service, by what they are about."""
    return [
        pytest.param(block, id=title)
        for title, section in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", DOCUMENT + README, re.MULTILINE | re.DOTALL)
        for block in re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
        if URL in block and "make serve" not in block
    ]


def run(command, input=None):
    environment = os.environ | {"HAYSTACK_TELEMETRY_ENABLED": "False", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    # With it huggingface_hub's client sends nothing, not even to this machine.
    environment |= {"HF_HUB_OFFLINE": "0"}
    # Node.js finds its packages from there.
    done = subprocess.run(
        command, cwd=JAVASCRIPT, input=input, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_packages
@pytest.mark.bge
@pytest.mark.parametrize("block", blocks("python"))
def test_python_of_the_documents(service, embeddings, block):
    code = block + "\nimport json; print(); print(json.dumps([vectors, query]))"
    output = run([PYTHON, "-c", code.replace(URL, service.url)])
    vectors, query = json.loads(output.splitlines()[-1])
    assert np.abs(np.subtract(vectors, embeddings(TEXTS))).max() < 1e-6
    assert np.abs(np.subtract(query, embeddings(QUERY, is_query=True)[0])).max() < 1e-6


@needs_node
@needs_modules
@pytest.mark.parametrize("block", blocks("js"))
def test_javascript_of_the_documents(service, block):
    code = block.replace(URL, service.url)
    assert run(["node", "--input-type=module", "--eval", code]) == "2 vectors of 384\n"


@pytest.mark.parametrize("block", blocks("sh"))
def test_shell_of_the_documents(service, block):
    calls = block.count("curl ")
    output = run(["sh", "-c", block.replace("curl ", "echo; curl -sf ").replace(URL, service.url)])
    answers = [json.loads(line) for line in output.splitlines() if line]
    assert len(answers) == calls > 0
    assert all("model" in answer for answer in answers)
