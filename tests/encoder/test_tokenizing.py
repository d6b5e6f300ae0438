import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedding_api.encoder import TooManyTokens
from embedding_api.encoder.tokenizing import CHUNK_CHARACTERS, PIECE_CHARACTERS, Tokenizer, _pieces
from tiny import tiny_backend


@pytest.fixture(scope="module")
def whole():
    """What the tokenizers library makes of a text in one go."""
    backend = tiny_backend()
    backend.enable_truncation(64)
    return lambda text: backend.encode(text).ids


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(tiny_backend(), 64)


LONG = 3 * PIECE_CHARACTERS


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
        "ab " * LONG,
        " " * LONG + "abc",
        "\u200b" * LONG + "abc",
        "a" + "\u0301" * LONG + "b\ufffd\u0301" * LONG + " c",
        "中" * LONG,
        "a中" * LONG,
        " " * (PIECE_CHARACTERS - 2) + "abcdef " + " " * LONG + "ghi",
        " " * (2 * PIECE_CHARACTERS - 3) + "abcdef" + " " * LONG + "[SEP] ghi",
        "\n" * LONG + "a[CLS]b",
    ],
    ids=lambda text: f"{text[:3]!r}…{text[-3:]!r} {len(text)}",
)
def test_tokens_are_those_of_the_whole_text(tokenizer, whole, text):
    assert tokenizer([text]).ids == [whole(text)]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "bcd", " ", "\n", ".", "中", "é", "\u0301", "[SEP]", "x" * 120]), max_size=30),
    st.data(),
)
def test_any_long_text(tokenizer, whole, parts, data):
    at = data.draw(st.integers(0, len(parts)))
    text = "".join([*parts[:at], " " * (2 * PIECE_CHARACTERS), *parts[at:]])
    assert tokenizer([text]).ids == [whole(text)]


def test_pieces_are_small_and_miss_only_the_rest_of_endless_words():
    text = "ab. " * LONG
    assert "".join(_pieces(text)) == text
    assert all(len(piece) <= 2 * PIECE_CHARACTERS for piece in _pieces(text))
    endless = "a" * 10 * LONG
    assert len("".join(_pieces(endless + " b"))) < 3 * PIECE_CHARACTERS


def test_many_texts_keep_their_order_and_truncation(tokenizer, whole):
    texts = ["abc", "b" * 63, "c" * (CHUNK_CHARACTERS + 1), "d", "." * LONG, "e" * 62]
    tokens = tokenizer(texts)
    assert tokens.ids == [whole(text) for text in texts]
    assert tokens.truncated == [1, 4]
    assert tokens.count == 5 + 64 + 3 + 3 + 64 + 64


def test_the_limit_stops_before_all_is_tokenized(tokenizer):
    assert tokenizer(["abc", "abc"], max_tokens=10).count == 10
    with pytest.raises(TooManyTokens):
        tokenizer(["abc", "abcd"], max_tokens=10)

    def texts():
        yield "ab " * CHUNK_CHARACTERS
        yield "ab"
        raise AssertionError("read on beyond the limit")

    with pytest.raises(TooManyTokens):
        tokenizer(texts(), max_tokens=10)


def test_real_tokenizer(encoder, sentence_transformer, documents):
    theirs = sentence_transformer.tokenizer(documents, truncation=True, max_length=encoder.max_length)["input_ids"]
    tokens = encoder.tokenize(documents)
    assert tokens.ids == theirs
    assert all(len(ids) == encoder.max_length for ids in (tokens.ids[index] for index in tokens.truncated))
