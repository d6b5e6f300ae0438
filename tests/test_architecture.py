"""Imports point down: server and app, api, bulk, encoder. And an import does nothing but define."""

import ast
import subprocess
import sys

import pytest

from tests.support.server import ROOT

PACKAGE = ROOT / "embedding_api"
WEB = ("flask", "flask_cors", "gunicorn", "werkzeug", "embedding_api.app", "embedding_api.api", "embedding_api.server")
# By folder or module: what must not be imported there.
FORBIDDEN = {
    "encoder": (*WEB, "embedding_api.bulk", "embedding_api.config"),
    "bulk": WEB,
    "config.py": WEB,
    "errors.py": (*WEB, "embedding_api"),
    "metrics.py": (*WEB, "embedding_api"),
    "logs.py": ("gunicorn", "embedding_api"),
    "api": ("gunicorn", "embedding_api.app", "embedding_api.server"),
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(*folders):
    paths = [path for folder in folders for path in sorted((PACKAGE / folder).rglob("*.py"))]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    # These two are programs.
    return [name for name in names if name not in ("embedding_api.wsgi", "embedding_api.gunicorn.conf")]


@pytest.mark.parametrize("where", FORBIDDEN)
def test_imports_point_down(where):
    paths = [PACKAGE / where] if where.endswith(".py") else list((PACKAGE / where).rglob("*.py"))
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in imports(path)
        if any(f"{name}.".startswith(f"{forbidden}.") for forbidden in FORBIDDEN[where])
    ]
    assert paths
    assert not wrong


def run(script):
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=ROOT, check=True)


@pytest.mark.slow
def test_to_embed_without_a_server_needs_no_web_framework():
    imported = "".join(f"import {name}\n" for name in modules("encoder", "bulk"))
    run(f"{imported}import sys; assert not {{'flask', 'werkzeug', 'gunicorn'}} & set(sys.modules)")


@pytest.mark.slow
def test_an_import_makes_no_descriptor_no_thread_and_no_process():
    # What others do when they are imported is not ours: these come first.
    others = (
        "import torch, transformers, sentence_transformers.util, gunicorn.workers.sync, pyarrow.parquet, tqdm, flask"
    )
    imported = "".join(f"import {name}\n" for name in modules("."))
    run(
        f"""
import os
{others}
def made():
    return sorted(os.listdir("/proc/self/fd")), os.listdir("/proc/self/task"), os.getpid()
before = made()
{imported}
assert made() == before, (before, made())
"""
    )
