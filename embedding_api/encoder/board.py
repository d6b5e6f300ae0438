"""The board on which workers post their work and take each other's: shared memory, made before the fork.

Each worker has a place on the board, with one piece of work at a time. A place is in one of these states:

    FREE     the worker has posted nothing.
    POSTED   a batch of short texts, for whoever leads next.
    TAKEN    the batch is in the forward pass of the worker that `_leader` names.
    DONE     the vectors are there, for the owner to collect.
    WANTS    the owner wants a core for a batch so large that nobody else shall compute it.

Beside that a worker may lead: it does while its `_beat`, the time of its last sign of life, is not 0. It then holds
`_held` of the machine's cores, and only then may it take work, its own as well as that of others. A leader with a large
batch takes short ones between two layers of its own.

Who changes what, each in one step under the one lock:

    post       the owner    from any state to POSTED or WANTS; leads if a core is free
    look       the owner    leads if a core is free; late, it first ends the lead of those who are lost, whose work is
                            POSTED again and whose WANTS is FREE; if its own was ended so, it is WANTS again
    take       a leader     POSTED to TAKEN, its own first and then the oldest
    deliver    the leader   TAKEN to DONE, where the work is still this leader's
    finish     the leader   the same, and its WANTS to FREE; it leads no longer, and who has waited longest does
    withdraw   the owner    any to FREE; it leads no longer, as above, and what it had taken is POSTED again
    bury       the master   the same for a worker that has died
    collect    the owner    DONE to FREE

Why nothing is lost:

- A worker can die anywhere. The kernel then hands on the lock. Each step is a series of single stores, any first part
  of which leaves the board whole: data is written before the state that tells of it, and a leader's name before TAKEN.
  `bury` puts back what the dead one had taken and rings for all who wait: it may have died between a change and the
  bell that tells of it.
- A worker can be stopped instead, or the master be late. Who waits therefore looks around after LOST seconds. A leader
  without a sign of life for so long (a living one gives one at each layer) leads no longer, and what it had taken is
  POSTED again. If it comes back, `deliver` does not see its name on the work any longer, and leaves it alone. What was
  computed twice is the same.
- A worker can be stopped while it holds the lock. After LOST seconds the others do without the board, each for itself,
  and come back to it with their next `post`, which may begin in any state.
- A core is not lost on its way: it goes on in the same step in which its leader finishes, to a place that waits. If the
  owner there is stopped, it is a leader without a sign of life; its WANTS ends then, so that it does not get the next
  core too, and it posts again should it come back.
- Nobody waits forever: cores go round in the order of tickets, and a leader takes the oldest short work first.
"""

import mmap
import os
import time
from array import array
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise

import numpy as np

from embedding_api.encoder.cores import MACHINE
from embedding_api.encoder.lock import SIZE, Lock

# Workers beyond so many compute alone. While one generation of workers takes over from another, both need places.
PLACES = 128
# Tokens of a batch that others may compute, and of those that one forward pass takes together. More would make it no
# faster (measured on AMD's Zen 4 and Zen 5), and whoever comes next would wait for longer.
MOST_TOKENS = 256
# Seconds without a sign of life after which a leader is taken for lost.
LOST = 0.75
# Seconds after a forward pass in which another like it may be expected.
RECENT = 0.05

FREE, POSTED, TAKEN, DONE, WANTS = range(5)

# Of a place: the number of texts, the length of each, and all their token ids; and room for the vectors.
_WORDS = 1 + 2 * MOST_TOKENS
_VECTOR_BYTES = 256 * 1024


@dataclass(frozen=True)
class Work:
    """A batch that a leader has taken.

    Attributes:
        place: whose it is.
        texts: the token ids of each text.
        waited: the seconds since it was posted.
    """

    place: int
    texts: list[list[int]]
    waited: float


