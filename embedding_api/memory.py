"""Memory that was freed and that malloc keeps for the next time."""

import ctypes

_libc = ctypes.CDLL(None)

# A request or an answer of more bytes took much memory, and so long that giving it back does not matter.
LARGE_BYTES = 64 * 1024


def give_back():
    """Give it back to the system, where the C library is glibc, which does so only when asked. It takes some ms."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
