"""Builds the kernel's shared objects: `python embedding_api/encoder/kernel/build.py [machine]`.

The compiler is the Clang in the package `ziglang`. This file needs no other package, and not the rest of its own: pip
runs it where only what pyproject.toml names under build-system is installed.
"""

import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent
ERROR_FILE = "build-error.txt"


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
        None, or a sentence that says why the build failed. `build-error.txt` in the folder has it then as well, and
        there are no objects: earlier ones would be of another source.
    """
    folder = Path(folder).resolve()
    machine = machine or platform.machine()
    instruction_sets = INSTRUCTION_SETS.get(machine, {})
    error_file = folder / ERROR_FILE
    try:
        with TemporaryDirectory(dir=folder, prefix=".build-") as temporary:
            for name in instruction_sets:
                compile_object(machine, name, sorted(FOLDER.glob("*.c")), Path(temporary, f"{name}.so"))
            for name in instruction_sets:
                os.replace(Path(temporary, f"{name}.so"), folder / f"{name}.so")
    except BuildError as error:
        for name in instruction_sets:
            (folder / f"{name}.so").unlink(missing_ok=True)
        sentence = f"The kernel could not be built: {error}."
        error_file.write_text(f"{sentence}\n")
        return sentence
    error_file.unlink(missing_ok=True)


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
