"""`GET /health`: it is alive. `GET /ready`: it computes right vectors. `GET /info`: what it is."""

from flask import Blueprint, current_app

import embedding_api
from embedding_api.errors import ApiError, stopping
from embedding_api.operation import operation

blueprint = Blueprint("health", __name__)


@blueprint.get("/health")
@operation("Whether it is alive")
def health():
    return {"status": "ok", **current_app.extensions["encoder"].description}


@blueprint.get("/ready")
@operation("Whether it computes right vectors", errors=(503,))
def ready():
    if current_app.extensions["server"].stopping:
        raise stopping()
    if not current_app.extensions["encoder"].is_sane():
        message = "The model no longer gives the vectors it gave at the start. Restart the service."
        raise ApiError("not_ready", message, headers=[("Retry-After", "5")])
    return {"status": "ready"}


@blueprint.get("/info")
@operation("What model is served, and the limits")
def info():
    encoder, settings = current_app.extensions["encoder"], current_app.extensions["settings"]
    return {
        "version": embedding_api.__version__,
        **encoder.description,
        "instruction_set": encoder.instruction_set,
        "revision": encoder.revision,
        "max_length": encoder.max_length,
        "query_prompt": encoder.query_prompt,
        "workers": settings.workers,
        "limits": {
            "texts": settings.max_texts,
            "tokens": settings.max_tokens,
            "body_bytes": settings.max_body_bytes,
            "waiting": settings.max_waiting,
            "client_timeout": settings.client_timeout,
        },
    }
