"""What the API's description says is what the real service does: all checks of schemathesis."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import ROOT, Server


@pytest.fixture
def service(model, tmp_path):
    """The real service, which takes fewer texts: schemathesis sends as many as it may, more than once to each path."""
    environment = model.environment | {"WEB_CONCURRENCY": "2", "EMBEDDING_MAX_TEXTS": "64"}
    with Server(environment, tmp_path) as server:
        yield server


def test_the_service_does_what_its_description_says(service, model, tmp_path):
    hooks = {"SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("schemathesis"), "run", f"{service.url}/openapi.json", "--checks=all"),
            *("--max-examples=50", "--workers=2", "--seed=1", "--no-color", "--request-timeout=120"),
        ],
        cwd=tmp_path,
        env=os.environ | hooks | {"MODEL": str(model.directory)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    tried = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert tried, done.stdout
    assert int(tried[1]) == int(tried[2]) >= 800
