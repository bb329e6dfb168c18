"""A whole run: the schedule that a seed stands for, dealt to lanes that work at the same time, and what came of it."""

from __future__ import annotations

import itertools
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import trio

from tests.chaos.certificates import Certificates
from tests.chaos.faults import FAULTS, FROZEN, Fault
from tests.chaos.lane import Lane
from tests.chaos.machine import Machine
from tests.chaos.step import Recovery, Step

LANES = 8
TLS_LANES = 2
"""The first ones: their brokers are behind TLS."""
TWO_BROKERS = 2
"""The last ones: their runners have a second broker."""
PAIRS = 0.05
"""Of all faults, how many come two at a time."""
FROZEN_EVERY = 400
PROGRESS_EVERY = 15


@dataclass(frozen=True)
class Result:
    """What came of a run."""

    seed: int
    seconds: float
    planned: int
    recoveries: list[Recovery]
    outcomes: Counter[str]
    replaced: int
    growth: tuple[int, int]
    """The most that any runner and any zygote has grown, in KiB."""
    problems: list[str]
    endings: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    machine_took: float = 0.0
    """Seconds in which some process waited for memory or the disk, or this one was not let run."""
    stood_still: float = 0.0
    """The longest time in seconds for which the machine did not let this process, brokers and proxies, run."""

    @property
    def survived(self) -> int:
        """Faults after which everything was well again."""
        return sum(len(recovery.step.faults) for recovery in self.recoveries)


def schedule(seed: int, faults: int, lanes: int = LANES, tls_lanes: int = TLS_LANES) -> list[list[Step]]:
    """Who suffers what, in which order. The lanes with TLS come first. Depends on the arguments alone."""
    rng = Random(seed)
    steps: list[Step] = []

    def add(*kinds: Fault) -> None:
        steps.append(Step(kinds, rng.randrange(10**9)))

    for _ in range(round(faults * PAIRS)):
        one = rng.choice([fault for fault in FAULTS if fault.area != "process" and not fault.tls])
        other = rng.choice([fault for fault in FAULTS if fault.area == "process"])
        add(one, other)
    for _ in range(faults // FROZEN_EVERY):
        add(FROZEN)
    left = faults - sum(len(step.faults) for step in steps)
    total = sum(fault.weight for fault in FAULTS)
    for fault in FAULTS:
        for _ in range(left * fault.weight // total):
            add(fault)
    while sum(len(step.faults) for step in steps) < faults:
        add(rng.choices(FAULTS, [fault.weight for fault in FAULTS])[0])
    rng.shuffle(steps)
    return _dealt(steps, lanes, tls_lanes)


def _dealt(steps: list[Step], lanes: int, tls_lanes: int) -> list[list[Step]]:
    """Each to the lane that has least to wait for, those that need TLS among the lanes that have it."""
    dealt: list[list[Step]] = [[] for _ in range(lanes)]
    waits = [0.0] * lanes
    for step in sorted(steps, key=lambda step: -step.bound):
        allowed = range(tls_lanes if any(fault.tls for fault in step.faults) else lanes)
        lane = min(allowed, key=waits.__getitem__)
        dealt[lane].append(step)
        waits[lane] += step.bound
    return [sorted(mine, key=lambda step: step.seed) for mine in dealt]


async def run(
    seed: int,
    faults: int,
    *,
    lanes: int = LANES,
    only: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Result:
    """Runs the whole schedule, or one lane of it. Never raises for anything that a runner does."""
    plan = schedule(seed, faults, lanes)
    chosen = range(lanes) if only is None else (only,)
    began, machine = trio.current_time(), Machine()
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        certificates, turn = Certificates.make(folder), trio.Lock()
        running = [
            Lane(
                number,
                folder,
                Random(f"{seed}/{number}"),
                turn,
                machine,
                certificates if number < TLS_LANES else None,
                has_neighbour=TLS_LANES <= number >= lanes - TWO_BROKERS,
            )
            for number in chosen
        ]
        with _quietly():
            async with trio.open_nursery() as watch:
                watch.start_soon(machine.watch)
                watch.start_soon(_tell_progress, running, say)
                async with trio.open_nursery() as nursery:
                    for lane in running:
                        nursery.start_soon(lane.run, plan[lane.number])
                watch.cancel_scope.cancel()
    return Result(
        seed=seed,
        seconds=trio.current_time() - began,
        planned=sum(len(step.faults) for number in chosen for step in plan[number]),
        recoveries=[recovery for lane in running for recovery in lane.recoveries],
        outcomes=sum((lane.outcomes() for lane in running), Counter()),
        endings=sum((ledger.counts() for lane in running for ledger in lane.ledgers()), Counter()),
        connections=sum(ledger.connections for lane in running for ledger in lane.ledgers()),
        replaced=sum(lane.replaced for lane in running),
        growth=(max(lane.growth[0] for lane in running), max(lane.growth[1] for lane in running)),
        stood_still=machine.longest,
        machine_took=machine.took_since(began),
        problems=[f"lane {lane.number}: {problem}" for lane in running for problem in lane.problems],
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """Faults by the thousand: what they do to an embedded broker is no news."""
    logger = logging.getLogger("trio_runner")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


async def _tell_progress(lanes: list[Lane], say: Callable[[str], None]) -> None:
    """How far it is, from time to time, and every problem as soon as it is found."""
    began, told = trio.current_time(), [0] * len(lanes)
    for beat in itertools.count(1):
        await trio.sleep(1)
        for number, lane in enumerate(lanes):
            for problem in lane.problems[told[number] :]:
                say(f"lane {lane.number}: {problem}")
            told[number] = len(lane.problems)
        if beat % PROGRESS_EVERY == 0:
            faults = sum(len(recovery.step.faults) for lane in lanes for recovery in lane.recoveries)
            tasks = sum(lane.outcomes().total() for lane in lanes)
            problems = sum(lane.found() for lane in lanes)
            seconds = trio.current_time() - began
            say(f"{seconds:5.0f} s  {faults:5d} faults  {tasks:6d} tasks  {problems} problems")
