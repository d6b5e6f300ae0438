"""Every setting of the service, read from environment variables."""

import os
import re
from dataclasses import dataclass

import joblib
from environs import Env, EnvError, validate

DEFAULT_MODEL = "BAAI/bge-small-en-v1.5"
DEFAULT_REVISION = "5c38ec7c405ec4b44b94cc5a9bb96e735b38267a"


class ConfigError(Exception):
    """A mistake of whoever runs the service, told in one sentence that says what to set."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The service's settings; the README's table says what each is for.

    `model`, `model_name`, `query_prompt` and `revision` are None where the environment leaves the choice to us;
    an empty `query_prompt` means none at all.
    """

    model: str | None = None
    revision: str | None = None
    model_name: str | None = None
    query_prompt: str | None = None
    engine: str = "auto"
    dtype: str = "float32"
    max_texts: int = 2048
    max_body_bytes: int = 8 * 1024 * 1024
    max_tokens: int = 131072
    bind: str = "127.0.0.1:7860"
    workers: int = 1

    @classmethod
    def from_env(cls):
        """Read the environment. Compose files and dashboards pass empty strings for what is not set: so they count.

        Raises:
            ConfigError: names the first setting whose value makes no sense.
        """
        env = Env()
        return cls(
            model=env.str("EMBEDDING_MODEL", "") or None,
            revision=env.str("EMBEDDING_REVISION", "") or None,
            model_name=env.str("EMBEDDING_MODEL_NAME", "") or None,
            query_prompt=env.str("EMBEDDING_QUERY_PROMPT", None),
            engine=_one_of(env, "EMBEDDING_ENGINE", "auto", "reference"),
            dtype=_one_of(env, "EMBEDDING_DTYPE", "float32", "bfloat16"),
            max_texts=_whole_number(env, "EMBEDDING_MAX_TEXTS", cls.max_texts),
            max_body_bytes=_whole_number(env, "EMBEDDING_MAX_BODY_BYTES", cls.max_body_bytes),
            max_tokens=_whole_number(env, "EMBEDDING_MAX_TOKENS", cls.max_tokens),
            bind=_bind(env),
            workers=_whole_number(env, "WEB_CONCURRENCY", usable_cores()),
        )


def usable_cores():
    """The number of cores this process may use: its CPU affinity and its cgroup's quota, rounded up."""
    return joblib.cpu_count()


def _whole_number(env, name, default, maximum=None):
    if not env.str(name, ""):
        return default
    try:
        return env.int(name, default, validate=validate.Range(min=1, max=maximum))
    except EnvError:
        allowed = "of at least 1" if maximum is None else f"from 1 to {maximum}"
        raise ConfigError(f"{name}={os.environ[name]!r} makes no sense: set it to a whole number {allowed}.") from None


def _one_of(env, name, *choices):
    """One of the choices, of which the first is the default."""
    value = env.str(name, "") or choices[0]
    if value not in choices:
        raise ConfigError(f"{name}={value!r} makes no sense: set it to {' or '.join(choices)}.")
    return value


def _bind(env):
    """Gunicorn's own rule: PORT alone listens on every interface, as platforms that set it expect; BIND wins."""
    port = _whole_number(env, "PORT", None, maximum=65535)
    bind = env.str("BIND", "") or ("0.0.0.0" if port else "127.0.0.1")
    if re.fullmatch(r"unix:.+", bind):
        return bind
    address = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:\s/]+)(?::(\d{1,5}))?", bind)
    if not address or int(address[2] or 1) not in range(65536):
        raise ConfigError(f"BIND={bind!r} makes no sense: set it to host, host:port or unix:path.")
    return bind if address[2] else f"{bind}:{port or 7860}"
