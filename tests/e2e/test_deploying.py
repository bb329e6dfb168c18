"""From an empty folder and the wheel alone to a node of a real n8n, by what the commands print and nothing else.

Where a step needs a platform that is not here, what the step would do is done: the environments and commands of a
compose file become processes (with the ports of this run, and loopback for the names of its network), a stand-in plays
the launcher. The internal mode is in test_n8n, which has an n8n in that mode anyway.
"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml

from tests.deploy.test_docker import values_of
from tests.e2e.n8n_server import N8n, Process, eventually, free_port, tail
from tests.launcher import Launcher, launcher_environment
from tests.release.wheel_kit import ROOT

pytestmark = pytest.mark.n8n

EXPECTED = [{"ok": True, "count": 1, "body": {"hello": "world"}}]


class Shell:
    """An empty folder, a PATH with the wheel's command, and the variables that somebody has exported so far."""

    def __init__(self, commands: Path, folder: Path) -> None:
        self.folder = folder
        self.environ = {"PATH": f"{commands}:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(folder)}
        self._log = folder.parent / f"{folder.name}.log"
        self._started: list[Process] = []

    def run(self, command: str, expect: int = 0) -> str:
        """What a person would see."""
        done = subprocess.run(
            command.split(),
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == expect, done.stdout
        return done.stdout

    def start(self, command: list[str], environ: dict[str, str]) -> Process:
        path = environ.get("PATH", self.environ["PATH"])
        executable = next(
            Path(folder) / command[0] for folder in path.split(":") if (Path(folder) / command[0]).exists()
        )
        self._started.append(Process([str(executable), *command[1:]], self._log, {"PATH": path, **environ}))
        return self._started[-1]

    def registered(self) -> None:
        def seen() -> bool:
            assert self._started[-1].running, self.log()
            return "Registered with broker" in self.log()

        eventually(seen, "the runner to be registered")

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def end(self) -> None:
        for process in self._started:
            process.end()
        print(f"--- {self._log.name}\n{tail(self._log, 40)}")


@pytest.fixture
def shell(commands: Path, tmp_path: Path) -> Iterator[Shell]:
    folder = tmp_path / "empty"
    folder.mkdir()
    shell = Shell(commands, folder)
    try:
        yield shell
    finally:
        shell.end()


def substituted(value: str, secrets: dict[str, str]) -> str:
    """A value of a compose file as its container gets it."""
    filled = re.sub(r"(?<!\$)\$\{(\w+):\?[^}]*\}", lambda name: secrets[name[1]], value)
    return filled.replace("$$", "$")


def containers(folder: Path) -> dict[str, dict[str, str]]:
    """The environment of each service."""
    secrets = dict(re.findall(r"^(\w+)=(.*)$", (folder / ".env").read_text(), re.MULTILINE))
    services: dict[str, Any] = yaml.safe_load((folder / "compose.yaml").read_text())["services"]
    return {
        name: {key: substituted(value, secrets) for key, value in service["environment"].items()}
        for name, service in services.items()
    }


@dataclasses.dataclass(frozen=True)
class Composed:
    """An n8n with the environment of a compose file that was just made, and what was said when it was."""

    server: N8n
    folder: Path
    said: str
    environments: dict[str, dict[str, str]]

    @property
    def token(self) -> str:
        return self.environments["n8n"]["N8N_RUNNERS_AUTH_TOKEN"]


@pytest.fixture(scope="module")
def composed(server: N8n, commands: Path, tmp_path_factory: pytest.TempPathFactory) -> Composed:
    shell = Shell(commands, tmp_path_factory.mktemp("empty"))
    said = shell.run("trio-runner init compose -o n8n")
    found = Composed(server, shell.folder / "n8n", said, containers(shell.folder / "n8n"))
    # the data folder of this n8n has a key of its own, and it stays on loopback
    elsewhere = ("N8N_ENCRYPTION_KEY", "N8N_RUNNERS_BROKER_LISTEN_ADDRESS", "N8N_RUNNERS_AUTH_TOKEN")
    settings = {name: value for name, value in found.environments["n8n"].items() if name not in elsewhere}
    server.ensure(**settings, TOKEN=found.token)
    return found


def test_init_compose_and_what_it_prints_lead_to_a_runner_that_executes_a_node(
    shell: Shell, composed: Composed
) -> None:
    assert re.findall(r"^  (cd .*|docker compose up.*)$", composed.said, re.MULTILINE) == [
        "cd n8n",
        "docker compose up --build -d",
    ]
    # nothing is left to be brought: the wheel is in the folder, too
    assert not re.search("Put .*whl", composed.said)
    server = composed.server
    runner = dict(composed.environments["runner"])
    assert runner["N8N_RUNNERS_TASK_BROKER_URI"] == "http://n8n:5679"
    runner |= {
        "N8N_RUNNERS_TASK_BROKER_URI": server.broker_uri,
        "N8N_RUNNERS_HEALTH_CHECK_SERVER_HOST": "127.0.0.1",
        "N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT": str(free_port()),
    }
    dockerfile = (composed.folder / "Dockerfile").read_text()
    command = [word for part in ("ENTRYPOINT", "CMD") for word in json.loads(values_of(part, dockerfile)[-1])]
    shell.start(command, runner)
    shell.registered()
    answer = server.call("py-all")
    assert (answer.status, answer.body) == (200, EXPECTED)
    assert "WARNING" not in shell.log().upper()


def test_init_launcher_and_what_it_prints_lead_to_a_runner_that_executes_a_node(
    shell: Shell, composed: Composed
) -> None:
    server = composed.server
    said = shell.run(f"trio-runner init launcher -o n8n-task-runners.json --port {free_port()}")
    advice = dict(re.findall(r"^ +(N8N_\w+)=(\S+)", said, re.MULTILINE))
    assert set(advice) == {
        "N8N_RUNNERS_STDLIB_ALLOW",
        "N8N_RUNNERS_TASK_TIMEOUT",
        "N8N_RUNNERS_AUTO_SHUTDOWN_TIMEOUT",
    }
    environ = launcher_environment(
        N8N_RUNNERS_AUTH_TOKEN=composed.token, N8N_RUNNERS_TASK_BROKER_URI=server.broker_uri, **advice
    )
    log = shell.folder / "launcher.log"
    launcher = Launcher(shell.folder / "n8n-task-runners.json", environ, log)

    async def main() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: launcher.run(turns=1))
                for _ in range(2):  # the first is deferred and starts the runner, the second finds it warm
                    answer = await trio.to_thread.run_sync(server.call, "py-all")
                    assert (answer.status, answer.body) == (200, EXPECTED), launcher.said()
                nursery.cancel_scope.cancel()

    trio.run(main)
    (cycle,) = launcher.cycles
    assert cycle.environment["N8N_RUNNERS_TASK_TIMEOUT"] == "300"
    assert "N8N_RUNNERS_AUTH_TOKEN" not in cycle.environment
    assert launcher.said().count("Received task") == 2


def test_doctor_and_what_it_prints_lead_to_a_runner_that_executes_a_node(shell: Shell, composed: Composed) -> None:
    server = composed.server

    def said(expect: int) -> str:
        return " ".join(shell.run("trio-runner doctor", expect).split())

    # an address where nobody is, so that nothing else on this machine answers
    shell.environ["N8N_RUNNERS_TASK_BROKER_URI"] = f"http://127.0.0.1:{free_port()}"
    assert "set N8N_RUNNERS_AUTH_TOKEN to n8n's secret" in said(1)
    shell.environ["N8N_RUNNERS_AUTH_TOKEN"] = "not the secret"
    assert "Next: set N8N_RUNNERS_TASK_BROKER_URI to its task broker" in said(1)
    shell.environ["N8N_RUNNERS_TASK_BROKER_URI"] = server.broker_uri
    assert "N8N_RUNNERS_AUTH_TOKEN must be the same" in said(1)
    shell.environ["N8N_RUNNERS_AUTH_TOKEN"] = composed.token
    found = re.search(r"Next: (trio-runner \w+)", said(0))
    assert found is not None
    shell.start(found[1].split(), shell.environ)
    shell.registered()
    answer = server.call("py-all")
    assert (answer.status, answer.body) == (200, EXPECTED)


def test_the_steps_above_are_the_ones_that_the_documentation_shows() -> None:
    shown = (ROOT / "docs" / "deploying.md").read_text()
    for step in (
        "trio-runner init compose -o n8n",
        "trio-runner init launcher",
        "trio-runner init internal",
        "trio-runner doctor",
    ):
        assert step in shown
