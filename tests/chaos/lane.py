"""One runner, its broker, the proxy in between and a load, and the faults that are done to them one after the other.

Owns the verdicts: whether a fault was recovered from in time, whether a loss is excused by the fault that was going on,
and what is left in the end.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import trio

from tests.chaos.certificates import Certificates
from tests.chaos.faults import ANYTHING
from tests.chaos.ledger import Ledger
from tests.chaos.load import LARGEST, Cost, Load, large
from tests.chaos.machine import Machine
from tests.chaos.neighbour import Neighbour
from tests.chaos.process import CAPACITY, RunnerProcess, Usage, until
from tests.chaos.proxy import Proxy
from tests.chaos.site import Site
from tests.chaos.step import Excuse, Recovery, Step
from tests.e2e.n8n_server import free_port

CALLERS = 2
START_LIMIT = 30.0
WARM_LIMIT = 60.0
"""Seconds for a warm-up: only a runner that hangs takes them, one that ends is noticed at once."""
PATIENCE = 20.0
"""Seconds beyond its bound after which a fault counts as never recovered from."""
SLUGGISH = 0.5
"""Seconds that the machine must have taken for itself to be to blame for a heartbeat that was missed."""
AFTERMATH = 1.0
"""Seconds after a recovery in which a task that began before it may still end badly."""
REST_LIMIT = 15.0
GONE_LIMIT = 5.0
"""Seconds in which a killed runner's processes must be gone."""
MORE_MEMORY = 24 * 1024
"""KiB by which a runner may have grown since its warm-up, and 4 MiB for its zygote."""
MORE_ZYGOTE_MEMORY = 4 * 1024


class LaneOverError(Exception):
    """There is no runner that works; the other lanes go on."""


