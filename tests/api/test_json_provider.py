import pytest

from embedding_api.api import json_provider
from embedding_api.api.json_provider import BLOCK_ROWS

TEXTS = ["abc", "de", "f", "abc", "ghi"]


@pytest.mark.parametrize("block_rows", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/embed", {"texts": TEXTS}),
        ("/v1/embeddings", {"input": TEXTS}),
        ("/v1/embeddings", {"input": TEXTS, "encoding_format": "base64"}),
        ("/tokenize", {"texts": TEXTS}),
        ("/similarity", {"texts": TEXTS, "query": "abc", "rank": True}),
        ("/similarity", {"texts": TEXTS, "rank": True}),
    ],
)
def test_an_answer_in_blocks_has_the_same_bytes(client, monkeypatch, beats, path, fields, block_rows):
    # The same id for both, as OpenAI's answers name it.
    headers = {"X-Request-ID": "same"}
    at_once = client.post(path, json=fields, headers=headers)
    assert at_once.status_code == 200
    before = len(beats)
    monkeypatch.setattr(json_provider, "BLOCK_ROWS", block_rows)
    assert client.post(path, json=fields, headers=headers).data == at_once.data
    # One heartbeat between two blocks, beside those of a request with a single block.
    assert len(beats) - 2 * before >= (len(TEXTS) - 1) // block_rows


def test_blocks_hold_every_row_once(app, beats):
    count = 3 * BLOCK_ROWS + 1
    with app.app_context():
        rows = [row for block in json_provider.blocks(count) for row in range(count)[block]]
        assert rows == list(range(count))
        assert len(beats) == 3
        assert list(json_provider.blocks(0)) == []
