"""An application for Gunicorn whose encoder takes as long as the texts say: `tiny.text_taking`."""

from embedding_api.app import create_app
from tests.support.tiny import SlowEngine, tiny_encoder

app = create_app(encoder=tiny_encoder(SlowEngine(), max_length=64))
