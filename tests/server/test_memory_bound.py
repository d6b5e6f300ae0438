import pytest

from embedding_api.server.memory_bound import MemoryBound


@pytest.fixture
def bound():
    return MemoryBound(100)


def test_what_is_held_and_let_go_is_counted(bound):
    bound.hold("a", 60)
    assert (bound.fits(40), bound.fits(41), bound.has_room) == (True, False, True)
    bound.hold("b", 40)
    assert (bound.fits(1), bound.has_room) == (False, False)
    bound.hold("a", 0)
    assert (bound.fits(60), bound.has_room, "a" in bound, "b" in bound) == (True, True, False, True)


def test_what_a_connection_holds_is_replaced_and_not_added(bound):
    bound.hold("a", 60)
    bound.hold("a", 10)
    assert bound.fits(90)
    assert not bound.fits(91)


def test_one_alone_may_hold_more_than_the_limit(bound):
    assert bound.fits(1000)
    bound.hold("a", 1000)
    assert not bound.fits(1)


def test_to_let_go_of_nothing_changes_nothing(bound):
    bound.hold("a", 60)
    bound.hold("b", 0)
    assert bound.fits(40)
    assert not bound.fits(41)


def test_holders_are_in_the_order_in_which_they_began(bound):
    assert bound.holders == []
    bound.hold("a", 1)
    bound.hold("b", 2)
    bound.hold("a", 3)
    assert bound.holders == ["a", "b"]
    bound.hold("a", 0)
    assert bound.holders == ["b"]
