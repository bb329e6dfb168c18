"""A lane that has no runner says so at once, and keeps nobody waiting."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import trio

from tests.chaos.faults import Fault
from tests.chaos.lane import Lane
from tests.chaos.machine import Machine
from tests.chaos.process import kill
from tests.chaos.step import Step

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def test_a_runner_that_does_not_start_ends_its_lane_at_once_and_takes_no_turn(
    tmp_path: Path, taken_port: int
) -> None:
    turn = trio.Lock()
    await turn.acquire()  # another lane warms up
    lane = Lane(3, tmp_path, Random(1), turn, Machine(), health_port=lambda: taken_port)
    with trio.fail_after(10):
        await lane.run([])
    (problem,) = lane.problems
    assert "the runner ended with 1\n" in problem
    assert f"Port {taken_port} is already in use" in problem
    assert lane.runner.left() == set()


@pytest.mark.chaos
async def test_a_runner_that_ends_by_itself_is_a_problem_of_its_fault_and_another_one_goes_on(tmp_path: Path) -> None:
    async def crash(target: Lane, rng: Random) -> None:
        kill(target.runner.pid)

    lane = Lane(3, tmp_path, Random(1), trio.Lock(), Machine())
    steps = [Step((Fault(name, crash, 60, 1),), 0) for name in ("one crash", "another crash")]  # type: ignore[arg-type]
    with trio.fail_after(30):
        await lane.run(steps)
    crashes = [problem for problem in lane.problems if "the runner ended with -9" in problem]
    assert [problem[: problem.index(":")] for problem in crashes] == ["fault 0 (one crash)", "fault 0 (another crash)"]
    assert lane.replaced == 2
