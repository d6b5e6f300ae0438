"""The application factory."""

import re
from types import SimpleNamespace

from flask import Flask

from embedding_api.api import (
    auth,
    embed,
    error_handlers,
    health,
    info,
    metrics,
    ollama,
    openai,
    openapi,
    pages,
    query,
    request_hooks,
    similarity,
    tei,
    tokenize,
)
from embedding_api.api.json_provider import OrjsonProvider
from embedding_api.config import Settings
from embedding_api.encoder.encoder import Encoder
from embedding_api.encoder.loading import load_encoder


def create_app(settings: Settings | None = None, encoder: Encoder | None = None) -> Flask:
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
    # A path that differs only by slashes is answered: Flask's redirect would be HTML, and clients do not repeat a POST.
    app.url_map.merge_slashes = app.url_map.strict_slashes = False
    app.wsgi_app = _MergeSlashes(app.wsgi_app)  # type: ignore[method-assign]  # as Flask documents middleware
    app.json = OrjsonProvider(app)
    app.extensions["settings"] = settings
    app.extensions["encoder"] = encoder
    # The event loop's worker puts itself here; with other WSGI servers, and in tests, this stays.
    app.extensions["server"] = SimpleNamespace(stopping=False, waiting=0, backlog=0)
    error_handlers.init_app(app)
    request_hooks.init_app(app)
    auth.init_app(app)
    for resource in (embed, openai, tei, ollama, query, similarity, tokenize, health, info, metrics, pages, openapi):
        app.register_blueprint(resource.blueprint)
    return app


class _MergeSlashes:
    """WSGI middleware that merges repeated slashes of the path: //v1//embeddings becomes /v1/embeddings."""

    def __init__(self, application):
        self._application = application

    def __call__(self, environ, start_response):
        path = environ["PATH_INFO"]
        if "//" in path:
            environ["PATH_INFO"] = re.sub("/+", "/", path)
        return self._application(environ, start_response)
