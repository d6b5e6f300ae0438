"""The log: text or JSON, one line for each request, and never a text that was sent."""

import logging

from flask import g, has_request_context

_log = logging.getLogger(__name__)

# The fields of each line, and their names in JSON.
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


def log_request(
    method: str, route: str | None, status: int, seconds: float, figures: dict[str, float], code: str | None = None
) -> None:
    """Write the line of a request.

    Args:
        route: the pattern of its path, or None if no route matches. Never the path itself, which may hold a text.
        seconds: from the moment when the request was read to its answer.
        figures: more numbers of the request, by name.
        code: the error's code, if the answer is one: some clients show neither it nor the message.
    """
    route = route or "-"
    named = {**figures, **({"code": code} if code else {}), "total_ms": round(1000 * seconds, 2)}
    line = " ".join(f"{name}={value}" for name, value in named.items())
    fields = {"method": method, "route": route, "status": status, **named}
    _log.info("%s %s %d %s", method, route, status, line, extra=fields)


def log_unreadable(request_id: str, status: int, code: str) -> None:
    """Write the line of a request that is not valid HTTP. `code` says what is wrong with it."""
    fields = {"request_id": request_id, "method": "-", "route": "-", "status": status}
    _log.info("- - %d %s", status, code, extra=fields)
