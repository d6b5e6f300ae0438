"""An application for Gunicorn that computes almost nothing, for requests as large as the limits allow."""

from embedding_api.app import create_app
from tests.support.tiny import tiny_encoder

app = create_app(encoder=tiny_encoder(max_length=512))
