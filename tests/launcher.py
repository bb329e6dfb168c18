"""A stand-in for n8n's launcher, of our own writing: its rules about the file, its handshake and deferral, the
environment it makes, its health probes and its cycle. It starts real processes; what waits for it must bring a limit.

Not played: waits between tries (nothing here is down for long), Sentry, several runner types at once.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import secrets
import subprocess
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trio
from trio_websocket import ConnectionClosed, open_websocket_url

_ALWAYS_PASSED = ("LANG", "PATH", "TZ", "TERM")
_REFUSED_PORTS = ("5678", "5679", "5680")


class ConfigurationRefused(Exception):  # noqa: N818 - it reports an outcome
    """The file breaks a rule of the launcher's, which would end here."""


@dataclasses.dataclass
class Cycle:
    """What happened in one turn."""

    environment: dict[str, str]
    healthy: bool = False
    exit_code: int | None = None
    ended: trio.Event = dataclasses.field(default_factory=trio.Event)


def read_configuration(file: Path, runner_type: str) -> dict[str, Any]:
    """The entry for one type, as the launcher reads its file when only that type is asked for."""
    whole = json.loads(file.read_text())
    entries = [entry for entry in whole.get("task-runners", []) if entry.get("runner-type") == runner_type]
    if len(entries) != 1:
        raise ConfigurationRefused(f"{len(entries)} entries for {runner_type}")
    (entry,) = entries
    if not all(isinstance(entry.get(key), str) and entry[key] for key in ("workdir", "command")):
        raise ConfigurationRefused("workdir and command must be texts")
    if entry.get("health-check-server-port", "5681") in _REFUSED_PORTS:
        raise ConfigurationRefused("a port of n8n's, the broker's or the launcher's own")
    if set(entry.get("env-overrides", {})) & set(entry.get("default-env", {})):
        raise ConfigurationRefused("a default that is overridden")
    found: dict[str, Any] = entry
    return found


class Launcher:
    """``environ`` is the launcher's own environment; the token and the broker's address are in it."""

    def __init__(self, file: Path, environ: Mapping[str, str], log: Path, runner_type: str = "python") -> None:
        self.type = runner_type
        self.entry = read_configuration(file, runner_type)
        self.environ = environ
        self.broker = environ["N8N_RUNNERS_TASK_BROKER_URI"]
        self.log = log
        self.cycles: list[Cycle] = []
        self.waiting = trio.Event()
        """An offer without an end is with the broker; renewed for each turn."""

    async def run(self, *, turns: int) -> None:
        for _ in range(turns):
            await self._get(f"{self.broker}/healthz")
            await self._wait_for_work(await self._grant_token())
            await self._run_runner(self._environment(await self._grant_token()))

    async def _get(self, url: str) -> int:
        def ask() -> int:
            with urllib.request.urlopen(url, timeout=5) as response:
                response.read()
                return int(response.status)

        return await trio.to_thread.run_sync(ask)

    async def _grant_token(self) -> str:
        def ask() -> str:
            body = json.dumps({"token": self.environ["N8N_RUNNERS_AUTH_TOKEN"]}).encode()
            request = urllib.request.Request(f"{self.broker}/runners/auth", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=5) as response:
                token: str = json.load(response)["data"]["token"]
                return token

        return await trio.to_thread.run_sync(ask)

    async def _wait_for_work(self, token: str) -> None:
        """Poses as a runner with one offer that never lapses, gives the task back and leaves."""
        url = f"{self.broker.replace('http', 'ws', 1)}/runners/_ws?id={secrets.token_hex(8)}"
        headers = [(b"Authorization", f"Bearer {token}".encode())]
        async with open_websocket_url(url, extra_headers=headers) as socket:

            async def say(kind: str, **fields: object) -> None:
                await socket.send_message(json.dumps({"type": kind, **fields}))

            try:
                while True:
                    message = json.loads(await socket.get_message())
                    match message["type"]:
                        case "broker:inforequest":
                            await say("runner:info", name=f"launcher-{self.type}", types=[self.type])
                        case "broker:runnerregistered":
                            await say("runner:taskoffer", offerId=secrets.token_hex(8), taskType=self.type, validFor=-1)
                            self.waiting.set()
                        case "broker:taskofferaccept":
                            self.waiting = trio.Event()
                            await say("runner:taskdeferred", taskId=message["taskId"])
                            return
            except ConnectionClosed as closed:
                raise AssertionError("the broker sent the waiting launcher away") from closed

    def _environment(self, grant_token: str) -> dict[str, str]:
        """Later ones win: passed, forced, always passed, overridden, the token."""
        passed = {
            name: value
            for name, value in self.environ.items()
            if name in (*_ALWAYS_PASSED, *self.entry.get("allowed-env", ())) and name != "N8N_RUNNERS_AUTH_TOKEN"
        }
        forced = {
            "N8N_RUNNERS_TASK_BROKER_URI": self.broker,
            "N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED": "true",
            "N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT": self.entry.get("health-check-server-port", "5681"),
        }
        legacy = {
            "N8N_RUNNERS_AUTO_SHUTDOWN_TIMEOUT": self.environ.get("N8N_RUNNERS_AUTO_SHUTDOWN_TIMEOUT", "15"),
            "N8N_RUNNERS_TASK_TIMEOUT": self.environ.get("N8N_RUNNERS_TASK_TIMEOUT", "60"),
        }
        overrides = {name: value for name, value in self.entry.get("env-overrides", {}).items() if name not in forced}
        return {**passed, **forced, **legacy, **overrides, "N8N_RUNNERS_GRANT_TOKEN": grant_token}

    async def _run_runner(self, environment: dict[str, str]) -> None:
        cycle = Cycle(environment)
        self.cycles.append(cycle)
        with self.log.open("ab") as log:
            async with trio.open_nursery() as nursery:
                start = functools.partial(
                    trio.run_process,
                    [self.entry["command"], *self.entry.get("args", ())],
                    env=environment,
                    cwd=self.entry["workdir"],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    check=False,
                )
                process: trio.Process = await nursery.start(start)
                nursery.start_soon(self._probe, cycle)
                cycle.exit_code = await process.wait()
                cycle.ended.set()
                nursery.cancel_scope.cancel()

    async def _probe(self, cycle: Cycle) -> None:
        """Once it has answered it is healthy. The real one asks every 10 s, from 13 s on; nobody here waits so long."""
        host = self.environ.get("N8N_RUNNERS_HEALTH_CHECK_SERVER_HOST", "127.0.0.1")
        port = cycle.environment["N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT"]
        while not cycle.healthy:
            try:
                cycle.healthy = await self._get(f"http://{host}:{port}/healthz") == 200
            except OSError:
                await trio.sleep(0.05)

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def launcher_environment(**more: str) -> dict[str, str]:
    """What a launcher is started with: nothing of this process but what every program needs."""
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **more}
