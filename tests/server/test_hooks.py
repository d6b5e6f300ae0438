"""The functions that Gunicorn calls at its start and for each worker."""

import subprocess
import sys

from tests.support.server import ROOT

IMPORT = """
import os, runpy, sys, tempfile
tempfile.mkdtemp = tempfile.mkstemp = lambda *args, **kwargs: sys.exit("a file was made")
import embedding_api.server.hooks, embedding_api.metrics
runpy.run_path("gunicorn.conf.py")
assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ
"""


def test_reading_the_configuration_makes_no_files():
    subprocess.run([sys.executable, "-c", IMPORT], cwd=ROOT, check=True, timeout=60)
