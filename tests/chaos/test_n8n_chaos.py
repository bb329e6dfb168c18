"""Faults between a runner and a real n8n behind a proxy with TLS, and restarts of that n8n, while webhooks are called.

CHAOS_SEED=7 CHAOS_N8N_FAULTS=300 uv run pytest -m 'chaos and n8n'
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import trio

from tests.chaos.campaign import Result
from tests.chaos.n8n_lane import MORE, RESTARTS, N8nLane, schedule
from tests.chaos.report import render
from tests.e2e.n8n_server import N8n, install, tail

pytestmark = [pytest.mark.chaos, pytest.mark.n8n]

SEED = int(os.environ.get("CHAOS_SEED", "1"))
FAULTS = int(os.environ.get("CHAOS_N8N_FAULTS", "40"))


@pytest.fixture
def n8n(tmp_path_factory: pytest.TempPathFactory) -> Iterator[N8n]:
    server = N8n(install(), tmp_path_factory.mktemp("n8n"))
    try:
        server.ensure()
        yield server
    finally:
        server.close()
        print(f"--- n8n's log\n{tail(server.log, 60)}")


async def test_a_real_n8n_and_its_users_lose_no_more_than_a_fault_may_cost(
    n8n: N8n, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lane = N8nLane(n8n, tmp_path, Random(SEED))
    steps = schedule(SEED, FAULTS)
    began = trio.current_time()
    await lane.run(steps)
    result = Result(
        seed=SEED,
        seconds=trio.current_time() - began,
        planned=len(steps),
        recoveries=lane.recoveries,
        outcomes=lane.outcomes,
        replaced=lane.replaced,
        growth=lane.growth,
        problems=lane.problems,
    )
    with capsys.disabled():
        print(f"\nUnder a real n8n, which stood still for {lane.stood_still:.1f} s; all bounds are {MORE:g} s longer")
        print(render(result, more=RESTARTS))
    assert lane.problems == []
    assert result.survived == FAULTS
