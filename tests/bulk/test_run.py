import json
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from embedding_api.bulk import BulkError, inputs, outputs, pool, run
from embedding_api.bulk.checkpoint import parts_folder
from embedding_api.bulk.inputs import Inputs
from tests.support.tiny import TinyEngine, tiny_encoder

OPTIONS = {"is_query": False, "normalize": True}


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(inputs, "WINDOW_ROWS", 4)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    rows = [{"id": row, "text": f"text {row}" if row % 5 else None} for row in range(1, 31)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def embed(corpus, tmp_path):
    """A function that embeds the corpus with the small encoder; returns the lines that it has printed."""

    def embed(output="out.parquet", encoder=None, strict=False, dtype="float32", **options):
        said = []
        encoder = encoder or tiny_encoder()
        options = OPTIONS | options
        description = run.description(encoder, Path("none"), column="text", dtype=dtype, **options)
        encode = partial(pool.encode, encoder=encoder, workers=1, **options)
        run.embed(Inputs([str(corpus)]), tmp_path / output, description, encode, strict=strict, echo=said.append)
        return said

    return embed


class StoppingEngine(TinyEngine):
    """Fails at the text "text 22"."""

    def forward(self, batch):
        if any(np.array_equal(ids, tiny_encoder().tokenize(["text 22"]).ids[0]) for ids in batch):
            raise InterruptedError
        return super().forward(batch)


def test_every_row_is_in_the_output(embed, tmp_path):
    said = embed()
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert table.column("id").to_pylist() == list(range(1, 31))
    encoder = tiny_encoder()
    for row in table.to_pylist():
        if row["text"] is None:
            assert row["embedding"] is None
        else:
            [expected] = encoder.encode(encoder.tokenize([row["text"]]).ids)
            assert row["embedding"] == pytest.approx(expected)
    assert said[0].startswith(f"{tmp_path}/out.parquet: 30 rows, ")
    assert said[1].startswith("Rows without text (null, blank, or not text), whose embedding is null: 6 (")
    assert "corpus.jsonl row 5, " in said[1]
    assert not parts_folder(tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("ending", ["parquet", "npy", "jsonl"])
def test_a_stopped_run_resumes_and_writes_the_same_output(embed, tmp_path, ending):
    with pytest.raises(InterruptedError):
        embed(f"two.{ending}", tiny_encoder(StoppingEngine()))
    assert not (tmp_path / f"two.{ending}").exists()
    assert len(list(parts_folder(tmp_path / f"two.{ending}").glob("*.arrow"))) == 5
    said = embed(f"two.{ending}")
    assert "8 texts embedded" in said[0]
    assert said[1:] == embed(f"one.{ending}")[1:]
    assert (tmp_path / f"two.{ending}").read_bytes() == (tmp_path / f"one.{ending}").read_bytes()


def test_the_output_says_what_its_vectors_are(embed, tmp_path):
    embed(dtype="float16", is_query=True)
    metadata = pyarrow.parquet.read_schema(tmp_path / "out.parquet").metadata
    assert metadata[b"embedding_api.model"] == b"tiny"
    assert metadata[b"embedding_api.prompt"] == b"q: "
    assert metadata[b"embedding_api.dtype"] == b"float16"


@pytest.mark.parametrize("change", [{"normalize": False}, {"is_query": True}, {"dtype": "float16"}])
def test_a_run_does_not_resume_with_other_options(embed, change):
    with pytest.raises(InterruptedError):
        embed(encoder=tiny_encoder(StoppingEngine()))
    with pytest.raises(BulkError, match=r"out\.parquet\.parts was begun with"):
        embed(**change)


def test_a_run_does_not_resume_with_another_input(embed, corpus):
    with pytest.raises(InterruptedError):
        embed(encoder=tiny_encoder(StoppingEngine()))
    whole = corpus.read_text()
    corpus.write_text(whole.replace("text 7", "text x"))
    with pytest.raises(BulkError, match="from 5 on are not those"):
        embed()
    corpus.write_text("".join(whole.splitlines(keepends=True)[:8]))
    with pytest.raises(BulkError, match="fewer rows"):
        embed()
    corpus.write_text(whole)
    embed()


def test_a_strict_run_ends_at_the_first_row_without_text(embed, corpus):
    with pytest.raises(BulkError, match=r"corpus\.jsonl row 5 has no text \(it is null, blank, or not text\)"):
        embed(strict=True)
    corpus.write_text(corpus.read_text().replace("null", '"mended"'))
    assert len(embed(strict=True)) == 1


def test_a_damaged_input_leaves_the_finished_windows(embed, corpus, tmp_path):
    whole = corpus.read_text()
    corpus.write_text(whole.replace('{"id": 22,', '{"id": 22'))
    with pytest.raises(BulkError, match="line 22"):
        embed()
    assert len(list(parts_folder(tmp_path / "out.parquet").glob("*.arrow"))) == 5
    corpus.write_text(whole)
    assert "8 texts embedded" in embed()[0]


def test_an_input_without_rows_is_reported(embed, corpus, tmp_path):
    corpus.write_text("\n")
    with pytest.raises(BulkError, match="no rows"):
        embed()
    assert not parts_folder(tmp_path / "out.parquet").exists()


def test_an_input_that_is_empty_once_leaves_the_finished_windows(embed, corpus):
    with pytest.raises(InterruptedError):
        embed(encoder=tiny_encoder(StoppingEngine()))
    whole = corpus.read_text()
    corpus.write_text("")
    with pytest.raises(BulkError, match="fewer rows"):
        embed()
    corpus.write_text(whole)
    assert "8 texts embedded" in embed()[0]


def test_a_column_of_the_outputs_name_is_refused(embed, corpus):
    corpus.write_text('{"text": "a", "embedding": [1, 2]}')
    with pytest.raises(BulkError, match="has a column 'embedding' already"):
        embed()


def test_a_column_that_the_output_cannot_hold_is_reported_and_npy_can_be_made_instead(embed, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "to_json", lambda *_: int("no JSON"))
        with pytest.raises(BulkError, match=r"out\.jsonl cannot hold a column of the input") as error:
            embed("out.jsonl")
    assert f"rename {tmp_path}/out.jsonl.parts to {tmp_path}/out.npy.parts" in str(error.value)
    parts_folder(tmp_path / "out.jsonl").rename(parts_folder(tmp_path / "out.npy"))
    assert "0 texts embedded" in embed("out.npy")[0]


def test_truncated_texts_are_reported(embed, corpus):
    corpus.write_text('{"text": "a text of more than sixteen letters"}')
    assert embed()[1] == "Texts longer than the model reads, embedded without their end: 1."


def test_npy_is_nan_where_there_is_no_text(embed, tmp_path):
    embed("out.npy")
    vectors = np.load(tmp_path / "out.npy")
    assert vectors.shape == (30, 8)
    assert np.flatnonzero(np.isnan(vectors).any(axis=1)).tolist() == [4, 9, 14, 19, 24, 29]


def test_vectors_depend_on_the_weights(tmp_path):
    encoder = tiny_encoder()
    (tmp_path / "model.safetensors").write_bytes(b"one")
    options = {"column": "text", "dtype": "float32"} | OPTIONS
    first = run.description(encoder, tmp_path, **options)
    (tmp_path / "model.safetensors").write_bytes(b"other")
    second = run.description(encoder, tmp_path, **options)
    assert {name for name in first if first[name] != second[name]} == {"weights"}
