"""Gunicorn's options that the service's own worker does not support. docs/operations.md lists them."""

import re
import sys

from gunicorn.config import Config

# Options that stop the start, as an operator who sets them relies on them: how to see that one is set, and what to do.
_REFUSED = (
    (
        lambda cfg: cfg.is_ssl or cfg.proxy_protocol != "off",
        "The service speaks neither TLS nor the PROXY protocol: leave these options out, and put a proxy such as nginx"
        " in front of it.",
    ),
    (
        lambda cfg: cfg.http_protocols != ["h1"] or cfg.http2_cleartext != "off" or cfg.protocol != "http",
        "The service speaks HTTP/1.1 and nothing else: leave --http-protocols, --http2-cleartext and --protocol out,"
        " and put a proxy such as nginx in front of it.",
    ),
    (
        lambda cfg: cfg.threads > 1,
        "--threads makes no sense with the service's own worker, which serves many clients in one thread: leave it"
        " out, or choose Gunicorn's threaded worker with -k gthread.",
    ),
    (
        lambda cfg: cfg.reload,
        "--reload makes no sense, as the application is loaded before the workers start: leave it out, and restart"
        " the service after a change.",
    ),
    (
        lambda cfg: cfg.reuse_port,
        "--reuse-port makes no sense, as the workers share one socket, from which an idle one takes the next client:"
        " leave it out.",
    ),
    (
        lambda cfg: cfg.root_path,
        "--root-path is for ASGI: leave it out, and set SCRIPT_NAME to the prefix of the service's paths.",
    ),
    (
        lambda cfg: any(re.match("EMBEDDING_|(BIND|PORT|WEB_CONCURRENCY)=", pair) for pair in cfg.raw_env),
        "--env comes too late for the service's settings: set them in the environment that Gunicorn is started in.",
    ),
)
# Options without an effect, of which the log warns.
_IGNORED = (
    "accesslog",
    "logconfig",
    "logconfig_json",
    "syslog",
    "statsd_host",
    "enable_backlog_metric",
    "http_parser",
    "permit_obsolete_folding",
    "strip_header_spaces",
    "permit_unconventional_http_method",
    "permit_unconventional_http_version",
    "casefold_http_method",
)


def check(cfg, log):
    """Stop the start at an option that makes no sense, and warn of those without an effect."""
    for is_set, message in _REFUSED:
        if is_set(cfg):
            sys.exit(f"Error: {message}")
    defaults = Config()
    names = [name for name in _IGNORED if getattr(cfg, name) != getattr(defaults, name)]
    if cfg.errorlog != "-" and not cfg.capture_output:
        names.append("errorlog")
    if names:
        options = ", ".join(cfg.settings[name].cli[0] for name in names)
        log.warning("These options of Gunicorn's have no effect here: %s", options)
