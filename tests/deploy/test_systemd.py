"""systemd accepts the unit, and the unit fits the service."""

import configparser
import re
import shutil
import subprocess
import sys

import pytest

from tests.support.server import ROOT

UNIT = ROOT / "deploy" / "systemd" / "embedding-api.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_no_fault_in_the_unit(tmp_path):
    # The program must exist.
    unit = UNIT.read_text().replace("/opt/embedding-api/.venv/bin/gunicorn", sys.executable)
    (tmp_path / UNIT.name).write_text(unit)
    command = ["systemd-analyze", "verify", "--man=no", tmp_path / UNIT.name]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_stop_waits_for_accepted_requests():
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str
    unit.read_string(UNIT.read_text())
    graceful = int(re.search(r"^graceful_timeout = (\d+)", (ROOT / "gunicorn.conf.py").read_text(), re.MULTILINE)[1])
    assert int(unit["Service"]["TimeoutStopSec"]) > graceful
    assert unit["Service"]["KillMode"] == "mixed"
