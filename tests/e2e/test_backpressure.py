"""A broker that sends 100 MB to every slot at once: the runner's memory stays bounded, and another broker is served."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

from trio_runner.localbroker import LocalBroker

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of processes in /proc"),
]

TOKEN = "token"
SLOTS = 6
LARGE = 100_000_000
"""Bytes of the items of one task."""


@asynccontextmanager
async def served(brokers: list[LocalBroker]) -> AsyncIterator[trio.Process]:
    """A runner process that all of these have."""
    async with trio.open_nursery() as nursery:
        ports = [await nursery.start(broker.serve) for broker in brokers]
        variables = {
            "PATH": os.environ["PATH"],
            "N8N_RUNNERS_AUTH_TOKEN": TOKEN,
            "N8N_RUNNERS_TASK_BROKER_URI": ",".join(f"http://127.0.0.1:{port}" for port in ports),
            "N8N_RUNNERS_MAX_CONCURRENCY": str(SLOTS),
            "N8N_RUNNERS_HEARTBEAT_INTERVAL": "5",
        }
        command = [sys.executable, "-m", "trio_runner", "start"]
        runner = await nursery.start(partial(trio.run_process, command, env=variables, stdout=subprocess.DEVNULL))
        while not all(broker.machine.open_offers(trio.current_time()) for broker in brokers):  # noqa: ASYNC110
            await trio.sleep(0.05)
        yield runner
        runner.send_signal(signal.SIGTERM)
        assert await runner.wait() == 0
        nursery.cancel_scope.cancel()


def settings(code: str, text: int = 0) -> bytes:
    items = b'[{"json":{"text":"' + b"x" * text + b'"}}]'
    return msgspec.json.encode({"code": code, "nodeMode": "runOnceForAllItems", "items": msgspec.Raw(items)})


def memory(pid: int, name: str) -> int:
    """VmRSS or VmHWM, the most that it ever was, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


async def answer(broker: LocalBroker, body: bytes) -> object:
    data = await broker.run_task(body)
    assert isinstance(data.result, msgspec.Raw)
    return msgspec.json.decode(data.result)


async def test_100_mb_for_every_slot_take_bounded_memory_and_another_broker_is_served(
    capsys: pytest.CaptureFixture[str],
) -> None:
    greedy, modest = LocalBroker(auth_token=TOKEN), LocalBroker(auth_token=TOKEN)
    small = settings("return {'json': {'n': 1}}")
    large = settings("return {'json': {'n': len(_items[0]['json']['text'])}}", LARGE)
    answers: list[object] = []
    waits: list[float] = []

    async def ask() -> None:
        answers.append(await answer(greedy, large))

    with trio.fail_after(120):
        async with served([greedy, modest]) as runner:
            await answer(modest, small)
            before, began = memory(runner.pid, "VmRSS"), trio.current_time()
            async with trio.open_nursery() as nursery:
                for _ in range(SLOTS - 1):
                    nursery.start_soon(ask)
                while len(answers) < SLOTS - 1:
                    asked = trio.current_time()
                    assert await answer(modest, small) == {"json": {"n": 1}}
                    waits.append(trio.current_time() - asked)
                    await trio.sleep(0.01)
            took = trio.current_time() - began
            most = memory(runner.pid, "VmHWM") - before
            await trio.sleep(1)
            left = memory(runner.pid, "VmRSS") - before
    with capsys.disabled():
        print(
            f"\n{SLOTS - 1} times {LARGE / 1e6:g} MB in {took:.1f}s: {most / 1e6:.0f} MB at most, "
            f"{left / 1e6:.0f} MB left; {len(waits)} tasks of another broker meanwhile, the slowest {max(waits):.2f}s"
        )
    assert answers == [{"json": {"n": LARGE}}] * (SLOTS - 1)
    assert most < SLOTS * LARGE * 1.1
    assert left < 30_000_000
    assert len(waits) >= 5
    assert max(waits) < 10
