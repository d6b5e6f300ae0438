"""Every response names its request in X-Request-ID: the client's own name if it is well-formed, else a new one."""

import re
import uuid

from flask import request

HEADER = "X-Request-ID"
# What common proxies and tracers send; anything else could forge log lines.
_WELL_FORMED = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def new_id() -> str:
    """A request id of 32 hexadecimal digits."""
    return uuid.uuid4().hex


def sent_or_new() -> str:
    """The id of the current request: the client's own if it is well-formed."""
    sent = request.headers.get(HEADER, "")
    return sent if _WELL_FORMED.fullmatch(sent) else new_id()
