"""The launcher's file against the rules of the launcher: types, ports, what it passes on and what it forces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.deploy_kit import made, refusal
from trio_runner.config import VARIABLES

KEYS = {  # every key that the launcher knows, and the type of its value
    "runner-type": str,
    "workdir": str,
    "command": str,
    "args": list,
    "health-check-server-port": str,
    "allowed-env": list,
    "env-overrides": dict,
    "default-env": dict,
}
STOCK: dict[str, Any] = {  # the shape of n8n's own file, with both of its habits
    "task-runners": [
        {
            "runner-type": "javascript",
            "workdir": "/home/runner",
            "command": "/usr/local/bin/node",
            "args": ["start.js"],
            "health-check-server-port": "5681",
            "allowed-env": ["PATH"],
            "env-overrides": {"NODE_ENV": "x"},
        },
        {
            "runner-type": "python",
            "workdir": "/home/runner",
            "command": "/opt/runners/python",
            "args": ["-m", "src.main"],
            "health-check-server-port": "5683",
            "allowed-env": ["PATH", "MY_OWN", "N8N_RUNNERS_AUTH_TOKEN"],
            "env-overrides": {
                "PYTHONPATH": "/opt/runners",
                "N8N_RUNNERS_STDLIB_ALLOW": "",
                "N8N_RUNNERS_EXTERNAL_ALLOW": "",
                "N8N_RUNNERS_TASK_MEMORY": "100",
            },
        },
    ]
}


def python_entry(text: str) -> dict[str, Any]:
    (entry,) = [runner for runner in json.loads(text)["task-runners"] if runner["runner-type"] == "python"]
    return entry


def check_rules(text: str) -> None:
    """deployment.md, section 4, for the whole file."""
    whole = json.loads(text)
    assert list(whole) == ["task-runners"]
    runners = whole["task-runners"]
    assert runners
    ports = [runner["health-check-server-port"] for runner in runners]
    assert len(set(ports)) == len(ports)
    assert len({runner["runner-type"] for runner in runners}) == len(runners)
    for runner in runners:
        assert all(isinstance(value, KEYS[key]) for key, value in runner.items())
        assert {"runner-type", "workdir", "command"} <= set(runner)
        texts = [*runner["args"], *runner["allowed-env"], *runner["env-overrides"], *runner["env-overrides"].values()]
        assert all(isinstance(text, str) for text in texts)
        assert runner["health-check-server-port"] not in ("5678", "5679", "5680")
        assert not set(runner["env-overrides"]) & set(runner.get("default-env", {}))
        assert "N8N_RUNNERS_AUTH_TOKEN" not in runner["allowed-env"]


def test_the_file_keeps_the_launcher_s_rules_and_starts_our_command() -> None:
    text = made("launcher", "--command", "/opt/trio-runner/bin/trio-runner").text
    check_rules(text)
    entry = python_entry(text)
    assert (entry["command"], entry["args"]) == ("/opt/trio-runner/bin/trio-runner", ["start"])
    assert entry["health-check-server-port"] == "5682"


def test_without_an_option_the_command_is_this_installation_s() -> None:
    command = python_entry(made("launcher").text)["command"]
    assert Path(command).is_absolute()
    assert Path(command).name == "trio-runner"
    assert Path(command).exists()


def test_allowlists_come_from_the_launcher_s_own_environment() -> None:
    entry = python_entry(made("launcher", N8N_RUNNERS_STDLIB_ALLOW="json", N8N_RUNNERS_MAX_CONCURRENCY="x").text)
    assert entry["env-overrides"] == {}
    assert {"N8N_RUNNERS_STDLIB_ALLOW", "N8N_RUNNERS_EXTERNAL_ALLOW", "N8N_RUNNERS_MAX_PAYLOAD"} <= {
        *entry["allowed-env"]
    }


def test_every_variable_is_passed_on_but_what_the_launcher_forces_and_what_must_stay_its_own() -> None:
    passed = python_entry(made("launcher").text)["allowed-env"]
    assert len(set(passed)) == len(passed)
    kept_back = {*VARIABLES} - {*passed}
    assert kept_back == {
        "N8N_RUNNERS_AUTH_TOKEN",
        "N8N_RUNNERS_GRANT_TOKEN",
        "N8N_RUNNERS_TASK_BROKER_URI",
        "N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED",
        "N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT",
        "N8N_RUNNERS_ID",
    }


def test_what_is_given_as_an_option_is_forced() -> None:
    entry = python_entry(made("launcher", "--external", "pandas", "-e", "N8N_RUNNERS_POLICY=relaxed").text)
    assert entry["env-overrides"] == {"N8N_RUNNERS_EXTERNAL_ALLOW": "pandas", "N8N_RUNNERS_POLICY": "relaxed"}


def test_an_existing_file_keeps_its_other_runners_and_loses_the_empty_allowlists(tmp_path: Path) -> None:
    base = tmp_path / "stock.json"
    base.write_text(json.dumps(STOCK))
    file = made("launcher", "--base", str(base), "--command", "/x/trio-runner")
    check_rules(file.text)
    assert json.loads(file.text)["task-runners"][0] == STOCK["task-runners"][0]
    entry = python_entry(file.text)
    assert (entry["command"], entry["args"], entry["workdir"]) == ("/x/trio-runner", ["start"], "/home/runner")
    assert entry["health-check-server-port"] == "5683"
    assert "MY_OWN" in entry["allowed-env"]
    assert entry["env-overrides"] == {"N8N_RUNNERS_TASK_MEMORY": "100"}
    assert "task-runner-launcher javascript python" in file.said


def test_a_lasting_default_gives_way_to_an_option(tmp_path: Path) -> None:
    stock = json.loads(json.dumps(STOCK))
    stock["task-runners"][1]["default-env"] = {"N8N_RUNNERS_POLICY": "compat", "OTHER": "x"}
    base = tmp_path / "stock.json"
    base.write_text(json.dumps(stock))
    text = made("launcher", "--base", str(base), "-e", "N8N_RUNNERS_POLICY=relaxed").text
    check_rules(text)
    assert python_entry(text)["default-env"] == {"OTHER": "x"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "Cannot read"),
        ("{", "is not JSON"),
        ("[]", 'it has no list "task-runners"'),
        ('{"task-runners": [1]}', 'it has no list "task-runners"'),
    ],
)
def test_a_base_that_is_no_configuration_is_refused(tmp_path: Path, content: str | None, reason: str) -> None:
    base = tmp_path / "base.json"
    if content is not None:
        base.write_text(content)
    assert reason in refusal("launcher", "--base", str(base))


def test_ports_that_the_launcher_refuses_are_refused_here(tmp_path: Path) -> None:
    assert "5680" in refusal("launcher", "--port", "5680")
    base = tmp_path / "stock.json"
    base.write_text(json.dumps(STOCK))
    assert "Another runner" in refusal("launcher", "--base", str(base), "--port", "5681")
