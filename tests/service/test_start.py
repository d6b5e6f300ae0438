"""How the service starts, and how it says why it does not."""

import os
import statistics
import subprocess
import sys
import time

import pytest

from embedding_api.__main__ import DEMO_NAME
from embedding_api.encoder.compute_threads import usable_cores
from tests.support.server import ROOT, Server, wait_until

NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9"}


@pytest.fixture
def no_hub(tmp_path):
    """The environment of a machine that has no model and reaches no Hub."""
    return NO_HUB | {"HF_HOME": str(tmp_path / "cache")}


def run(arguments, environment, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
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


@pytest.mark.parametrize("value", ["abc", "2.5", "0"])
def test_serve_says_what_is_wrong_with_the_number_of_workers(no_hub, value):
    result = run(["embedding_api", "serve"], no_hub | {"WEB_CONCURRENCY": value})
    assert_one_sentence(result, f"WEB_CONCURRENCY={value!r} makes no sense: set it to a whole number from 1 to")


def test_an_empty_number_of_workers_counts_as_not_set(model, tmp_path):
    environment = model.environment | {"WEB_CONCURRENCY": ""}
    with Server(environment, tmp_path, command=["python", "-m", "embedding_api", "serve"]) as server:
        wait_until(lambda: server.started() == usable_cores())
        assert server.get("/info").json["workers"] == usable_cores()


MISSED = f"start it with -c {ROOT / 'embedding_api' / 'gunicorn.conf.py'}"


def test_gunicorn_that_was_called_in_another_folder_warns_that_it_has_not_read_the_configuration(no_hub, tmp_path):
    result = run(["gunicorn", "-b", "127.0.0.1:0", "--chdir", str(ROOT), "wsgi:app"], no_hub, tmp_path)
    assert result.stderr.count(MISSED) == 1


@pytest.mark.parametrize("option", ["-c", "--config"])
def test_another_configuration_gets_no_warning(no_hub, tmp_path, option):
    other = tmp_path / "other.py"
    other.touch()
    result = run(["gunicorn", "-b", "127.0.0.1:0", "--chdir", str(ROOT), option, other, "wsgi:app"], no_hub, tmp_path)
    assert MISSED not in result.stderr
    assert "gunicorn.conf.py" not in result.stderr


def test_another_wsgi_server_needs_no_configuration(no_hub):
    result = run(["flask", "--app", "wsgi", "routes"], no_hub)
    assert MISSED not in result.stderr
    assert MISSING[0] in result.stderr


def test_the_first_request_after_ready_is_not_slower(model, tmp_path):
    """The first request waits for no worker that starts, and for nothing that is done only once."""
    # Up to three starts, and 50 ms more, as the machine may do other things.
    for _ in range(3):
        with Server(model.environment, tmp_path) as server:
            wait_until(lambda server=server: server.get("/ready").status == 200)
            first, *others = [seconds(lambda server=server: server.embed("hello world")) for _ in range(20)]
        if first < 2 * statistics.median(others) + 0.05:
            return
    pytest.fail(f"The first request took {first:.3f} s, the others {statistics.median(others):.3f} s.")


def seconds(function):
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def test_serve_falls_back_to_the_demo_model_and_says_so(no_hub, tmp_path):
    environment = no_hub | {"EMBEDDING_MODEL_NAME": "BAAI/bge-small-en-v1.5", "WEB_CONCURRENCY": "1"}
    with Server(environment, tmp_path, command=["python", "-m", "embedding_api", "serve"]) as server:
        assert "DEMO MODEL" in server.log()
        assert "http://127.0.0.1:9 cannot be reached" in server.log()
        reply = server.embed("hello world")
        assert reply.json["model"] == DEMO_NAME
        assert len(reply.json["embeddings"][0]) == reply.json["dimension"] == 384


def test_serve_reports_an_address_in_use_before_it_loads_the_model(service):
    result = run(["embedding_api", "serve"], {"BIND": f"127.0.0.1:{service.port}"})
    assert_one_sentence(result, f"BIND=127.0.0.1:{service.port} cannot be listened on", "set BIND or PORT")


def test_serve_does_not_replace_a_model_that_was_named(no_hub):
    result = run(["embedding_api", "serve"], no_hub | {"EMBEDDING_MODEL": "owner/name"})
    assert_one_sentence(result, "owner/name", "cannot be reached")


def test_download_prints_where_the_model_is(model):
    result = run(["embedding_api", "download"], {"EMBEDDING_MODEL": str(model.directory)})
    assert (result.returncode, result.stdout) == (0, f"{model.directory}\n")


def test_download_without_the_hub(no_hub):
    assert_one_sentence(run(["embedding_api", "download"], no_hub), "cannot be reached")
