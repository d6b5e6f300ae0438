"""A run that is killed with SIGKILL, at ten moments, and started again."""

import json
import os
import signal
import subprocess
import sys

import pytest

from embedding_api.bulk.checkpoint import parts_folder
from tests.support.server import ROOT

pytestmark = pytest.mark.slow

INPUTS = "a.jsonl", "b.csv", "c.txt"
# What a run does to the disk, in its order: each part, the list of bad rows and the output are synced and renamed, then
# the parts are deleted. There are 19 parts, so 21 files and the run's description are renamed.
MOMENTS = [
    *(("fsync", count) for count in (1, 2, 17, 40, 42, 44)),
    *(("replace", count) for count in (3, 21, 22)),
    ("unlink", 5),
]


@pytest.fixture(autouse=True)
def corpus(tmp_path):
    """Three files, of which each has rows without text, and two have rows that cannot be read."""
    rows = [json.dumps({"id": row, "text": f"text {row}" if row % 5 else None}) for row in range(30)]
    rows[3] = rows[12] = '{"id": 3, "id": 3}'
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    lines = [f"{row},text {row}" if row % 7 else str(row) for row in range(26)]
    (tmp_path / "b.csv").write_text("\n".join(["id,text", *lines]))
    (tmp_path / "c.txt").write_text("\n".join(f"text {row}" if row % 6 else "" for row in range(24)))


def run(folder, output, call=None, count=0):
    """Run it in a process of its own, which kills itself when it has called a function of `os` so often."""
    kill = [call, str(count)] if call else []
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.killed_run", *INPUTS, output, *kill],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def said(output):
    """What a run has said, without how long it took."""
    first, *others = output.splitlines()
    return [first.partition(" tokens;")[0], *others]


@pytest.mark.parametrize(("ending", "moments"), [("jsonl", MOMENTS), ("parquet", [("replace", 22)])])
def test_a_run_that_is_killed_and_started_again_is_as_one_that_was_not(tmp_path, ending, moments):
    one, two = f"one.{ending}", f"two.{ending}"
    code, expected, error = run(tmp_path, one)
    assert (code, error) == (3, ""), error
    assert "80 rows in, 74 rows out, 10 without text, 0 cut, 6 unreadable" in expected
    for call, count in moments:
        code, _, error = run(tmp_path, two, call, count)
        assert code == -signal.SIGKILL, (call, count, error)
        code, output, error = run(tmp_path, two)
        assert (code, error) == (3, ""), (call, count, error)
        assert said(output) == [line.replace(one, two) for line in said(expected)], (call, count)
        for name in ("", ".bad-rows.jsonl"):
            assert (tmp_path / f"{one}{name}").read_bytes() == (tmp_path / f"{two}{name}").read_bytes()
            (tmp_path / f"{two}{name}").unlink()
        assert not parts_folder(tmp_path / two).exists()
