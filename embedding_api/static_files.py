"""`GET /static/…`: the files that the pages are made of."""

from pathlib import Path

from flask import Blueprint, send_from_directory

blueprint = Blueprint("static_files", __name__)

_DIRECTORY = Path(__file__).parent / "static"
# They may be kept for so long.
SECONDS = 24 * 60 * 60


@blueprint.get("/static/<path:name>")
def file(name):
    return send_static(_DIRECTORY, name)


def send_static(directory, name):
    """A file of a directory. Whole: conditions and ranges that do not hold would be errors without a word of JSON."""
    return send_from_directory(str(directory), name, conditional=False, max_age=SECONDS)
