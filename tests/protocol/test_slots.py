"""The one number that must never be exceeded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_runner.protocol.slots import Slots


def test_a_place_can_be_taken_until_all_are_taken() -> None:
    slots = Slots(2)
    assert [slots.take(), slots.take(), slots.take()] == [True, True, False]
    assert (slots.taken, slots.free) == (2, 0)


def test_a_place_given_back_can_be_taken_again() -> None:
    slots = Slots(1)
    slots.take()
    slots.release()
    assert slots.free == 1
    assert slots.take()


def test_giving_back_what_was_not_taken_raises_and_changes_nothing() -> None:
    slots = Slots(1)
    with pytest.raises(RuntimeError, match="not taken"):
        slots.release()
    assert (slots.taken, slots.free) == (0, 1)


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_runner_without_any_place_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Slots(capacity)


@given(capacity=st.integers(1, 5), steps=st.lists(st.booleans()))
def test_no_sequence_of_takes_and_releases_leaves_the_bounds(capacity: int, steps: list[bool]) -> None:
    slots, held = Slots(capacity), 0
    for take in steps:
        if take:
            assert slots.take() is (held < capacity)
            held = min(capacity, held + 1)
        elif held:
            slots.release()
            held -= 1
        assert (slots.taken, slots.free) == (held, capacity - held)
