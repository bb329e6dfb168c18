"""The work that goes on meanwhile: programs whose every result is known beforehand, and what became of each.

Owns the programs and the judgement of an outcome. Must not know what is being done to the runner: whether a loss is
excused is asked of whoever does.
"""

from __future__ import annotations

import enum
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec
import trio

from tests.chaos.site import BrokerGoneError, Site
from trio_runner.localbroker import TaskFailed

PAUSE = 0.12
"""Seconds that a caller waits between two tasks, on average."""
LONGEST_CALL = 45.0
"""Seconds after which a call is stuck: longer than a request may wait for a runner."""


class Cost(enum.Enum):
    """What a fault may cost a task. Anything else is a defect."""

    CONNECTION = "lost with its connection"
    WORKER = "lost with its worker"
    TIME = "timed out"
    BROKER = "lost with its broker"
    REFUSAL = "refused by a stopping broker"


LARGEST = 4_000_000
"""Bytes of the largest items."""
ANSWERED, FAILED, CANCELLED = "answered", "failed as it should", "cancelled by the caller"


@dataclass(frozen=True)
class Program:
    """A program and what it makes of an item with a nonce."""

    code: str
    extra: dict[str, Any]
    result: Callable[[str], object]
    prints: bool = False
    fails: bool = False
    cancel_after: float | None = None


ECHO = "return [{'json': {'nonce': _items[0]['json']['nonce'], 'n': len(_items)}}]"
SLEEP = "import time\ntime.sleep(_items[0]['json']['s'])\n" + ECHO


def _echo(nonce: str) -> object:
    return [{"json": {"nonce": nonce, "n": 1}}]


def choose(rng: Random) -> Program:
    """The next program of the mix."""
    number = rng.random()
    if number < 0.35:
        return Program(ECHO, {}, _echo)
    if number < 0.65:
        return Program(SLEEP, {"s": round(rng.uniform(0.02, 0.4), 3)}, _echo)
    if number < 0.75:
        code = "for n in range(20): print(_items[0]['json']['nonce'], n)\n" + ECHO
        return Program(code, {}, _echo, prints=True)
    if number < 0.85:
        return Program("raise ValueError(_items[0]['json']['nonce'])", {}, str, fails=True)
    if number < 0.93:
        return large(rng.choice([20_000, 200_000]))
    return Program(SLEEP, {"s": 3}, _echo, cancel_after=rng.uniform(0.02, 0.3))


def large(size: int) -> Program:
    """So many bytes in, twice as many out."""
    code = "return {'json': {'nonce': _items[0]['json']['nonce'], 'text': _items[0]['json']['text'] * 2}}"
    return Program(code, {"text": "x" * size}, lambda nonce: {"json": {"nonce": nonce, "text": "x" * 2 * size}})


class Load:
    """Callers of one site, and a count of outcomes."""

    def __init__(self, site: Site, rng: Random, excused: Callable[[Cost, float], bool]) -> None:
        """``excused`` is asked whether something that happened since a time may have cost a task this."""
        self.outcomes: Counter[str] = Counter()
        self.problems: list[str] = []
        self._site = site
        self._rng = rng
        self._excused = excused
        self._nonces = map(str, itertools.count(rng.randrange(10**9) * 1000))
        self._stopping = False
        self._calling = 0

    async def run(self, callers: int) -> None:
        """Calls until `stop`, and until the last call has ended."""
        async with trio.open_nursery() as nursery:
            for _ in range(callers):
                nursery.start_soon(self._keep_calling)

    def stop(self) -> None:
        """No more calls."""
        self._stopping = True

    async def _keep_calling(self) -> None:
        while not self._stopping:
            await self.call(choose(self._rng))
            await trio.sleep(self._rng.uniform(0, 2 * PAUSE))

    async def probe(self, count: int) -> bool:
        """So many tasks at once, the plainest ones. Whether all were answered, and rightly."""
        return set(await self.call_all(Program(ECHO, {}, _echo), count)) == {ANSWERED}

    async def call_all(self, program: Program, count: int) -> list[str]:
        """The same program so many times at once. Gives the outcomes."""
        outcomes: list[str] = []

        async def one() -> None:
            outcomes.append(await self.call(program))

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one)
        return outcomes

    async def call(self, program: Program) -> str:
        """One task. What became of it is counted; what should not have is a problem."""
        started, nonce = trio.current_time(), next(self._nonces)
        limit = LONGEST_CALL if program.cancel_after is None else program.cancel_after
        outcome, wrong = CANCELLED, ""
        with trio.move_on_after(limit) as scope:
            outcome, wrong = await self._outcome(program, nonce)
        if scope.cancelled_caught and program.cancel_after is None:
            wrong = f"a call has not ended for {LONGEST_CALL:g}s"
        if not wrong and outcome in _COSTS and not self._excused(_COSTS[outcome], started):
            wrong = f"a task was {outcome}, for no reason"
        if wrong:
            self.problems.append(wrong)
        self.outcomes[outcome] += 1
        return outcome

    async def _outcome(self, program: Program, nonce: str) -> tuple[str, str]:
        """The outcome of one task and what is wrong with it, if anything."""
        items = [{"json": {"nonce": nonce, **program.extra}}]
        settings = {"code": program.code, "nodeMode": "runOnceForAllItems", "items": items}
        prints: list[list[object]] = []
        try:
            data = await self._site.call(msgspec.json.encode(settings), prints.append)
        except TaskFailed as failed:
            return _failed(program, nonce, str(failed.error.get("message")))
        except BrokerGoneError:
            await trio.sleep(PAUSE)
            return Cost.BROKER.value, ""
        except trio.TooSlowError:
            await trio.sleep(PAUSE)
            return Cost.REFUSAL.value, ""
        assert isinstance(data.result, msgspec.Raw)
        result = msgspec.json.decode(data.result)
        if program.fails or result != program.result(nonce):
            return ANSWERED, f"task {nonce} was answered with {str(result)[:200]}"
        if program.prints and prints != [[f"'{nonce}'", str(number)] for number in range(20)]:
            return ANSWERED, f"task {nonce} printed {str(prints)[:200]}"
        return ANSWERED, ""


_COSTS = {cost.value: cost for cost in Cost}
_TEXTS = {
    "Node execution failed": Cost.CONNECTION,
    "Requester took too long to acknowledge the task": Cost.CONNECTION,
    "Task subprocess exited with code -1": Cost.WORKER,
    "Process was forcefully killed (SIGKILL)": Cost.WORKER,
    "The code could not be checked: the worker process ended": Cost.WORKER,
    "Task execution timed out": Cost.TIME,
}


def _failed(program: Program, nonce: str, message: str) -> tuple[str, str]:
    if program.fails and message == nonce:
        return FAILED, ""
    for text, cost in _TEXTS.items():
        if message.startswith(text):
            return cost.value, ""
    return FAILED, f"task {nonce} failed: {message[:300]}"
