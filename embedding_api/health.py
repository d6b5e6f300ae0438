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
    encoder = current_app.extensions["encoder"]
    return {
        "status": "ok",
        "model": encoder.model_name,
        "dimension": encoder.dimension,
        "engine": encoder.engine,
        "dtype": encoder.dtype,
    }


@blueprint.get("/info")
def info():
    encoder, settings = current_app.extensions["encoder"], current_app.extensions["settings"]
    return {
        "model": encoder.model_name,
        "revision": encoder.revision,
        "dimension": encoder.dimension,
        "max_length": encoder.max_length,
        "query_prompt": encoder.query_prompt,
        "engine": encoder.engine,
        "dtype": encoder.dtype,
        "workers": settings.workers,
        "limits": {
            "texts": settings.max_texts,
            "tokens": settings.max_tokens,
            "body_bytes": settings.max_body_bytes,
        },
    }
