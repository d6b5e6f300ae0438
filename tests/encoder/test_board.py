"""Every order in which workers can take their steps on the board, with deaths, stops and late masters in between."""

import os
import signal
import sys

import numpy as np
import pytest

from embedding_api.encoder import board as module
from embedding_api.encoder.board import FREE, LOST, MOST_TOKENS, Board
from embedding_api.encoder.sharing import BELL, MORE, OWN, keep, share


def vectors_of(works):
    return np.array([ids for work in works for ids in work.texts], np.float32)


class Quiet(Board):
    """A board whose bells can be looked at."""

    def __init__(self, cores, places):
        self.now = 1.0
        self.rung = set()
        super().__init__(cores, places, clock=lambda: self.now)
        for bell in self._bells:
            os.close(bell)
        self._begin = bytes(self._memory)

    def reset(self):
        self._memory[:] = self._begin
        self.now = 1.0
        self.rung = set()

    def _ring(self, places):
        self.rung |= set(places)


class Worker:
    """One that has some batches computed, one after the other, step by step."""

    def __init__(self, board, place, large, batches):
        self.board, self.place, self.large, self.batches = board, place, large, batches
        self.begin()

    def begin(self):
        self.texts = [[self.place, self.batches]] * self.place
        self.course = keep(self.board, self.place, 1) if self.large else share(self.board, self.place, self.texts, 1)
        self.wish = None

    @property
    def is_done(self):
        return self.batches == 0

    def step(self, late=None):
        answer = late if self.wish is BELL else None
        if isinstance(self.wish, list):
            answer = vectors_of(self.wish)
        elif self.wish is OWN:
            if works := self.board.take(self.place):
                self.board.deliver(self.place, works, vectors_of(works))
            answer = "own"
        try:
            self.wish = self.course.send(answer)
        except StopIteration as end:
            vectors = end.value
        else:
            return
        assert vectors == "own" if self.large else vectors.tolist() == self.texts
        self.end()

    def end(self):
        self.batches -= 1
        if self.batches:
            self.begin()

    def key(self):
        return str([work.place for work in self.wish] if isinstance(self.wish, list) else self.wish), self.batches


class World:
    """Workers, their board, and what can happen next.

    Args:
        large: the places whose batches are too large to share.
        batches: how many each worker has.
        faults: what may go wrong, and how often, as words: a worker dies between two steps ("die") or within one,
            before it has rung ("cut"), is stopped for now ("stop"), is taken for lost though it is only slow ("late"),
            or its client leaves ("leave").
    """

    def __init__(self, board, large, batches, faults):
        self.board, self.faults = board, faults
        board.reset()
        self.workers = {place: Worker(board, place, place in large, batches) for place in range(1, len(board._beat))}
        for place in self.workers:
            board.settle(place)
        board.rung = set()
        self.dead, self.stopped = set(), set()

    def actions(self):
        """What happens next by itself, and then what may happen: pairs of a word and a place."""
        certain, possible = [], []
        for place, worker in self.workers.items():
            if place in self.dead:
                certain.append(("bury", place))
            elif place in self.stopped:
                possible.append(("continue", place))
            elif not worker.is_done:
                waits = worker.wish is BELL and place not in self.board.rung
                if not waits:
                    certain.append(("step", place))
                elif self.stopped:
                    certain.append(("late", place))
                faults = {*self.faults} - ({"late"} if not waits else set())
                faults -= {"leave"} if worker.wish not in (BELL, OWN) else set()
                possible += [(fault, place) for fault in sorted(faults)]
        return certain, possible

    def act(self, what, place):
        worker = self.workers[place]
        if what in self.faults and not (what == "late" and self.stopped):
            self.faults = list(self.faults)
            self.faults.remove(what)
        if what == "bury":
            self.dead.remove(place)
            self.board.bury(place)
            self.board.settle(place)
            self.workers[place] = Worker(self.board, place, worker.large, worker.batches)
        elif what == "die":
            self.dead.add(place)
        elif what == "leave":
            self.board.withdraw(place)
            worker.end()
        elif what == "stop":
            self.stopped.add(place)
        elif what == "continue":
            self.stopped.remove(place)
        elif what == "late":
            self.board.now += LOST
            worker.step(True)
        else:
            rung = self.board.rung - {place}
            worker.step(False)
            if what == "cut":
                self.board.rung = rung
                self.dead.add(place)
            self.board.rung.discard(place)

    def key(self):
        board = self.board
        leads = [beat and 1 + (board.now - beat >= LOST) for beat in board._beat]
        others = [bytes(part) for part in (board._state, board._leader, board._held)]
        workers = [worker.key() for worker in self.workers.values()]
        order = sorted(self.workers, key=board._ticket.__getitem__)
        return str((leads, others, workers, order, sorted(board.rung), self.dead, self.stopped, sorted(self.faults)))


