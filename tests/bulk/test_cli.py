"""The command `embed` in processes of its own, with the small encoder in place of a model's."""

import json
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.support.server import ROOT, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def command(tmp_path):
    """A function that starts the command in a directory of its own."""

    def command(*arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "tests.support.tiny_cli", "embed", *arguments],
            cwd=tmp_path,
            # No byte code is written, as a test limits the size of files.
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )

    return command


@pytest.fixture
def run(command):
    """A function that runs it to its end; the exit code and the lines it has printed."""

    def run(*arguments):
        process = command(*arguments)
        _, lines = process.communicate(timeout=60)
        return process.returncode, lines.splitlines()

    return run


@pytest.fixture
def corpus(tmp_path):
    """The path of a file of 1,000 rows."""
    path = tmp_path / "corpus.jsonl"
    path.write_text(
        "".join(json.dumps({"id": f"d{number}", "text": f"text {number}"}) + "\n" for number in range(1000))
    )
    return path


def test_a_full_disk_is_reported(command, run, corpus, tmp_path):
    options = "corpus.jsonl", "out.npy"
    process = command(*options)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (10_000, 10_000))
    _, lines = process.communicate(timeout=60)
    assert process.returncode == 1
    told = "cannot be written (File too large): mend that, and start again to go on."
    assert lines.splitlines()[-1] == f"Error: out.npy.parts/00000000.arrow {told}"
    assert not (tmp_path / "out.npy").exists()
    assert run(*options)[0] == 0
    assert len(np.load(tmp_path / "out.npy")) == 1000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_when_it_is_told_to(command, corpus, tmp_path, number):
    # So many rows that it is not done when the signal comes.
    corpus.write_text(corpus.read_text() * 50)
    process = command("corpus.jsonl", "out.npy")
    part = tmp_path / "out.npy.parts" / "00000000.arrow"
    wait_until(part.exists)
    process.send_signal(number)
    _, lines = process.communicate(timeout=30)
    assert process.returncode == 130
    assert lines.splitlines()[-1] == "Stopped: start it again to go on."
    assert part.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jsonl", "out.npy"], "There is no file missing.jsonl."),
        (["corpus.jsonl", "corpus.jsonl"], "corpus.jsonl is both input and output: name another output."),
        (["*.jsonl", "folder/../corpus.jsonl"], "folder/../corpus.jsonl is both input and output"),
        (["corpus.jsonl", "missing/out.npy"], "There is no directory"),
        (["corpus.jsonl", "out.npy", "--column", "body"], "corpus.jsonl has no column 'body', but 'id', 'text'"),
        (["corpus.jsonl", "out.npy", "--encoding", "latin-1"], "--encoding is for CSV, TSV and plain text"),
        (["corpus.jsonl", "out.csv"], "out.csv has none of the endings"),
        (["corpus.jsonl", "out.npy", "--address", "x"], "--address is of a Ray cluster"),
        (["-", "out.npy", "--format", "text", "--engine", "ray"], "With --engine ray the input must be files"),
    ],
)
def test_mistakes_are_reported_in_one_sentence(run, corpus, arguments, message, tmp_path):
    code, [line] = run(*arguments)
    assert code == 1
    assert line.startswith(f"Error: {message}")
    assert os.listdir(tmp_path) == ["corpus.jsonl"]


def test_bad_rows_show_in_the_exit_status(run, tmp_path):
    (tmp_path / "A.JSONL").write_text(
        '{"id": 1, "text": "cut \\ud83d"}\n{"id": 1e400, "text": "a text"}\n{"id": NaN}\n'
    )
    code, [line] = run("A.JSONL", "OUT.JSONL")
    assert code == 1
    assert line.startswith("Error: A.JSONL line 1 has half a character (")
    code, lines = run("A.JSONL", "OUT.JSONL", "--bad-rows", "skip")
    assert code == 3
    assert lines[-3:] == [
        "Rows that could not be read and were left out: 2, listed in OUT.JSONL.bad-rows.jsonl.",
        "  A.JSONL line 1 has half a character (\\ud800 to \\udfff without its other half)",
        "  A.JSONL line 3 has NaN, which JSON does not know",
    ]
    assert (tmp_path / "OUT.JSONL").read_text().startswith('{"id": 1e400, "text": "a text","embedding":[')
    assert sorted(os.listdir(tmp_path)) == ["A.JSONL", "OUT.JSONL", "OUT.JSONL.bad-rows.jsonl"]


def test_a_file_without_a_text_is_an_error(run, tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n1,\n")
    code, lines = run("a.csv", "out.npy")
    assert (code, lines) == (
        1,
        [
            "Error: None of the 1 rows has a text (all are null, blank, not text, or unreadable): name another column"
            " with --column, or another file."
        ],
    )
    assert os.listdir(tmp_path) == ["a.csv"]
