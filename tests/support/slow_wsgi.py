"""An application for Gunicorn whose encoder takes as many seconds as a text of `tiny.text_taking` says."""

import sys

from embedding_api.app import create_app
from embedding_api.server import connection
from tests.support.tiny import SlowEngine, tiny_encoder

# A test in test_slow_clients.py waits for so long.
connection.DISCARD_SECONDS = 3


class Engine(SlowEngine):
    def free_scratch(self):
        print("Scratch memory is freed.", file=sys.stderr)


app = create_app(encoder=tiny_encoder(Engine(), max_length=64))
