"""Faults by the hundred on running runners: each is survived in its time, and in the end nothing is lost or leaked.

    CHAOS_SEED=7 CHAOS_FAULTS=2000 uv run pytest -m 'chaos and not n8n'

replays the schedule of seed 7; `python -m tests.chaos` does the same without pytest, or one lane of it.
"""

from __future__ import annotations

import os
import sys

import pytest

from tests.chaos import campaign
from tests.chaos.report import render

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.chaos,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]

SEED = int(os.environ.get("CHAOS_SEED", "1"))
FAULTS = int(os.environ.get("CHAOS_FAULTS", "400"))


async def test_every_fault_is_survived_in_its_time_and_nothing_is_lost_or_leaked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def say(text: str) -> None:
        with capsys.disabled():
            print(text, flush=True)

    say(f"\n{FAULTS} faults, seed {SEED}")
    result = await campaign.run(SEED, FAULTS, say=say)
    say(render(result))
    assert result.problems == []
    assert result.survived == result.planned == FAULTS