@dataclass
class Lane:
    """One runner and all that it needs. ``problems`` are the findings; none are wanted."""

    number: int
    folder: Path
    rng: Random
    turn: trio.Lock
    """Held by the one lane that warms up: large tasks in all lanes at once would keep heartbeats waiting."""
    machine: Machine
    certificates: Certificates | None = None
    has_neighbour: bool = False
    """Whether the runner has a second broker, to which nothing is done."""
    health_port: Callable[[], int] = free_port
    problems: list[str] = field(default_factory=list)
    recoveries: list[Recovery] = field(default_factory=list)
    replaced: int = 0
    growth: tuple[int, int] = (0, 0)
    """KiB of the runner and of its zygote since the warm-up, of the last one if there were several."""

    def __post_init__(self) -> None:
        self.ledger = Ledger(CAPACITY)
        self.site = Site(free_port(), self.ledger)
        tls = self.certificates.right if self.certificates else None
        self.proxy = Proxy(free_port(), self.site.port, tls=tls)
        self.load = Load(self.site, Random(self.rng.random()), self._excused)
        self.neighbour = Neighbour(Random(self.rng.random()), self._excused_there) if self.has_neighbour else None
        self.runner = self._new_runner()
        self._excuses: list[Excuse] = []
        self._warm: Usage | None = None

    @property
    def wrong_certificate(self) -> ssl.SSLContext:
        assert self.certificates is not None
        return self.certificates.wrong

    async def run(self, steps: list[Step]) -> None:
        """Everything from the start of the runner to its end."""
        async with trio.open_nursery() as nursery:
            for place in self._sites():
                await nursery.start(place.serve)
            await nursery.start(self.proxy.serve)
            try:
                await self.runner.start()
                await self._warm_up()
                for load in self._loads():
                    nursery.start_soon(load.run, CALLERS)
                for step in steps:
                    await trio.sleep(self.rng.uniform(0.02, 0.15))
                    await self._do(step)
                await self._settle()
            except LaneOverError as over:
                self.problems.append(str(over))
            finally:
                await self.runner.end()
            nursery.cancel_scope.cancel()
        for ledger in self.ledgers():
            ledger.check_ends()
            self.problems += [f"ledger: {problem}" for problem in ledger.problems]
        for load in self._loads():
            self.problems += [f"load: {problem}" for problem in load.problems]

    def _sites(self) -> list[Site]:
        return [self.site, self.neighbour.site] if self.neighbour else [self.site]

    def _loads(self) -> list[Load]:
        return [self.load, self.neighbour.load] if self.neighbour else [self.load]

    def ledgers(self) -> list[Ledger]:
        """What the brokers believe; first the one that suffers."""
        return [self.ledger, self.neighbour.ledger] if self.neighbour else [self.ledger]

    def outcomes(self) -> Counter[str]:
        """What became of the tasks so far."""
        return sum((load.outcomes for load in self._loads()), Counter())

    def found(self) -> int:
        """How many problems there are so far."""
        noted = sum(len(part.problems) for part in (*self.ledgers(), *self._loads()))
        return len(self.problems) + noted

    async def _do(self, step: Step) -> None:
        """One step, until everything is well again."""
        began = trio.current_time()
        connections = [ledger.connections for ledger in self.ledgers()]
        with self._excusing(step):
            async with self._time_of(step.bound + PATIENCE) as limit:
                async with trio.open_nursery() as nursery:
                    for number, fault in enumerate(step.faults):
                        nursery.start_soon(fault.does, self, Random(f"{step.seed}/{number}"))
                over = trio.current_time()
                limit.deadline = over + step.bound + PATIENCE
                await self._recover(step.rounds)
                took = trio.current_time() - over
            if limit.cancelled_caught:
                self._find(step, f"not recovered from {self._what_happened(step.bound + PATIENCE)}")
                await self._start_over()
                return
        self.recoveries.append(Recovery(step, took))
        if took - self.machine.took_since(over) > step.bound:
            self._find(step, f"recovered from after {took:.2f}s, {step.bound:g}s are allowed\n{self.runner.tail()}")
        lost = [now.connections != before for now, before in zip(self.ledgers(), connections, strict=True)]
        if self.machine.took_since(began) > SLUGGISH:
            return  # what else was lost is not the runner's fault
        if lost[0] and not step.costs:
            self._find(step, f"the connection was lost\n{self.runner.tail()}")
        if any(lost[1:]) and not step.costs_elsewhere:
            self._find(step, f"the connection to the other broker was lost\n{self.runner.tail()}")

    async def _recover(self, rounds: int) -> None:
        """Returns when the broker sees every slot, as many fresh tasks were answered, and it sees every slot again."""
        done = 0
        while done < rounds:
            await self._full_view()
            done = done + 1 if await self.load.probe(CAPACITY) else 0
        await self._full_view()

    async def _full_view(self) -> None:
        while self.site.in_view() + (self.neighbour.busy() if self.neighbour else 0) < CAPACITY:
            with trio.move_on_after(0.1):  # the site itself may be new, and say nothing
                await self.ledger.news.wait()

    def _find(self, step: Step, what: str) -> None:
        self.problems.append(f"fault {len(self.recoveries)} ({step}): {what}")

    # What is excused

    @contextmanager
    def _excusing(self, step: Step) -> Iterator[None]:
        self._excuses = [excuse for excuse in self._excuses if excuse.until > trio.current_time() - 60]
        excuse = Excuse(step.costs, step.costs_elsewhere)
        self._excuses.append(excuse)
        try:
            yield
        finally:
            excuse.until = trio.current_time() + AFTERMATH

    def _excused(self, cost: Cost, since: float) -> bool:
        """Whether something that was going on after ``since`` may have cost a task this."""
        return self.machine.took_since(since) > SLUGGISH or any(
            cost in excuse.costs and excuse.until >= since for excuse in self._excuses
        )

    def _excused_there(self, cost: Cost, since: float) -> bool:
        """The same for a task of the other broker."""
        return self.machine.took_since(since) > SLUGGISH or any(
            cost in excuse.elsewhere and excuse.until >= since for excuse in self._excuses
        )

    # The runner

    def _new_runner(self) -> RunnerProcess:
        scheme = "https" if self.certificates else "http"
        ca = self.certificates.ca if self.certificates else None
        uri = f"{scheme}://127.0.0.1:{self.proxy.port}"
        if self.neighbour:
            uri += f",{self.neighbour.uri}"
        return RunnerProcess(uri, self.health_port(), self.folder / f"runner-{self.number}.log", ca=ca)

    async def replace_runner(self) -> None:
        """A runner that was killed must leave nothing behind. Then another one starts, as under a supervisor."""
        if not await until(lambda: not self.runner.left(), GONE_LIMIT):
            self.problems.append(f"{len(self.runner.left())} processes outlived a runner that was killed")
        await self.runner.end()
        self.replaced += 1
        self.runner = self._new_runner()
        await self.runner.start()

    @asynccontextmanager
    async def _time_of(self, seconds: float) -> AsyncIterator[trio.CancelScope]:
        """The block may take so long, and is over at once when the runner ends by itself."""

        async def look(limit: trio.CancelScope) -> None:
            while not self.runner.ended_by_itself:  # noqa: ASYNC110 - which runner it is changes
                await trio.sleep(0.05)
            limit.cancel()

        with trio.move_on_after(seconds) as limit:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(look, limit)
                yield limit
                nursery.cancel_scope.cancel()

    def _what_happened(self, seconds: float) -> str:
        """Why a time was over before the work was done."""
        why = f": the runner ended with {self.runner.code}" if self.runner.ended_by_itself else f" within {seconds:g}s"
        return f"{why}\n{self.runner.tail()}"

    async def _start_over(self) -> None:
        """After a fault that the runner did not get over."""
        everything = Step((ANYTHING,), 0)
        await self.runner.end()
        with self._excusing(everything):
            async with self._time_of(START_LIMIT) as limit:
                await self.replace_runner()
                await self._recover(1)
            if limit.cancelled_caught:
                raise LaneOverError(f"another runner did not work{self._what_happened(START_LIMIT)}")

    async def _warm_up(self) -> None:
        """Until it works, and has seen what it is going to see.

        One that does not even start must not keep the turn from the others: it has its time before.
        """
        allowed = START_LIMIT
        async with self._time_of(allowed) as limit:
            await self._full_view()
        if not limit.cancelled_caught:
            allowed = WARM_LIMIT
            async with self.turn, self._time_of(allowed) as limit:
                for _ in range(2):
                    await self.load.call_all(large(LARGEST), CAPACITY)  # the C library keeps what these needed
                await self._recover(5)
                if self.neighbour:
                    await self.neighbour.served()
                await self._rest()
        if limit.cancelled_caught:
            raise LaneOverError(f"a runner did not work after its start{self._what_happened(allowed)}")
        self._warm = self.runner.usage()

    async def _rest(self) -> None:
        """Returns when every worker waits and nothing else is left of what they did. Says so when that never comes."""
        wanted = (True, 0, CAPACITY, CAPACITY + 2)
        seen: tuple[object, ...] = ()
        with trio.move_on_after(REST_LIMIT):
            while seen != wanted:
                readiness = await self.runner.readiness()
                seen = (readiness.ready, readiness.tasks, readiness.workers_idle, len(self.runner.left()))
                await trio.sleep(0.05)
            return
        self.problems.append(f"at rest (ready, tasks, idle workers, processes) are {seen}, not {wanted}")

    async def _settle(self) -> None:
        """The load ends; then everything must be as it was, and a SIGTERM must end it all."""
        for load in self._loads():
            load.stop()
        if not await until(lambda: all(site.at_rest(CAPACITY) for site in self._sites()), REST_LIMIT):
            self.problems.append(f"{[site.in_view() for site in self._sites()]} slots in view at rest, not {CAPACITY}")
        await self._rest()
        self._check_usage()
        code = await self.runner.stop(10)
        if code != 0:
            self.problems.append(f"SIGTERM ended the runner with {code}\n{self.runner.tail()}")
        if not await until(lambda: not self.runner.left(), GONE_LIMIT):
            self.problems.append("processes outlived a runner that was stopped")

    def _check_usage(self) -> None:
        """Nothing may have been leaked: what the first runner of this lane had after its warm-up is all it takes."""
        warm, now = self._warm, self.runner.usage()
        assert warm is not None
        self.growth = now.rss - warm.rss, now.zygote_rss - warm.zygote_rss
        for name, before, after, more in (
            ("descriptors", warm.fds, now.fds, 0),
            ("descriptors of the zygote", warm.zygote_fds, now.zygote_fds, 0),
            ("KiB of the runner", warm.rss, now.rss, MORE_MEMORY),
            ("KiB of the zygote", warm.zygote_rss, now.zygote_rss, MORE_ZYGOTE_MEMORY),
        ):
            if after > before + more:
                self.problems.append(f"{after} {name} at rest, {before} after the warm-up")
