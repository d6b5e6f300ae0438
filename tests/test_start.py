"""How the service starts, and how it says why it does not."""

import os
import subprocess
import sys

import pytest

from embedding_api.__main__ import DEMO_NAME
from support.server import ROOT, Server

NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9"}


@pytest.fixture
def no_hub(tmp_path):
    """The environment of a machine that has no model and reaches no Hub."""
    return NO_HUB | {"HF_HOME": str(tmp_path / "cache")}


def run(arguments, environment):
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def assert_one_sentence(result, *parts):
    assert result.returncode not in (0, None)
    [line] = result.stderr.splitlines()
    assert line.startswith("Error: ")
    for part in parts:
        assert part in line


MISSING = "BAAI/bge-small-en-v1.5", "http://127.0.0.1:9 cannot be reached", "set EMBEDDING_MODEL"


def test_without_the_model_gunicorn_does_not_start(no_hub):
    assert_one_sentence(run(["gunicorn", "wsgi:app"], no_hub), *MISSING)


def test_without_the_model_gunicorn_does_not_start_without_preloading_either(no_hub, tmp_path):
    empty = tmp_path / "gunicorn.conf.py"
    empty.touch()
    result = run(["gunicorn", "-c", str(empty), "-b", "127.0.0.1:0", "wsgi:app"], no_hub)
    assert result.returncode != 0
    assert all(part in result.stderr for part in MISSING)


@pytest.mark.parametrize(
    "environment",
    [
        {"EMBEDDING_MODEL": "/no/such/directory"},
        {"EMBEDDING_MAX_TEXTS": "many"},
        {"WEB_CONCURRENCY": "0"},
        {"PORT": "0"},
        {"BIND": "127.0.0.1:99999"},
    ],
)
def test_a_wrong_setting_stops_the_start(no_hub, environment):
    [name] = environment
    assert_one_sentence(run(["gunicorn", "wsgi:app"], no_hub | environment), name, "set it to")


def test_serve_falls_back_to_the_demo_model_and_says_so(no_hub, tmp_path):
    environment = no_hub | {"EMBEDDING_MODEL_NAME": "BAAI/bge-small-en-v1.5", "WEB_CONCURRENCY": "1"}
    with Server(environment, tmp_path, command=["python", "-m", "embedding_api", "serve"]) as server:
        assert "DEMO MODEL" in server.log()
        assert "http://127.0.0.1:9 cannot be reached" in server.log()
        reply = server.embed("hello world")
        assert reply.json["model"] == DEMO_NAME
        assert len(reply.json["embeddings"][0]) == reply.json["dimension"] == 384


def test_serve_tells_of_a_taken_address_before_it_loads_the_model(service):
    result = run(["embedding_api", "serve"], {"BIND": f"127.0.0.1:{service.port}"})
    assert_one_sentence(result, f"BIND=127.0.0.1:{service.port} cannot be listened on", "set BIND or PORT")


def test_serve_does_not_swap_a_model_that_was_asked_for(no_hub):
    result = run(["embedding_api", "serve"], no_hub | {"EMBEDDING_MODEL": "owner/name"})
    assert_one_sentence(result, "owner/name", "cannot be reached")


def test_download_prints_where_the_model_is(model):
    result = run(["embedding_api", "download"], {"EMBEDDING_MODEL": str(model.directory)})
    assert (result.returncode, result.stdout) == (0, f"{model.directory}\n")


def test_download_without_the_hub(no_hub):
    assert_one_sentence(run(["embedding_api", "download"], no_hub), "cannot be reached")
