"""The kernel's shared objects: which of them this CPU runs, and what their functions take, as bert.h declares it.

`build.py` makes them.
"""

import ctypes
import platform
import re
from ctypes import POINTER, Structure, c_float, c_int32, c_size_t, c_void_p
from pathlib import Path

from embedding_api.encoder.kernel.build import ERROR_FILE, FOLDER, INSTRUCTION_SETS


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
    return [name for name, instruction_set in candidates.items() if instruction_set.flags <= flags]


def why_missing():
    """Why there are no shared objects, as a part of a sentence."""
    try:
        sentence = (FOLDER / ERROR_FILE).read_text().strip()
    except FileNotFoundError:
        return "it has not been built"
    return sentence[0].lower() + sentence[1:].removesuffix(".")


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
