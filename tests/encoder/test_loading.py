import logging
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from embedding_api.config import Settings
from embedding_api.encoder import read_model
from embedding_api.encoder.kernel import library
from embedding_api.encoder.kernel.engine import KernelEngine
from embedding_api.encoder.loading import load_encoder
from embedding_api.errors import ConfigError
from tests.support.server import ROOT

pytestmark = pytest.mark.slow


def run(script, environment):
    """Run a script, which must succeed; returns what it has written to its output and its log."""
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=True)
    return result.stdout, result.stderr


@pytest.fixture
def is_reference(sentence_transformer):
    """A function that checks that an encoder is the reference."""

    def check(encoder):
        assert encoder.engine == "reference"
        assert encoder.instruction_set is None
        ours = encoder.encode(encoder.tokenize(["hello world"]).ids)
        assert np.abs(ours - sentence_transformer.encode(["hello world"])).max() <= 2e-6

    return check


def test_the_service_imports_neither_pytorch_nor_what_reads_the_model(model):
    script = """if True:
        import sys
        import wsgi
        wsgi.app.test_client().post("/embed", json={"texts": "hello world"})
        print(*sys.modules)
        """
    modules = set(run(script, model.environment)[0].split())
    assert "embedding_api.encoder.kernel.engine" in modules
    assert modules.isdisjoint({"torch", "sentence_transformers", "transformers", "sympy", "sklearn", "scipy"})


def test_lines_logged_while_the_model_is_read_have_the_form_of_the_log(model):
    script = """if True:
        import logging.config
        from gunicorn.glogging import CONFIG_DEFAULTS
        from embedding_api import logs
        from embedding_api.config import Settings
        from embedding_api.encoder import read_model
        from embedding_api.encoder.loading import load_encoder
        read = read_model.read
        def talkative(*arguments):
            model = read(*arguments)
            logging.getLogger("transformers").warning("the library's word")
            return model
        read_model.read = talkative
        settings = Settings.from_env()
        logging.config.dictConfig(CONFIG_DEFAULTS | logs.config(settings))
        load_encoder(settings)
        """
    [line] = run(script, model.environment)[1].splitlines()
    assert re.fullmatch(r"[-\d]+ [:,\d]+ \[\d+\] \[WARNING\] \[-\] the library's word", line)


def test_a_killed_reader_is_reported_in_one_sentence(monkeypatch, model):
    monkeypatch.setattr(read_model, "read", lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ConfigError, match=r"the process that reads it has died \(exit code -9\); see that there is"):
        load_encoder(Settings(model=str(model.directory)))


def test_the_reference_can_be_forced(model, caplog, sentence_transformer, queries):
    encoder = load_encoder(Settings(model=str(model.directory), engine="reference"))
    assert encoder.engine == "reference"
    assert "EMBEDDING_ENGINE=reference" in caplog.text
    ours = encoder.encode(encoder.tokenize(queries[:9]).ids)
    assert np.abs(ours - sentence_transformer.encode(queries[:9])).max() <= 2e-6


def test_a_model_that_the_kernel_cannot_compute_runs_as_the_reference(monkeypatch, model, caplog, is_reference):
    monkeypatch.setattr(read_model, "why_not_kernel", lambda model: "it is another one")
    is_reference(load_encoder(Settings(model=str(model.directory))))
    assert "own forward pass, which is slower: it is another one" in caplog.text


def test_a_model_on_a_cpu_without_the_instruction_sets_runs_as_the_reference(monkeypatch, model, caplog, is_reference):
    monkeypatch.setattr(library, "usable_instruction_sets", lambda: [])
    is_reference(load_encoder(Settings(model=str(model.directory))))
    assert "this CPU has none of" in caplog.text


def test_a_model_runs_as_the_reference_if_the_kernel_is_not_built(monkeypatch, model, caplog, is_reference, tmp_path):
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    is_reference(load_encoder(Settings(model=str(model.directory))))
    assert "it has not been built" in caplog.text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("damage", [0.2, np.nan])
def test_a_kernel_that_computes_other_vectors_is_not_used(monkeypatch, model, caplog, dtype, damage):
    forward = KernelEngine.forward

    def damaged(engine, batch):
        vectors = forward(engine, batch)
        # The length of a vector of BGE or MiniLM is from 1 to 10.
        vectors[-1, 7] += damage * np.linalg.norm(vectors[-1])
        return vectors

    monkeypatch.setattr(KernelEngine, "forward", damaged)
    encoder = load_encoder(Settings(model=str(model.directory), dtype=dtype))
    assert encoder.engine == "reference"
    [warning] = [record for record in caplog.records if "differ from" in record.message]
    difference = "nan" if np.isnan(damage) else "2.0e-01"
    assert f"differ from sentence-transformers' by {difference}" in warning.message
    assert warning.levelno == logging.WARNING


@pytest.mark.parametrize(("instruction_sets", "slower"), [(["avx512_bf16", "avx512"], False), (["avx2"], True)])
def test_slower_bfloat16_is_reported(instruction_sets, slower, model, caplog, monkeypatch):
    loaded = library.load_library()
    monkeypatch.setattr(library, "usable_instruction_sets", lambda: instruction_sets)
    monkeypatch.setattr(library, "load_library", lambda: loaded)
    load_encoder(Settings(model=str(model.directory), dtype="bfloat16"))
    told = [record for record in caplog.records if "EMBEDDING_DTYPE=bfloat16 is slower" in record.message]
    assert [record.levelno for record in told] == [logging.WARNING] * slower


def test_the_weights_do_not_stay_in_memory_twice(model):
    """Only in the service's process: the process that has read the model has ended."""
    script = """if True:
        from embedding_api.config import Settings
        from embedding_api.encoder.loading import load_encoder
        def anonymous():
            lines = open("/proc/self/status").read().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) // 1000
        import embedding_api.encoder.encoder, tokenizers, numpy
        before = anonymous()
        encoder = load_encoder(Settings.from_env())
        print(anonymous() - before)
        """
    size = sum(path.stat().st_size for path in model.directory.glob("*.safetensors")) / 1e6
    assert size * 0.9 < int(run(script, model.environment)[0]) < size * 1.3 + 40
