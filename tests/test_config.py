import os
import re
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from embedding_api import config
from embedding_api.config import Settings
from embedding_api.errors import ConfigError

ROOT = Path(__file__).parent.parent
NAMES = sorted(set(re.findall(r'"((?:EMBEDDING_\w+)|BIND|PORT|WEB_CONCURRENCY)"', Path(config.__file__).read_text())))


def test_defaults():
    settings = Settings.from_env()
    assert (settings.model, settings.revision, settings.model_name) == (None,) * 3
    assert (settings.query_prompt, settings.document_prompt) == (None, None)
    assert (settings.max_texts, settings.max_body_bytes, settings.max_tokens) == (2048, 8388608, 524288)
    assert settings.bind == "127.0.0.1:7860"
    assert settings.accept_models == "any"


def test_environment_is_read(monkeypatch):
    monkeypatch.setenv("EMBEDDING_MODEL", "owner/name")
    monkeypatch.setenv("EMBEDDING_MODEL_NAME", "ours")
    monkeypatch.setenv("EMBEDDING_REVISION", "v2")
    monkeypatch.setenv("EMBEDDING_MAX_TEXTS", "7")
    monkeypatch.setenv("EMBEDDING_ACCEPT_MODELS", "served")
    settings = Settings.from_env()
    assert settings.accept_models == "served"
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
    assert Settings.from_env() == replace(expected, query_prompt="", document_prompt="")


@pytest.mark.parametrize("bind", ["127.0.0.1:65536", "127.0.0.1:port", ":80", "unix:", "a b", "http://localhost:80"])
def test_a_wrong_bind(monkeypatch, bind):
    monkeypatch.setenv("BIND", bind)
    with pytest.raises(ConfigError, match=f"^BIND={bind!r} makes no sense: set it to host, host:port or unix:path"):
        Settings.from_env()


@pytest.mark.parametrize(
    "name",
    [
        "EMBEDDING_MAX_TEXTS",
        "EMBEDDING_MAX_BODY_BYTES",
        "EMBEDDING_MAX_TOKENS",
        "EMBEDDING_MAX_WAITING",
        "EMBEDDING_CLIENT_TIMEOUT",
        "WEB_CONCURRENCY",
        "PORT",
    ],
)
@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", " "])
def test_a_number_that_makes_no_sense_names_the_setting_and_what_is_allowed(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"^{name}={value!r} makes no sense: set it to a whole number .*1"):
        Settings.from_env()


@pytest.mark.parametrize(("field", "choices"), [("engine", ("auto", "reference")), ("dtype", ("float32", "bfloat16"))])
def test_a_setting_with_two_choices(monkeypatch, field, choices):
    name = f"EMBEDDING_{field.upper()}"
    assert getattr(Settings.from_env(), field) == choices[0]
    for choice in choices:
        monkeypatch.setenv(name, choice)
        assert getattr(Settings.from_env(), field) == choice
    monkeypatch.setenv(name, "fast")
    with pytest.raises(ConfigError, match=rf"^{name}='fast' makes no sense: set it to {choices[0]} or {choices[1]}"):
        Settings.from_env()


@pytest.mark.parametrize(
    ("name", "end"), [("PORT", 65535), ("EMBEDDING_MAX_WAITING", 1024), ("EMBEDDING_MAX_BODY_BYTES", 2**31 - 1)]
)
def test_a_number_with_an_upper_end(monkeypatch, name, end):
    monkeypatch.setenv(name, str(end))
    Settings.from_env()
    monkeypatch.setenv(name, str(end + 1))
    with pytest.raises(ConfigError, match=f"from 1 to {end}"):
        Settings.from_env()


def test_metrics_may_be_open(monkeypatch):
    assert not Settings.from_env().open_metrics
    monkeypatch.setenv("EMBEDDING_METRICS", "open")
    assert Settings.from_env().open_metrics


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


