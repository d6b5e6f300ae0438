"""The application factory."""

from types import SimpleNamespace

from flask import Flask

from embedding_api.api import (
    auth,
    embed,
    error_handlers,
    health,
    info,
    metrics,
    openai,
    openapi,
    pages,
    request_hooks,
    similarity,
    tokenize,
)
from embedding_api.api.json_provider import OrjsonProvider
from embedding_api.config import Settings
from embedding_api.encoder.loading import load_encoder


def create_app(settings=None, encoder=None):
    """Build the Flask application.

    Args:
        settings: a `Settings`; by default read from the environment.
        encoder: anything with the interface of `embedding_api.encoder.encoder.Encoder`; by default the model that the
            settings name is loaded.

    Raises:
        ConfigError: a setting makes no sense, or the model cannot be loaded.
    """
    settings = settings or Settings.from_env()
    if encoder is None:
        encoder = load_encoder(settings)

    app = Flask(__name__, static_folder=None)
    # Flask's redirect of a path with double slashes would be HTML.
    app.url_map.merge_slashes = False
    app.json = OrjsonProvider(app)
    app.extensions["settings"] = settings
    app.extensions["encoder"] = encoder
    # The event loop's worker puts itself here; with other WSGI servers, and in tests, this stays.
    app.extensions["server"] = SimpleNamespace(stopping=False, waiting=0, backlog=0)
    error_handlers.init_app(app)
    request_hooks.init_app(app)
    auth.init_app(app)
    for resource in (embed, openai, similarity, tokenize, health, info, metrics, pages):
        app.register_blueprint(resource.blueprint)
    # Last, as it describes all others.
    openapi.init_app(app)
    return app
