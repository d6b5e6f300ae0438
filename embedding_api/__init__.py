"""Turn texts into embedding vectors over HTTP."""

from types import SimpleNamespace

from flask import Flask

from embedding_api import (
    access,
    docs,
    embed,
    errors,
    health,
    logs,
    metrics,
    openai,
    pages,
    request_id,
    similarity,
    tokenize,
)
from embedding_api.config import Settings
from embedding_api.encoder.loading import load_encoder
from embedding_api.json_provider import OrjsonProvider

__version__ = "0.1.0"


def create_app(settings=None, encoder=None):
    """Build the Flask application.

    Args:
        settings: a `Settings`; read from the environment when left out.
        encoder: anything with the interface of `embedding_api.encoder.Encoder`; the model that the
            settings name is loaded when left out.

    Raises:
        ConfigError: a setting makes no sense, or the model cannot be loaded.
    """
    settings = settings or Settings.from_env()
    if encoder is None:
        encoder = load_encoder(settings)

    app = Flask(__name__, static_folder=None)
    # A redirect would be HTML.
    app.url_map.merge_slashes = False
    app.json = OrjsonProvider(app)
    app.extensions["settings"] = settings
    app.extensions["encoder"] = encoder
    # A worker of our own puts itself here.
    app.extensions["server"] = SimpleNamespace(stopping=False, waiting=0, backlog=0)
    request_id.init_app(app)
    logs.init_app(app)
    metrics.init_app(app)
    errors.init_app(app)
    access.init_app(app)
    app.before_request(errors.raise_refusal)
    for resource in (embed, openai, similarity, tokenize, health, pages):
        app.register_blueprint(resource.blueprint)
    docs.init_app(app)
    return app
