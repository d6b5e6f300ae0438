"""Gives freed memory back to the operating system."""

import ctypes

_libc = ctypes.CDLL(None)


def trim() -> None:
    """Give back what malloc keeps after it was freed. Only glibc needs and has this. It takes some ms."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
