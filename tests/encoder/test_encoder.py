import subprocess
import sys
import threading

import numpy as np
import pytest

from embedding_api.encoder.compute_threads import ComputeThreads
from embedding_api.encoder.encoder import _micro_batches
from embedding_api.encoder.tokenizer import Tokenizer
from tests.support.server import ROOT
from tests.support.tiny import TinyEngine, tiny_backend, tiny_encoder


def test_vectors_equal_sentence_transformers(encoder, document_vectors, documents):
    ours, theirs = encoder.encode(encoder.tokenize(documents[::2]).ids), document_vectors[::2]
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape == (50, encoder.dimension)
    assert np.abs(ours - theirs).max() <= 2e-6


def test_raw_vectors_are_those_before_normalisation(encoder, sentence_transformer, documents):
    ours = encoder.encode(encoder.tokenize(documents[:10]).ids, normalize=False)
    pooled = sentence_transformer[1](sentence_transformer[0](sentence_transformer.preprocess(documents[:10])))
    theirs = pooled["sentence_embedding"].detach().numpy()
    assert np.linalg.norm(theirs, axis=1).min() > 1.1
    assert np.abs(ours - theirs).max() <= 2e-5


@pytest.mark.bge
def test_known_numbers(encoder):
    vector = encoder.encode(encoder.tokenize(["hello world"]).ids)[0]
    assert vector[:5] == pytest.approx([0.0151961, -0.0225707, 0.0085471, -0.0741707, 0.0038364], abs=2e-6)


@pytest.mark.bge
def test_bge_gets_its_own_query_prompt(encoder):
    assert encoder.query_prompt == "Represent this sentence for searching relevant passages: "
    assert encoder.document_prompt == ""


def test_queries_and_documents_get_their_prompts():
    encoder = tiny_encoder()
    encoder.document_prompt = "d: "
    plain = Tokenizer(tiny_backend(), 16)
    for is_query, text in ((True, "q: abc"), (False, "d: abc")):
        assert encoder.tokenize(["abc"], is_query=is_query).ids[0].tolist() == plain([text]).ids[0].tolist()


@pytest.mark.parametrize("pads", [True, False])
def test_micro_batches_hold_every_text_once_and_stay_in_their_budget(pads):
    lengths = [3, 600, 512, 40, 40, 2000, 1, 500, 7, 300, 300, 300]
    batches = list(_micro_batches(lengths, 1024, 1024, pads))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        of_batch = [lengths[index] for index in batch]
        assert of_batch == sorted(of_batch, reverse=True)
        cost = max(of_batch) * len(of_batch) if pads else sum(of_batch)
        assert len(batch) == 1 or cost <= 1024
    assert len(batches) == (5 if pads else 4)


@pytest.mark.parametrize(
    ("lengths", "threads", "shares"),
    [
        ([11] * 8, 1, [88]),
        ([11] * 8, 2, [44, 44]),
        ([11] * 8, 64, [33, 33, 22]),
        ([11] * 4, 2, [44]),
        ([11] * 5, 2, [33, 22]),
        ([11] * 2, 2, [22]),
        ([16], 2, [16]),
        ([100] * 30, 2, [800, 800, 800, 600]),
        ([100] * 11, 2, [600, 500]),
        ([], 2, []),
    ],
)
def test_threads_get_equal_shares_of_enough_tokens(lengths, threads, shares):
    batches = tiny_encoder().micro_batches([[5] * length for length in lengths], threads)
    assert [sum(lengths[index] for index in batch) for batch in batches] == shares


def test_a_request_of_one_micro_batch_is_computed_at_once_and_others_by_the_compute_threads():
    computed_in = []

    class Watching(TinyEngine):
        def forward(self, batch, with_helper=False):
            computed_in.append(threading.current_thread())
            return super().forward(batch)

    encoder = tiny_encoder(Watching())
    computed_in.clear()
    encoder.encode([[2, 4, 3], [2, 5, 3]])
    assert computed_in == [threading.current_thread()]
    encoder.encode([[n] * 1024 for n in range(3)])
    assert len(computed_in) == 4
    assert threading.current_thread() not in computed_in[1:]


