"""The load finds every wrong outcome: what it does not complain about was right, or excused."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from tests.chaos.load import ANSWERED, CANCELLED, FAILED, Cost, Load, Program, choose
from tests.chaos.site import BrokerGoneError
from trio_runner.localbroker import OnPrint, TaskFailed
from trio_runner.protocol.messages import ResultData

Answer = Callable[[dict[str, Any]], object]


class FakeSite:
    """Answers as it is told to: with a result, an error, or never."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def call(self, settings: bytes, on_print: OnPrint | None = None) -> ResultData:
        await trio.lowlevel.checkpoint()
        answer = self._answer(msgspec.json.decode(settings)["items"][0]["json"])
        if answer is None:
            await trio.sleep_forever()
        if isinstance(answer, Exception):
            raise answer
        return ResultData(result=msgspec.Raw(msgspec.json.encode(answer)))


def echo(item: dict[str, Any]) -> object:
    return [{"json": {"nonce": item["nonce"], "n": 1}}]


def load(answer: Answer, *costs: Cost) -> Load:
    return Load(FakeSite(answer), Random(1), lambda cost, since: cost in costs)  # type: ignore[arg-type]


def program(**changed: Any) -> Program:
    return Program("code", {}, lambda nonce: [{"json": {"nonce": nonce, "n": 1}}], **changed)


async def test_a_right_answer_is_counted_and_no_problem() -> None:
    calling = load(echo)
    assert await calling.call(program()) == ANSWERED
    assert (dict(calling.outcomes), calling.problems) == ({ANSWERED: 1}, [])


@pytest.mark.parametrize("answer", [lambda _: [], lambda _: [{"json": {"nonce": "another's", "n": 1}}]])
async def test_a_wrong_answer_is_a_problem_that_nothing_excuses(answer: Answer) -> None:
    calling = load(answer, *Cost)
    await calling.call(program())
    assert "was answered with" in calling.problems[0]


async def test_an_answer_instead_of_an_error_and_an_unknown_error_are_problems() -> None:
    calling = load(echo, *Cost)
    await calling.call(program(fails=True))
    assert "was answered with" in calling.problems[0]
    calling = load(lambda _: TaskFailed({"message": "The runner failed to run this task."}), *Cost)
    await calling.call(program())
    assert "failed: The runner failed" in calling.problems[0]


async def test_a_program_that_should_fail_may() -> None:
    calling = load(lambda item: TaskFailed({"message": item["nonce"]}))
    assert await calling.call(program(fails=True)) == FAILED
    assert calling.problems == []


async def test_missing_prints_are_a_problem() -> None:
    calling = load(echo)
    await calling.call(program(prints=True))
    assert "printed []" in calling.problems[0]


@pytest.mark.parametrize(
    ("error", "cost"),
    [
        (TaskFailed({"message": "Node execution failed"}), Cost.CONNECTION),
        (TaskFailed({"message": "Task subprocess exited with code -1"}), Cost.WORKER),
        (TaskFailed({"message": "Task execution timed out after 4 seconds"}), Cost.TIME),
        (BrokerGoneError(), Cost.BROKER),
        (trio.TooSlowError(), Cost.REFUSAL),
    ],
)
async def test_a_loss_is_a_problem_unless_the_fault_that_goes_on_excuses_it(
    error: Exception, cost: Cost, autojump_clock: MockClock
) -> None:
    calling = load(lambda _: error, cost)
    assert await calling.call(program()) == cost.value
    assert calling.problems == []
    calling = load(lambda _: error, *(set(Cost) - {cost}))
    await calling.call(program())
    assert calling.problems == [f"a task was {cost.value}, for no reason"]


async def test_a_call_that_never_ends_is_a_problem_and_one_that_was_to_be_cancelled_is_not(
    autojump_clock: MockClock,
) -> None:
    calling = load(lambda _: None, *Cost)
    await calling.call(program())
    assert "has not ended for 45s" in calling.problems[0]
    calling = load(lambda _: None)
    assert await calling.call(program(cancel_after=0.1)) == CANCELLED
    assert calling.problems == []


async def test_the_callers_call_until_they_are_told_to_stop(autojump_clock: MockClock) -> None:
    calling = load(lambda _: None)
    with trio.fail_after(200):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(calling.run, 3)
            await trio.sleep(1)
            calling.stop()
    assert calling.outcomes.total() >= 3


def test_the_mix_holds_every_sort_of_program() -> None:
    rng = Random(1)
    mix = [choose(rng) for _ in range(200)]
    assert {(one.prints, one.fails, one.cancel_after is not None) for one in mix} == {
        (False, False, False), (True, False, False), (False, True, False), (False, False, True),
    }  # fmt: skip
