"""`/query/…`: the paths that make vectors, where every text is a query, for clients that cannot say so."""

from flask import Blueprint

from embedding_api.api import embed, ollama, openai, tei

blueprint = Blueprint("query", __name__, url_prefix="/query")
for resource in (embed, openai, tei, ollama):
    blueprint.register_blueprint(resource.blueprint)
