"""How many tasks may be in hand at once, and whose turn it is when several brokers want the next place.

Owns the one number that must never be exceeded. Knows sessions only as seats that want places and can be woken.

The rule for several brokers. An offer cannot be withdrawn, and one that is open at a broker is of no use to another.
So every free place is offered to every broker (a place that was held back for a broker without work would be idle
until the offer lapses), the first acceptance takes it, and an acceptance that finds none is rejected, which costs n8n
one more turn of its matching (protocol.md 12.2). Alone, that would let the nearest broker win every time. Therefore who
was rejected has a claim: of the places that become free next, one is kept for it and offered to it alone, until it
takes it or its patience is over. Claims are served first come, first served. Brokers that all have work thus take turns
with less than one rejection a task, and a claim whose request is gone by then costs a few milliseconds of one place.
What else was tried, and the figures, are in tests/protocol/test_sharing.py.
"""

from __future__ import annotations

import math
from typing import Protocol

FIRST_GUESS = 0.125
"""Seconds that a broker is supposed to take to answer an offer, before it has answered any."""
PATIENCE = (0.01, 1.0)
"""The bounds of how long a place is kept: less is lost to scheduling, more is a slow broker's own loss."""
FEWEST_OFFERS = 8
"""Offers that a broker can hold at once however many brokers there are: enough for a burst of requests."""


class Party(Protocol):
    """Who has a seat: a session."""

    def unoffered(self, now: float) -> int:
        """How many offers it would make now."""

    def is_let_lie(self, since: float, now: float) -> bool:
        """Whether its broker holds an offer since then or longer, and so has nothing to do for us."""

    def wake(self) -> None:
        """It should look again: there is a place for it that was not there before. Must only take note."""


class Slots:
    """Places for tasks. A place is taken when a task is accepted and given back when nothing of it is left."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self.capacity = capacity
        self.taken = 0
        self.suspended = False
        self._seats: list[Seat] = []
        self._claims: dict[Seat, float] = {}
        self._kept: dict[Seat, float] = {}

    @property
    def free(self) -> int:
        """Places that a new task could have now."""
        return self.capacity - self.taken

    def take(self) -> bool:
        """Takes a place if there is one."""
        if self.taken >= self.capacity:
            return False
        self.taken += 1
        return True

    def release(self) -> None:
        """Gives a place back; giving back more than was taken is a bug of the caller and raises."""
        if self.taken == 0:
            raise RuntimeError("released a slot that was not taken")
        self.taken -= 1

    def suspend(self) -> None:
        """Tasks could not be run now: nothing is offered, and who accepts an offer that is still open is rejected."""
        self.suspended = True

    def resume(self) -> None:
        """Tasks can be run again."""
        if self.suspended:
            self.suspended = False
            self._wake_all_but(None)

    def join(self, party: Party) -> Seat:
        """A seat for one more session."""
        seat = Seat(self, party)
        self._seats.append(seat)
        return seat

    def _keep(self, now: float, asking: Seat) -> None:
        """Lets go what was kept long enough, and keeps free places for those who are next: whoever asks finds it so."""
        if lapsed := [seat for seat, until in self._kept.items() if until <= now]:
            for seat in lapsed:
                del self._kept[seat]
                seat.to_call = False
            self._wake_all_but(asking)
        while self._claims and self.taken + len(self._kept) < self.capacity:
            seat, claimed_at = next(iter(self._claims.items()))
            del self._claims[seat]
            seat.to_call = True
            if now < claimed_at + seat.patience or not seat.party.is_let_lie(now - seat.patience, now):
                self._kept[seat] = now + seat.patience
            seat.party.wake()

    def _wake_all_but(self, seat: Seat | None) -> None:
        for other in self._seats:
            if other is not seat:
                other.party.wake()


class Seat:
    """One session's access to the slots."""

    def __init__(self, slots: Slots, party: Party) -> None:
        self._slots = slots
        self._turnaround: float | None = None
        self.party = party
        self.to_call = False
        """Whether a place is kept for this seat that its broker has not been offered."""

    @property
    def patience(self) -> float:
        """How long a place is kept for this one: twice the time that its broker took lately, within bounds."""
        turnaround = FIRST_GUESS if self._turnaround is None else self._turnaround
        return min(max(2 * turnaround, PATIENCE[0]), PATIENCE[1])

    def room(self, now: float) -> int:
        """Free places without those that are kept for others."""
        slots = self._slots
        if slots.suspended:
            return 0
        free = slots.capacity - slots.taken
        if slots._claims or slots._kept:
            slots._keep(now, self)
            free -= len(slots._kept) - (self in slots._kept)
        return free

    def most_offers(self) -> int:
        """How many offers the broker may hold. The more brokers, the more open offers are for places long taken."""
        capacity, seats = self._slots.capacity, len(self._slots._seats)
        return capacity if seats < 2 else max(FEWEST_OFFERS, math.ceil(capacity / seats))

    def take(self, now: float) -> bool:
        """Takes a place; when there is none for this one, it has a claim on one of the next."""
        slots = self._slots
        if self.room(now) < 1 or not slots.take():
            slots._claims.setdefault(self, now)  # one that it has already keeps its place in the line
            return False
        if slots._kept.pop(self, None) is not None:
            self.to_call = False
        return True

    def give_back(self) -> None:
        """A task has ended and nothing of it is left. The others are told by `tell_others`."""
        self._slots.release()

    def tell_others(self, now: float) -> None:
        """A place was given back: wakes the sessions that would offer it."""
        for other in self._slots._seats:
            if other is not self and other.party.unoffered(now):
                other.party.wake()

    def next_change(self) -> float:
        """When what is kept for this one is let go. It looks then, if nobody did before, and wakes the others."""
        return self._slots._kept.get(self, math.inf)

    def learn(self, seconds: float) -> None:
        """The broker took so long to answer: slower ones count at once, faster ones little by little."""
        before = seconds if self._turnaround is None else self._turnaround
        self._turnaround = max(seconds, 0.75 * before + 0.25 * seconds)

    def leave(self) -> None:
        """The session makes no more offers: what was kept for it is there for the others."""
        slots = self._slots
        if self in slots._seats:
            slots._seats.remove(self)
        slots._claims.pop(self, None)
        slots._kept.pop(self, None)
        slots._wake_all_but(self)
