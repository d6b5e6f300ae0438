"""The real command with the real model."""

import json
import os
import re
import resource
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.support.server import ROOT, wait_until


@pytest.fixture
def command(model, tmp_path):
    """A function that starts the command in a directory of its own."""

    def command(*arguments, **options):
        return subprocess.Popen(
            [sys.executable, "-m", "embedding_api", "embed", *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | model.environment | {"PYTHONPATH": str(ROOT)},
            stdin=options.pop("stdin", subprocess.DEVNULL),
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    return command


@pytest.fixture
def run(command):
    """A function that runs it to its end; the exit code and the lines it has printed."""

    def run(*arguments, **options):
        process = command(*arguments, **options)
        _, lines = process.communicate(timeout=120)
        return process.returncode, lines.splitlines()

    return run


@pytest.fixture
def corpus(documents, tmp_path):
    """The rows of a file, of which one has no text."""
    rows = [{"id": f"d{number}", "text": text[:300]} for number, text in enumerate(documents)]
    rows[17]["text"] = " "
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def test_a_corpus_gets_the_services_vectors_though_it_was_killed(command, run, corpus, service, tmp_path):
    # Windows of a few rows, so that some are done when it is killed.
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        for start in range(0, len(corpus), 20):
            lines = [json.dumps(row) + "\n" for row in corpus[start : start + 20]]
            (folder / f"{start:03}.jsonl").write_text("".join(lines))
    process = command("two/*.jsonl", "two.parquet")
    wait_until((tmp_path / "two.parquet.parts" / "00000001.arrow").exists)
    process.kill()
    process.communicate()
    assert not (tmp_path / "two.parquet").exists()
    assert run("two/*.jsonl", "two.parquet")[0] == 0
    code, lines = run("one/*.jsonl", "one.parquet")
    assert code == 0
    [report] = [line for line in lines if line.startswith("one.parquet (")]
    assert re.search(
        r"MB|kB\): 100 rows in, 100 rows out, 1 without text, 0 cut, 0 unreadable, [\d,]+ tokens; 99 ", report
    )
    assert lines[-1].endswith("whose embedding is null: 1 (one/000.jsonl line 18).")

    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    table = pa.parquet.read_table(tmp_path / "one.parquet")
    assert table.column("id").to_pylist() == [row["id"] for row in corpus]
    embeddings = table.column("embedding").to_pylist()
    assert embeddings.pop(17) is None
    texts = [row["text"] for row in corpus if row["text"].strip()]
    expected = service.embed(texts).json["embeddings"]
    assert np.abs(np.array(embeddings) - expected).max() <= 2e-6


def test_queries_from_standard_input(run, tmp_path, encoder):
    queries = ["what is lift?", "how does heat flow"]
    with open(tmp_path / "queries.csv", "w+") as file:
        file.write("n,query\n" + "".join(f"{n},{query}\n" for n, query in enumerate(queries)))
        file.seek(0)
        of_input, of_output = ["--format", "csv", "--column", "query"], ["--no-normalize", "--dtype", "float16"]
        code, lines = run("-", "out.npy", *of_input, *of_output, "--query", "--workers", 1, stdin=file)
    assert code == 0, lines
    vectors = np.load(tmp_path / "out.npy")
    expected = encoder.encode(encoder.tokenize(queries, is_query=True).ids, normalize=False)
    assert vectors.dtype == np.float16
    assert np.abs(vectors - expected).max() <= 1e-2
    assert np.linalg.norm(vectors, axis=1).min() > 1.1


def test_a_full_disk_is_told(command, run, corpus, tmp_path):
    options = "corpus.jsonl", "out.npy"
    process = command(*options)
    wait_until((tmp_path / "out.npy.parts" / "run.json").exists)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    _, lines = process.communicate(timeout=60)
    assert process.returncode == 1
    told = "cannot be written (File too large): mend that, and start again to go on."
    assert lines.splitlines()[-1] == f"Error: out.npy.parts/00000000.arrow {told}"
    assert not (tmp_path / "out.npy").exists()
    assert run(*options)[0] == 0
    assert len(np.load(tmp_path / "out.npy")) == 100


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_when_it_is_told_to(command, corpus, tmp_path, number):
    # So many rows that it is not done when the signal comes.
    path = tmp_path / "corpus.jsonl"
    path.write_text(path.read_text() * 50)
    process = command("corpus.jsonl", "out.npy")
    wait_until((tmp_path / "out.npy.parts" / "run.json").exists)
    process.send_signal(number)
    _, lines = process.communicate(timeout=30)
    assert process.returncode == 130
    assert lines.splitlines()[-1] == "Stopped: start it again to go on."


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
def test_mistakes_are_told_at_once_in_one_sentence(run, corpus, arguments, message, tmp_path):
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
