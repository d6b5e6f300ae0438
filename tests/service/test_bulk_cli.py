"""The real command with the real model."""

import json
import os
import re
import subprocess
import sys

import numpy as np
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
    table = pyarrow.parquet.read_table(tmp_path / "one.parquet")
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
