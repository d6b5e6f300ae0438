"""The kernel's shared objects, which `build.py` makes: which of them this CPU can run, and how to call them.

The structures are those of product.h and bert.h.
"""

import ctypes
import json
import platform
import re
from ctypes import POINTER, Structure, c_float, c_int32, c_size_t, c_uint32, c_void_p
from pathlib import Path

from embedding_api.encoder.kernel.build import ERROR_FILE, FOLDER, INSTRUCTION_SETS, MANIFEST, sha256, sources


class KernelUnavailable(Exception):
    """The kernel cannot compute this model here; the message says why, as a part of a sentence."""


class Linear(Structure):
    _fields_ = [("inputs", c_int32), ("outputs", c_int32), ("panels", c_void_p), ("bias", c_void_p)]


class Norm(Structure):
    _fields_ = [("weight", c_void_p), ("bias", c_void_p)]


class Layer(Structure):
    _fields_ = [
        *((name, Linear) for name in ("query_key_value", "attention_output", "intermediate", "output")),
        *((name, Norm) for name in ("attention_norm", "output_norm")),
    ]


class Bert(Structure):
    _fields_ = [
        *((name, c_int32) for name in ("hidden", "heads", "layers", "padding", "max_length", "bfloat16")),
        *((name, c_int32) for name in ("activation", "pooling", "dense_activation")),
        ("epsilon", c_float),
        *((name, c_void_p) for name in ("words", "positions", "attention_bias")),
        ("embedding_norm", Norm),
        ("layer", POINTER(Layer)),
        ("dense", Linear),
    ]


class Helper(Structure):
    _fields_ = [
        ("product", c_void_p),
        *((name, c_uint32) for name in ("offered", "taken", "finished", "active")),
        ("yield_", c_void_p),
    ]


# The type of the result and of each argument, by the function's name in bert.h and product.h.
_FUNCTIONS = {
    "bert_panel": (c_int32,),
    "bert_scratch": (c_size_t, POINTER(Bert), c_int32, c_int32),
    "bert_forward": (None, POINTER(Bert), c_void_p, c_void_p, c_int32, c_void_p, c_void_p, POINTER(Helper)),
    "help_with_products": (None, POINTER(Helper)),
}


def usable_instruction_sets(machine=None, cpuinfo=Path("/proc/cpuinfo")):
    """The names of the instruction sets that this CPU has and the kernel is built for, best first."""
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    flags = set(lines[0].split()) if lines else set()
    candidates = INSTRUCTION_SETS.get(machine or platform.machine(), {})
    return [name for name, instruction_set in candidates.items() if instruction_set.flags <= flags]


def load_library(instruction_set=None):
    """The shared object for an instruction set, by default the best one of this CPU, as a `ctypes.CDLL`.

    Its functions run without the GIL. Its attribute `instruction_set` is the name of the instruction set.

    Raises:
        KernelUnavailable: the CPU has none of the instruction sets, or the shared object is missing, damaged or built
            from other sources.
    """
    if instruction_set is None:
        usable = usable_instruction_sets()
        if not usable:
            raise KernelUnavailable("this CPU has none of AVX2, AVX-512 and NEON, for which the kernel is written")
        instruction_set = usable[0]
    try:
        return _load(instruction_set)
    except (OSError, ValueError) as error:
        raise KernelUnavailable(
            f"the kernel for {instruction_set} cannot be loaded ({error}): 'make kernel' builds it, and so does"
            " 'pip install .' where there is no Makefile"
        ) from error


def _load(instruction_set):
    path = FOLDER / f"{instruction_set}.so"
    if not path.exists():
        raise FileNotFoundError(why_missing())
    # A shared object that is cut off, or has other structures than these, would crash the process.
    manifest = json.loads((FOLDER / MANIFEST).read_text())
    if manifest["sources"] != sha256(*sources()):
        raise ValueError("it was built from other sources than these")
    if manifest[path.name] != sha256(path):
        raise ValueError("it is damaged")
    library = ctypes.CDLL(str(path))
    for name, (result, *arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.instruction_set = instruction_set
    return library


def why_missing():
    """Why there are no shared objects, as a part of a sentence."""
    try:
        sentence = (FOLDER / ERROR_FILE).read_text().strip()
    except FileNotFoundError:
        return "it has not been built"
    return sentence[:1].lower() + sentence[1:].removesuffix(".")
