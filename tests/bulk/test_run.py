import io
import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from embedding_api.bulk import BulkError, outputs, pool, run, window
from embedding_api.bulk.checkpoint import Checkpoint, parts_folder
from embedding_api.bulk.inputs import Inputs
from tests.support.tiny import TinyEngine, tiny_encoder

OPTIONS = {"is_query": False, "normalize": True}


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(window, "WINDOW_ROWS", 4)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    rows = [{"id": row, "text": f"text {row}" if row % 5 else None} for row in range(1, 31)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def embed(corpus, tmp_path):
    """A function that runs it with the small encoder; returns what it has said. Its `complete` is what it returns."""

    def embed(output="out.parquet", encoder=None, strict=False, dtype="float32", bad_rows="fail", more=(), **options):
        said = []
        encoder = encoder or tiny_encoder()
        options = OPTIONS | options
        description = run.description(encoder, Path("none"), column="text", dtype=dtype, **options)
        encode = partial(pool.encode, encoder=encoder, workers=1, **options)
        inputs = Inputs([str(corpus), *map(str, more)], bad_rows=bad_rows)
        embed.complete = run.embed(inputs, tmp_path / output, description, encode, strict=strict, echo=said.append)
        return said

    return embed


class StoppingEngine(TinyEngine):
    """Fails at the text "text 22"."""

    def forward(self, batch, with_helper=False):
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
    size = f"{(tmp_path / 'out.parquet').stat().st_size / 1000:.1f} kB"
    counts = "30 rows in, 30 rows out, 6 without text, 0 cut, 0 unreadable"
    assert said[0].startswith(f"{tmp_path}/out.parquet ({size}): {counts}, ")
    assert embed.complete
    assert said[1].startswith("Rows without text (null, blank, or not text), whose embedding is null: 6 (")
    assert "corpus.jsonl line 5, " in said[1]
    assert not parts_folder(tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("ending", ["parquet", "npy", "jsonl"])
def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same(embed, tmp_path, ending):
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
def test_a_run_does_not_go_on_with_other_options(embed, change):
    with pytest.raises(InterruptedError):
        embed(encoder=tiny_encoder(StoppingEngine()))
    with pytest.raises(BulkError, match=r"out\.parquet\.parts was begun with"):
        embed(**change)


def test_a_run_does_not_go_on_with_another_input(embed, corpus):
    with pytest.raises(InterruptedError):
        embed(encoder=tiny_encoder(StoppingEngine()))
    whole = corpus.read_text()
    corpus.write_text(whole.replace("text 7", "text x"))
    with pytest.raises(BulkError, match=r"from .*corpus.jsonl line 5 on are not those"):
        embed()
    corpus.write_text("".join(whole.splitlines(keepends=True)[:8]))
    with pytest.raises(BulkError, match="fewer rows"):
        embed()
    corpus.write_text(whole)
    embed()


def test_a_strict_run_ends_at_the_first_row_without_text(embed, corpus):
    with pytest.raises(BulkError, match=r"corpus\.jsonl line 5 has no text \(it is null, blank, or not text\)"):
        embed(strict=True)
    corpus.write_text(corpus.read_text().replace("null", '"mended"'))
    assert len(embed(strict=True)) == 1


def test_damage_leaves_what_was_done_before(embed, corpus, tmp_path):
    whole = corpus.read_text()
    corpus.write_text(whole.replace('{"id": 22,', '{"id": 22'))
    with pytest.raises(BulkError, match="line 22"):
        embed()
    assert len(list(parts_folder(tmp_path / "out.parquet").glob("*.arrow"))) == 5
    corpus.write_text(whole)
    assert "8 texts embedded" in embed()[0]


def test_an_input_without_rows_is_told(embed, corpus, tmp_path):
    corpus.write_text("\n")
    with pytest.raises(BulkError, match="no rows"):
        embed()
    assert not parts_folder(tmp_path / "out.parquet").exists()


def test_an_input_that_is_empty_for_once_does_not_cost_what_was_done(embed, corpus):
    with pytest.raises(InterruptedError):
        embed(encoder=tiny_encoder(StoppingEngine()))
    whole = corpus.read_text()
    corpus.write_text("")
    with pytest.raises(BulkError, match="fewer rows"):
        embed()
    corpus.write_text(whole)
    assert "8 texts embedded" in embed()[0]


def test_a_column_of_the_outputs_name_is_refused(embed, corpus):
    more = corpus.with_name("more.csv")
    more.write_text("text,embedding\na,1\n")
    with pytest.raises(BulkError, match="has a column 'embedding' already"):
        embed(more=[more])


@pytest.mark.parametrize(("ending", "other"), [("jsonl", "parquet"), ("parquet", "npy")])
def test_what_the_output_cannot_hold_is_told_and_can_be_had_otherwise(
    embed, corpus, tmp_path, monkeypatch, ending, other
):
    late = pa.array([2**31 - 1], pa.date32())
    pa.parquet.write_table(pa.table({"text": ["a"], "day": late}), tmp_path / "more.parquet")
    out, instead = tmp_path / f"out.{ending}", tmp_path / f"out.{other}"
    with monkeypatch.context() as patch:
        if ending == "parquet":
            patch.setattr(outputs, "_as", lambda *_: int("no number"))
        with pytest.raises(BulkError, match=f"out.{ending} cannot hold a column of the input") as error:
            embed(out.name, more=[tmp_path / "more.parquet"])
    assert f"rename {out}.parts to {instead}.parts, and start again with the output {instead}." in str(error.value)
    parts_folder(out).rename(parts_folder(instead))
    assert "0 texts embedded" in embed(instead.name, more=[tmp_path / "more.parquet"])[0]


def test_texts_without_their_end_are_told(embed, corpus):
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


@pytest.mark.parametrize("cells", [["", " "], ["null"], ["5", "[]"]])
def test_a_file_without_a_single_text_is_no_success(embed, corpus, tmp_path, cells):
    corpus.write_text("".join('{"text": %s}\n' % (cell if cell.strip() else f'"{cell}"') for cell in cells))
    with pytest.raises(BulkError, match=f"None of the {len(cells)} rows has a text .*: name another column with --col"):
        embed()
    assert os.listdir(tmp_path) == ["corpus.jsonl"]


def test_one_file_of_several_without_a_text_is_told(embed, corpus, tmp_path):
    more = tmp_path / "more.csv"
    more.write_text("text,n\n,1\n")
    said = embed(more=[more])
    assert said[-1] == f"Files without a single text: 1 ({more})."
    assert not embed.complete


@pytest.fixture
def damaged(corpus):
    """The corpus with bad rows: line 6, and all from line 13 to 22."""
    lines = corpus.read_text().splitlines()
    for number in (6, *range(13, 23)):
        lines[number - 1] = '{"id": secret}'
    corpus.write_text("\n".join(lines))
    return corpus


@pytest.mark.parametrize("ending", ["parquet", "npy", "jsonl"])
def test_bad_rows_are_left_out_counted_and_listed(embed, damaged, tmp_path, ending):
    said = embed(f"out.{ending}", bad_rows="skip")
    assert not embed.complete
    assert "): 30 rows in, 19 rows out, 4 without text, 0 cut, 11 unreadable, " in said[0]
    path = tmp_path / f"out.{ending}.bad-rows.jsonl"
    first, *listed = said[-1].splitlines()
    assert first == f"Rows that could not be read and were left out: 11, listed in {path}."
    assert listed[0].startswith(f"  {damaged} line 6 is not valid JSON (")
    assert len(listed) == 11
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["place"] for row in rows] == [f"line {number}" for number in (6, *range(13, 23))]
    assert {row["file"] for row in rows} == {str(damaged)}
    assert "secret" not in said[-1] + path.read_text()


def test_bad_rows_keep_their_place(embed, damaged, tmp_path):
    said = embed("out.npy", bad_rows="null")
    assert "): 30 rows in, 30 rows out, 4 without text, 0 cut, 11 unreadable, " in said[0]
    assert "line 5, " in said[1]
    assert "line 6" not in said[1]
    assert said[-1].startswith("Rows that could not be read and are null in the output: 11, listed in ")
    missing = np.flatnonzero(np.isnan(np.load(tmp_path / "out.npy")).any(axis=1)) + 1
    assert missing.tolist() == [5, 6, 10, *range(13, 23), 25, 30]


def test_of_many_bad_rows_the_first_20_are_named(embed, damaged, tmp_path):
    damaged.write_text(damaged.read_text() + "\nsecret" * 40)
    said = embed(bad_rows="skip")
    assert len(said[-1].splitlines()) == 22
    assert said[-1].endswith("\n  and 31 more")
    assert len((tmp_path / "out.parquet.bad-rows.jsonl").read_text().splitlines()) == 51


def test_a_run_that_a_bad_row_has_ended_goes_on_when_it_is_to_be_skipped(embed, damaged, tmp_path):
    with pytest.raises(BulkError, match=r"line 6 is not valid JSON .* or start again with --bad-rows skip"):
        embed()
    assert len(list(parts_folder(tmp_path / "out.parquet").glob("*.arrow"))) == 1
    assert "11 texts embedded" in embed(bad_rows="skip")[0]


def test_the_list_of_an_earlier_run_goes(embed, damaged, tmp_path):
    embed(bad_rows="skip")
    (tmp_path / "out.parquet").unlink()
    damaged.write_text('{"text": "a"}')
    embed()
    assert sorted(os.listdir(tmp_path)) == ["corpus.jsonl", "out.parquet"]


@pytest.mark.parametrize("bad_rows", ["fail", "skip"])
def test_a_list_that_cannot_be_written_is_told(embed, damaged, bad_rows, tmp_path):
    (tmp_path / "out.npy.bad-rows.jsonl").mkdir()
    if bad_rows == "fail":
        damaged.write_text('{"text": "a"}')
    with pytest.raises(BulkError, match=r"out.npy.bad-rows.jsonl cannot be written \(Is a directory\): mend that, and"):
        embed("out.npy", bad_rows=bad_rows)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="There is no /dev/full.")
