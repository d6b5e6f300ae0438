import numpy as np
import pyarrow as pa
import pytest

from embedding_api.bulk.checkpoint import WindowStats
from embedding_api.bulk.inputs import Inputs
from embedding_api.bulk.progress import Progress
from embedding_api.bulk.window import Window


@pytest.fixture
def progress():
    progress = Progress()
    yield progress
    progress.close()


@pytest.fixture
def window():
    """A function that makes a window of texts, or of rows with more columns than that."""

    def window(texts, index=0, fraction=1, **columns):
        table = pa.table({"text": pa.array(texts, pa.string())} | columns)
        numbers = list(range(1 + index * len(texts), 1 + (index + 1) * len(texts)))
        return Window(index, table, texts, numbers, "a.jsonl", "line", fraction)

    return window


@pytest.fixture
def result(window):
    """A function that makes a window, its vectors and its `WindowStats`, as `pool.encode` yields them."""

    def result(texts, index=0, **columns):
        vectors = np.array([[np.nan] * 2 if text is None else [len(text), index] for text in texts], dtype=np.float32)
        return window(texts, index, **columns), vectors, WindowStats(len(texts), 10, 0, texts.count(None))

    return result


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes a file into the working directory, which is an empty one; returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(name, content):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return write


@pytest.fixture
def read():
    """A function that reads inputs to windows. Its attribute `bad` is what was noted of bad rows."""

    def read(*patterns, **options):
        return list(Inputs(patterns, **options).windows(lambda *bad: read.bad.append(bad)))

    read.bad = []
    return read
