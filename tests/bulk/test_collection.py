import json

import pytest

from embedding_api.bulk.collection import CollectionError, load


@pytest.fixture
def beir(tmp_path):
    """A collection in BEIR's format, with what collections have that is not as it should be."""
    corpus = [
        {"_id": "d1", "title": "Wings", "text": "lift"},
        {"_id": 2, "title": None, "text": "heat"},
        {"_id": "03", "text": " "},
        {"_id": "d4", "text": None},
        {"_id": "d5", "title": "only a title"},
        {"_id": "d1", "title": "Wings", "text": "lift more"},
    ]
    queries = [
        {"_id": "q1", "text": "what lifts?"},
        {"_id": "q2", "text": "nobody judged this"},
        {"_id": 3, "text": "nothing is relevant"},
        {"_id": "q4", "text": None},
    ]
    for name, rows in ("corpus", corpus), ("queries", queries):
        (tmp_path / f"{name}.jsonl").write_text("\ufeff" + "".join(json.dumps(row) + "\r\n\r\n" for row in rows))
    (tmp_path / "qrels").mkdir()
    judgements = ["q1\td1\t1", "q1\t2\t0", "q1\td1\t2", "3\t2\t-1", "q4\td1\t1", "q9\td1\t1", "q1\t03\t1", "q1\td9\t1"]
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judgements]))
    return tmp_path


def test_beir(beir):
    collection = load(beir)
    assert collection.documents == {"d1": "Wings lift more", "2": "heat", "d5": "only a title"}
    assert collection.queries == {"q1": "what lifts?", "3": "nothing is relevant"}
    assert collection.judgements == {"q1": {"d1": 2, "2": 0, "03": 1, "d9": 1}, "3": {"2": -1}}


def test_what_is_left_out_or_odd_is_counted(beir):
    assert load(beir).notes == {
        "ids of documents that come again, of which the last one counts": 1,
        "judgements that come again, of which the last one counts": 1,
        "documents without text, which are left out": 2,
        "queries without text, which are left out": 1,
        "queries without judgements, which are left out": 1,
        "queries without a relevant document, which count as 0": 1,
        "judgements of queries that are not there, which do not count": 1,
        "judgements of documents that are not there or have no text, which nothing can find": 2,
    }


JUDGEMENTS = {
    "BEIR's": "query-id\tcorpus-id\tscore\nq1\td1\t2\n3\t2\t-1\n",
    "BEIR's, in another order": "score\tQuery-ID\tcorpus-id\n2\tq1\td1\n-1\t3\t2\n",
    "BEIR's, with a column more": "query-id\tx\tcorpus-id\tscore\nq1\t9\td1\t2\n3\t9\t2\t-1\n",
    "without a header": "q1\td1\t2\n3\t2\t-1",
    "with another header": "qid pid relevance\nq1 d1 2\n3 2 -1\n",
    "TREC's": "q1 0 d1 2\n3 0 2 -1\n",
    "TREC's, with tabs": "q1\t0\td1\t2\n3\tQ0\t2\t-1\n",
    "with a BOM and CRLF": "\ufeffq1 d1 +2\r\n\r\n3   2   -1  \r\n",
}


@pytest.mark.parametrize("form", JUDGEMENTS)
def test_forms_of_judgements(beir, form):
    (beir / "qrels" / "test.tsv").write_bytes(JUDGEMENTS[form].encode())
    assert load(beir).judgements == {"q1": {"d1": 2}, "3": {"2": -1}}


@pytest.mark.parametrize("name", ["qrels/test.txt", "qrels.test.tsv", "qrels.test.txt", "qrels.txt"])
def test_places_of_judgements(beir, name):
    (beir / "qrels" / "test.tsv").rename(beir / name)
    assert "q1" in load(beir).judgements


@pytest.mark.parametrize("name", ["qrels.dev.tsv", "qrels.dev.txt", "qrels/dev.tsv", "qrels/dev.txt"])
def test_judgements_of_another_split_are_named(beir, name):
    (beir / "qrels" / "test.tsv").rename(beir / name)
    with pytest.raises(CollectionError, match=r"qrels/test.tsv is missing, but there is dev: say --split dev\.$"):
        load(beir)


def test_trec(tmp_path):
    (tmp_path / "collection.tsv").write_text("007\tbond  \n8\tmore of\tit\n9\t\n")
    (tmp_path / "queries.tsv").write_text("1\twho?\n")
    (tmp_path / "qrels.txt").write_text("1 0 007 3\n1 0 8 -2\n")
    collection = load(tmp_path)
    assert collection.documents == {"007": "bond", "8": "more of it"}
    assert collection.queries == {"1": "who?"}
    assert collection.judgements == {"1": {"007": 3, "8": -2}}


