"""`GET /`: a page that shows what the model does. `GET /static/…`: the files that the pages are made of."""

import hashlib
from pathlib import Path

from flask import Blueprint, Response, current_app, render_template, request, send_from_directory

from embedding_api.api.operation import operation

blueprint = Blueprint("pages", __name__)

_DIRECTORY = Path(__file__).parent.parent / "static"
# In the path of the files: it changes with them, so a browser may keep them for a year.
_VERSION = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(_DIRECTORY.iterdir()))).hexdigest()[:12]
_YEAR = 365 * 24 * 60 * 60
# Hugging Face shows a Space in a frame.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " frame-ancestors 'self' https://huggingface.co; base-uri 'none'; form-action 'none'"
)


# strict_slashes: under a prefix the path may be empty, and Flask would answer that with a redirect as an HTML page.
@blueprint.get("/", strict_slashes=False)
@operation("What there is; for browsers, a page")
def index():
    accepted, root = request.accept_mimetypes, request.script_root
    if accepted.best_match(["application/json", "text/html"]) != "text/html":
        response = current_app.json.response(
            message='This is an embedding API: POST {"texts": ["…"]} to'
            f" {root}/embed and get a vector for each text.",
            embed=f"{root}/embed",
            openai=f"{root}/v1/embeddings",
            ollama=f"{root}/api/embed",
            queries=f"{root}/query/v1/embeddings",
            similarity=f"{root}/similarity",
            tokenize=f"{root}/tokenize",
            docs=f"{root}/docs",
            openapi=f"{root}/openapi.json",
            health=f"{root}/health",
            ready=f"{root}/ready",
            metrics=f"{root}/metrics",
            info=f"{root}/info",
        )
    elif not request.environ["PATH_INFO"]:
        # The page's links are relative, and need the slash.
        response = Response(status=308, headers={"Location": f"{root}/"}, mimetype="text/plain")
    else:
        settings = current_app.extensions["settings"]
        keyed = bool(settings.api_keys)
        response = render(
            "index.html",
            encoder=current_app.extensions["encoder"],
            max_texts=settings.max_texts,
            keyed=keyed,
            open_metrics=settings.open_metrics or not keyed,
        )
    response.vary.add("Accept")
    return response


@blueprint.get("/static/<version>/<path:name>")
def file(version, name):
    return send(_DIRECTORY, name, version == _VERSION)


def render(template, **context):
    """A page that may load nothing from elsewhere."""
    response = Response(render_template(template, version=_VERSION, **context))
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["Cache-Control"] = "no-cache"
    return response


def send(directory, name, keep):
    """A file of a directory, always whole: for a range or a condition Flask may answer with an HTML error page.

    Args:
        keep: whether a browser may keep it for a year. Not if the path has another version: during an update the old
            service may be asked for the new one's files, and the other way round.
    """
    return send_from_directory(str(directory), name, conditional=False, max_age=_YEAR if keep else None)
