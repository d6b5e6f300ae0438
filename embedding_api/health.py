"""`GET /`: what this is. `GET /health`: it is alive, and with which model. `GET /info`: all there is to know of it."""

from flask import Blueprint, current_app

blueprint = Blueprint("health", __name__)


@blueprint.get("/")
def index():
    return {
        "message": 'This is an embedding API: POST {"texts": ["…"]} to /embed and get a vector for each text.',
        "embed": "/embed",
        "health": "/health",
        "info": "/info",
    }


@blueprint.get("/health")
def health():
    return {"status": "ok", **_model(current_app.extensions["encoder"])}


@blueprint.get("/info")
def info():
    encoder, settings = current_app.extensions["encoder"], current_app.extensions["settings"]
    return {
        **_model(encoder),
        "revision": encoder.revision,
        "max_length": encoder.max_length,
        "query_prompt": encoder.query_prompt,
        "workers": settings.workers,
        "limits": {
            "texts": settings.max_texts,
            "tokens": settings.max_tokens,
            "body_bytes": settings.max_body_bytes,
        },
    }


def _model(encoder):
    return {
        "model": encoder.model_name,
        "dimension": encoder.dimension,
        "engine": encoder.engine,
        "dtype": encoder.dtype,
    }
