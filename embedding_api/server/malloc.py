"""Memory that was freed and that malloc keeps for the next time."""

import ctypes

_libc = ctypes.CDLL(None)


def trim():
    """Give it back to the system, where the C library is glibc, which does so only when asked. It takes some ms."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
