import os
import re
import shutil
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest

from embedding_api.bulk import BulkError
from embedding_api.bulk.checkpoint import (
    EMBEDDING,
    Checkpoint,
    WindowStats,
    check_output,
    finished,
    format_age,
    format_size,
    parts_folder,
)

RUN = {"model": "m", "dtype": "float32"}


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.parquet"


@pytest.fixture
def checkpoint(output):
    with Checkpoint(output, RUN) as checkpoint:
        yield checkpoint


def test_a_part_holds_the_rows_and_their_vectors(checkpoint, result):
    window, vectors, totals = result(["a", None, "ccc"], id=[1, 2, 3])
    assert checkpoint.done(window) is None
    checkpoint.write(window, vectors, totals)
    assert checkpoint.done(window) == totals
    [table] = checkpoint.tables()
    assert table.column_names == ["text", "id", EMBEDDING]
    assert table.column("id").to_pylist() == [1, 2, 3]
    assert table.column(EMBEDDING).type == pa.list_(pa.float32(), 2)
    assert table.column(EMBEDDING).to_pylist() == [[1, 0], None, [3, 0]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_vectors_keep_their_dtype(checkpoint, result, dtype):
    window, vectors, totals = result(["a"])
    checkpoint.write(window, vectors.astype(dtype), totals)
    assert next(checkpoint.tables()).schema.field(EMBEDDING).type == pa.list_(pa.from_numpy_dtype(dtype), 2)


def test_a_run_goes_on_with_what_is_done(output, result):
    first, second = result(["a"]), result(["b"], index=1)
    with Checkpoint(output, RUN) as checkpoint:
        checkpoint.write(*first)
    with Checkpoint(output, RUN) as checkpoint:
        assert checkpoint.done(first[0]) == first[2]
        assert checkpoint.done(second[0]) is None
    assert finished(output) == {0}


@pytest.mark.parametrize(
    "other", [lambda window: window(["b"]), lambda window: window(["a"], id=[1]), lambda window: window([None])]
)
def test_a_part_of_other_rows_is_refused(checkpoint, result, window, other):
    checkpoint.write(*result(["a"]))
    with pytest.raises(BulkError, match=r"The rows from a.jsonl line 1 on are not those that .*parts was begun"):
        checkpoint.done(other(window))


def test_parts_of_more_rows_than_the_input_has_are_refused(checkpoint, result):
    checkpoint.write(*result(["a"]))
    checkpoint.write(*result(["b"], index=1))
    checkpoint.check(2)
    with pytest.raises(BulkError, match="fewer rows"):
        checkpoint.check(1)


def test_parts_of_another_run_are_refused_with_their_age_and_size(output, result):
    with Checkpoint(output, RUN) as checkpoint:
        checkpoint.write(*result(["a"]))
    for path in parts_folder(output).iterdir():
        os.utime(path, (0, 0))
    with (
        pytest.raises(BulkError, match=r"was begun with dtype 'float32' instead of 'float16': go on with") as error,
        Checkpoint(output, RUN | {"dtype": "float16"}),
    ):
        pass
    assert re.search(
        r"delete the folder, which has 1 part \(\d\.\d kB\), last written [\d,]+ days ago\.$", str(error.value)
    )


def test_a_start_that_makes_nothing_leaves_nothing(output, result):
    with Checkpoint(output, RUN):
        pass
    assert not os.listdir(output.parent)
    with pytest.raises(InterruptedError), Checkpoint(output, RUN):
        raise InterruptedError
    assert not os.listdir(output.parent)


def test_what_a_killed_run_without_a_part_has_left_does_not_matter(output):
    parts_folder(output).mkdir()
    for content in ("", '{"model": "other"}'):
        (parts_folder(output) / "run.json").write_text(content)
        (parts_folder(output) / "00000000.arrow.tmp").touch()
        with Checkpoint(output, RUN):
            assert '"m"' in (parts_folder(output) / "run.json").read_text()
        parts_folder(output).mkdir()


def test_two_processes_cannot_work_on_one_output(output, checkpoint):
    with pytest.raises(BulkError, match="Another process works on"), Checkpoint(output, RUN):
        pass


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"half",
        lambda part: part.replace(b'"rows": 1', b'"rows": x'),
        lambda part: part.replace(b'"rows": 1', b'"rowz": 1'),
        lambda part: part.replace(b'"rows": 1', b'"rows\xff: 1'),
        lambda part: part.replace(b'"digest"', b'"digesz"'),
    ],
    ids=["cut", "number", "name", "character", "digest"],
)
def test_a_damaged_part_is_made_again(output, checkpoint, result, damage):
    window, vectors, totals = result(["a"])
    checkpoint.write(window, vectors, totals)
    part = parts_folder(output) / "00000000.arrow"
    whole = part.read_bytes()
    part.write_bytes(damage(whole))
    assert part.read_bytes() != whole
    assert checkpoint.done(window) is None


