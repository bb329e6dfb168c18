"""Every execution vector, through the embedded broker, a real runner and a confined worker."""

from __future__ import annotations

import json

import pytest
import trio

from tests.runner_kit import running
from tests.sandbox.vectors import DELIBERATE, IMPROVED, VECTORS, environment, grouped, problems

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("config", grouped())
async def test_vectors_with_this_configuration_have_the_expected_outcome(config: str) -> None:
    found: list[str] = []
    async with running(environment(json.loads(config))) as bench:
        for vector in grouped()[config]:
            settings = dict(vector["settings"])
            with trio.fail_after(20):
                outcome = await bench.run(**settings)
            found += problems(vector, outcome, outcome["logs"])
    assert not found, "\n".join(found)


def test_each_deliberate_difference_has_a_reason_and_is_a_difference() -> None:
    by_id = {vector["id"]: vector for vector in VECTORS}
    assert DELIBERATE.keys() == IMPROVED.keys()
    for name, improved in IMPROVED.items():
        original = by_id[name]
        assert improved["expect"] != original["expect"] or improved.get("logs") != original.get("logs")
