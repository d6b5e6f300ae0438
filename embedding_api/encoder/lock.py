"""A lock between processes that outlives whoever holds it."""

import ctypes
import errno
import time

# Bytes of a pthread_mutex_t and a pthread_mutexattr_t, and more, on any platform.
SIZE = 128
_PROCESS_SHARED = _ROBUST = 1

_libc = ctypes.CDLL(None)
# The call that hardly ever waits keeps the interpreter's own lock, which would cost more than the call.
_trylock = ctypes.PyDLL(None).pthread_mutex_trylock
_unlock = ctypes.PyDLL(None).pthread_mutex_unlock


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class Lock:
    """A robust POSIX mutex (pthread_mutexattr_setrobust): when its holder dies, the kernel passes it on.

    Whoever gets it then finds what it guards as the dead one left it, in the middle of its changes perhaps.

    Args:
        memory: SIZE writable bytes, shared from the fork.
        seconds: how long to wait for it at most: a holder that is stopped keeps it.
    """

    def __init__(self, memory, seconds):
        # A reference, so that the memory stays for as long as the lock.
        self._memory = (ctypes.c_char * SIZE).from_buffer(memory)
        self._mutex = ctypes.c_void_p(ctypes.addressof(self._memory))
        self._seconds = seconds
        attributes = ctypes.create_string_buffer(SIZE)
        _check(_libc.pthread_mutexattr_init(attributes))
        _check(_libc.pthread_mutexattr_setpshared(attributes, _PROCESS_SHARED))
        _check(_libc.pthread_mutexattr_setrobust(attributes, _ROBUST))
        _check(_libc.pthread_mutex_init(self._mutex, attributes))

    def __enter__(self):
        """Raises TimeoutError."""
        result = _trylock(self._mutex)
        if result == errno.EBUSY:
            seconds, fraction = divmod(time.time() + self._seconds, 1)
            deadline = _Timespec(int(seconds), int(1e9 * fraction))
            result = _libc.pthread_mutex_timedlock(self._mutex, ctypes.byref(deadline))
        if result == errno.EOWNERDEAD:
            result = _libc.pthread_mutex_consistent(self._mutex)
        if result == errno.ETIMEDOUT:
            raise TimeoutError
        _check(result)

    def __exit__(self, *error):
        _check(_unlock(self._mutex))


def _check(result):
    if result:
        raise OSError(result, errno.errorcode.get(result, "unknown error"))
