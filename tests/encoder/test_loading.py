import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from embedding_api.config import ConfigError, Settings
from embedding_api.encoder import reading
from embedding_api.encoder.loading import load_encoder
from server import ROOT


def run(script, environment):
    """What a script that has ended well has written to its output and its log."""
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=True)
    return result.stdout, result.stderr


def test_what_only_reads_the_model_stays_out_of_the_service(model):
    script = """if True:
        import sys
        import wsgi
        wsgi.app.test_client().post("/embed", json={"texts": "hello world"})
        print(*sys.modules)
        """
    modules = set(run(script, model.environment)[0].split())
    assert "torch" in modules
    assert modules.isdisjoint({"sentence_transformers", "transformers", "torch._dynamo", "sympy", "sklearn", "scipy"})


def test_what_is_logged_while_the_model_is_read_has_the_form_of_the_log(model):
    script = """if True:
        import logging.config
        from gunicorn.glogging import CONFIG_DEFAULTS
        from embedding_api import logs
        from embedding_api.config import Settings
        from embedding_api.encoder import reading
        from embedding_api.encoder.loading import load_encoder
        read = reading.read
        def talkative(*arguments):
            model = read(*arguments)
            logging.getLogger("transformers").warning("the library's word")
            return model
        reading.read = talkative
        settings = Settings.from_env()
        logging.config.dictConfig(CONFIG_DEFAULTS | logs.config(settings))
        load_encoder(settings)
        """
    [line] = run(script, model.environment)[1].splitlines()
    assert re.fullmatch(r"[-\d]+ [:,\d]+ \[\d+\] \[WARNING\] \[-\] the library's word", line)


def test_a_reader_that_is_killed_is_told_in_one_sentence(monkeypatch, model):
    monkeypatch.setattr(reading, "read", lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ConfigError, match=r"the process that reads it has died \(exit code -9\); see that there is"):
        load_encoder(Settings(model=str(model.directory)))


def test_the_reference_can_be_forced(model, caplog, sentence_transformer, queries):
    encoder = load_encoder(Settings(model=str(model.directory), engine="reference"))
    assert encoder.engine == "reference"
    assert "EMBEDDING_ENGINE=reference" in caplog.text
    ours = encoder.encode(encoder.tokenize(queries[:9]).ids)
    assert np.abs(ours - sentence_transformer.encode(queries[:9])).max() <= 2e-6


def test_a_model_that_cannot_run_packed_runs_as_the_reference(monkeypatch, model, caplog, sentence_transformer):
    monkeypatch.setattr(reading, "obstacle", lambda model: "it is another one")
    encoder = load_encoder(Settings(model=str(model.directory)))
    assert encoder.engine == "reference"
    assert "own forward pass: it is another one" in caplog.text
    ours = encoder.encode(encoder.tokenize(["hello world"]).ids)
    assert np.abs(ours - sentence_transformer.encode(["hello world"])).max() <= 2e-6
