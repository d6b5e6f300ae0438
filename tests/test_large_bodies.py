import os
import signal

import pytest

from embedding_api.large_bodies import LARGE, LargeBodies


@pytest.fixture
def bodies():
    return LargeBodies(1)


@pytest.fixture
def other(bodies):
    """A function that starts another process; returns whether that may have a large body, and its process id."""
    children = []

    def start():
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.write(writing, b"y" if bodies.begin(LARGE + 1) else b"n")
            signal.pause()
        children.append(child)
        os.close(writing)
        with open(reading, "rb") as answers:
            return answers.read(1) == b"y", child

    yield start
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_place_is_for_one_at_a_time(bodies, other):
    assert bodies.begin(LARGE + 1)
    assert other()[0] is False
    bodies.end()
    assert other()[0] is True
    assert not bodies.begin(LARGE + 1)


def test_others_need_no_place(bodies, other):
    assert other()[0] is True
    assert bodies.begin(LARGE)


def test_the_place_of_a_killed_process_is_free(bodies, other):
    _, child = other()
    assert not bodies.begin(LARGE + 1)
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert bodies.begin(LARGE + 1)
