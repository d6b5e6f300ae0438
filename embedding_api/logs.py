"""The log: text or JSON, one line for each request, and never a text that was sent."""

import logging
from time import perf_counter

from flask import g, has_request_context, request

_log = logging.getLogger(__name__)

# What each line has, and its name in JSON.
_FIELDS = {
    "asctime": "time",
    "levelname": "level",
    "name": "logger",
    "process": "pid",
    "request_id": "request_id",
    "message": "message",
}


def config(settings):
    """Gunicorn's `logconfig_dict`: its own lines, ours and those of libraries, in one form to standard error."""
    level = settings.log_level.upper()
    return {
        "root": {"level": "ERROR" if level == "ERROR" else "WARNING", "handlers": ["stderr"]},
        "loggers": {
            "embedding_api": {"level": level},
            "gunicorn.error": {"handlers": [], "propagate": True},
        },
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": settings.log_format, "filters": ["request_id"]}
        },
        "filters": {"request_id": {"()": _RequestId}},
        "formatters": {
            "text": {"style": "{", "format": "{asctime} [{process}] [{levelname}] [{request_id}] {message}"},
            "json": {
                "()": "pythonjsonlogger.json.JsonFormatter",
                "fmt": list(_FIELDS),
                "rename_fields": _FIELDS,
            },
        },
    }


class _RequestId(logging.Filter):
    """Gives every line the id of the request it is about, "-" for none."""

    def filter(self, record):
        if not hasattr(record, "request_id"):
            record.request_id = g.get("request_id", "-") if has_request_context() else "-"
        return True


def init_app(app):
    app.before_request(_start)
    app.after_request(_log_request)


def note(**figures):
    """Add to what the log says of this request: numbers, by name."""
    g.figures |= figures


def log_unreadable(name, status, error):
    """The line for a request, by its id, of which nothing is known but what is wrong with it."""
    fields = {"request_id": name, "method": "-", "route": "-", "status": status}
    _log.info("- - %d %s", status, error.code, extra=fields)


def _start():
    g.started = perf_counter()
    g.figures = {}


def _log_request(response):
    # The route and not the path: somebody will put a text there.
    route = request.url_rule.rule if request.url_rule else "-"
    figures = g.figures | {"total_ms": round(1000 * (perf_counter() - g.started), 2)}
    line = " ".join(f"{name}={value}" for name, value in figures.items())
    fields = {"method": request.method, "route": route, "status": response.status_code, **figures}
    _log.info("%s %s %d %s", request.method, route, response.status_code, line, extra=fields)
    return response
