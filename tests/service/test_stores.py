"""The code of docs/bulk.md: what the command writes goes into databases and indexes, and comes out again."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.support.server import ROOT

PYTHON = ROOT / ".venv-stores" / "bin" / "python"
DOCUMENT = (ROOT / "docs" / "bulk.md").read_text()
POSTGRESQL = "postgresql:///shop"
# Starts PostgreSQL, says where it is, and stops it when nobody listens any more.
SERVER = """
import pgserver, sys
with pgserver.get_server(sys.argv[1]) as server:
    print(server.get_uri(), flush=True)
    sys.stdin.read()
"""
TEXTS = {
    "a7": "The wing of an aircraft creates lift.",
    "b2": "Stocks fell on Monday.",
    "c9": "",
    "d4": "A cat sat on the mat.",
    "e1": "Bread needs flour, water and salt.",
}

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="needs the packages of requirements-stores.txt: make test has them"
)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A directory with vectors.parquet and queries.npy, made by the command."""
    folder = tmp_path_factory.mktemp("stores")
    rows = [{"id": id, "text": text} for id, text in TEXTS.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.txt").write_text("where did the cat sit?\nwhy do planes fly?\n")
    for arguments in ("corpus.jsonl", "vectors.parquet"), ("queries.txt", "queries.npy", "--query"):
        subprocess.run(
            [sys.executable, "-m", "embedding_api", "embed", *arguments],
            cwd=folder,
            env=os.environ | model.environment | {"PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
        )
    return folder


@pytest.fixture
def postgresql(tmp_path):
    if lacks("pgserver", "pgserver"):
        pytest.skip("needs pgserver, which Python 3.13 and newer do not have")
    process = subprocess.Popen(
        [PYTHON, "-c", SERVER, tmp_path / "data"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process.stdout.readline().strip()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def lacks(name, module):
    """Whether the environment lacks a module, or a name in it."""
    return subprocess.run([PYTHON, "-c", f"import {module}; {name}"], capture_output=True).returncode != 0


def blocks():
    """The blocks of Python, by the heading above them."""
    sections = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    found = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return {title: block for title, section in sections for block in found.findall(section)}


@pytest.mark.parametrize("title", blocks())
def test_what_the_command_writes_is_found_again(folder, request, title):
    code = blocks()[title]
    if POSTGRESQL in code:
        code = code.replace(POSTGRESQL, request.getfixturevalue("postgresql"))
    if "enable_load_extension" in code and lacks("sqlite3.Connection.enable_load_extension", "sqlite3"):
        code = code.replace("import sqlite3\n", "import pysqlite3 as sqlite3\n")
        if lacks("pysqlite3", "pysqlite3"):
            pytest.skip("needs a Python whose SQLite loads extensions")
    done = subprocess.run([PYTHON, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("d4 ")
    assert lines[0].endswith(TEXTS["d4"])


def test_every_store_has_a_block():
    headings = re.findall(r"^## (Into .+)", DOCUMENT, re.MULTILINE)
    assert headings == list(blocks())
    assert len(headings) == 6
