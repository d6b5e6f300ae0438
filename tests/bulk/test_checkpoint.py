import os

import numpy as np
import pyarrow as pa
import pytest

from embedding_api.bulk import BulkError
from embedding_api.bulk.checkpoint import EMBEDDING, Checkpoint, WindowStats, check_output, finished, parts_folder

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
    assert checkpoint.schemas()[0].field(EMBEDDING).type == pa.list_(pa.from_numpy_dtype(dtype), 2)


def test_a_run_resumes_with_the_finished_windows(output, result):
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
    with pytest.raises(BulkError, match=r"The rows of a.jsonl from 1 on are not those that .*out.parquet.parts was"):
        checkpoint.done(other(window))


def test_parts_of_more_rows_than_the_input_has_are_refused(checkpoint, result):
    checkpoint.write(*result(["a"]))
    checkpoint.write(*result(["b"], index=1))
    checkpoint.check(2)
    with pytest.raises(BulkError, match="fewer rows"):
        checkpoint.check(1)


def test_parts_of_another_run_are_refused(output):
    with Checkpoint(output, RUN):
        pass
    with (
        pytest.raises(BulkError, match=r"was begun with dtype 'float32' instead of 'float16'"),
        Checkpoint(output, RUN | {"dtype": "float16"}),
    ):
        pass


def test_two_processes_cannot_work_on_one_output(output, checkpoint):
    with pytest.raises(BulkError, match="Another process works on"), Checkpoint(output, RUN):
        pass


def test_a_damaged_part_is_made_again(output, checkpoint, result):
    window, vectors, totals = result(["a"])
    checkpoint.write(window, vectors, totals)
    (parts_folder(output) / "00000000.arrow").write_bytes(b"half")
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
    ("name", "message"), [("there.npy", "is there already"), ("missing/out.npy", "in a directory that exists")]
)
def test_an_output_that_cannot_be_written_is_refused_at_once(tmp_path, name, message):
    (tmp_path / "there.npy").touch()
    with pytest.raises(BulkError, match=message):
        check_output(tmp_path / name)


def test_an_output_whose_parts_are_left_is_made_again(output):
    with Checkpoint(output, RUN):
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


def test_a_folder_that_is_not_of_a_run_is_left_alone(output):
    parts_folder(output).mkdir()
    thesis = parts_folder(output) / "thesis"
    thesis.touch()
    with pytest.raises(BulkError, match=r"holds thesis, but no run\.json"), Checkpoint(output, RUN):
        pass
    assert thesis.exists()


def test_files_of_others_in_the_folder_stay(output, checkpoint):
    (parts_folder(output) / "thesis").touch()
    checkpoint.remove()
    assert os.listdir(parts_folder(output)) == ["thesis"]


def test_a_damaged_run_file_is_reported(output):
    parts_folder(output).mkdir()
    (parts_folder(output) / "run.json").touch()
    with pytest.raises(BulkError, match=r"run\.json is damaged"), Checkpoint(output, RUN):
        pass


def test_a_folder_that_cannot_be_made_is_reported(output):
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
