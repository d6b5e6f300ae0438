"""The kernel's shared objects: which one this CPU runs, and what its functions take, as bert.h and product.h declare it.

`embedding_api/encoder/kernel/build.py` makes them.
"""

import ctypes
import platform
import re
from ctypes import POINTER, Structure, c_float, c_int32, c_size_t, c_void_p
from pathlib import Path

FOLDER = Path(__file__).parent

# By machine, as platform.machine() names it: each instruction set, best first, and the flags of /proc/cpuinfo that it
# takes. On x86-64 these are the levels v3 and v4 of its psABI.
_V3 = {"avx2", "fma", "bmi1", "bmi2", "movbe", "f16c", "abm"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
INSTRUCTION_SETS = {
    "x86_64": {"avx512_bf16": _V4 | {"avx512_bf16"}, "avx512": _V4, "avx2": _V3},
    "aarch64": {"neon": {"asimd"}},
}


class KernelUnavailable(Exception):
    """The kernel cannot run here; the message is a sentence that says why and what to do."""


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
        *((name, c_int32) for name in ("hidden", "heads", "layers", "bfloat16", "mean_pooling")),
        ("epsilon", c_float),
        *((name, c_void_p) for name in ("words", "positions")),
        ("embedding_norm", Norm),
        ("layer", POINTER(Layer)),
    ]


_FUNCTIONS = {
    "bert_panel": (c_int32,),
    "bert_multiplies_bfloat16": (c_int32,),
    "bert_scratch": (c_size_t, POINTER(Bert), c_int32, c_int32),
    "bert_forward": (None, POINTER(Bert), c_void_p, c_void_p, c_int32, c_void_p, c_void_p),
}


def usable_instruction_sets(machine=None, cpuinfo=Path("/proc/cpuinfo")):
    """The names of the instruction sets that this CPU has and the kernel is written for, best first."""
    flags = set(re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)[0].split())
    candidates = INSTRUCTION_SETS.get(machine or platform.machine(), {})
    return [name for name, needed in candidates.items() if needed <= flags]


def load_library(instruction_set):
    """The shared object for an instruction set, as a `ctypes.CDLL`. Its functions let other Python threads run.

    Raises:
        KernelUnavailable: it is not there, or cannot be loaded.
    """
    path = FOLDER / f"{instruction_set}.so"
    library = ctypes.CDLL(str(path))
    for name, (result, *arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
