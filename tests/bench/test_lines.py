from __future__ import annotations

import pytest

from bench import lines
from bench.floors import BARE_ASYNCIO, BARE_TRIO
from bench.results import JAVASCRIPT, MACHINE, OURS, Line, Run
from tests.bench.bench_kit import fill, make_run


def line(run: Run, name: str) -> Line:
    (found,) = [one for one in lines.judge(run) if one.name.startswith(name)]
    return found


def test_nothing_is_missed_where_nothing_was_measured() -> None:
    judged = lines.judge(make_run())
    assert judged
    assert {one.verdict for one in judged} == {"not measured"}


def test_a_latency_counts_in_units_of_the_run() -> None:
    run = make_run(unit=10.0)
    fill(run, "latency", OURS, 3.4, concurrency=1)
    assert line(run, "trivial task, p50").value == pytest.approx(0.34)
    assert line(run, "trivial task, p50").verdict == "reached"


def test_the_same_latency_is_missed_on_a_machine_that_is_faster() -> None:
    run = make_run(unit=9.0)
    fill(run, "latency", OURS, 3.4, concurrency=1)
    assert line(run, "trivial task, p50").verdict == "missed"


def test_the_exchange_is_that_of_our_own_library() -> None:
    run = make_run()
    fill(run, "latency", OURS, 3.0, concurrency=1)
    fill(run, "exchange", BARE_ASYNCIO, 1.0, concurrency=1)
    assert line(run, "the same, against the bare exchange").verdict == "not measured"
    fill(run, "exchange", BARE_TRIO, 0.9, concurrency=1)
    assert line(run, "the same, against the bare exchange").value == pytest.approx(3.0 / 0.9)
    assert line(run, "the same, against the bare exchange").verdict == "missed"


def test_throughput_counts_tasks_while_an_interpreter_starts() -> None:
    run = make_run(unit=10.0)
    fill(run, "throughput", OURS, 430.0, concurrency=5)
    assert line(run, "trivial tasks per unit").value == pytest.approx(4.3)
    assert line(run, "trivial tasks per unit").verdict == "reached"


@pytest.mark.parametrize(("exchanges", "forks"), [(1000.0, 9000.0), (9000.0, 1000.0)])
def test_throughput_is_held_against_the_slower_floor(exchanges: float, forks: float) -> None:
    run = make_run()
    fill(run, "throughput", OURS, 650.0, concurrency=5)
    fill(run, "exchange_rate", BARE_TRIO, exchanges, concurrency=5)
    assert line(run, "the same, against the slower floor").verdict == "not measured"
    fill(run, "fork_rate", MACHINE, forks, in_flight=5)
    assert line(run, "the same, against the slower floor").value == pytest.approx(0.65)
    assert line(run, "the same, against the slower floor").verdict == "missed"


def test_a_webhook_is_held_against_the_javascript_runner() -> None:
    run = make_run()
    fill(run, "webhook", OURS, 18.0, workflow="py-all")
    fill(run, "webhook", JAVASCRIPT, 16.0, workflow="js-all")
    assert line(run, "webhook").value == pytest.approx(1.125)
    assert line(run, "webhook").verdict == "reached"


def test_figures_without_a_unit_are_held_against_their_own_limit() -> None:
    run = make_run()
    fill(run, "idle_memory", OURS, 61.0)
    fill(run, "peak_copies", OURS, 2.9, bytes=100_000_000)
    assert line(run, "idle memory").verdict == "missed"
    assert line(run, "echo of 100 MB").verdict == "reached"


def test_absolute_values_stand_beside_the_ratio() -> None:
    run = make_run()
    fill(run, "pandas", OURS, 3.14159)
    fill(run, "pandas_trivial", OURS, 2.0)
    assert line(run, "import pandas").absolute == "3.14 : 2 ms"
