from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench import results
from bench.results import MACHINE, OURS, Line, Series, percentile, quartile_spread, ratio
from tests.bench.bench_kit import fill, make_run


def series(*rounds: list[float]) -> Series:
    return Series(figure="latency", subject=OURS, rounds=list(rounds))


def test_one_disturbed_round_does_not_move_the_median() -> None:
    assert series([1, 1, 2], [1, 1, 1], [90, 99, 95]).median == 1


def test_the_spread_is_that_of_the_rounds() -> None:
    assert series([1, 9, 1], [1, 1, 1]).spread == 0
    assert series([1], [2], [4]).spread == pytest.approx(1.5)


def test_a_ratio_compares_within_rounds() -> None:
    """On a machine that was half as fast in the second round, and unusable in the third."""
    ours, floor = series([2.0], [4.0], [300.0]), series([1.0], [2.0], [10.0])
    assert ratio(ours, floor) == 2.0


def test_a_ratio_of_figures_from_different_rounds_takes_their_medians() -> None:
    assert ratio(series([], [6.0]), series([2.0])) == 3.0


def test_a_ratio_leaves_out_rounds_that_only_one_of_them_has() -> None:
    assert ratio(series([2.0], [50.0]), series([1.0])) == 2.0


@pytest.mark.parametrize(("p", "expected"), [(0, 1), (50, 3), (95, 5), (99, 5), (100, 5)])
def test_a_percentile_is_a_sample(p: float, expected: float) -> None:
    assert percentile([5, 3, 1, 4, 2], p) == expected


def test_the_quartile_spread_ignores_the_tails() -> None:
    assert quartile_spread([1.0] * 10 + [100.0]) == 0
    assert quartile_spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(1.0)
    assert quartile_spread([1.0]) == 0


def test_samples_of_the_same_parameters_gather_in_one_series() -> None:
    run = make_run()
    run.record("latency", OURS, [1.0], turn=1, concurrency=1)
    run.record("latency", OURS, [2.0], turn=1, concurrency=1)
    run.record("latency", OURS, [9.0], turn=1, concurrency=5)
    found = run.find("latency", OURS, concurrency=1)
    assert found is not None
    assert found.rounds == [[], [1.0, 2.0]]
    assert [one.params["concurrency"] for one in run.select("latency")] == [1, 5]


def test_nothing_is_found_where_nothing_was_measured() -> None:
    run = make_run()
    run.record("latency", OURS, [], turn=0, concurrency=1)
    assert run.find("latency", OURS) is None
    assert run.find("echo", OURS) is None


def test_a_figure_must_be_known() -> None:
    with pytest.raises(AssertionError, match="latencies is not a figure"):
        make_run().record("latencies", OURS, [1.0], turn=0)


def test_times_are_told_in_units_of_the_same_round() -> None:
    run = make_run()
    run.record("latency", OURS, [5.0], turn=0)
    run.record("unit", MACHINE, [10.0], turn=0)
    found = run.find("latency", OURS)
    assert found is not None
    assert run.in_units(found) == 0.5


@pytest.mark.parametrize(
    ("value", "least", "verdict"),
    [(1.0, False, "reached"), (1.1, False, "missed"), (1.0, True, "reached"), (0.9, True, "missed")],
)
def test_a_limit_itself_is_good_enough(value: float, least: bool, verdict: str) -> None:
    assert Line(name="", value=value, limit=1.0, least=least, unit="x").verdict == verdict


def test_a_run_survives_its_file(tmp_path: Path) -> None:
    run = make_run()
    fill(run, "echo", OURS, 1.234567, 2, bytes=100_000, mode="all")
    run.lines = [Line(name="a line", value=None, limit=1.0, unit="x")]
    results.save(run, tmp_path / "run.json")
    assert results.load(tmp_path / "run.json") == run


def test_a_file_of_another_schema_is_refused(tmp_path: Path) -> None:
    run = make_run()
    run.schema = 2
    results.save(run, tmp_path / "run.json")
    with pytest.raises(msgspec.ValidationError, match="schema 2"):
        results.load(tmp_path / "run.json")
