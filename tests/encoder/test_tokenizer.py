import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from embedding_api.encoder import TooManyTokens
from embedding_api.encoder.tokenizer import CHUNK_CHARACTERS, WINDOW_CHARACTERS, Tokenizer
from tests.support.tiny import tiny_backend

LONG = 9 * WINDOW_CHARACTERS
NEAR = WINDOW_CHARACTERS - 3
ODD = ["[SEP]", "[MASK]", "x" * 120, " ", "\u0301" * 9]
# Without spacing marks, whose order the normalizer may change.
CHARACTERS = st.text(st.characters(exclude_categories=["Cs", "Mc"]), max_size=8)


def lists(tokens):
    return [ids.tolist() for ids in tokens.ids]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "a" * 62,
        "a" * 63,
        "." * LONG,
        "a" * LONG,
        "a" * LONG + " b",
        "a" * LONG + ".b",
        "a" * LONG + "\u00a0hello\u00a0world",
        ("a" * 101 + "\u00a0") * 600,
        "ab " * LONG,
        " " * LONG + "abc",
        " " * NEAR + "abcdef" + " " * LONG + "ghi",
        *(" " * (NEAR - shift) + "[MASK]" + " " * LONG + "[SEP] ghi" for shift in range(-3, 5)),
        *("a" * (NEAR - shift) + "[MASK]" + "a" * LONG for shift in range(-3, 5)),
        ("q" * 99 + "\u2603 ") * 1000,
        "x" * NEAR + " " * 99 + "[MA" + " " * LONG + "SK]",
        "\u200b" * LONG + "abc",
        "a" + "\u0301" * LONG + "b\ufffd\u0301" * LONG + " c",
        "x" + "\u1734" * LONG + "hello world",
        " " * NEAR + "x" + "\U0001fae8" * LONG,
        "中" * LONG,
        "a中" * LONG,
        "\n" * LONG + "a[CLS]b",
    ],
    ids=lambda text: f"{text[:3]!a}-{text[-3:]!a}-{len(text)}",
)
@pytest.mark.parametrize("which", ["tiny", "real"])
def test_tokens_are_those_of_the_whole_text(request, which, text):
    backend, tokenizer = request.getfixturevalue(which)
    assert lists(tokenizer([text])) == [backend.encode(text).ids]


@pytest.fixture(scope="module")
def tiny():
    backend = tiny_backend()
    backend.enable_truncation(64)
    return backend, Tokenizer(tiny_backend(), 64)


@pytest.fixture(scope="module")
def real(model):
    """The real tokenizer, as its library and as this service use it."""
    backend, ours = (Backend.from_file(str(model.directory / "tokenizer.json")) for _ in range(2))
    backend.no_padding()
    backend.enable_truncation(128)
    return backend, Tokenizer(ours, 128)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CHARACTERS | st.sampled_from(ODD), max_size=60))
def test_windows_of_any_text(monkeypatch, real, parts):
    """With windows of few characters, so that they end everywhere."""
    monkeypatch.setattr("embedding_api.encoder.tokenizer.WINDOW_CHARACTERS", 7)
    monkeypatch.setattr("embedding_api.encoder.tokenizer.MARGIN_CHARACTERS", 6)
    backend, tokenizer = real
    text = "".join(parts)
    assert lists(tokenizer([text])) == [backend.encode(text).ids]


def test_the_tokenizer_never_gets_more_than_a_window_of_a_long_text(monkeypatch):
    backend = tiny_backend()
    sizes = []

    class Watched:
        pre_tokenizer, model, normalizer = backend.pre_tokenizer, backend.model, backend.normalizer
        no_truncation, no_padding, token_to_id = backend.no_truncation, backend.no_padding, backend.token_to_id

        def encode(self, text, **options):
            sizes.append(len(text))
            return backend.encode(text, **options)

    tokenizer = Tokenizer(Watched(), 64)
    for text in ("a", " ", "\u200b", "a ", "\u0301a"):
        tokenizer([text * LONG])
    assert max(sizes) < WINDOW_CHARACTERS + 300
    assert len(sizes) > 9


def test_many_texts_keep_their_order_and_truncation(tiny):
    backend, tokenizer = tiny
    texts = ["abc", "b" * 63, "c" * (CHUNK_CHARACTERS + 1), "d", "." * LONG, "e" * 62]
    tokens = tokenizer(texts)
    assert lists(tokens) == [backend.encode(text).ids for text in texts]
    assert tokens.truncated == [1, 4]
    assert tokens.count == 5 + 64 + 3 + 3 + 64 + 64


def test_heartbeats_come_between_chunks_and_windows(tiny):
    _, tokenizer = tiny
    beats = []

    def beats_for(*texts):
        beats.clear()
        tokenizer(texts, heartbeat=lambda: beats.append("beat"))
        return len(beats)

    assert beats_for("abc", "de") == 0
    assert beats_for(*["a" * 1000] * 400) >= 400_000 / CHUNK_CHARACTERS - 1
    assert beats_for(" " * 80 * WINDOW_CHARACTERS) >= 79


def test_ids_take_four_bytes_a_token(tiny):
    _, tokenizer = tiny
    assert [ids.dtype for ids in tokenizer(["abc", "." * LONG]).ids] == [np.int32] * 2


def test_the_limit_stops_before_all_is_tokenized(tiny):
    _, tokenizer = tiny
    assert tokenizer(["abc", "abc"], max_tokens=10).count == 10
    with pytest.raises(TooManyTokens):
        tokenizer(["abc", "abcd"], max_tokens=10)

    class Texts(list):
        def __iter__(self):
            yield from self[:2]
            raise AssertionError("read on beyond the limit")

    with pytest.raises(TooManyTokens):
        tokenizer(Texts(["ab " * CHUNK_CHARACTERS, "ab", "ab"]), max_tokens=10)


def test_real_tokenizer(encoder, sentence_transformer, documents):
    theirs = sentence_transformer.tokenizer(documents, truncation=True, max_length=encoder.max_length)["input_ids"]
    tokens = encoder.tokenize(documents)
    assert lists(tokens) == theirs
    assert all(len(ids) == encoder.max_length for ids in (tokens.ids[index] for index in tokens.truncated))


def test_what_is_blank_or_unknown_is_told(tiny):
    _, tokenizer = tiny
    tokens = tokenizer(["ab", "\u200b", "a 🦀 🦀", " ", "🦀"])
    assert tokens.blank == [1, 3]
    assert tokens.unknown == [0, 0, 2, 0, 1]
    both = tokens + tokenizer(["a", "\u200b🦀", "\x00"])
    assert both.blank == [1, 3, 7]
    assert both.unknown == [0, 0, 2, 0, 1, 0, 1, 0]


def test_too_many_tokens_are_told_with_how_many_texts_fit(tiny):
    _, tokenizer = tiny
    with pytest.raises(TooManyTokens) as raised:
        tokenizer(["abc"] * 10, max_tokens=24)
    assert (raised.value.fit, raised.value.estimate) == (4, 50)
