"""Every setting of the service, read from environment variables."""

import functools
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from environs import Env, EnvError, validate

from embedding_api.encoder.compute_threads import usable_cores
from embedding_api.errors import ConfigError

# The upper limit of EMBEDDING_MAX_WAITING.
MOST_WAITING = 1024
# The upper limit of other numbers, far above what makes sense: reading a body and JSON fail with more than 64 bits.
_LARGEST = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The service's settings; the README's table says what each is for.

    `model`, `model_name`, `query_prompt`, `document_prompt` and `revision` are None where the environment does not set
    them; an empty prompt means that there is none.
    """

    model: str | None = None
    revision: str | None = None
    model_name: str | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    engine: str = "auto"
    dtype: str = "float32"
    accept_models: str = "any"
    max_texts: int = 2048
    max_body_bytes: int = 8 * 1024 * 1024
    max_tokens: int = 524288
    max_waiting: int = 128
    client_timeout: int = 10
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    open_metrics: bool = False
    cors_origins: tuple[str, ...] = ()
    log_format: str = "text"
    log_level: str = "info"
    bind: str = "127.0.0.1:7860"
    workers: int = 1

    @classmethod
    def from_env(cls) -> Self:
        """Read the environment.

        An empty variable counts as not set, as Compose files and dashboards pass empty strings; but an empty
        EMBEDDING_QUERY_PROMPT means no prompt.

        Raises:
            ConfigError: names the first setting whose value makes no sense.
        """
        env = Env()
        return cls(
            model=env.str("EMBEDDING_MODEL", "") or None,
            revision=env.str("EMBEDDING_REVISION", "") or None,
            model_name=env.str("EMBEDDING_MODEL_NAME", "") or None,
            query_prompt=env.str("EMBEDDING_QUERY_PROMPT", None),
            document_prompt=env.str("EMBEDDING_DOCUMENT_PROMPT", None),
            engine=_one_of(env, "EMBEDDING_ENGINE", "auto", "reference"),
            dtype=_one_of(env, "EMBEDDING_DTYPE", "float32", "bfloat16"),
            accept_models=_one_of(env, "EMBEDDING_ACCEPT_MODELS", "any", "served"),
            max_texts=_whole_number(env, "EMBEDDING_MAX_TEXTS", cls.max_texts),
            max_body_bytes=_whole_number(env, "EMBEDDING_MAX_BODY_BYTES", cls.max_body_bytes),
            max_tokens=_whole_number(env, "EMBEDDING_MAX_TOKENS", cls.max_tokens),
            max_waiting=_whole_number(env, "EMBEDDING_MAX_WAITING", cls.max_waiting, MOST_WAITING),
            client_timeout=_whole_number(env, "EMBEDDING_CLIENT_TIMEOUT", cls.client_timeout),
            api_keys=_api_keys(env),
            open_metrics=_one_of(env, "EMBEDDING_METRICS", "key", "open") == "open",
            cors_origins=_cors_origins(env),
            log_format=_one_of(env, "EMBEDDING_LOG_FORMAT", "text", "json"),
            log_level=_one_of(env, "EMBEDDING_LOG_LEVEL", "info", "warning", "error"),
            bind=_bind(env),
            workers=_whole_number(env, "WEB_CONCURRENCY", None) or usable_cores(),
        )


@functools.cache
def process_settings() -> Settings:
    """The settings that this process has started with.

    A reload does not read them again, as a file of keys that is missing just then would end the service.
    """
    return Settings.from_env()


def _whole_number(env, name, default, maximum=_LARGEST):
    if not env.str(name, ""):
        return default
    try:
        return env.int(name, default, validate=validate.Range(min=1, max=maximum))
    except EnvError:
        message = f"{name}={os.environ[name]!r} makes no sense: set it to a whole number from 1 to {maximum}."
        raise ConfigError(message) from None


def _one_of(env, name, *choices):
    """One of the choices, of which the first is the default."""
    value = env.str(name, "").lower() or choices[0]
    if value not in choices:
        raise ConfigError(f"{name}={value!r} makes no sense: set it to {', '.join(choices[:-1])} or {choices[-1]}.")
    return value


def _api_keys(env):
    """The keys, from a variable or a file, such as a mounted secret. Messages quote no key, as they go to the log."""
    keys, path = env.str("EMBEDDING_API_KEYS", ""), env.str("EMBEDDING_API_KEYS_FILE", "")
    if keys and path:
        raise ConfigError("EMBEDDING_API_KEYS and EMBEDDING_API_KEYS_FILE are both set: set one of them.")
    if path:
        try:
            keys = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            message = f"EMBEDDING_API_KEYS_FILE cannot be read ({reason}): set it to the path of a file of keys."
            raise ConfigError(message) from None
    if not keys and not path:
        return ()
    split = _split(keys)
    if not split or not all(re.fullmatch(r"[!-~]{16,}", key) for key in split):
        name = "EMBEDDING_API_KEYS_FILE" if path else "EMBEDDING_API_KEYS"
        message = f"{name} has a key that makes no sense: set it to keys of at least 16 ASCII characters, with commas"
        raise ConfigError(f"{message} or white space between them, such as those of 'openssl rand -hex 32'.")
    return split


def _cors_origins(env):
    origins = _split(env.str("EMBEDDING_CORS_ORIGINS", ""))
    for origin in origins:
        # Browsers leave the port out where it is the scheme's own.
        parts = re.fullmatch(r"([a-z][a-z0-9+.-]*)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])(?::([0-9]{1,5}))?", origin)
        if origin != "*" and (not parts or (parts[1], parts[3]) in (("http", "80"), ("https", "443"))):
            message = f"EMBEDDING_CORS_ORIGINS={origin!r} makes no sense: set it to origins as browsers send them,"
            raise ConfigError(f"{message} such as https://intranet.example.com, with commas between them, or to *.")
    return origins


def _split(values):
    """The parts between commas or white space."""
    return tuple(values.replace(",", " ").split())


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