@pytest.fixture
def cranfield_folder(tmp_path):
    """Three documents, of which one is empty, and two queries with odd numbers."""
    (tmp_path / "cran.all.1400").write_text(
        ".I 1\n.T\ntitle\n.W\nfirst\ntext\n.I 2\n.T\ntitle\n.W\n.I 3\n.T\n.W\nthird\n"
    )
    (tmp_path / "cran.qry").write_text(".I 001\n.W\none\n.I 004\n.W\ntwo\n")
    (tmp_path / "cranqrel").write_text("1 1 2\n1 3 -1\n2 3 4 \n")
    return tmp_path


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_cranfield(cranfield_folder, end):
    for path in cranfield_folder.iterdir():
        path.write_text(path.read_text(), newline=end)
    collection = load(cranfield_folder)
    assert collection.documents == {"1": "first text", "3": "third"}
    assert collection.queries == {"1": "one", "2": "two"}
    assert collection.judgements == {"1": {"1": 1, "3": 0}, "2": {"3": 1}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("qrels/test.tsv", None, r"qrels/test.tsv is missing, but there is dev, train: say --split dev\.$"),
        ("corpus.jsonl", None, r"corpus.jsonl is missing: name a folder with corpus.jsonl, queries.jsonl and qrels/"),
        ("queries.jsonl", None, "queries.jsonl is missing"),
        ("corpus.jsonl", '{"_id": "a"}\n{', r"corpus.jsonl line 2 is not valid JSON .*: mend it\.$"),
        ("corpus.jsonl", '\n{"text": "secret"}', r"corpus.jsonl line 2 has no '_id' that is a string or a whole"),
        ("queries.jsonl", '{"_id": null, "text": "secret"}', "queries.jsonl line 1 has no '_id'"),
        ("queries.jsonl", '{"_id": true, "text": "secret"}', "queries.jsonl line 1 has no '_id'"),
        ("queries.jsonl", '{"_id": 1, "text": "secr\\ud83d"}', "queries.jsonl line 1 has half a character"),
        ("qrels/test.tsv", "q1\td1\t1\nq1\n", r"test.tsv line 2 has 1 field: write query, document and score, or TREC"),
        ("qrels/test.tsv", "q1 a b c d 1\n", "test.tsv line 1 has 6 fields"),
        ("qrels/test.tsv", "q1 d1 1\nq1 d1 0.5\n", "test.tsv line 2 has a score that is not a whole number"),
        ("qrels/test.tsv", "q1 d1 0.5\n", "test.tsv line 1 has a score that is not a whole number"),
        ("qrels/test.tsv", "q1\td1\t\n", "test.tsv line 1 has 2 fields"),
        ("qrels/test.tsv", "q1 d1 high\nq1 d1 ²\n", "test.tsv line 2 has a score that is not"),
        ("qrels/test.tsv", b"q1 caf\xe9 1\n", "test.tsv line 1 is not UTF-8, but looks like"),
        ("qrels/test.tsv", "q1 d1 1\n".encode("utf-16"), "test.tsv is text in UTF-16"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n", "has no judgements: name another folder, or mend the file"),
        (
            "qrels/test.tsv",
            "q9 d1 1\n",
            "they name the query 'q9' and the document 'd1', while there are 'q1' and 'd1'",
        ),
        ("qrels/test.tsv", "q1 1 1\n", "they name the query 'q1' and the document '1', while there are 'q1' and 'd1'"),
        (
            "qrels/test.tsv",
            "d1 q1 1\n",
            "they name the query 'd1' and the document 'q1', while there are 'q1' and 'd1'",
        ),
        ("corpus.jsonl", '{"_id": "a"}', "has no documents with a text"),
        (
            "corpus.jsonl",
            '{"_id": "d1"}\n{"_id": "d", "text": "b"}',
            "the document 'd1', while there are 'q1' and 'd', w",
        ),
        ("queries.jsonl", '{"_id": "q1", "query": "a"}', "has no queries with a text"),
    ],
)
def test_a_folder_that_is_no_collection_is_told_with_file_and_line(beir, name, content, message):
    for split in ("train", "dev"):
        (beir / "qrels" / f"{split}.tsv").touch()
    path = beir / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CollectionError, match=message) as error:
        load(beir)
    assert "secret" not in str(error.value)
    assert str(error.value).startswith(str(beir))


def test_no_judgements_at_all_are_told(beir):
    (beir / "qrels" / "test.tsv").unlink()
    with pytest.raises(CollectionError, match=r"qrels/dev.tsv is missing: put the judgements there"):
        load(beir, "dev")


def test_a_broken_line_of_cranfields_judgements_is_told(cranfield_folder):
    (cranfield_folder / "cranqrel").write_text("1 1 2\n1 x\n")
    with pytest.raises(CollectionError, match="cranqrel line 2 is not a query, a document and a grade: write three"):
        load(cranfield_folder)
