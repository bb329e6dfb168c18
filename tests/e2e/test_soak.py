"""Ten thousand tasks leave nothing behind: no descriptor, process, slot, offer or memory."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.runner_kit import Bench, running

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.long,
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc"),
]

TASKS = 10_000
CALLERS = 8

PROGRAMS = [
    "return [{'json': {'n': len(_items)}}]",
    "print('hello', _items)\nreturn _items",
    "raise ValueError('no')",
    "return {'json': {'text': 'x' * 20_000}}",
    "import os",
]


@pytest.fixture(autouse=True)
def _no_log() -> Iterator[None]:
    """What pytest keeps of the log would look like a leak."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


async def test_ten_thousand_tasks_leave_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    async with running() as bench:
        await _run_many(bench, 1000)
        before = await _measure(bench)
        with trio.fail_after(300):
            await _run_many(bench, TASKS)
        after = await _measure(bench)
        now = trio.current_time()
        assert bench.broker.machine.open_offers(now) == bench.runner.slots.capacity
    with capsys.disabled():
        print(f"\n{TASKS} tasks: before {before}, after {after}")
    assert after["slots"] == before["slots"] == 0
    assert after["fds"] == before["fds"]
    assert after["zygote fds"] == before["zygote fds"]
    assert after["processes"] == before["processes"]
    assert after["rss"] - before["rss"] < 4096, "kilobytes of the runner (and this test's broker)"
    assert after["zygote rss"] - before["zygote rss"] < 1024, "kilobytes of the zygote"


async def _run_many(bench: Bench, count: int) -> None:
    left = iter(range(count))

    async def call() -> None:
        for number in left:
            code = PROGRAMS[number % len(PROGRAMS)]
            outcome = await bench.run(code, items=[{"json": {"number": number}}])
            assert ("error" in outcome) == (number % len(PROGRAMS) in (2, 4)), outcome

    async with trio.open_nursery() as nursery:
        for _ in range(CALLERS):
            nursery.start_soon(call)


async def _measure(bench: Bench) -> dict[str, int]:
    await trio.sleep(1)  # the last children are reaped and their successors forked
    gc.collect()
    zygote = bench.runner.pool.zygote_pid
    return {
        "slots": bench.runner.slots.taken,
        "fds": _entries("/proc/self/fd"),
        "zygote fds": _entries(f"/proc/{zygote}/fd"),
        "processes": len(_text(f"/proc/{zygote}/task/{zygote}/children").split()),
        "rss": _rss("self"),
        "zygote rss": _rss(str(zygote)),
    }


def _entries(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())


def _text(path: str) -> str:
    return Path(path).read_text()


def _rss(process: str) -> int:
    """Kilobytes."""
    for line in _text(f"/proc/{process}/status").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS line")