class Board:
    """What the workers' processes share. Each worker has a place, a number from 1 on.

    All methods that take the lock raise TimeoutError where it cannot be had. Those that do not say so.

    Args:
        cores: on how many work may be computed at a time.
        places: how many there are.
        clock: tells the time in seconds, the same in all processes, and never 0.
    """

    def __init__(self, cores, places=PLACES, clock=time.monotonic):
        self._cores = cores
        self._clock = clock
        places += 1
        control = SIZE + places * 8 * 5
        memory = memoryview(mmap.mmap(-1, control + places * (4 * _WORDS + _VECTOR_BYTES)))
        self._lock = Lock(memory[:SIZE], LOST)
        self._memory = memory[SIZE:]
        numbers = [memory[SIZE + places * 8 * index : SIZE + places * 8 * (index + 1)] for index in range(5)]
        self._beat, self._since = (part.cast("d") for part in numbers[:2])
        self._ticket, self._bytes = (part.cast("Q") for part in numbers[2:4])
        # Nobody is at place 0.
        self._delivered = self._since[:1]
        flags = numbers[4]
        self._state, self._leader, self._held, self._lives, self._large, self._expects, self._last = (
            flags[index * places : (index + 1) * places]
            for index in range(7)  # of at most 8
        )
        self._words = memory[control : control + places * 4 * _WORDS].cast("i")
        self._vectors = memory[control + places * 4 * _WORDS :]
        self._bells = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(places)]

    def fits(self, texts, dimension):
        """Whether a batch of token id lists is short enough for others to compute."""
        return sum(map(len, texts)) <= MOST_TOKENS and 4 * dimension * len(texts) <= _VECTOR_BYTES

    def bell(self, place):
        """The eventfd that rings when the owner of a place shall look."""
        return self._bells[place]

    def held(self, place):
        """How many cores the worker leads on."""
        return self._held[place]

    def settle(self, place):
        """Note that a worker lives at this place; what the one before it has left is gone."""
        try:
            self.bury(place)
        finally:
            self._lives[place] = 1

    def post(self, place, texts=None, cores=1):
        """Post a batch that `fits`, or without texts the wish for a core. Returns whether the worker leads now.

        Args:
            cores: on how many it would lead, if they are free.
        """
        with self._lock:
            self._clear(place)
            if texts is None:
                self._set(place, WANTS)
            else:
                words = array("i", [len(texts), *map(len, texts), *chain.from_iterable(texts)])
                self._words[place * _WORDS : place * _WORDS + len(words)] = words
                self._set(place, POSTED)
            leads = self._lead(place, cores)
        if not leads:
            posted = len(self._all(POSTED))
            self._ring(other for other in _places(self._expects) if self._expects[other] <= posted)
        return leads

    def look(self, place, late=False):
        """What the owner of posted work shall do: returns True to lead, else False, to collect or to wait.

        Args:
            late: whether it has waited for as long as LOST since it last looked.
        """
        with self._lock:
            lost = self._end_lost() if late else []
            if self._state[place] == FREE:
                self._set(place, WANTS)
            leads = self._state[place] in (POSTED, WANTS) and (self._beat[place] > 0 or self._lead(place, 1))
        self._ring(lost)
        return leads

    def take(self, place):
        """Take short work, one's own and then the oldest first, up to MOST_TOKENS. Returns a list of `Work`."""
        works, room = [], MOST_TOKENS
        with self._lock:
            if not self._beat[place]:
                # It has been taken for lost.
                return works
            self.beat(place)
            posted = [other for other in self._all(POSTED) if other == place or not self._beat[other]]
            for other in sorted(posted, key=lambda other: (other != place, self._ticket[other])):
                work = self._read(other)
                room -= sum(map(len, work.texts))
                if room < 0:
                    break
                works.append(work)
                self._leader[other] = place
                self._state[other] = TAKEN
        return works

    def deliver(self, place, works, vectors):
        """Hand back what a leader has computed: the vectors of all texts, shape (texts, dimension), float32."""
        with self._lock:
            served = self._deliver(place, works, vectors)
        self._ring(served)

    def finish(self, place, works=(), vectors=None):
        """The same, and lead no longer. Returns whether another worker leads in its place."""
        with self._lock:
            served = self._deliver(place, works, vectors)
            if self._state[place] == WANTS:
                self._state[place] = FREE
            called = self._pass_on(place)
        self._ring(served + called)
        return bool(called)

    def withdraw(self, place):
        """Take back all that one has posted and taken."""
        with self._lock:
            self._clear(place)
            called = self._pass_on(place)
        self._ring(called)

    def bury(self, place):
        """Withdraw for a worker that has died."""
        self._lives[place] = self._large[place] = self._expects[place] = 0
        self.withdraw(place)
        self._ring(_places(self._state))

    def collect(self, place):
        """The vectors of one's batch, or None while they are not there."""
        with self._lock:
            if self._state[place] != DONE:
                return None
            start = place * _VECTOR_BYTES
            vectors = np.frombuffer(bytes(self._vectors[start : start + self._bytes[place]]), np.float32)
            self._state[place] = FREE
            return vectors.reshape(self._words[place * _WORDS], -1)

    def has_posted(self):
        """Whether there may be short work to take. It takes no lock."""
        return POSTED in self._state.tobytes()

    def beat(self, place):
        """Give a sign of life. It takes no lock."""
        if self._beat[place]:
            self._beat[place] = self._clock()

    def expect(self, place):
        """Have a leader's bell rung as soon as as much is posted as the larger of the last two forward passes had.

        Returns whether that is not the case yet, and to be expected: they were just now, and there are enough workers
        who may still post. It takes no lock; should the bell be missed, the leader waits in vain.
        """
        if self._clock() - self._delivered[0] < RECENT:
            # Who has work in another's pass, or too much of it to share, is not about to post.
            busy = {*self._all(TAKEN), *self._all(WANTS), *_places(self._large)} - {place}
            able = len({*_places(self._lives)} - busy)
            self._expects[place] = min(able, max(self._last[:2]))
        return len(self._all(POSTED)) < self._expects[place]

    def expect_nothing(self, place):
        """End what `expect` began."""
        self._expects[place] = 0

    def admit(self, place):
        """Let a worker begin a large request, if another one remains without. Returns whether it may."""
        with self._lock:
            # While workers start there may be no other one yet.
            self._large[place] = len(_places(self._large)) + 1 < max(len(_places(self._lives)), 2)
            return bool(self._large[place])

    def dismiss(self, place):
        """Note that the large request is done."""
        self._large[place] = 0

    # All below is for those who hold the lock.

    def _set(self, place, state):
        self._ticket[0] += 1
        self._ticket[place] = self._ticket[0]
        self._since[place] = self._clock()
        self._state[place] = state

    def _clear(self, place):
        self._state[place] = FREE
        self._beat[place] = 0
        self._put_back(place)

    def _put_back(self, leader):
        for place in self._all(TAKEN):
            if self._leader[place] == leader:
                self._state[place] = POSTED

    def _lead(self, place, cores):
        now = self._clock()
        held = sum(held for other, held in enumerate(self._held.tobytes()) if held and now - self._beat[other] < LOST)
        free = self._cores - held
        if free <= 0:
            return False
        self._held[place] = min(free, cores)
        self._beat[place] = now
        return True

    def _pass_on(self, place):
        """End a lead; whoever has waited longest gets the core. Returns whom to ring for."""
        self._beat[place] = 0
        waiting = [other for other in self._all(POSTED) + self._all(WANTS) if not self._beat[other]]
        called = []
        for other in sorted(waiting, key=lambda other: self._ticket[other]):
            # One who has posted takes the work of all others who have.
            first = self._state[other] == WANTS or all(self._state[before] == WANTS for before in called)
            if first and self._lead(other, 1):
                called.append(other)
        return called

    def _end_lost(self):
        """End the lead of those without a sign of life. Returns whom to ring for, as they may live."""
        now = self._clock()
        lost = [place for place, beat in enumerate(self._beat) if beat and now - beat >= LOST]
        for place in lost:
            self._put_back(place)
            if self._state[place] == WANTS:
                self._state[place] = FREE
            # Last: by it alone the rest is known to be left to do.
            self._beat[place] = 0
        return lost

    def _read(self, place):
        start = place * _WORDS
        count = self._words[start]
        lengths = self._words[start + 1 : start + 1 + count].tolist()
        ends = [*accumulate(lengths, initial=start + 1 + count)]
        texts = [self._words[begin:end].tolist() for begin, end in pairwise(ends)]
        return Work(place, texts, self._clock() - self._since[place])

    def _deliver(self, place, works, vectors):
        """Returns whom to ring for: all others whose work it was."""
        row = 0
        for work in works:
            rows = vectors[row : row + len(work.texts)]
            row += len(work.texts)
            other = work.place
            if (self._state[other], self._leader[other]) == (TAKEN, place):
                start = other * _VECTOR_BYTES
                self._vectors[start : start + rows.nbytes] = memoryview(np.ascontiguousarray(rows)).cast("B")
                self._bytes[other] = rows.nbytes
                self._state[other] = DONE
        if works:
            self._last[1], self._last[0] = self._last[0], len(works)
            self._delivered[0] = self._clock()
        return [work.place for work in works if work.place != place]

    def _all(self, state):
        states = self._state.tobytes()
        return [place for place, present in enumerate(states) if present == state] if state in states else []

    def _ring(self, places):
        for place in places:
            os.eventfd_write(self._bells[place], 1)


def _places(flags):
    return [place for place, flag in enumerate(flags.tobytes()) if flag] if any(flags) else []


# Made before the fork, for all workers, once: a reload keeps it.
BOARD = Board(MACHINE.count)