def test_a_file_that_could_not_be_written_leaves_the_old_one(output, checkpoint):
    target = output.parent / "target"
    target.write_bytes(b"old")

    def fail(file):
        file.write(b"new")
        raise OSError(28, "No space left on device")

    with pytest.raises(BulkError, match=r"target cannot be written \(No space left on device\)"):
        checkpoint.replace("output", fail, target)
    assert target.read_bytes() == b"old"
    assert not list(parts_folder(output).glob("*.tmp"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("there.npy", "there.npy is there already: delete it, or name another output"),
        ("missing/out.npy", "There is no directory .*/missing for the output out.npy: make it"),
        ("folder", "folder is a directory: name a file in it, for example .*/folder/vectors.parquet"),
        ("in.npy", "in.npy is both input and output"),
        ("link.npy", "link.npy is both input and output"),
        ("hard.npy", "hard.npy is both input and output"),
        ("folder/../in.npy", "is both input and output"),
        (
            "listed.npy",
            "listed.npy.bad-rows.jsonl is an input, and where the rows that cannot be read are to be listed",
        ),
        ("to_missing.npy", "There is no directory .*/missing for the output"),
    ],
)
def test_an_output_that_cannot_be_is_refused_at_once(tmp_path, name, message):
    for there in ("there.npy", "in.npy", "listed.npy.bad-rows.jsonl"):
        (tmp_path / there).touch()
    (tmp_path / "folder").mkdir()
    os.symlink("in.npy", tmp_path / "link.npy")
    os.symlink("missing/out.npy", tmp_path / "to_missing.npy")
    os.link(tmp_path / "in.npy", tmp_path / "hard.npy")
    with pytest.raises(BulkError, match=message):
        check_output(tmp_path / name, ["-", f"{tmp_path}/in.npy", f"{tmp_path}/listed.npy.bad-rows.jsonl"])


def test_an_output_that_is_a_link_is_written_where_it_leads(tmp_path, result):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.npy"
    link.symlink_to("there/out.npy")
    check_output(link)
    with Checkpoint(link, RUN) as checkpoint:
        checkpoint.write(*result(["a"]))
        assert os.listdir(tmp_path / "there") == ["out.npy.parts"]
        checkpoint.replace("output", lambda file: file.write(b"done"), link)
        checkpoint.remove()
    assert link.is_symlink()
    assert (tmp_path / "there" / "out.npy").read_bytes() == b"done"
    assert os.listdir(tmp_path / "there") == ["out.npy"]


def test_an_output_whose_parts_are_left_is_made_again(output, result):
    with Checkpoint(output, RUN) as checkpoint:
        checkpoint.write(*result(["a"]))
        output.touch()
    check_output(output)
    with Checkpoint(output, RUN):
        pass


def test_an_output_that_another_process_has_made_meanwhile_is_refused(output):
    check_output(output)
    output.touch()
    with pytest.raises(BulkError, match="is there already"), Checkpoint(output, RUN):
        pass
    assert not parts_folder(output).exists()


def test_a_folder_that_goes_while_it_is_opened_is_told(output, monkeypatch):
    # The process that had the lock has ended, and has deleted the folder with it.
    monkeypatch.setattr("fcntl.flock", lambda *_: shutil.rmtree(parts_folder(output)))
    with pytest.raises(BulkError, match="cannot be written"), Checkpoint(output, RUN):
        pass
    output.touch()
    with pytest.raises(BulkError, match="is there already"), Checkpoint(output, RUN):
        pass


def test_a_full_disk_leaves_nothing(output, monkeypatch):
    monkeypatch.setattr("os.fsync", mock.Mock(side_effect=OSError(28, "No space left on device")))
    with (
        pytest.raises(BulkError, match=r"run.json cannot be written \(No space left on device\)"),
        Checkpoint(output, RUN),
    ):
        pass
    assert not os.listdir(output.parent)


def test_a_folder_that_is_not_of_a_run_is_left_alone(output):
    parts_folder(output).mkdir()
    thesis = parts_folder(output) / "thesis"
    thesis.touch()
    with (
        pytest.raises(BulkError, match=r"holds thesis, but no run\.json: delete the folder, which has 0 p"),
        Checkpoint(output, RUN),
    ):
        pass
    assert thesis.exists()


def test_what_others_have_put_into_the_folder_stays(output, checkpoint):
    (parts_folder(output) / "thesis").touch()
    checkpoint.remove()
    assert os.listdir(parts_folder(output)) == ["thesis"]


def test_a_damaged_note_is_told(output):
    parts_folder(output).mkdir()
    (parts_folder(output) / "run.json").touch()
    (parts_folder(output) / "00000000.arrow").touch()
    with pytest.raises(BulkError, match=r"run\.json is damaged"), Checkpoint(output, RUN):
        pass


def test_a_folder_that_cannot_be_made_is_told(output):
    parts_folder(output).touch()
    with pytest.raises(BulkError, match="cannot be written"), Checkpoint(output, RUN):
        pass


def test_nothing_is_left_behind(output, checkpoint, result):
    checkpoint.write(*result(["a"]))
    checkpoint.replace("output", lambda file: file.write(b"done"), output)
    checkpoint.remove()
    assert os.listdir(output.parent) == [output.name]


def test_totals_add_up():
    assert WindowStats(1, 2, 3, 4) + WindowStats(10, 20, 30, 40) == WindowStats(11, 22, 33, 44)


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (1_540_000, "1.5 MB"), (2e9, "2.0 GB"), (3e12, "3.0 TB")],
)
def test_sizes(size, said):
    assert format_size(size) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(5, "less than a minute"), (60, "1 minute"), (7300, "2 hours"), (86400 * 1500, "1,500 days")],
)
def test_ages(seconds, said):
    assert format_age(seconds) == said
