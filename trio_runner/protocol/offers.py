"""The offers that a broker holds: the oldest of a type first, lapsed ones gone.

Owns their order and their end. Does not know what they are for. Each operation but those that a lost runner needs costs
the same however many offers there are, and lapsed or used ones take no room for longer than as many open ones do.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator

import msgspec

_FEW = 64
"""So many entries of the calendar are never worth a clean-up."""


class OpenOffer(msgspec.Struct, frozen=True):
    """One offer, as the broker keeps it."""

    runner_id: str
    offer_id: str
    task_type: str
    expires_at: float
    """In seconds; infinite for one that never lapses."""


class OpenOffers:
    """First in, first out for each type of tasks. Ids may come twice: they are the runners' business."""

    def __init__(self) -> None:
        self._arrivals = 0
        self._by_type: dict[str, dict[int, OpenOffer]] = {}
        self._calendar: list[tuple[float, int, str]] = []
        """A heap of ends; of offers that were used, too, until it has more of those than of open ones."""
        self._open = 0

    def __len__(self) -> int:
        return self._open

    def __iter__(self) -> Iterator[OpenOffer]:
        for offers in self._by_type.values():
            yield from offers.values()

    def add(self, offer: OpenOffer) -> None:
        """The newest of its type."""
        self._arrivals += 1
        self._by_type.setdefault(offer.task_type, {})[self._arrivals] = offer
        self._open += 1
        if offer.expires_at < math.inf:
            heapq.heappush(self._calendar, (offer.expires_at, self._arrivals, offer.task_type))

    def take(self, task_type: str) -> OpenOffer | None:
        """The oldest of this type, which is used with that. Lapsed ones must have been dropped before."""
        offers = self._by_type.get(task_type)
        if offers is None:
            return None
        arrival = next(iter(offers))
        offer = offers[arrival]
        self._remove(task_type, arrival)
        if len(self._calendar) > 2 * self._open + _FEW:
            self._clean_up()
        return offer

    def drop_lapsed(self, now: float) -> None:
        """Those whose time is over."""
        while self._calendar and self._calendar[0][0] <= now:
            _, arrival, task_type = heapq.heappop(self._calendar)
            if arrival in self._by_type.get(task_type, ()):
                self._remove(task_type, arrival)

    def drop_of(self, runner_id: str) -> None:
        """All of one runner."""
        for task_type, offers in list(self._by_type.items()):
            for arrival in [arrival for arrival, offer in offers.items() if offer.runner_id == runner_id]:
                self._remove(task_type, arrival)
        self._clean_up()

    def clear(self) -> None:
        """All."""
        self._by_type.clear()
        self._calendar.clear()
        self._open = 0

    def _remove(self, task_type: str, arrival: int) -> None:
        offers = self._by_type[task_type]
        del offers[arrival]
        self._open -= 1
        if not offers:
            del self._by_type[task_type]

    def _clean_up(self) -> None:
        self._calendar = [entry for entry in self._calendar if entry[1] in self._by_type.get(entry[2], ())]
        heapq.heapify(self._calendar)
