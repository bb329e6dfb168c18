"""Starts any runner as a command line, with the environment that n8n's launcher would give it, and ends it.

Owns the process and its log. What is measured on it is for the callers.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from bench import processes
from bench.loadbroker import LoadBroker, RunnerError, Session
from bench.results import FORKSERVER, FORKSERVER_PRELOADED, IN_PROCESS, OURS, Subject

_STOP_LIMIT: Final = 15.0

RUNNERS: Final = (
    Subject(
        name=OURS,
        kind="runner",
        command=(sys.executable, "-m", "trio_runner"),
        note="a fresh kernel-confined process per task",
    ),
    Subject(
        name=FORKSERVER,
        kind="peer",
        command=(sys.executable, "-c", "from bench.peers.forkserver_runner import main; main()"),
        note="a small runner of our own writing in the design of n8n's: a fresh process per task, unconfined",
    ),
    Subject(
        name=FORKSERVER_PRELOADED,
        kind="peer",
        command=(sys.executable, "-c", "from bench.peers.forkserver_runner import main; main()", "--preload"),
        note="the same with its modules imported once, ahead of the forks, which n8n's does not do",
    ),
    Subject(
        name=IN_PROCESS,
        kind="peer",
        command=(sys.executable, "-c", "from bench.peers.inprocess_runner import main; main()"),
        note="runs the program inside the runner itself, without any isolation: what asyncio and json cost",
    ),
)


def parse(text: str) -> Subject:
    """``name=command line`` as given on the command line. Raises ValueError."""
    name, _, command = text.partition("=")
    words = shlex.split(command)
    if not name.strip() or not words:
        raise ValueError(f'expected "name=command line", got {text!r}')
    return Subject(name=name.strip(), kind="runner", command=tuple(words))


def with_others(texts: Iterable[str]) -> list[Subject]:
    """Ours, the peers, and what was given on the command line. Raises ValueError."""
    subjects = list(RUNNERS)
    for text in texts:
        subject = parse(text)
        if any(subject.name == known.name for known in subjects):
            raise ValueError(f"there is a runner called {subject.name!r} already")
        subjects.append(subject)
    return subjects


class Runner:
    """One registered runner process, as a context."""

    def __init__(self, subject: Subject, broker: LoadBroker, **settings: str) -> None:
        """``settings`` are environment variables on top of what a launcher passes, without their N8N_RUNNERS_."""
        self.subject = subject
        self._broker = broker
        self._environment = _environment(broker.uri, settings)
        self._session: Session | None = None
        self.begun = 0.0
        """When the process was started, on the clock of `time.perf_counter`."""
        self.registered_ms = 0.0

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile()
        self.begun = time.perf_counter()
        self._process = subprocess.Popen(
            self.subject.command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        try:
            self._session = self._broker.accept(lambda: self._process.poll() is None)
        except BaseException as error:
            with self._log:
                self._end()
                if isinstance(error, RunnerError):
                    raise RunnerError(f"{error}; its last words: {self._last_words()}") from error
            raise
        self.registered_ms = (time.perf_counter() - self.begun) * 1000
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._log:
            self._end()
            if isinstance(error, RunnerError):
                error.add_note(f"the runner's last words: {self._last_words()}")

    @property
    def session(self) -> Session:
        """The registered connection."""
        assert self._session is not None, "used outside of its context"
        return self._session

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self._process.pid

    def tree(self) -> list[int]:
        """It and everything below it."""
        return processes.tree(self.pid)

    def _end(self) -> None:
        """SIGTERM, and SIGKILL for the whole tree if that does not help."""
        everybody = self.tree()
        self._process.send_signal(signal.SIGTERM)
        if self._session is not None:
            self._session.part(_STOP_LIMIT)
        try:
            self._process.wait(_STOP_LIMIT)
        except subprocess.TimeoutExpired:
            for pid in everybody:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()

    def _last_words(self) -> str:
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 600))
        return self._log.read().decode(errors="replace").strip().replace("\n", " | ") or "none"


def _environment(uri: str, settings: dict[str, str]) -> dict[str, str]:
    """Ours without what would configure a runner: what is measured is the default, with every layer on."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("N8N_", "PYTHON"))}
    return {
        **inherited,
        "N8N_RUNNERS_TASK_BROKER_URI": uri,
        "N8N_RUNNERS_GRANT_TOKEN": "benchmark",
        **{f"N8N_RUNNERS_{name}": value for name, value in settings.items()},
    }
