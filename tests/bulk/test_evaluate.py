"""The command. What it reads and what it computes has tests of its own."""

import json

import pytest
from click.testing import CliRunner

from embedding_api.bulk.evaluate import evaluate


@pytest.fixture
def run(tmp_path, model, monkeypatch):
    """A function that runs it on a small collection with the real model."""
    for name, value in model.environment.items():
        monkeypatch.setenv(name, value)
    corpus = [{"_id": "d1", "title": "Wings", "text": "lift"}, {"_id": "q1", "text": "heat"}, {"_id": "d3", "text": ""}]
    queries = [{"_id": "q1", "text": "what lifts a wing?"}]
    for name, rows in ("corpus", corpus), ("queries", queries):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")

    def run(*options):
        return CliRunner().invoke(evaluate, [str(tmp_path), "--workers", "1", *options])

    run.folder = tmp_path
    return run


def test_it_prints_the_measures(run, model, encoder):
    result = run("--split", "dev")
    assert result.exit_code == 0, result.output
    head, note, _, names, system, *rows = result.stdout.splitlines()
    assert head == f"{run.folder.name}: 2 documents, 1 queries"
    assert note == "1 documents without text, which are left out"
    assert names.split() == ["nDCG@10", "MRR@10", "recall@100"]
    assert system == f"{model.name}, {encoder.engine}, float32"
    assert rows[0].split() == ["without", "instruction", "1.0000", "1.0000", "1.0000"]
    assert len(rows) == (2 if encoder.query_prompt else 1)


def test_it_compares_as_json(run, model):
    result = run("--split", "dev", "--compare", "bfloat16", "--json", "--ignore-identical-ids")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["notes"]["documents with the query's own id, which were not ranked"] == 1
    assert [system["dtype"] for system in report["systems"]] == ["float32", "bfloat16"]
    figures = {"nDCG@10": 1, "MRR@10": 1, "recall@100": 1}
    assert report["systems"][1]["figures"]["without instruction"] == figures
    assert report["second minus first"]["without instruction"] == {
        "difference": dict.fromkeys(figures, 0),
        "p": figures,
    }


def test_it_compares_with_another_model(run, model, monkeypatch):
    monkeypatch.setenv("EMBEDDING_MODEL_NAME", "one")
    result = run("--split", "dev", "--compare", str(model.directory))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    one, other = (line.partition(",")[0] for line in lines if "float32" in line)
    assert one == "one"
    assert other.endswith(model.directory.name)
    p_values = [line.split() for line in lines if line.startswith("  p ")]
    assert p_values
    assert all(line == ["p", "1.0000", "1.0000", "1.0000"] for line in p_values)


def test_a_second_model_that_is_not_there_is_told_before_the_first_is_measured(run, monkeypatch):
    monkeypatch.setattr("embedding_api.encoder.loading.load_encoder", lambda _: pytest.fail("It is measured."))
    result = run("--split", "dev", "--compare", "/missing")
    assert result.exit_code == 1
    assert "/missing" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "qrels/test.tsv is missing, but there is dev: say --split dev."),
        (["--split", "dev", "--compare", "/missing"], "/missing"),
    ],
)
def test_errors_are_one_sentence(run, options, message):
    result = run(*options)
    assert result.exit_code == 1
    assert result.output.splitlines()[-1].startswith("Error: ")
    assert message in result.output
