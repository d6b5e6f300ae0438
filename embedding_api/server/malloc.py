"""Gives freed memory back to the operating system. Only glibc needs this, and has it."""

import ctypes

_libc = ctypes.CDLL(None)
# From glibc's malloc.h.
_M_ARENA_MAX = -8


def use_one_arena() -> None:
    """Have all threads allocate from one arena: `trim` does not give back the free memory at the end of others."""
    if hasattr(_libc, "malloc_trim"):
        _libc.mallopt(_M_ARENA_MAX, 1)


def trim() -> None:
    """Give back what malloc keeps after it was freed. It takes some ms."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
