"""Fixtures of the shell's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from trio.testing import MockClock

from tests.shell.shell_kit import Records, our_records


@pytest.fixture
def jump_clock() -> MockClock:
    """A clock that jumps when nothing has happened for a moment of real time: enough for bytes on a loopback socket."""
    return MockClock(autojump_threshold=0.01)


@pytest.fixture
def records() -> Iterator[Records]:
    """What our loggers say during the test."""
    with our_records() as records:
        yield records
