"""An application for Gunicorn whose encoder takes seconds, and reports between texts like the real one."""

from embedding_api import create_app
from tiny import SlowEngine, tiny_encoder

engine = SlowEngine()
engine.micro_batch_tokens = 1
app = create_app(encoder=tiny_encoder(engine))
