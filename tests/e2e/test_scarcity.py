"""When the machine has no more processes or memory to give, or takes the runner away: all is well in bounded time."""

from __future__ import annotations

import os
import resource
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio

from tests.chaos.process import CAPACITY, RunnerProcess, until
from tests.chaos.site import AUTH_TOKEN
from tests.e2e.n8n_server import free_port
from tests.runner_kit import Bench, running
from trio_runner.localbroker import LocalBroker

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="limits other processes, looks for them in /proc"),
]

CODE = "return {'json': {'n': len(_items)}}"
ANSWER = {"json": {"n": 0}}
PIDS = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))


@contextmanager
def no_more_processes(pid: int) -> Iterator[None]:
    """A control group in which nobody can be born; a limit of the user would not hold for root."""
    root = next((path for path in PIDS if "pids" in _controllers(path)), None)
    group = (root or Path("/nowhere")) / f"trio-runner-tests-{uuid.uuid4().hex}"
    try:
        group.mkdir()
        (group / "pids.max").write_text("1")
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        pytest.skip(f"needs a control group that counts processes: {error}")
    try:
        yield
    finally:
        for left in (group / "cgroup.procs").read_text().split():
            with suppress(OSError):
                (group.parent / "cgroup.procs").write_text(left)
        group.rmdir()


def _controllers(path: Path) -> list[str]:
    if path.name == "pids":
        return ["pids"] if (path / "cgroup.procs").exists() else []
    file = path / "cgroup.subtree_control"
    return file.read_text().split() if file.exists() else []


@contextmanager
def no_more_memory(pid: int) -> Iterator[None]:
    """Not a page more than it has. What it forks meanwhile has no more either."""
    size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (size, before[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_AS, before)


async def use_up_workers(bench: Bench, outcomes: list[object]) -> None:
    """As many tasks at once as there are slots, and as many again."""

    async def one() -> None:
        outcome = await bench.run(CODE, items=[])
        outcomes.append(outcome.get("result") or outcome["error"]["message"])

    async with trio.open_nursery() as nursery:
        for _ in range(2 * CAPACITY):
            nursery.start_soon(one)


async def ready(bench: Bench) -> None:
    with trio.fail_after(15):
        while bench.runner.readiness().workers_idle < CAPACITY:  # noqa: ASYNC110 - what a probe of /readyz would do
            await trio.sleep(0.02)


async def test_without_processes_tasks_wait_readyz_says_so_and_all_are_answered_when_there_are_some() -> None:
    outcomes: list[object] = []
    async with running() as bench:
        await ready(bench)
        zygote = bench.runner.pool.zygote_pid
        assert zygote is not None
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                with no_more_processes(zygote):
                    nursery.start_soon(use_up_workers, bench, outcomes)
                    while len(outcomes) < CAPACITY or bench.runner.readiness().ready:  # noqa: ASYNC110
                        await trio.sleep(0.02)
                    assert len(outcomes) == CAPACITY, "those for which there were workers"
                    assert bench.runner.readiness().workers_idle == 0
        assert outcomes == [ANSWER] * 2 * CAPACITY
        await ready(bench)
        assert bench.runner.readiness().ready
        assert bench.runner.slots.taken == 0


async def test_a_zygote_without_memory_recovers_or_is_replaced_and_no_slot_is_lost() -> None:
    outcomes: list[object] = []
    async with running() as bench:
        await ready(bench)
        zygote = bench.runner.pool.zygote_pid
        assert zygote is not None
        with trio.fail_after(30):
            with no_more_memory(zygote):
                await use_up_workers(bench, outcomes)
            await ready(bench)
            assert (await bench.run(CODE, items=[]))["result"] == ANSWER
        assert len(outcomes) == 2 * CAPACITY
        assert bench.runner.readiness().ready
        assert bench.runner.slots.taken == 0


@pytest.mark.parametrize("zygote_stopped", [False, True], ids=["alone", "with its zygote stopped"])
async def test_a_runner_that_is_killed_leaves_no_process_behind(tmp_path: Path, zygote_stopped: bool) -> None:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            broker = LocalBroker(auth_token=AUTH_TOKEN)
            port = await nursery.start(broker.serve)
            runner = RunnerProcess(f"http://127.0.0.1:{port}", free_port(), tmp_path / "runner.log")
            try:
                await runner.start()
                assert await until(lambda: len(runner.left()) == CAPACITY + 2, 15), runner.tail()
                if zygote_stopped:
                    zygote = runner.zygote()
                    assert zygote is not None
                    os.kill(zygote, signal.SIGSTOP)
                await runner.kill()
                assert await until(lambda: not runner.left(), 5), f"{runner.left()} are left"
            finally:
                await runner.end()
            nursery.cancel_scope.cancel()
