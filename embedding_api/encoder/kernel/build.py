"""Builds the kernel's shared objects: `python embedding_api/encoder/kernel/build.py [machine]`.

The compiler is the Clang in the package `ziglang`. This file needs no other package, and not the rest of its own: pip
runs it where only what pyproject.toml names under build-system is installed.
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


# On x86-64 these are the levels v3 and v4 of its psABI.
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
    # Clang would split AVX-512's vectors in two.
    "-mprefer-vector-width=512",
    "-fno-math-errno",
    # Zig adds these checks.
    "-fno-sanitize=undefined",
    # No C library: an object loads beside glibc and musl alike. A function that is missing stops the build.
    "-ffreestanding",
    "-nostdlib",
    "-Wl,-z,defs",
    "-fPIC",
    "-shared",
    # Names of folders are in the symbols for debuggers only.
    "-s",
]


class BuildError(Exception):
    """A shared object cannot be compiled."""


def build(folder=FOLDER, machine=None):
    """Build the shared objects for a machine, this one if none is named, into a folder, from the sources beside this.

    The objects that are there are replaced when all new ones are complete. A machine that the kernel is not written for
    gets none.

    Returns:
        None, or a sentence that says why the build failed. `build-error.txt` in the folder has it then as well, if that
        can be written, and there are no objects: earlier ones would be of another source.
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
    """The SHA-256 of files, one after the other, in hexadecimal digits."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def compile_object(machine, instruction_set, sources, output):
    """Compile a shared object from sources, which may include the kernel's headers. Its folder is for caches as well.

    Raises:
        BuildError: says why, as a part of a sentence.
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
