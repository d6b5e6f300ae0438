import numpy as np
import pyarrow as pa
import pytest

from embedding_api.bulk.checkpoint import WindowStats
from embedding_api.bulk.inputs import Window
from embedding_api.bulk.progress import Progress


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
        return Window(index, table, texts, ("a.jsonl", 1 + index * len(texts)), fraction)

    return window


@pytest.fixture
def result(window):
    """A function that makes a window, its vectors and its `WindowStats`, as `pool.encode` yields them."""

    def result(texts, index=0, **columns):
        vectors = np.array([[np.nan] * 2 if text is None else [len(text), index] for text in texts], dtype=np.float32)
        return window(texts, index, **columns), vectors, WindowStats(len(texts), 10, 0, texts.count(None))

    return result
