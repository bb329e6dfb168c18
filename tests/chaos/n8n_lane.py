"""A runner under a real n8n with the proxy in between, and webhooks that are called all the time.

The same faults as against the embedded broker, and n8n itself killed and drained. What n8n does inside cannot be seen,
so the verdict is what its users see: every call is answered rightly, unless the fault that goes on excuses a loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random

import trio

from tests.chaos.certificates import Certificates
from tests.chaos.faults import FAULTS, Fault, Target, close_code, drain_broker, kill_broker, large_tasks
from tests.chaos.lane import (
    AFTERMATH,
    GONE_LIMIT,
    MORE_MEMORY,
    MORE_ZYGOTE_MEMORY,
    REST_LIMIT,
    SLUGGISH,
)
from tests.chaos.load import Cost
from tests.chaos.machine import Machine
from tests.chaos.process import CAPACITY, RunnerProcess, Usage, until
from tests.chaos.proxy import Proxy
from tests.chaos.step import Excuse, Recovery, Step
from tests.e2e.n8n_server import AUTH_TOKEN, NOT_FINISHED, Answer, N8n, free_port, latest

CALLERS = 3
SLOW = 1.5
"""Seconds after which a health check that n8n has not answered means that it stands still."""
MORE = 5.0
"""Seconds by which n8n is slower to notice things than the embedded broker: it waits 2 s for an acceptance."""
PATIENCE = 70.0
"""Seconds in which a call must have an answer: n8n waits 60 for a runner."""
STARTING = "n8n is starting up. Please wait"
FAILED = {"message": "Error in workflow"}
CALLS: tuple[tuple[str, int, object], ...] = (
    ("py-all", 200, [{"ok": True, "count": 1, "body": {"hello": "world"}}]),
    ("py-two", 200, [{"seen": [{"first": 1, "middle": "m1"}, {"first": 2, "middle": "m2"}]}]),
    ("py-list", 200, [{"id": number, "price2": 3.0 * number} for number in range(1000)]),
    ("py-sleep?s=0.2", 200, [{"slept": 0.2}]),
    ("py-sleep?s=0.6", 200, [{"slept": 0.6}]),
    ("py-raise", 500, FAILED),
)
PROBE = CALLS[0]


class N8nLane:
    """One runner, one n8n."""

    def __init__(self, n8n: N8n, folder: Path, rng: Random) -> None:
        self.problems: list[str] = []
        self.recoveries: list[Recovery] = []
        self.outcomes: Counter[str] = Counter()
        self.replaced = 0
        self._n8n = n8n
        self._rng = rng
        self._folder = folder
        self._certificates = Certificates.make(folder)
        self.wrong_certificate = self._certificates.wrong
        self.proxy = Proxy(free_port(), n8n.broker_port, tls=self._certificates.right)
        self.runner = self._new_runner()
        self._excuses: list[Excuse] = []
        self._stopping = False
        self.machine = Machine()
        self.growth = (0, 0)
        self.stood_still = 0.0
        """Seconds for which n8n answered nobody, though it was not us who stopped it: they are no runner's fault."""
        self.away = False

    async def run(self, steps: list[Step]) -> None:
        """Everything from the start of the runner to its end."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.proxy.serve)
            try:
                await self.runner.start()
                with self._excusing(frozenset(Cost)), trio.fail_after(30):
                    await self._recover(0)
                    await self._rest()
                before = self.runner.usage()
                nursery.start_soon(self._watch_n8n)
                nursery.start_soon(self.machine.watch)
                async with trio.open_nursery() as callers:
                    for _ in range(CALLERS):
                        callers.start_soon(self._keep_calling)
                    for step in steps:
                        await self._do(step)
                    self._stopping = True
                await self._settle(before)
            finally:
                await self.runner.end()
            nursery.cancel_scope.cancel()

    async def _do(self, step: Step) -> None:
        (fault,) = step.faults
        await trio.sleep(self._rng.uniform(0.1, 0.4))
        reconnects = (await self.runner.readiness()).brokers[0].reconnects
        with self._excusing(step.costs), trio.move_on_after(step.bound + MORE + PATIENCE) as limit:
            await fault.does(self, Random(step.seed))  # type: ignore[arg-type]  # all but the site, which is n8n
            over, stood_still = trio.current_time(), self.stood_still
            await self._recover(step.rounds)
        if limit.cancelled_caught:
            self.problems.append(f"{step}: not recovered from\n{self.runner.tail()}")
            return
        took = trio.current_time() - over - (self.stood_still - stood_still) - self.machine.took_since(over)
        self.recoveries.append(Recovery(step, took))
        if took > step.bound + MORE:
            self.problems.append(f"{step}: recovered from after {took:.1f}s\n{self.runner.tail()}")
        if not step.costs and (await self.runner.readiness()).brokers[0].reconnects != reconnects:
            self.problems.append(f"{step}: the connection was lost\n{self.runner.tail()}")

    async def _recover(self, rounds: int) -> None:
        """Returns when the runner says that it is well and as many calls at once as it has slots are answered."""
        done = -1
        while done < rounds:
            answers = [await self._call(*PROBE)] if done < 0 else await self._calls(CAPACITY)
            done = done + 1 if all(answers) else -1
            if not all(answers):
                await trio.sleep(0.2)

    async def _calls(self, count: int) -> list[bool]:
        answers: list[bool] = []

        async def one() -> None:
            answers.append(await self._call(*PROBE))

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one)
        return answers

    async def _keep_calling(self) -> None:
        while not self._stopping:
            right = await self._call(*self._rng.choice(CALLS))
            await trio.sleep(self._rng.uniform(0, 0.3) if right else 0.3)

    async def _call(self, path: str, status: int, body: object) -> bool:
        """One webhook. Whether it was answered rightly; what is neither right nor excused is a problem."""
        started = trio.current_time()
        answer: Answer = await trio.to_thread.run_sync(partial(self._n8n.call, path, timeout=PATIENCE))
        if (answer.status, answer.body) == (status, body):
            self.outcomes["answered"] += 1
            return True
        self.outcomes["lost"] += 1
        if answer.status == 200 and answer.body != STARTING:
            self.problems.append(f"{path} was answered with {str(answer.body)[:300]}")
        elif self.machine.took_since(started) < SLUGGISH and not any(
            excuse.costs and excuse.until >= started for excuse in self._excuses
        ):
            self.problems.append(f"{path} was lost for no reason: {answer}")
        return False

    async def _watch_n8n(self) -> None:
        while True:
            asked = trio.current_time()
            with trio.move_on_after(PATIENCE), suppress(OSError, trio.BrokenResourceError):
                async with await trio.open_tcp_stream("127.0.0.1", self._n8n.port) as stream:
                    await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    await stream.receive_some()
            took = trio.current_time() - asked
            if took > SLOW and not self.away:
                self.stood_still += took
            await trio.sleep(0.5)

    @contextmanager
    def _excusing(self, costs: frozenset[Cost]) -> Iterator[None]:
        excuse = Excuse(costs)
        self._excuses.append(excuse)
        try:
            yield
        finally:
            excuse.until = trio.current_time() + AFTERMATH

    async def restart_n8n(self, *, rudely: bool) -> None:
        """As a crash does, or as its user does."""
        self.away = True
        await trio.to_thread.run_sync(self._n8n.kill if rudely else self._n8n.stop)
        await trio.to_thread.run_sync(self._n8n.start)
        self.away = False

    # The runner

    def _new_runner(self) -> RunnerProcess:
        uri, log = f"wss://127.0.0.1:{self.proxy.port}", self._folder / "runner.log"
        return RunnerProcess(uri, free_port(), log, token=AUTH_TOKEN, ca=self._certificates.ca)

    async def replace_runner(self) -> None:
        """Another runner, when nothing is left of the one before."""
        if not await until(lambda: not self.runner.left(), GONE_LIMIT):
            self.problems.append("processes outlived a runner that was killed")
        await self.runner.end()
        self.replaced += 1
        self.runner = self._new_runner()
        await self.runner.start()
        await until(lambda: self.runner.zygote() is not None, 10)

    async def _rest(self) -> None:
        """Returns when every worker waits. Says so when that never comes."""
        wanted, seen = (0, CAPACITY, CAPACITY + 2), (0, 0, 0)
        with trio.move_on_after(REST_LIMIT):
            while seen != wanted:
                readiness = await self.runner.readiness()
                seen = (readiness.tasks, readiness.workers_idle, len(self.runner.left()))
                await trio.sleep(0.1)
            return
        self.problems.append(f"at rest (tasks, idle workers, processes) are {seen}, not {wanted}")

    async def _settle(self, before: Usage) -> None:
        """At rest nothing is left of what happened, neither here nor in n8n; and a SIGTERM ends it."""
        await self._rest()
        now = self.runner.usage()
        self.growth = now.rss - before.rss, now.zygote_rss - before.zygote_rss
        if now.fds > before.fds or self.growth[0] > MORE_MEMORY or self.growth[1] > MORE_ZYGOTE_MEMORY:
            self.problems.append(f"at rest {now}, in the beginning {before}")
        open_executions = [
            execution for execution in latest(self._n8n.data, 500) if execution["status"] in NOT_FINISHED
        ]
        if open_executions:
            self.problems.append(f"n8n still has {len(open_executions)} executions that never ended")
        code = await self.runner.stop(10)
        if code != 0 or not await until(lambda: not self.runner.left(), GONE_LIMIT):
            self.problems.append(f"SIGTERM ended the runner with {code}\n{self.runner.tail()}")


async def restart_n8n(target: Target, rng: Random, *, rudely: bool) -> None:
    """The real n8n ends and starts again."""
    assert isinstance(target, N8nLane)
    await target.restart_n8n(rudely=rudely)


ALL = frozenset(Cost)
RESTARTS = (
    Fault("SIGKILL to n8n, which comes back", partial(restart_n8n, rudely=True), 10, 1, ALL, area="server"),
    Fault("SIGTERM to n8n, which comes back", partial(restart_n8n, rudely=False), 10, 1, ALL, area="server"),
)
KINDS = tuple(fault for fault in FAULTS if fault.does not in (kill_broker, drain_broker, close_code, large_tasks))


def schedule(seed: int, faults: int) -> list[Step]:
    """Each kind about as often as its weight says, and the two restarts of n8n among them."""
    rng = Random(seed)
    kinds = rng.sample(KINDS, counts=[fault.weight for fault in KINDS], k=faults - len(RESTARTS))
    kinds += RESTARTS
    rng.shuffle(kinds)
    return [Step((fault,), rng.randrange(10**9)) for fault in kinds]
