import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from embedding_api.bulk import BulkError, pool
from embedding_api.bulk.parts import Totals
from server import ROOT, wait_until
from tiny import TinyEngine, tiny_encoder

HOW = {"is_query": False, "normalize": True}


@pytest.fixture
def windows(window):
    return [
        window(["one", None, "a text that is longer than sixteen tokens", "two"], fraction=1 / 3),
        window([None, None], index=1, fraction=2 / 3),
        window([f"text {number}" for number in range(300)], index=2),
    ]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("is_query", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_vectors_are_the_encoders_own(windows, progress, workers, is_query, normalize):
    encoder = tiny_encoder()
    results = list(
        pool.encode(windows, progress, encoder=encoder, workers=workers, is_query=is_query, normalize=normalize)
    )
    assert [window for window, _, _ in results] == windows
    for window, vectors, totals in results:
        texts = [text for text in window.texts if text is not None]
        tokenized = encoder.tokenize(texts, is_query=is_query)
        expected = encoder.encode(tokenized.ids, normalize=normalize)
        has_text = [text is not None for text in window.texts]
        assert vectors.dtype == np.float32
        np.testing.assert_array_equal(vectors[has_text], expected)
        assert np.isnan(vectors[np.logical_not(has_text)]).all()
        assert totals == Totals(len(has_text), tokenized.count, len(tokenized.truncated), has_text.count(False))


@pytest.mark.parametrize("texts", [["a"], [None]])
def test_no_more_windows_are_read_than_keep_the_processes_busy(window, progress, texts):
    taken = []

    def windows():
        for index in range(50):
            taken.append(index)
            yield window(texts, index)

    results = pool.encode(windows(), progress, encoder=tiny_encoder(), workers=1, **HOW)
    next(results)
    assert len(taken) <= 6
    results.close()


def test_windows_before_a_failing_one_are_done(window, progress):
    def windows():
        yield window(["a"])
        yield window(["b"], index=1)
        raise BulkError("damaged")

    results = pool.encode(windows(), progress, encoder=tiny_encoder(), workers=1, **HOW)
    assert [next(results)[0].texts for _ in range(2)] == [["a"], ["b"]]
    with pytest.raises(BulkError, match="damaged"):
        next(results)


class DyingEngine(TinyEngine):
    def forward(self, batch):
        if len(batch[0]) > 10:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(batch)


def test_a_process_that_dies_is_told(window, progress):
    results = pool.encode(
        [window(["longer than ten"])], progress, encoder=tiny_encoder(DyingEngine()), workers=2, **HOW
    )
    with pytest.raises(BulkError, match="A process that encodes has died"):
        next(results)


def test_an_error_in_a_process_is_not_swallowed(window, progress):
    encoder = tiny_encoder()
    encoder.encode = None
    with pytest.raises(TypeError):
        next(pool.encode([window(["a"])], progress, encoder=encoder, workers=1, **HOW))


def test_processes_end_with_a_killed_parent(tmp_path):
    script = (
        "import os, sys, time; sys.path[:0] = ['.', 'tests']\n"
        "from embedding_api.bulk.pool import encode_texts; from tiny import SlowEngine, tiny_encoder\n"
        "encode_texts(['a' * 16], encoder=tiny_encoder(SlowEngine(), 99), workers=2, is_query=False, normalize=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    children = f"/proc/{process.pid}/task/{process.pid}/children"

    def pids():
        with open(children) as file:
            return list(map(int, file.read().split()))

    wait_until(lambda: len(pids()) == 2)
    workers = pids()
    process.kill()
    process.wait()
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers))


def test_texts_become_one_array():
    encoder = tiny_encoder()
    texts = [f"text {number}" for number in range(1500)]
    vectors = pool.encode_texts(texts, encoder=encoder, workers=2, **HOW)
    np.testing.assert_array_equal(vectors, encoder.encode(encoder.tokenize(texts).ids))
