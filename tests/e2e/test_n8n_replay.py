"""What a real n8n gives away of an execution is replayed to the result that it stored, whichever way it is taken.

Needs minutes, and an installation of n8n; therefore marked `n8n`:  pytest -m n8n
"""

from __future__ import annotations

import json
import sqlite3
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click.testing
import pytest

from tests.e2e.n8n_server import Admin, N8n, install, tail
from trio_runner.cli import cli

pytestmark = pytest.mark.n8n


@pytest.fixture(scope="module")
def n8n(tmp_path_factory: pytest.TempPathFactory) -> Iterator[N8n]:
    server = N8n(install(), tmp_path_factory.mktemp("n8n"))
    try:
        server.ensure()
        runner = server.runner(tmp_path_factory.mktemp("runner") / "runner.log")
        try:
            yield server
        finally:
            runner.end()
            print(f"--- n8n's log\n{tail(server.log, 40)}")
    finally:
        server.close()


def from_api(n8n: N8n, execution: int) -> Any:
    """By the public API, with a key of its own."""
    made = Admin(n8n.port).call(
        "POST", "/api-keys", {"label": f"replay {execution}", "expiresAt": None, "scopes": ["execution:read"]}
    )
    request = urllib.request.Request(
        f"http://127.0.0.1:{n8n.port}/api/v1/executions/{execution}?includeData=true",
        headers={"X-N8N-API-KEY": made["rawApiKey"]},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def from_editor(n8n: N8n, execution: int) -> Any:
    return {"data": Admin(n8n.port).call("GET", f"/executions/{execution}")}


def from_database(n8n: N8n, execution: int) -> Any:
    file = next(n8n.data.rglob("database.sqlite"))
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
        connection.row_factory = sqlite3.Row
        rows = connection.execute("select * from execution_data where executionId = ?", (execution,)).fetchall()
    return [dict(row) for row in rows]


def test_an_execution_is_replayed_from_whatever_n8n_gives(n8n: N8n, tmp_path: Path) -> None:
    answer, stored = n8n.executed("py-two")
    assert answer.status == 200
    file = tmp_path / "execution.json"
    names = "[_('First').first().json.first, _('Middle').item.json.middle, _prevNode.name, _workflow.name]"
    for take in (from_api, from_editor, from_database):
        file.write_text(json.dumps(take(n8n, stored["id"])))
        same = invoke("--from-execution", str(file), "--node-name", "Second")
        assert [item["json"] for item in same] == answer.body, take.__name__
        seen = invoke("-c", f"return {names}", "--from-execution", str(file), "--node-name", "Second")
        assert seen == [1, "m1", "Middle", stored["workflow"]], take.__name__


def test_a_failed_execution_fails_in_the_same_way(n8n: N8n, tmp_path: Path) -> None:
    _, stored = n8n.executed("py-raise")
    file = tmp_path / "execution.json"
    file.write_text(json.dumps(from_api(n8n, stored["id"])))
    result = click.testing.CliRunner().invoke(cli, ["exec", "--from-execution", str(file)])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")


def invoke(*args: str) -> Any:
    result = click.testing.CliRunner().invoke(cli, ["exec", *args])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)
