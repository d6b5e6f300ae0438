"""Gives freed memory back to the operating system. Only glibc needs this, and has it."""

import ctypes

_libc = ctypes.CDLL(None)
# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MAPPED_BYTES = 1 << 20


def map_large_blocks() -> None:
    """Have each block of a megabyte or more mapped by itself, so that it is given back as soon as it is freed.

    Once such blocks have been freed, malloc would take them from its heaps, where free memory stays between others.
    """
    if hasattr(_libc, "malloc_trim"):
        _libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        # What may stay free at the end of a heap, for the next request.
        _libc.mallopt(_M_TRIM_THRESHOLD, 2 * _MAPPED_BYTES)


def trim() -> None:
    """Give back what malloc keeps after it was freed. It takes some ms."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
