import os
import signal
import threading
import time

import numpy as np
import pytest

from embedding_api.bulk import BulkError, pool
from embedding_api.bulk.checkpoint import WindowStats
from tests.support.tiny import TinyEngine, tiny_encoder

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
        assert totals == WindowStats(len(has_text), tokenized.count, len(tokenized.truncated), has_text.count(False))


@pytest.mark.parametrize("texts", [["a"], [None]])
def test_no_more_windows_are_read_than_keep_the_threads_busy(window, progress, texts):
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


class InterruptingEngine(TinyEngine):
    """Each text is a micro-batch. Ctrl-C is pressed while one of more than ten letters is computed."""

    micro_batch_tokens = 1
    begun = 0

    def __init__(self):
        super().__init__()
        self.all_submitted = threading.Event()

    def forward(self, batch, with_helper=False):
        self.begun += 1
        if len(batch[0]) > 12:
            assert self.all_submitted.wait(60)
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        return super().forward(batch)


def test_an_interrupt_cancels_the_micro_batches_that_have_not_begun(window, progress, monkeypatch):
    engine = InterruptingEngine()
    # Called when all micro-batches of a window are submitted.
    monkeypatch.setattr(progress, "read", lambda *_: engine.all_submitted.set())
    encoder = tiny_encoder(engine)
    before = engine.begun
    windows = [window(["more than ten", *"abcdefghij"])]
    with pytest.raises(KeyboardInterrupt):
        next(pool.encode(windows, progress, encoder=encoder, workers=1, **HOW))
    # The main thread may notice the signal only when the first micro-batch is done. By then others may have begun.
    assert engine.begun - before < len(windows[0].texts) / 2


def test_an_error_in_a_thread_is_not_swallowed(window, progress):
    encoder = tiny_encoder()
    encoder.encode = None
    with pytest.raises(TypeError):
        next(pool.encode([window(["a"])], progress, encoder=encoder, workers=1, **HOW))


def test_texts_become_one_array():
    encoder = tiny_encoder()
    texts = [f"text {number}" for number in range(1500)]
    vectors = pool.encode_texts(texts, encoder=encoder, workers=2, **HOW)
    np.testing.assert_array_equal(vectors, encoder.encode(encoder.tokenize(texts).ids))