def test_a_disk_that_is_full_when_a_bad_row_is_noted_is_told(embed, damaged, monkeypatch):
    monkeypatch.setattr(Checkpoint, "open_list", lambda _: io.FileIO("/dev/full", "w"))
    with pytest.raises(BulkError, match=r"^/dev/full cannot be written \(No space left on device\): mend that"):
        embed(bad_rows="skip")


def test_the_list_is_beside_the_output_that_a_link_leads_to(embed, damaged, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "out.npy").symlink_to("there/vectors.npy")
    assert "listed in" in embed("out.npy", bad_rows="skip")[-1]
    assert sorted(os.listdir(tmp_path / "there")) == ["vectors.npy", "vectors.npy.bad-rows.jsonl"]


def test_an_input_of_which_no_row_can_be_read_is_told(embed, corpus, tmp_path):
    corpus.write_text("secret\n")
    with pytest.raises(BulkError, match="The input has no rows that could be read; 1 could not"):
        embed(bad_rows="skip")
    with pytest.raises(BulkError, match="None of the 1 rows has a text"):
        embed(bad_rows="null")
    assert os.listdir(tmp_path) == ["corpus.jsonl"]


def test_columns_that_were_turned_are_told(embed, corpus):
    corpus.write_text('{"text": "a", "id": 1}\n' * 5 + '{"text": "a", "id": "x"}')
    assert embed()[-1] == (
        "Columns whose values had to be turned into something else: id into text (strings as they are, other values as"
        " JSON)."
    )
    assert len(embed("out.jsonl")) == 1
