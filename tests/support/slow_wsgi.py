"""An application for Gunicorn whose encoder takes as many seconds as a text of `tiny.text_taking` says."""

from embedding_api.app import create_app
from tests.support.tiny import SlowEngine, tiny_encoder

app = create_app(encoder=tiny_encoder(SlowEngine(), max_length=64))
