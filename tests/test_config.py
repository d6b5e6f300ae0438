import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from embedding_api import config
from embedding_api.config import ConfigError, Settings

ROOT = Path(__file__).parent.parent
NAMES = sorted(set(re.findall(r'"((?:EMBEDDING_\w+)|BIND|PORT|WEB_CONCURRENCY)"', Path(config.__file__).read_text())))


def test_defaults():
    settings = Settings.from_env()
    assert (settings.model, settings.revision, settings.model_name, settings.query_prompt) == (None,) * 4
    assert (settings.max_texts, settings.max_body_bytes, settings.max_tokens) == (2048, 8388608, 131072)
    assert settings.bind == "127.0.0.1:7860"


def test_environment_is_read(monkeypatch):
    monkeypatch.setenv("EMBEDDING_MODEL", "owner/name")
    monkeypatch.setenv("EMBEDDING_MODEL_NAME", "ours")
    monkeypatch.setenv("EMBEDDING_REVISION", "v2")
    monkeypatch.setenv("EMBEDDING_MAX_TEXTS", "7")
    settings = Settings.from_env()
    assert (settings.model, settings.model_name, settings.revision, settings.max_texts) == (
        "owner/name",
        "ours",
        "v2",
        7,
    )


def test_an_empty_value_is_the_default_but_an_empty_prompt_is_none(monkeypatch):
    expected = Settings.from_env()
    for name in NAMES:
        monkeypatch.setenv(name, "")
    assert Settings.from_env() == replace(expected, query_prompt="")


@pytest.mark.parametrize("bind", ["127.0.0.1:65536", "127.0.0.1:port", ":80", "unix:", "a b", "http://localhost:80"])
def test_a_wrong_bind(monkeypatch, bind):
    monkeypatch.setenv("BIND", bind)
    with pytest.raises(ConfigError, match=f"^BIND={bind!r} makes no sense: set it to host, host:port or unix:path"):
        Settings.from_env()


@pytest.mark.parametrize(
    "name", ["EMBEDDING_MAX_TEXTS", "EMBEDDING_MAX_BODY_BYTES", "EMBEDDING_MAX_TOKENS", "WEB_CONCURRENCY", "PORT"]
)
@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", " "])
def test_a_number_that_makes_no_sense_names_the_setting_and_what_is_allowed(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"^{name}={value!r} makes no sense: set it to a whole number .*1"):
        Settings.from_env()


@pytest.mark.parametrize(("field", "choices"), [("engine", ("auto", "reference")), ("dtype", ("float32", "bfloat16"))])
def test_one_of_two(monkeypatch, field, choices):
    name = f"EMBEDDING_{field.upper()}"
    assert getattr(Settings.from_env(), field) == choices[0]
    for choice in choices:
        monkeypatch.setenv(name, choice)
        assert getattr(Settings.from_env(), field) == choice
    monkeypatch.setenv(name, "fast")
    with pytest.raises(ConfigError, match=rf"^{name}='fast' makes no sense: set it to {choices[0]} or {choices[1]}"):
        Settings.from_env()


def test_port_has_an_upper_end(monkeypatch):
    monkeypatch.setenv("PORT", "65536")
    with pytest.raises(ConfigError, match="from 1 to 65535"):
        Settings.from_env()


@pytest.mark.parametrize(
    ("bind", "port", "expected"),
    [
        (None, "8000", "0.0.0.0:8000"),
        ("10.0.0.1", "8000", "10.0.0.1:8000"),
        ("10.0.0.1", None, "10.0.0.1:7860"),
        ("10.0.0.1:9000", "8000", "10.0.0.1:9000"),
        ("[::1]:9000", None, "[::1]:9000"),
        ("[::1]", None, "[::1]:7860"),
        ("unix:/run/embedding.sock", "8000", "unix:/run/embedding.sock"),
    ],
)
def test_bind_and_port(monkeypatch, bind, port, expected):
    for name, value in (("BIND", bind), ("PORT", port)):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert Settings.from_env().bind == expected


def test_one_worker_for_each_usable_core(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert Settings.from_env().workers == 1
    monkeypatch.setenv("WEB_CONCURRENCY", "5")
    assert Settings.from_env().workers == 5


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_in_the_readme(name):
    assert f"| `{name}` |" in (ROOT / "README.md").read_text()


def test_every_setting_of_the_readme_exists():
    assert sorted(re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "README.md").read_text(), re.M)) == NAMES
