"""`pip install` installs all that the service needs."""

import os
import shutil
import subprocess
import sys
import sysconfig

import pytest

from embedding_api.encoder.kernel.build import INSTRUCTION_SETS
from tests.support.server import ROOT, Server


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The `bin` folder of an environment of its own, into which `pip install` has put the package."""
    folder = tmp_path_factory.mktemp("installed")
    # pip writes into the folder it installs from.
    shutil.copytree(ROOT / "embedding_api", folder / "repository" / "embedding_api", ignore=_not_the_source)
    for path in (ROOT / "setup.py", ROOT / "pyproject.toml", *ROOT.glob("requirements*.txt")):
        shutil.copy(path, folder / "repository")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install", "--quiet"]
    # The build's requirements are in this environment: to unpack the compiler again would take half a minute.
    options = ["--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, *options, folder / "repository"], env=environment(python.parent), check=True)
    (python.parent / "gunicorn").write_text(f"#!{python}\nfrom gunicorn.app.wsgiapp import run\n\nrun()\n")
    (python.parent / "gunicorn").chmod(0o755)
    return python.parent


def _not_the_source(folder, names):
    return [name for name in names if name == "__pycache__" or name.endswith((".so", ".txt"))]


def environment(programs):
    """The variables by which an environment has this one's packages, but no program of the machine, such as gcc."""
    return os.environ | {"PATH": str(programs), "PYTHONPATH": sysconfig.get_path("purelib")}


def test_an_installation_has_the_command_the_pages_and_the_objects(installed, tmp_path):
    script = "import embedding_api; print(embedding_api.__file__)"
    run = {"cwd": tmp_path, "env": environment(installed), "capture_output": True, "text": True, "check": True}
    package = subprocess.run([installed / "python", "-c", script], **run).stdout.strip().removesuffix("/__init__.py")
    assert package.startswith(str(installed.parent))
    assert "serve" in subprocess.run([installed / "embedding-api", "--help"], **run).stdout
    for file in ("templates/index.html", "static/page.js", "encoder/kernel/bert.c", "encoder/kernel/bert.h"):
        assert os.path.exists(f"{package}/{file}")
    names = INSTRUCTION_SETS.get(os.uname().machine, ())
    assert all(os.path.exists(f"{package}/encoder/kernel/{name}.so") for name in names)
    assert not os.path.exists(f"{package}/encoder/kernel/build-error.txt")


def test_an_installation_serves_from_any_folder(installed, model, tmp_path):
    settings = environment(installed) | model.environment | {"WEB_CONCURRENCY": "1"}
    with Server(settings, tmp_path, [installed / "embedding-api", "serve"], tmp_path) as server:
        assert server.embed("hello world").status == 200
        assert server.get("/docs").status == 200
