"""`GET /`: what this is. `GET /health`: it is alive, and with which model."""

from flask import Blueprint, current_app

blueprint = Blueprint("health", __name__)


@blueprint.get("/")
def index():
    return {
        "message": 'This is an embedding API: POST {"texts": ["…"]} to /embed and get a vector for each text.',
        "embed": "/embed",
        "health": "/health",
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
