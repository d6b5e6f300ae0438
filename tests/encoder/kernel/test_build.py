"""The kernel's shared objects can be built anywhere, with the same bytes each time, and a failure is reported."""

import hashlib
import runpy
import shutil
import struct
import subprocess
import sys
import tomllib

import pytest

from embedding_api.__main__ import DEMO_REQUIREMENT
from embedding_api.encoder.kernel import library
from embedding_api.encoder.kernel.build import FOLDER, INSTRUCTION_SETS
from tests.support.server import ROOT

pytestmark = pytest.mark.slow

# The machine's number in the header of its objects (ELF).
ELF_MACHINES = {"x86_64": 62, "aarch64": 183}


def copy_sources(folder):
    folder.mkdir(parents=True)
    for path in (FOLDER / "build.py", *FOLDER.glob("*.[ch]")):
        shutil.copy(path, folder)
    return folder


@pytest.fixture
def sources(tmp_path):
    """A folder of its own with the kernel's sources and build.py."""
    return copy_sources(tmp_path / "kernel")


def build(sources, machine=None):
    return runpy.run_path(str(sources / "build.py"))["build"](sources, machine)


def objects(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.so")}


def test_the_same_source_gives_the_same_bytes_in_any_folder(sources, tmp_path):
    elsewhere = copy_sources(tmp_path / "another folder" / "of another length")
    assert build(sources, "aarch64") is None
    assert build(elsewhere, "aarch64") is None
    assert objects(sources) == objects(elsewhere) != {}


@pytest.mark.parametrize("machine", INSTRUCTION_SETS)
def test_it_builds_for_any_machine_and_leaves_nothing_else(sources, machine):
    before = set(sources.iterdir())
    assert build(sources, machine) is None
    built = {sources / f"{name}.so" for name in INSTRUCTION_SETS[machine]}
    assert set(sources.iterdir()) - before == {*built, sources / "manifest.json"}
    for path in built:
        content = path.read_bytes()
        assert struct.unpack_from("<H", content, 18) == (ELF_MACHINES[machine],)
        assert str(sources).encode() not in content


def test_a_machine_that_the_kernel_is_not_written_for_is_no_error(sources):
    before = set(sources.iterdir())
    assert build(sources, "riscv64") is None
    assert set(sources.iterdir()) == before


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("int broken = missing;", "undeclared identifier 'missing'"),
        ("int f(void);int g(void){return f();}", "symbol: f"),
    ],
    ids=["compiler", "linker"],
)
def test_a_failing_compiler_leaves_a_sentence_and_no_objects_until_the_next_good_build(sources, source, reason):
    assert build(sources, "aarch64") is None
    before = set(sources.iterdir())
    (sources / "extra.c").write_text(f"int g(void);{source}\n")
    sentence = build(sources, "aarch64")
    assert reason in sentence
    assert sentence.startswith("The kernel could not be built: ")
    assert "\n" not in sentence
    assert (sources / "build-error.txt").read_text() == f"{sentence}\n"
    assert not objects(sources)
    (sources / "extra.c").unlink()
    assert build(sources, "aarch64") is None
    assert set(sources.iterdir()) == before


def test_without_the_compiler_it_says_so(sources):
    # -S: without the installed packages.
    result = subprocess.run([sys.executable, "-S", sources / "build.py", "x86_64"], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == (sources / "build-error.txt").read_text()
    assert "ziglang, is not installed" in result.stderr


def test_a_folder_that_cannot_be_written_to_is_reported(sources):
    sentence = runpy.run_path(str(sources / "build.py"))["build"](sources / "absent", "aarch64")
    assert sentence.startswith("The kernel could not be built: [Errno 2]")


def test_the_library_says_why_its_objects_are_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    assert library.why_missing() == "it has not been built"
    (tmp_path / "build-error.txt").write_text("The kernel could not be built: no space.\n")
    assert library.why_missing() == "the kernel could not be built: no space"


def test_pins_that_are_written_twice_are_the_same():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    requirements = (ROOT / "requirements-dev.txt").read_text().splitlines()
    [compiler] = [line.partition(";")[0] for line in pyproject["build-system"]["requires"] if "ziglang" in line]
    assert compiler in requirements
    assert DEMO_REQUIREMENT in requirements
    [setuptools] = [line for line in pyproject["build-system"]["requires"] if "setuptools" in line]
    assert setuptools in (ROOT / "constraints.txt").read_text().splitlines()
