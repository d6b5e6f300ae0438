"""Builds the kernel's shared objects: `python embedding_api/encoder/kernel/build.py [machine]`.

The compiler is the Clang in the package `ziglang`. This file imports no other package, and nothing of its own: pip runs
it where only the build requirements of pyproject.toml are installed.
"""

import hashlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent
ERROR_FILE = "build-error.txt"
MANIFEST = "manifest.json"


class InstructionSet(NamedTuple):
    """What a shared object is compiled for.

    Attributes:
        cpu: the compiler's name for a CPU that has it.
        flags: those of /proc/cpuinfo that a CPU must have to run it.
    """

    cpu: str
    flags: frozenset[str]


# The levels v3 and v4 of the x86-64 psABI (https://gitlab.com/x86-psABIs/x86-64-ABI).
_V3 = frozenset({"avx2", "fma", "bmi1", "bmi2", "movbe", "f16c", "abm"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
# By machine, as platform.machine() and the compiler name it, best first.
INSTRUCTION_SETS = {
    "x86_64": {
        "avx512_bf16": InstructionSet("x86_64_v4+avx512bf16", _V4 | {"avx512_bf16"}),
        "avx512": InstructionSet("x86_64_v4", _V4),
        "avx2": InstructionSet("x86_64_v3", _V3),
    },
    "aarch64": {"neon": InstructionSet("generic", frozenset({"asimd"}))},
}

_OPTIONS = [
    "-std=c17",
    "-O3",
    "-Wall",
    "-Wextra",
    "-Werror",
    # Otherwise Clang splits the vectors of AVX-512 in two.
    "-mprefer-vector-width=512",
    "-fno-math-errno",
    # Zig turns these checks on.
    "-fno-sanitize=undefined",
    # No C library, so that an object loads with glibc and with musl. A missing function stops the build.
    "-ffreestanding",
    "-nostdlib",
    "-Wl,-z,defs",
    "-fPIC",
    "-shared",
    # Without symbols for debuggers: they hold names of folders, and the bytes must be the same in each folder.
    "-s",
]


class BuildError(Exception):
    """A shared object cannot be compiled."""


def build(folder=FOLDER, machine=None):
    """Build the shared objects for a machine, by default this one, from the sources beside this file.

    Objects in the folder are replaced when all new ones are complete. For a machine that the kernel is not written for,
    nothing is built.

    Returns:
        None, or a sentence that says why the build failed. A failed build writes the sentence to `build-error.txt` in
        the folder, if it can, and deletes earlier objects, as they may be of other sources.
    """
    folder = Path(folder).resolve()
    machine = machine or platform.machine()
    instruction_sets = INSTRUCTION_SETS.get(machine)
    if instruction_sets is None:
        return None
    try:
        with TemporaryDirectory(dir=folder, prefix=".build-") as temporary:
            objects = [Path(temporary, f"{name}.so") for name in instruction_sets]
            for name, path in zip(instruction_sets, objects, strict=True):
                compile_object(machine, name, sorted(FOLDER.glob("*.c")), path)
            manifest = {path.name: sha256(path) for path in objects} | {"sources": sha256(*sources())}
            for path in objects:
                os.replace(path, folder / path.name)
        (folder / MANIFEST).write_text(f"{json.dumps(manifest, indent=4)}\n")
        (folder / ERROR_FILE).unlink(missing_ok=True)
    except (BuildError, OSError) as error:
        sentence = f"The kernel could not be built: {error}."
        with suppress(OSError):
            for name in (*(f"{name}.so" for name in instruction_sets), MANIFEST):
                (folder / name).unlink(missing_ok=True)
            (folder / ERROR_FILE).write_text(f"{sentence}\n")
        return sentence


def sources():
    """The files that the objects are built from."""
    return sorted(FOLDER.glob("*.[ch]"))


def sha256(*paths):
    """The SHA-256 of the files' bytes, joined, in hexadecimal digits."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def compile_object(machine, instruction_set, sources, output):
    """Compile a shared object from sources, which may include the kernel's headers. The compiler's caches go beside it.

    Raises:
        BuildError: it cannot be compiled; the message says why, as a part of a sentence.
    """
    if importlib.util.find_spec("ziglang") is None:
        raise BuildError("the compiler, the Python package ziglang, is not installed")
    cache = str(output.parent / "cache")
    target = ["-target", f"{machine}-linux-none", f"-mcpu={INSTRUCTION_SETS[machine][instruction_set].cpu}"]
    files = ["-I.", "-o", str(output), *(os.path.relpath(source, FOLDER) for source in sources)]
    result = subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", *_OPTIONS, *target, *files],
        cwd=FOLDER,
        env=os.environ | {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if result.returncode != 0:
        lines = [line.strip() for line in result.stderr.splitlines()]
        errors = [line for line in lines if "error:" in line] or lines[-1:] or [f"status {result.returncode}"]
        raise BuildError(f"the compiler ended with '{errors[0]}'")


if __name__ == "__main__":
    sys.exit(build(machine=sys.argv[1] if sys.argv[1:] else None))