def explore(board, large, batches, faults):
    """Take every way through the world; from each state it must come to a good end without another fault."""
    before = {}
    ends = []
    paths = [([], None)]
    while paths:
        path, origin = paths.pop()
        world = World(board, large, batches, faults)
        for action in path:
            world.act(*action)
        while True:
            key = world.key()
            new = key not in before
            before.setdefault(key, set()).add(origin)
            if not new:
                break
            certain, possible = world.actions()
            if all(worker.is_done for place, worker in world.workers.items() if place not in world.stopped):
                ends.append(key)
                if not world.stopped and not world.dead:
                    assert_clean(board)
            # Where it comes by itself counts as a way to a good end, and where it comes by a fault does not.
            following = [(action, key) for action in certain] + [(action, None) for action in possible]
            if not following:
                break
            paths += [([*path, action], origin) for action, origin in following[1:]]
            action, origin = following[0]
            path = [*path, action]
            world.act(*action)
    good = set()
    while ends:
        key = ends.pop()
        if key not in good:
            good.add(key)
            ends += before[key] - {None}
    assert good == set(before)


def assert_clean(board):
    assert set(board._state) == {FREE}
    assert not any(board._beat)


TWO_FAULTS = ["die stop", "late stop", "stop stop", "cut late", "late late", "leave die"]


@pytest.mark.parametrize("faults", ["", "die", "cut", "late", "stop", "leave", *TWO_FAULTS])
@pytest.mark.parametrize(
    ("cores", "places", "large", "batches"),
    [(1, 2, (), 2), (1, 2, (2,), 2), (1, 3, (), 1), (1, 3, (3,), 1), (2, 3, (), 1), (2, 3, (2, 3), 1)],
)
def test_everybody_is_served_in_every_order(cores, places, large, batches, faults):
    if places == 3 and not large and faults in TWO_FAULTS:
        faults = faults.split()[0]
    explore(Quiet(cores, places), large, batches, faults.split())


@pytest.fixture
def board():
    board = Quiet(cores=1, places=3)
    for place in (1, 2, 3):
        board.settle(place)
    board.rung = set()
    return board


def test_a_lone_worker_leads_at_once_on_as_many_cores_as_it_asks_for():
    board = Quiet(cores=4, places=2)
    assert board.post(1, [[5, 6], [7]], cores=3)
    assert board.held(1) == 3
    (work,) = board.take(1)
    assert (work.place, work.texts) == (1, [[5, 6], [7]])
    assert board.post(2, [[8]], cores=3)
    assert board.held(2) == 1


def test_a_leader_takes_its_own_work_and_then_the_oldest(board):
    board.post(3, [[3] * (MOST_TOKENS - 20)])
    board.post(2, [[2] * 10])
    board.post(1, [[1] * 11])
    assert [work.place for work in board.take(3)] == [3, 2]


@pytest.mark.parametrize("last", [[[4]], None])
def test_a_leader_expects_no_more_than_the_others_can_post(last):
    board = Quiet(cores=2, places=4)
    for place in (1, 2, 3, 4):
        board.settle(place)
    # A pass of three has just been.
    for place in (1, 2, 3):
        board.post(place, [[place]], cores=2)
    board.finish(1, works := board.take(1), vectors_of(works))
    for place in (1, 2, 3):
        board.collect(place)
    assert board.post(1, [[1]])
    assert board.expect(1)
    assert board.post(2, [[2]])
    board.post(3, [[3]])
    assert len(board.take(2)) == 2
    assert board.expect(1)
    # Its short work is all that can still come, or it has too much to share.
    board.post(4, last)
    assert not board.expect(1)