@pytest.mark.parametrize("pads", [True, False])
def test_vectors_do_not_depend_on_the_number_of_threads(pads):
    engine = TinyEngine()
    engine.pads, engine.micro_batch_tokens = pads, 40
    encoder = tiny_encoder(engine)
    texts = [[n] * (1 + n % 13) for n in range(200)]
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    for count in (1, 2, 4):
        encoder.run_in_worker(threads=ComputeThreads(count))
        np.testing.assert_array_equal(encoder.encode(texts), alone)


def test_an_error_of_a_forward_pass_is_raised():
    class Failing(TinyEngine):
        def forward(self, batch, with_helper=False):
            if len(batch[0]) == 5:
                raise MemoryError
            return super().forward(batch)

    encoder = tiny_encoder(Failing())
    for texts in ([[2, 4, 5, 6, 3]], [[2, 4, 5, 6, 3], [7] * 1024]):
        with pytest.raises(MemoryError):
            encoder.encode(texts)


def test_a_worker_may_compute_for_several_callers_at_once():
    encoder, asked = tiny_encoder(), []

    def compute(texts):
        asked.append(texts)
        return np.full((len(texts), 8), 2, np.float32)

    encoder.run_in_worker(compute=compute)
    vectors = encoder.encode([[2, 4, 3], [2, 5, 3], [2, 4, 3]])
    assert vectors == pytest.approx(np.full((3, 8), 8**-0.5))
    assert asked == [[[2, 4, 3], [2, 5, 3], [2, 4, 3]]]


def test_the_heartbeat_comes_before_computing_and_after_each_micro_batch():
    encoder, beats = tiny_encoder(), []
    encoder.run_in_worker(heartbeat=lambda: beats.append("beat"))
    encoder.encode([[2, 4, 3]])
    assert beats == ["beat"]
    encoder.encode([[n] * 1024 for n in range(3)])
    assert len(beats) >= 1 + 4


@pytest.mark.parametrize("texts", [[[2, 4, 3]], [[n] * 1024 for n in range(3)]])
def test_an_error_of_the_heartbeat_ends_the_work(texts):
    class Gone(Exception):
        pass

    def report():
        raise Gone

    encoder = tiny_encoder()
    encoder.run_in_worker(heartbeat=report)
    with pytest.raises(Gone):
        encoder.encode(texts)


def test_the_encoder_itself_does_not_need_torch():
    script = "import sys, embedding_api.encoder.encoder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("damage", [0.5, np.nan])
def test_the_self_test_passes_as_long_as_a_known_text_gets_the_same_vector(monkeypatch, damage):
    class Ageing(TinyEngine):
        damage = 0.0

        def forward(self, batch, with_helper=False):
            return super().forward(batch) + self.damage

    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    engine, beats = Ageing(), []
    encoder = tiny_encoder(engine)
    encoder.run_in_worker(heartbeat=lambda: beats.append("beat"))
    assert encoder.passes_self_test()
    engine.damage = damage
    now[0] += 0.9
    assert encoder.passes_self_test()
    now[0] += 0.2
    assert not encoder.passes_self_test()
    assert not encoder.passes_self_test()
    engine.damage = 0.001
    assert encoder.passes_self_test()
    assert beats == []


def test_the_heartbeat_comes_while_tokenizing():
    encoder, beats = tiny_encoder(), []
    encoder.run_in_worker(heartbeat=lambda: beats.append("beat"))
    beats.clear()
    encoder.tokenize(["a" * 1000] * 1000)
    assert len(beats) >= 15
    beats.clear()
    encoder.tokenize(["\u200b" * 1_000_000])
    assert len(beats) >= 100


def test_a_vector_of_zeros_stays_one():
    class Zeros(TinyEngine):
        def forward(self, batch, with_helper=False):
            return np.zeros((len(batch), 8))

    assert not tiny_encoder(Zeros()).encode([[2, 3]]).any()
