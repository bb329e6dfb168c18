"""One runner process with its zygote and workers: started, stopped, paused, starved, killed, and looked into.

Owns the processes and finds each of them, also after the death of its parent: all bear a mark of their own.
"""

from __future__ import annotations

import os
import resource
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

from tests.chaos.site import AUTH_TOKEN
from trio_runner.health import Readiness

ROOT = Path(__file__).resolve().parent.parent.parent
CAPACITY = 5
HEARTBEAT = 1
TASK_TIMEOUT = 4
END_LIMIT = 5.0
"""Seconds in which a process is gone that was killed."""


async def until(condition: Callable[[], bool], within: float) -> bool:
    """Waits for what nobody tells: processes that come and go. Whether it became true."""
    with trio.move_on_after(within):
        while not condition():  # noqa: ASYNC110 - /proc tells nobody
            await trio.sleep(0.02)
    return condition()


@dataclass(frozen=True)
class Usage:
    """What one runner has. Memory is in KiB."""

    fds: int
    zygote_fds: int
    processes: int
    rss: int
    zygote_rss: int


class RunnerProcess:
    """One runner from its start to its end."""

    def __init__(
        self, broker_uri: str, health_port: int, log: Path, *, token: str = AUTH_TOKEN, ca: Path | None = None
    ) -> None:
        self._mark = secrets.token_hex(8)
        self._uri = broker_uri
        self._health_port = health_port
        self._token = token
        self._ca = ca
        self.log = log
        self._process: trio.Process | None = None
        self._told_to_end = False

    async def start(self) -> None:
        """Starts it. Whether it works is for others to see."""
        environment = {
            "PATH": os.environ["PATH"],
            # in the zygote's and the workers' command line, which holds sys.path
            "PYTHONPATH": f"/{self._mark}",
            "N8N_RUNNERS_AUTH_TOKEN": self._token,
            "N8N_RUNNERS_TASK_BROKER_URI": self._uri,
            "N8N_RUNNERS_MAX_CONCURRENCY": str(CAPACITY),
            "N8N_RUNNERS_HEARTBEAT_INTERVAL": str(HEARTBEAT),
            "N8N_RUNNERS_TASK_TIMEOUT": str(TASK_TIMEOUT),
            "N8N_RUNNERS_STDLIB_ALLOW": "time",
            "N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED": "true",
            "N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT": str(self._health_port),
            **({"SSL_CERT_FILE": str(self._ca)} if self._ca else {}),
        }
        with self.log.open("ab") as out:
            self._process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "tests.chaos.runner_process"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=ROOT,
                start_new_session=True,
            )

    @property
    def process(self) -> trio.Process:
        """The runner itself."""
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def code(self) -> int | None:
        """How it ended, None as long as it has not."""
        return self._process.returncode if self._process is not None else None

    @property
    def ended_by_itself(self) -> bool:
        """Whether it is gone though nobody here has made it go: it could not start, or it crashed."""
        return self.code is not None and not self._told_to_end

    def zygote(self) -> int | None:
        """Its zygote, if it has one now."""
        return next(iter(_children(self.pid)), None)

    def workers(self) -> list[int]:
        """The children of its zygote."""
        zygote = self.zygote()
        return _children(zygote) if zygote is not None else []

    def left(self) -> set[int]:
        """Every process that bears its mark, whoever its parent is now. The dead do not count."""
        mark = self._mark.encode()
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                for file in ("cmdline", "environ"):
                    with suppress(OSError):
                        if mark in (entry / file).read_bytes():
                            found.add(int(entry.name))
        return found

    async def readiness(self) -> Readiness:
        """What it says of itself."""
        with trio.fail_after(5):
            async with await trio.open_tcp_stream("127.0.0.1", self._health_port) as stream:
                await stream.send_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                answer = b"".join([bytes(part) async for part in stream])
        return msgspec.json.decode(answer.partition(b"\r\n\r\n")[2], type=Readiness)

    def usage(self) -> Usage:
        """What it has in hand now."""
        zygote = self.zygote()
        assert zygote is not None
        return Usage(
            fds=_descriptors(self.pid),
            zygote_fds=_descriptors(zygote),
            processes=len(self.left()),
            rss=_rss(self.pid),
            zygote_rss=_rss(zygote),
        )

    # Faults

    @contextmanager
    def paused(self, pid: int | None) -> Iterator[None]:
        """SIGSTOP, and SIGCONT at the end."""
        _signal(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(pid, signal.SIGCONT)

    @contextmanager
    def without_descriptors(self, pid: int | None) -> Iterator[None]:
        """Every descriptor that the process may have is in use."""
        before: tuple[int, int] | None = None
        with suppress(ProcessLookupError, FileNotFoundError):
            if pid is not None:
                before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (_descriptors(pid), before[1]))
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                if pid is not None and before is not None:
                    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)

    async def kill(self) -> None:
        """SIGKILL to the runner alone."""
        self._told_to_end = True
        _signal(self.pid, signal.SIGKILL)
        await self.process.wait()

    async def stop(self, within: float) -> int | None:
        """SIGTERM. Gives the exit code, None when it does not end."""
        self._told_to_end = True
        _signal(self.pid, signal.SIGTERM)
        with trio.move_on_after(within):
            await self.process.wait()
        return self.process.returncode

    async def end(self) -> None:
        """Kills whatever is left. Not to be cancelled: who ends with an error, too, leaves nothing behind."""
        self._told_to_end = True
        for pid in self.left():
            _signal(pid, signal.SIGKILL)
        with trio.CancelScope(shield=True), trio.move_on_after(END_LIMIT):
            if self._process is not None:
                await self._process.wait()  # which also closes what trio has opened for it

    def tail(self, lines: int = 15) -> str:
        """Its last words."""
        return "\n".join(line[:300] for line in self.log.read_text(errors="replace").splitlines()[-lines:])


def kill(pid: int | None) -> None:
    """SIGKILL, if it is there."""
    _signal(pid, signal.SIGKILL)


def stop(pid: int | None) -> None:
    """SIGSTOP for good, if it is there."""
    _signal(pid, signal.SIGSTOP)


def _signal(pid: int | None, number: signal.Signals) -> None:
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _children(pid: int) -> list[int]:
    try:
        return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def _rss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0
