"""An application for Gunicorn whose encoder takes seconds, and reports between texts like the real one."""

from embedding_api import create_app
from embedding_api.encoder import encoder
from tiny import SlowEngine, tiny_encoder

encoder.MICRO_BATCH_TOKENS = 1
app = create_app(encoder=tiny_encoder(SlowEngine()))
