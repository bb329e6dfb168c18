"""Twenty tasks through every runner and floor that the benchmark knows, so that none of them rots."""

from __future__ import annotations

import sys

import pytest

from bench import floors, runners, tasks
from bench.loadbroker import LoadBroker
from bench.results import OURS, Subject

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the benchmark reads /proc"),
]


@pytest.mark.parametrize("subject", [*runners.RUNNERS, *floors.EXCHANGES], ids=lambda subject: subject.name)
def test_twenty_tasks_come_back(subject: Subject) -> None:
    if subject.name not in (OURS, floors.BARE_TRIO):
        pytest.importorskip("websockets", reason="in the dependency group bench")
    with LoadBroker() as broker, runners.Runner(subject, broker) as runner:
        batch = runner.session.run(tasks.TRIVIAL, concurrency=3, count=20)
        assert len(batch.latencies) == 20
        assert 0 < min(batch.latencies) <= max(batch.latencies) < 20
        assert batch.rejected == 0
        if subject.kind != "floor":
            for mode in tasks.MODES:
                runner.session.run(tasks.small_items(10, mode))
                runner.session.run(tasks.echo(5000, mode))


@pytest.mark.parametrize("in_flight", [1, 3])
def test_the_fork_floor_counts_its_forks(in_flight: int) -> None:
    forks = floors.run_fork(in_flight, 0.1)
    assert forks.rate > 0
    assert forks.milliseconds
    assert min(forks.milliseconds) > 0


def test_the_json_floor_parses_and_builds() -> None:
    samples = floors.run_json(5000, 0.01)
    assert samples
    assert min(samples) > 0
