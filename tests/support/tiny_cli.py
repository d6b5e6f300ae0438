"""The command with the small encoder in place of a model: `python -m tests.support.tiny_cli embed IN... OUT`."""

import time
from pathlib import Path

from embedding_api.__main__ import cli
from embedding_api.bulk import cli as bulk_cli
from embedding_api.encoder import loading
from tests.support.tiny import TinyEngine, tiny_encoder

FORWARD_SECONDS = 0.02


class Engine(TinyEngine):
    """Takes long enough for a run of thousands of texts to be stopped."""

    def forward(self, batch, with_helper=False):
        time.sleep(FORWARD_SECONDS)
        return super().forward(batch)


if __name__ == "__main__":
    bulk_cli.find_model = lambda settings: Path("none")
    loading.load_encoder = lambda settings: tiny_encoder(Engine())
    cli()
