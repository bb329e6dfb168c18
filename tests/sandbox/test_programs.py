"""Programs as people wrote them for the earlier (Pyodide) Python node, with its names; they run as they are.

Each is a file in tests/programs with its data beside it: the items, what other nodes gave, and what must come out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.n8n_kit import HERE, FakeN8n, outcome, ran

PROGRAMS = sorted((Path(__file__).parent.parent / "programs").glob("*.py"))


def n8n_of(data: dict[str, Any]) -> FakeN8n:
    """The nodes in a row, each item made from the one at its place; the last of them feeds the program."""
    nodes: dict[str, list[dict[str, Any]]] = data.get("nodes", {})
    runs, links, before = {}, {}, None
    for name, given in nodes.items():
        items = [item | {"pairedItem": {"item": index}} for index, item in enumerate(given)]
        runs[name] = [ran(items, source=before)]
        links[name] = [[HERE]]
        if before is not None:
            links[before] = [[name]]
        before = name
    changes = {"workflow__staticData": data.get("static")}
    if "variables" in data:
        changes["additionalData__variables"] = data["variables"]
    return FakeN8n(runs, links | {name: [[HERE]] for name in data.get("not_run", ())}, **changes)


def test_there_are_twenty_of_them() -> None:
    assert len(PROGRAMS) >= 20


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_of_the_earlier_node_runs_as_it_is(path: Path) -> None:
    data = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    given = [{"pairedItem": {"item": index}} | item for index, item in enumerate(data["items"])]
    found = outcome(path.read_text(encoding="utf-8"), n8n_of(data), given, each_item=data["mode"] == "each")
    assert found.result == data["expected"]
    assert found.metadata == data.get("metadata")
