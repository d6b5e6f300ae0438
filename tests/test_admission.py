import os
import signal

import pytest

from embedding_api.admission import Admission


@pytest.fixture
def admission():
    return Admission(threshold=100, limit=1)


@pytest.fixture
def other(admission):
    """A function that starts another process with a large request; returns whether it is admitted, and its id."""
    children = []

    def start():
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.write(writing, b"y" if admission.admit(101) else b"n")
            signal.pause()
        children.append(child)
        os.close(writing)
        with open(reading, "rb") as answers:
            return answers.read(1) == b"y", child

    yield start
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_large_request_is_admitted_while_nobody_else_has_one(admission, other):
    assert admission.admit(101)
    assert other()[0] is False
    admission.release()
    assert other()[0] is True
    assert not admission.admit(101)


def test_a_small_request_is_always_admitted(admission, other):
    assert other()[0] is True
    assert admission.admit(100)


def test_a_killed_process_no_longer_counts(admission, other):
    _, child = other()
    assert not admission.admit(101)
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert admission.admit(101)


def test_as_many_processes_as_the_limit_are_admitted(admission, other):
    admission.limit = 3
    assert [other()[0] for _ in range(4)] == [True, True, True, False]
