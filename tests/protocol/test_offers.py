"""The offers that a broker holds."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from trio_runner.protocol.offers import OpenOffer, OpenOffers


def offer(number: int, *, runner: str = "r", kind: str = "python", until: float = math.inf) -> OpenOffer:
    return OpenOffer(runner, f"o{number}", kind, until)


def test_the_oldest_of_a_type_comes_first() -> None:
    offers = OpenOffers()
    for number, kind in enumerate(["python", "javascript", "python"]):
        offers.add(offer(number, kind=kind))
    taken = [offers.take(kind) for kind in ("python", "python", "python", "javascript", "cobol")]
    assert [one and one.offer_id for one in taken] == ["o0", "o2", None, "o1", None]
    assert len(offers) == 0


@given(st.lists(st.floats(1, 9) | st.just(math.inf)), st.floats(0, 10))
def test_an_offer_is_there_until_its_time_is_over(ends: list[float], now: float) -> None:
    offers = OpenOffers()
    for number, until in enumerate(ends):
        offers.add(offer(number, until=until))
    offers.drop_lapsed(now)
    assert [one.expires_at for one in offers] == [until for until in ends if until > now]


def test_what_a_thousand_runners_renew_for_an_hour_takes_no_more_room_than_what_is_open() -> None:
    offers = OpenOffers()
    for number in range(200_000):
        now = number * 0.005
        offers.drop_lapsed(now)
        offers.add(offer(number, until=now + 5))
    assert len(offers) == len(offers._calendar) == 1000


def test_offers_that_are_used_long_before_they_lapse_leave_nothing_behind() -> None:
    offers = OpenOffers()
    for number in range(10_000):
        offers.add(offer(number, until=1e9))
        offers.take("python")
    assert len(offers._calendar) < 100


class Model(RuleBasedStateMachine):
    """Beside a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.offers = OpenOffers()
        self.plain: list[OpenOffer] = []
        self.now = 0.0

    @rule(runner=st.sampled_from("ab"), kind=st.sampled_from("xy"), lasts=st.sampled_from([0.0, 1.0, 5.0, math.inf]))
    def add(self, runner: str, kind: str, lasts: float) -> None:
        one = offer(len(self.plain), runner=runner, kind=kind, until=self.now + lasts)
        self.offers.add(one)
        self.plain.append(one)

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 4.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.offers.drop_lapsed(self.now)
        self.plain = [one for one in self.plain if one.expires_at > self.now]

    @rule(kind=st.sampled_from("xyz"))
    def take(self, kind: str) -> None:
        expected = next((one for one in self.plain if one.task_type == kind), None)
        assert self.offers.take(kind) is expected
        self.plain = [one for one in self.plain if one is not expected]

    @rule(runner=st.sampled_from("abc"))
    def drop(self, runner: str) -> None:
        self.offers.drop_of(runner)
        self.plain = [one for one in self.plain if one.runner_id != runner]

    @rule()
    def clear(self) -> None:
        self.offers.clear()
        self.plain = []

    @invariant()
    def both_are_the_same(self) -> None:
        assert len(self.offers) == len(self.plain)
        assert self.in_order(self.offers) == self.in_order(self.plain)

    @staticmethod
    def in_order(offers: Any) -> list[list[OpenOffer]]:
        every = list(offers)
        return [[one for one in every if one.task_type == kind] for kind in "xy"]


def test_it_does_what_a_list_would_do() -> None:
    settings = settings_of(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True, database=None)
    run_state_machine_as_test(Model, settings=settings)
