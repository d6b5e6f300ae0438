"""No option of Gunicorn's is silently ignored."""

import logging
import re
from pathlib import Path

import pytest
from gunicorn.config import KNOWN_SETTINGS, Config

from embedding_api.server import options
from tests.support.server import ROOT

TABLE = (Path(ROOT) / "docs/operations.md").read_text().partition("## Gunicorn's options")[2].partition("\n## ")[0]


def check(**values):
    cfg = Config()
    for name, value in values.items():
        cfg.set(name, value)
    options.check(cfg, logging.getLogger("embedding_api"))


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("certfile", "/etc/ssl/cert.pem", ["TLS", "proxy"]),
        ("proxy_protocol", "auto", ["PROXY protocol"]),
        ("http_protocols", "h1,h2", ["HTTP/1.1", "--http-protocols"]),
        ("protocol", "uwsgi", ["HTTP/1.1", "--protocol"]),
        ("threads", 4, ["--threads", "-k gthread"]),
        ("reload", True, ["--reload", "restart"]),
        ("reuse_port", True, ["--reuse-port"]),
        ("root_path", "/emb", ["--root-path", "SCRIPT_NAME"]),
        ("raw_env", ["EMBEDDING_MAX_TEXTS=7"], ["--env", "environment"]),
        ("raw_env", ["TZ=UTC", "BIND=0.0.0.0"], ["--env", "environment"]),
    ],
)
def test_an_option_that_makes_no_sense_stops_the_start(name, value, parts):
    with pytest.raises(SystemExit) as error:
        check(**{name: value})
    message = str(error.value)
    assert message.startswith("Error: ")
    assert message.count(". ") == 0
    for part in parts:
        assert part in message


def test_options_without_effect_are_named_in_the_log(caplog):
    check(accesslog="-", errorlog="/tmp/log", syslog=True)
    [record] = caplog.records
    assert record.levelname == "WARNING"
    for option in ("--access-logfile", "--log-syslog", "--error-logfile"):
        assert option in record.getMessage()


def test_nothing_is_said_of_options_that_work(caplog):
    check(
        workers=3,
        timeout=60,
        keepalive=5,
        worker_connections=10,
        backlog=10,
        max_requests=1000,
        limit_request_line=8000,
        raw_env=["TZ=UTC", "PORTAL=x"],
        errorlog="/tmp/log",
        capture_output=True,
    )
    assert not caplog.records


@pytest.mark.parametrize("setting", KNOWN_SETTINGS, ids=lambda setting: setting.name)
def test_every_option_is_in_the_table(setting):
    if setting.cli:
        assert any(re.search(rf"`{option}(?![\w-])", TABLE) for option in setting.cli if option.startswith("--"))
