"""Fixtures. The model comes from EMBEDDING_MODEL, else from the Hub's cache, else from the demo package."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from embedding_api.__main__ import DEMO_NAME, DEMO_PACKAGE
from embedding_api.app import create_app
from embedding_api.config import Settings
from embedding_api.encoder.compute_threads import usable_cores
from embedding_api.encoder.loading import load_encoder
from embedding_api.encoder.model_files import DEFAULT_MODEL, DEFAULT_REVISION, find_model, missing_file, model_name
from tests.support.cranfield import load
from tests.support.server import Server
from tests.support.tiny import tiny_encoder

# No deadlines, as a slow machine is no failure; the same examples each time, so that a failure can be repeated.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")


def pytest_addoption(parser):
    parser.addoption("--no-skips", action="store_true", help="fail if a test is skipped")
    parser.addoption("--with-the-model", action="store_true", help="only tests that use the model under test")


def pytest_sessionfinish(session, exitstatus):
    # The processes of pytest-xdist have no reporter: they report to the one that started them.
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("--no-skips") and reporter and reporter.stats.get("skipped"):
        reporter.write_line("Tests were skipped, and --no-skips forbids that.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_collection_modifyitems(config, items):
    for item in items:
        if "tests/service/" in item.nodeid:
            item.add_marker("service")
        if "model" in item.fixturenames:
            item.add_marker("slow")
    if config.getoption("--with-the-model"):
        items[:] = [item for item in items if "model" in item.fixturenames and not item.get_closest_marker("bge")]


def pytest_runtest_setup(item):
    if item.get_closest_marker("bge") and item.session.config.stash[MODEL].name != DEFAULT_MODEL:
        pytest.skip(f"needs {DEFAULT_MODEL}: set EMBEDDING_MODEL to it")


@dataclass(frozen=True)
class Model:
    """The model under test."""

    directory: Path
    name: str

    @property
    def environment(self):
        return {"EMBEDDING_MODEL": str(self.directory), "EMBEDDING_MODEL_NAME": self.name}


MODEL = pytest.StashKey[Model]()
SERVER = ("BIND", "PORT", "WEB_CONCURRENCY")


def pytest_configure(config):
    config.stash[MODEL] = _find_model()
    if config.getoption("numprocesses", None):
        # The processes of pytest-xdist, which run the tests, get this environment.
        return
    # Tests set what they need. Settings of the machine must not reach them.
    for name in [name for name in os.environ if name.startswith("EMBEDDING_") or name in SERVER]:
        del os.environ[name]


def _find_model():
    settings = Settings.from_env()
    if settings.model:
        return Model(find_model(settings).resolve(), model_name(settings))
    try:
        directory = Path(snapshot_download(DEFAULT_MODEL, revision=DEFAULT_REVISION, local_files_only=True))
        if missing_file(directory) is None:
            return Model(directory, DEFAULT_MODEL)
    except LocalEntryNotFoundError:
        pass
    return Model(Path(importlib.util.find_spec(DEMO_PACKAGE).origin).parent / "model", DEMO_NAME)


@pytest.fixture
def settings():
    return Settings(max_texts=10, max_body_bytes=10_000, max_tokens=100)


@pytest.fixture
def app(settings):
    return create_app(settings, tiny_encoder())


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture
def beats(app, monkeypatch):
    """A list that grows by one item with each heartbeat of the application's encoder."""
    beats = []
    monkeypatch.setattr(app.extensions["encoder"], "heartbeat", lambda: beats.append("beat"))
    return beats


@pytest.fixture(scope="session")
def model(pytestconfig):
    return pytestconfig.stash[MODEL]


@pytest.fixture(scope="session")
def encoder(model):
    """The real model in the service's own encoder."""
    return load_encoder(Settings(model=str(model.directory), model_name=model.name))


@pytest.fixture(scope="session")
def sentence_transformer(model):
    """The real model in sentence-transformers, with which every vector is compared."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(model.directory), device="cpu", local_files_only=True)


@pytest.fixture(scope="session")
def service(model, tmp_path_factory):
    """The real service: Gunicorn with the real model and three workers."""
    with Server(model.environment | {"WEB_CONCURRENCY": "3"}, tmp_path_factory.mktemp("service")) as server:
        yield server


@pytest.fixture(scope="session")
def documents(cranfield):
    """100 texts of some 5 to 600 tokens."""
    return cranfield[0][::14][:100]


@pytest.fixture(scope="session")
def queries(cranfield):
    """50 queries."""
    return cranfield[1][:50]


@pytest.fixture(scope="session")
def document_vectors(sentence_transformer, documents):
    """The vectors of the documents by sentence-transformers."""
    torch.set_num_threads(usable_cores())
    vectors = sentence_transformer.encode(documents)
    torch.set_num_threads(1)
    return vectors


@pytest.fixture(scope="session")
def cranfield():
    """Some 1,400 abstracts and 225 queries."""
    return load()
