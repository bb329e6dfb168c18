"""Twenty tasks through every runner and floor that the benchmark knows, so that none of them rots."""

from __future__ import annotations

import sys

import msgspec
import pytest

from bench import floors, phases, plan, runners, tasks
from bench.loadbroker import LoadBroker
from bench.results import OURS, Subject
from tests.bench.bench_kit import make_run

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


def test_a_phase_leaves_its_figures_in_the_run() -> None:
    tiny = msgspec.structs.replace(plan.SMOKE, warm_up_seconds=0.05, task_seconds=0.01, idle_seconds=0.05)
    run = make_run(rounds=1)
    with LoadBroker() as broker:
        phases.measure_tasks(phases.Bench(run, tiny, broker, frozenset(plan.PARTS)), runners.RUNNERS[0])
    assert {one.figure for one in run.series} >= {
        *("start_registered", "start_first_result", "latency", "throughput", "cpu", "broker_cpu"),
        *("idle_cpu", "idle_wakeups"),
    }
    for concurrency in (1, 5):
        latency = run.find("latency", OURS, concurrency=concurrency)
        assert latency is not None
        assert len(latency.samples) >= 2 * concurrency
        tree, main, below = (
            run.find("cpu", OURS, concurrency=concurrency, part=part) for part in ("tree", "main", "below")
        )
        assert tree is not None
        assert main is not None
        assert below is not None
        assert tree.median == pytest.approx(main.median + below.median, abs=0.001)


@pytest.mark.parametrize("in_flight", [1, 3])
def test_the_fork_floor_counts_its_forks(in_flight: int) -> None:
    forks = floors.run_fork(in_flight, 0.1, lean=in_flight > 1)
    assert forks.rate > 0
    assert forks.milliseconds
    assert min(forks.milliseconds) > 0


def test_the_json_floor_parses_and_builds() -> None:
    samples = floors.run_json(5000, 0.01)
    assert samples
    assert min(samples) > 0
