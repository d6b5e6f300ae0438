import json

import numpy as np
import pytest
from click.testing import CliRunner

from embedding_api.__main__ import cli
from embedding_api.bulk import evaluate


@pytest.fixture
def beir(tmp_path):
    """A collection in BEIR's format."""
    corpus = [
        {"_id": "d1", "title": "Wings", "text": "lift"},
        {"_id": "d2", "title": "", "text": "heat"},
        {"_id": "d3", "text": " "},
    ]
    queries = [{"_id": "q1", "text": "what lifts?"}, {"_id": "q2", "text": "nobody judged this"}]
    for name, rows in ("corpus", corpus), ("queries", queries):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n")
    return tmp_path


@pytest.fixture
def cranfield_folder(tmp_path):
    """Three documents, of which one is empty, and two queries with odd numbers."""
    (tmp_path / "cran.all.1400").write_text(
        ".I 1\n.T\ntitle\n.W\nfirst\ntext\n.I 2\n.T\ntitle\n.W\n.I 3\n.T\n.W\nthird\n"
    )
    (tmp_path / "cran.qry").write_text(".I 001\n.W\none\n.I 004\n.W\ntwo\n")
    (tmp_path / "cranqrel").write_text("1 1 2\n1 3 -1\n2 3 4 \n")
    return tmp_path


def test_beir(beir):
    collection = evaluate.load(beir)
    assert collection.documents == {"d1": "Wings lift", "d2": "heat"}
    assert collection.queries == {"q1": "what lifts?"}
    assert collection.judgements == {"q1": {"d1": 2, "d2": 0}}


def test_cranfield(cranfield_folder):
    collection = evaluate.load(cranfield_folder)
    assert collection.documents == {"1": "first text", "3": "third"}
    assert collection.queries == {"1": "one", "2": "two"}
    assert collection.judgements == {"1": {"1": 1, "3": 0}, "2": {"3": 1}}


def test_measures():
    documents = {str(number): "text" for number in range(150)}
    judgements = {"a": {"0": 1}, "b": {"2": 1, "149": 1}, "c": {"20": 1}}
    collection = evaluate.Collection(documents, dict.fromkeys("abc", "text"), judgements)
    # The documents in their order, for every query.
    vectors = np.linspace(1, 0, 150, dtype=np.float32)[:, None]
    ndcg, mrr, recall = evaluate.measure(collection, vectors, np.ones((3, 1), dtype=np.float32))
    of_b = (1 / np.log2(4)) / (1 + 1 / np.log2(3))
    assert ndcg == pytest.approx((1 + of_b + 0) / 3)
    assert mrr == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert recall == pytest.approx((1 + 1 / 2 + 1) / 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("qrels/test.tsv", None, "test.tsv is missing: name a folder with corpus.jsonl"),
        ("corpus.jsonl", None, "corpus.jsonl is missing"),
        ("corpus.jsonl", "{", "has a damaged file"),
        ("corpus.jsonl", '{"id": "d1"}', "has a damaged file"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq9\td1\t1\n", "no queries with judgements"),
    ],
)
def test_a_folder_that_is_no_collection_is_told(beir, name, content, message):
    if content is None:
        (beir / name).unlink()
    else:
        (beir / name).write_text(content)
    result = CliRunner().invoke(cli, ["evaluate", str(beir)])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert message in result.output


def test_the_command_prints_the_measures(beir, model, monkeypatch, encoder):
    for name, value in model.environment.items():
        monkeypatch.setenv(name, value)
    (beir / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    result = CliRunner().invoke(cli, ["evaluate", str(beir), "--split", "dev", "--workers", "1"])
    assert result.exit_code == 0, result.output
    head, names, *rows = result.stdout.splitlines()
    assert head == f"{model.name}, {encoder.engine}, float32; {beir.name}: 2 documents, 1 queries"
    assert names.split() == ["nDCG@10", "MRR@10", "recall@100"]
    assert rows[0].split() == ["without", "instruction", "1.0000", "1.0000", "1.0000"]
    assert len(rows) == (2 if encoder.query_prompt else 1)


def test_without_the_measures_it_says_what_to_install(beir, monkeypatch):
    monkeypatch.setattr(evaluate.importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(cli, ["evaluate", str(beir)])
    assert result.exit_code == 1
    assert result.output == "Error: ir-measures is not installed: 'pip install -r requirements-evaluate.txt'.\n"
