"""`GET /health`: it is alive. `GET /ready`: it computes right vectors."""

from flask import Blueprint, current_app

from embedding_api.api.operation import operation
from embedding_api.errors import ApiError, stopping

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
    if not current_app.extensions["encoder"].passes_self_test():
        message = "The model no longer gives the vectors it gave at the start. Restart the service."
        raise ApiError("not_ready", message, headers=[("Retry-After", "5")])
    return {"status": "ready"}
