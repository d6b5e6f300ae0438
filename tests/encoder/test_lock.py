import mmap
import os
import signal
import time

import pytest

from embedding_api.encoder.lock import SIZE, Lock


@pytest.fixture
def lock():
    return Lock(memoryview(mmap.mmap(-1, SIZE)), seconds=0.2)


def hold(lock, then):
    """A process that holds the lock and then does something else. Returns its id."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        lock.__enter__()
        os.write(writer, b".")
        then()
        os._exit(0)
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    return pid


def test_it_is_free_again_after_use(lock):
    for _ in range(2):
        with lock:
            pass


def test_it_is_free_after_an_exception(lock):
    with pytest.raises(ZeroDivisionError), lock:
        _ = 1 / 0
    with lock:
        pass


def test_the_lock_of_a_killed_process_goes_on(lock):
    pid = hold(lock, lambda: os.kill(os.getpid(), signal.SIGKILL))
    os.waitpid(pid, 0)
    for _ in range(2):
        with lock:
            pass


def test_who_holds_it_keeps_others_out_until_it_dies(lock):
    pid = hold(lock, lambda: time.sleep(60))
    try:
        with pytest.raises(TimeoutError), lock:
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    with lock:
        pass
