"""The entries of a schedule: what is done, what it may cost, and how long the recovery took."""

from __future__ import annotations

from dataclasses import dataclass

from tests.chaos.faults import PAIRED, Fault
from tests.chaos.load import Cost


@dataclass(frozen=True)
class Step:
    """One entry of the schedule: one fault, or two at the same time, and the seed of their details."""

    faults: tuple[Fault, ...]
    seed: int

    @property
    def kind(self) -> str:
        return self.faults[0].name if len(self.faults) == 1 else PAIRED.name

    @property
    def bound(self) -> float:
        return sum(fault.bound for fault in self.faults)

    @property
    def costs(self) -> frozenset[Cost]:
        return frozenset().union(*(fault.costs for fault in self.faults))

    @property
    def costs_elsewhere(self) -> frozenset[Cost]:
        """What it may cost a task of another broker of the same runner."""
        return frozenset().union(*(fault.costs for fault in self.faults if fault.area == "process"))

    @property
    def rounds(self) -> int:
        """Fresh tasks, in rounds of as many as there are slots: one more than the workers that were ready before."""
        return 2 if any(fault.area == "process" for fault in self.faults) else 1

    def __str__(self) -> str:
        return " + ".join(fault.name for fault in self.faults)


@dataclass(frozen=True)
class Recovery:
    """How long it took after a step until everything was well again."""

    step: Step
    seconds: float


@dataclass
class Excuse:
    """A time in which some losses are to be expected, other ones at the broker to which nothing was done."""

    costs: frozenset[Cost]
    elsewhere: frozenset[Cost] = frozenset()
    until: float = float("inf")