def test_the_core_goes_to_who_has_waited_longest(board):
    board.post(1, [[1]])
    board.post(3, None)
    board.post(2, [[2]])
    board.finish(1, works := board.take(1), vectors_of(works))
    # The work of the second was taken with the first's, and the third wants the core for itself.
    assert board.collect(1) is not None
    assert (board.look(2), board.look(3)) == (False, True)


def test_a_stopped_worker_does_not_get_the_next_core_as_well(board):
    board.post(1, None)
    board.post(2, None)
    board.post(3, None)
    board.finish(1)
    board.now += LOST
    assert board.look(3, late=True)
    board.finish(3)
    # The second has not come back meanwhile, and whoever comes next does not wait for it.
    assert board.post(1, None)


def test_one_worker_remains_without_a_large_request(board):
    assert [board.admit(place) for place in (1, 2, 3)] == [True, True, False]
    board.dismiss(1)
    assert board.admit(3)
    board.bury(2)
    assert not board.admit(1), "two live, and one has a large request"


def test_a_batch_that_is_too_long_or_has_too_large_vectors_does_not_fit(board):
    assert board.fits([[1] * MOST_TOKENS], 384)
    assert not board.fits([[1] * MOST_TOKENS, [1]], 384)
    assert not board.fits([[1]] * 100, 1024)


def test_a_worker_killed_at_any_line_costs_nobody_else_anything():
    """A real process takes every kind of step, and dies at each line of the board's code in turn."""
    board = Board(1, 3)
    line, died = 0, True
    while died:
        line += 1
        for place in (1, 2, 3):
            board.settle(place)
        assert board.post(1, None)
        waiter = share(board, 2, [[7, 8]], 1)
        assert next(waiter) is BELL
        died = take_steps_and_die(board, line, lambda: every_step(board))
        board.bury(1)
        assert finish(board, 2, waiter).tolist() == [[7, 8]]
        assert_clean(board)
        assert board.post(3, None), "the core is free"
        board.withdraw(3)
    assert line > 100


def test_a_worker_killed_while_it_replaces_a_lost_leader_costs_nobody_else_anything():
    board = Quiet(cores=1, places=3)
    line, died = 0, True
    while died:
        line += 1
        board.reset()
        for place in (1, 2, 3):
            board.settle(place)
        board.post(1, [[1, 2]])
        waiter = share(board, 3, [[7, 8]], 1)
        next(waiter)
        assert [work.place for work in board.take(1)] == [1, 3]
        board.post(2, [[5, 6]])
        board.now += LOST
        died = take_steps_and_die(board, line, lambda: board.look(2, late=True))
        board.bury(2)
        board.rung = set()
        board.now += LOST
        assert waiter.send(True) is MORE
        works = next(waiter)
        with pytest.raises(StopIteration) as end:
            waiter.send(vectors_of(works))
        assert end.value.value.tolist() == [[7, 8]]
    assert line > 20


def take_steps_and_die(board, line, steps):
    """Have a process take steps and die at a line of the board's code. Returns whether it has, before the end."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def trace(frame, event, argument):
            nonlocal count
            if frame.f_code.co_filename != module.__file__:
                return None
            count += event == "line"
            if count == line:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        steps()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0


def every_step(board):
    """Of a worker at place 1, which leads."""
    works = board.take(1)
    board.deliver(1, works, vectors_of(works))
    board.finish(1)
    if board.post(1, [[5, 6]]):
        works = board.take(1)
        board.finish(1, works, vectors_of(works))
        board.collect(1)
    board.post(1, None)
    board.look(1, late=True)
    board.withdraw(1)
    board.admit(1)
    board.dismiss(1)


def finish(board, place, course):
    """The result of a course that waits, if its bell rings whenever that is needed."""
    wish = BELL
    try:
        while True:
            if wish is BELL:
                os.eventfd_read(board.bell(place))
                wish = course.send(False)
            else:
                wish = course.send(None if wish is MORE else vectors_of(wish))
    except StopIteration as end:
        return end.value
