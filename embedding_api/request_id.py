"""Every response names its request in X-Request-ID: the client's own name if it is well-formed, else a new one."""

import re
import uuid

from flask import g, request

HEADER = "X-Request-ID"
# What common proxies and tracers send; anything else could forge log lines.
_WELL_FORMED = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def init_app(app):
    app.before_request(_take_or_make)
    app.after_request(_add_header)


def new_id():
    """A request id of 32 hexadecimal digits."""
    return uuid.uuid4().hex


def _take_or_make():
    sent = request.headers.get(HEADER, "")
    g.request_id = sent if _WELL_FORMED.fullmatch(sent) else new_id()


def _add_header(response):
    response.headers[HEADER] = g.request_id
    return response