@pytest.mark.parametrize(
    ("cores", "environment", "workers"),
    [
        (1, {}, 1),
        (2, {}, 2),
        (100, {}, 100),
        (2, {"EMBEDDING_ENGINE": "reference"}, 2),
        (2, {"WEB_CONCURRENCY": "7"}, 7),
    ],
)
def test_there_is_a_worker_for_each_usable_core(monkeypatch, cores, environment, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Settings.from_env().workers == workers


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_in_the_readme(name):
    assert f"| `{name}` |" in (ROOT / "README.md").read_text()


def test_every_setting_of_the_readme_exists():
    assert sorted(re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "README.md").read_text(), re.M)) == NAMES


@pytest.mark.parametrize("separator", [",", "\n", " , "])
def test_keys_from_the_environment_or_a_file(monkeypatch, tmp_path, separator):
    keys = separator.join(["a" * 16, "b" * 32])
    file = tmp_path / "keys"
    file.write_text(keys + "\n")
    for name, value in (("EMBEDDING_API_KEYS", keys), ("EMBEDDING_API_KEYS_FILE", str(file))):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert Settings.from_env().api_keys == ("a" * 16, "b" * 32)


@pytest.mark.parametrize("keys", ["short", "a" * 16 + ",b", "ä" * 16, ",", " "])
def test_a_key_that_makes_no_sense_is_not_quoted(monkeypatch, keys):
    monkeypatch.setenv("EMBEDDING_API_KEYS", keys)
    with pytest.raises(ConfigError, match=r"^EMBEDDING_API_KEYS has a key .* at least 16 ASCII") as error:
        Settings.from_env()
    assert keys.strip(" ,") == "" or keys not in str(error.value)


def test_a_file_of_keys_must_be_readable_and_the_only_source(monkeypatch, tmp_path):
    monkeypatch.setenv("EMBEDDING_API_KEYS_FILE", str(tmp_path / "keys"))
    with pytest.raises(ConfigError, match=r"^EMBEDDING_API_KEYS_FILE cannot be read \(No such file"):
        Settings.from_env()
    (tmp_path / "keys").write_text("")
    with pytest.raises(ConfigError, match=r"^EMBEDDING_API_KEYS_FILE has a key that makes no sense"):
        Settings.from_env()
    monkeypatch.setenv("EMBEDDING_API_KEYS", "a" * 16)
    with pytest.raises(ConfigError, match="are both set: set one of them"):
        Settings.from_env()


def test_origins(monkeypatch):
    monkeypatch.setenv("EMBEDDING_CORS_ORIGINS", "https://a.example, http://my_host:3000 http://[::1]:81")
    assert Settings.from_env().cors_origins == ("https://a.example", "http://my_host:3000", "http://[::1]:81")


@pytest.mark.parametrize(
    "origin", ["a.example", "https://a.example/", "https://*.example", "https://a.example:x", "https://a.example:443"]
)
def test_an_origin_that_makes_no_sense(monkeypatch, origin):
    monkeypatch.setenv("EMBEDDING_CORS_ORIGINS", origin)
    with pytest.raises(
        ConfigError, match=r"^EMBEDDING_CORS_ORIGINS=.* makes no sense: set it to origins as browsers send"
    ):
        Settings.from_env()


def test_a_reload_keeps_the_settings_of_the_start(monkeypatch, tmp_path):
    """Also while the file of keys is being replaced, and so is missing."""
    file = tmp_path / "keys"
    file.write_text("a" * 16)
    monkeypatch.setenv("EMBEDDING_API_KEYS_FILE", str(file))
    config.process_settings.cache_clear()
    try:
        first = runpy.run_path(str(ROOT / "gunicorn.conf.py"))["settings"]
        file.unlink()
        assert runpy.run_path(str(ROOT / "gunicorn.conf.py"))["settings"] == first
    finally:
        config.process_settings.cache_clear()
