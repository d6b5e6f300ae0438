"""`GET /info`: what is served, and the limits."""

from flask import Blueprint, current_app

from embedding_api import __version__
from embedding_api.api.operation import operation

blueprint = Blueprint("info", __name__)


@blueprint.get("/info")
@operation("What model is served, and the limits")
def info():
    encoder, settings = current_app.extensions["encoder"], current_app.extensions["settings"]
    return {
        "version": __version__,
        **encoder.description,
        "instruction_set": encoder.instruction_set,
        "revision": encoder.revision,
        "max_length": encoder.max_length,
        "query_prompt": encoder.query_prompt,
        "document_prompt": encoder.document_prompt,
        "workers": settings.workers,
        "limits": {
            "texts": settings.max_texts,
            "tokens": settings.max_tokens,
            "body_bytes": settings.max_body_bytes,
            "waiting": settings.max_waiting,
            "client_timeout": settings.client_timeout,
        },
    }
