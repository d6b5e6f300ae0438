import os

import numpy as np
import pyarrow as pa
import pytest

from embedding_api.bulk import BulkError
from embedding_api.bulk.parts import EMBEDDING, Parts, Totals, finished, parts_folder

RUN = {"model": "m", "dtype": "float32"}


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.parquet"


@pytest.fixture
def parts(output):
    with Parts(output, RUN) as parts:
        yield parts


def test_a_part_holds_the_rows_and_their_vectors(parts, result):
    window, vectors, totals = result(["a", None, "ccc"], id=[1, 2, 3])
    assert parts.done(window) is None
    parts.write(window, vectors, totals)
    assert parts.done(window) == totals
    [table] = parts.tables()
    assert table.column_names == ["text", "id", EMBEDDING]
    assert table.column("id").to_pylist() == [1, 2, 3]
    assert table.column(EMBEDDING).type == pa.list_(pa.float32(), 2)
    assert table.column(EMBEDDING).to_pylist() == [[1, 0], None, [3, 0]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_vectors_keep_their_dtype(parts, result, dtype):
    window, vectors, totals = result(["a"])
    parts.write(window, vectors.astype(dtype), totals)
    assert parts.schemas()[0].field(EMBEDDING).type == pa.list_(pa.from_numpy_dtype(dtype), 2)


def test_a_run_goes_on_with_what_is_done(output, result):
    first, second = result(["a"]), result(["b"], index=1)
    with Parts(output, RUN) as parts:
        parts.write(*first)
    with Parts(output, RUN) as parts:
        assert parts.done(first[0]) == first[2]
        assert parts.done(second[0]) is None
    assert finished(output) == {0}


@pytest.mark.parametrize(
    "other", [lambda window: window(["b"]), lambda window: window(["a"], id=[1]), lambda window: window([None])]
)
def test_a_part_of_other_rows_is_refused(parts, result, window, other):
    parts.write(*result(["a"]))
    with pytest.raises(BulkError, match=r"The rows of a.jsonl from 1 on are not those that .*out.parquet.parts was"):
        parts.done(other(window))


def test_parts_of_more_rows_than_the_input_has_are_refused(parts, result):
    parts.write(*result(["a"]))
    parts.write(*result(["b"], index=1))
    parts.check(2)
    with pytest.raises(BulkError, match="fewer rows"):
        parts.check(1)


def test_parts_of_another_run_are_refused(output):
    with Parts(output, RUN):
        pass
    with (
        pytest.raises(BulkError, match=r"a run with dtype 'float32' instead of 'float16'"),
        Parts(output, RUN | {"dtype": "float16"}),
    ):
        pass


def test_two_processes_cannot_work_on_one_output(output, parts):
    with pytest.raises(BulkError, match="Another process works on"), Parts(output, RUN):
        pass


def test_a_damaged_part_is_made_again(output, parts, result):
    window, vectors, totals = result(["a"])
    parts.write(window, vectors, totals)
    (parts_folder(output) / "00000000.arrow").write_bytes(b"half")
    assert parts.done(window) is None


def test_a_file_that_could_not_be_written_leaves_the_old_one(output, parts):
    target = output.parent / "target"
    target.write_bytes(b"old")

    def fail(file):
        file.write(b"new")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        parts.replace("output", fail, target)
    assert target.read_bytes() == b"old"
    assert not list(parts_folder(output).glob("*.tmp"))


def test_nothing_is_left_behind(output, parts, result):
    parts.write(*result(["a"]))
    parts.replace("output", lambda file: file.write(b"done"), output)
    parts.remove()
    assert os.listdir(output.parent) == [output.name]


def test_totals_add_up():
    assert Totals(1, 2, 3, 4) + Totals(10, 20, 30, 40) == Totals(11, 22, 33, 44)
