"""Every execution vector, through the embedded broker, a real runner and a confined worker."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from tests.runner_kit import running
from tests.sandbox.vectors import DELIBERATE, IMPROVED, VECTORS, environment, grouped, problems

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("config", grouped())
async def test_vectors_with_this_configuration_have_the_expected_outcome(config: str) -> None:
    found: list[str] = []

    async def try_one(vector: dict[str, Any]) -> None:
        outcome = await bench.run(**vector["settings"])
        found.extend(problems(vector, outcome, outcome["logs"]))

    # all at once: those that are about a time limit take it
    async with running(environment(json.loads(config))) as bench, trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + 30
        for vector in grouped()[config]:
            nursery.start_soon(try_one, vector)
    assert not nursery.cancel_scope.cancelled_caught
    assert not found, "\n".join(found)


def test_each_deliberate_difference_has_a_reason_and_is_a_difference() -> None:
    by_id = {vector["id"]: vector for vector in VECTORS}
    assert DELIBERATE.keys() == IMPROVED.keys()
    for name, improved in IMPROVED.items():
        original = by_id[name]
        assert improved["expect"] != original["expect"] or improved.get("logs") != original.get("logs")
