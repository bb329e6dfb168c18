"""The schedule of faults: a seed stands for it, every kind is in it, and it is dealt fairly."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.chaos.campaign import FROZEN_EVERY, TLS_LANES, Result, schedule
from tests.chaos.faults import FAULTS, FROZEN
from tests.chaos.report import percentile, render
from tests.chaos.step import Recovery, Step


def test_a_seed_stands_for_its_schedule_and_another_one_for_another() -> None:
    assert schedule(1, 300) == schedule(1, 300)
    assert schedule(1, 300) != schedule(2, 300)


@pytest.mark.parametrize("faults", [1, 20, 400, 2000])
def test_a_schedule_has_as_many_faults_as_were_asked_for(faults: int) -> None:
    assert sum(len(step.faults) for lane in schedule(3, faults) for step in lane) == faults


def test_a_long_schedule_has_every_kind_about_as_often_as_it_should() -> None:
    counts = Counter(fault.name for lane in schedule(4, 2000) for step in lane for fault in step.faults)
    assert counts[FROZEN.name] == 2000 // FROZEN_EVERY
    total = sum(fault.weight for fault in FAULTS)
    for fault in FAULTS:
        assert counts[fault.name] >= int(2000 * 0.9 * fault.weight / total), fault.name


def test_what_needs_tls_is_dealt_to_lanes_that_have_it_and_no_lane_waits_much_longer_than_the_others() -> None:
    lanes = schedule(5, 2000)
    assert not any(fault.tls for lane in lanes[TLS_LANES:] for step in lane for fault in step.faults)
    waits = [sum(step.bound for step in lane) for lane in lanes]
    assert max(waits) < 1.1 * min(waits)


def test_the_percentile_is_a_value_that_so_many_do_not_exceed() -> None:
    hundred = [float(number) for number in range(1, 101)]
    assert [percentile(hundred, percent) for percent in (50, 99)] == [50, 99]
    assert [percentile([7.0], percent) for percent in (50, 99)] == [7, 7]


def test_the_report_marks_what_was_late_and_shows_the_problems() -> None:
    slow = Recovery(Step((FAULTS[0],), 1), FAULTS[0].bound + 1)
    result = Result(7, 60.0, 2, [slow], Counter(answered=3), 0, (0, 0), ["lane 0: [red] slow"])
    text = render(result)
    assert "Seed 7: 1 of 2 faults survived" in text
    assert "1 late" in text
    assert "✗ lane 0: [red] slow" in text
    assert "all well" not in text
