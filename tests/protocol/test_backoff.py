"""The waits before the next try to connect."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from trio_runner.protocol.backoff import ReconnectTerms, full_jitter


def test_the_longest_waits_double_up_to_the_cap() -> None:
    assert list(islice(full_jitter(lambda: 1.0), 7)) == [0.5, 1, 2, 4, 5, 5, 5]


def test_the_first_look_comes_within_the_base() -> None:
    assert next(full_jitter(lambda: 0.5, base=0.5)) == 0.25


def test_jitter_reaches_down_to_no_wait_at_all() -> None:
    assert set(islice(full_jitter(lambda: 0.0), 10)) == {0.0}


def test_each_wait_draws_its_own_number() -> None:
    numbers = iter([0.1, 0.9, 0.5])
    assert list(islice(full_jitter(lambda: next(numbers), base=1.0, cap=4.0), 3)) == [0.1, 1.8, 2.0]


def test_a_new_iterator_starts_from_the_base_again() -> None:
    list(islice(full_jitter(lambda: 1.0), 9))
    assert next(full_jitter(lambda: 1.0)) == 0.5


def test_the_terms_of_a_link_are_the_bounds_of_its_waits() -> None:
    assert list(islice(ReconnectTerms().waits(lambda: 1.0), 7)) == [0.5, 1, 2, 4, 5, 5, 5]
    assert list(islice(ReconnectTerms(base=0.1, cap=0.3).waits(lambda: 1.0), 4)) == [0.1, 0.2, 0.3, 0.3]


@given(
    numbers=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=40),
    base=st.floats(0.01, 2),
    factor=st.floats(1, 50),
)
def test_no_wait_is_negative_or_longer_than_the_cap(numbers: list[float], base: float, factor: float) -> None:
    source = iter(numbers)
    waits = list(islice(full_jitter(lambda: next(source), base=base, cap=base * factor), len(numbers)))
    assert all(0 <= wait <= base * factor for wait in waits)
    assert waits[0] <= base
