"""A real n8n and a real runner as objects: installed, started, called, killed and looked into by the n8n tests.

Owns every process it starts: each is a direct child in a session of its own, so it can be waited for, and whatever it
started can be found and ended. Nothing here waits without a limit.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import errno
import fcntl
import importlib.util
import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

KIT = Path(__file__).resolve().parent.parent / "n8n_kit"
VERSION = json.loads((KIT / "package.json").read_text())["dependencies"]["n8n"]
AUTH_TOKEN = "loopback-auth-token"
RUNNER = [sys.executable, "-m", "trio_runner"]

INSTALL_LIMIT = 1800  # seconds; 150 to 300 are usual, building sqlite3 on one slow core takes longer
BOOT_LIMIT = 120  # seconds; 20 for the first start (it creates the database), 8 for later ones
STOP_LIMIT = 45  # seconds; n8n gives itself 30
NOT_FINISHED = ("new", "running", "waiting")


def _kit_tool(name: str) -> ModuleType:
    """Loads a script of the kit. The folder stays off sys.path: its bench.py must not pose as our `bench`."""
    spec = importlib.util.spec_from_file_location(f"n8n_kit_{name}", KIT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Admin = _kit_tool("n8n_admin").Admin
latest = _kit_tool("last_execution").latest


# ---- waiting, ports, processes


T = TypeVar("T")


def eventually(probe: Callable[[], T], what: str, timeout: float = 15.0, every: float = 0.05) -> T:
    """Returns the first truthy answer of `probe`, or fails with `what` after `timeout` seconds."""
    until = time.monotonic() + timeout
    while True:
        found = probe()
        if found:
            return found
        assert time.monotonic() < until, f"not within {timeout:g} s: {what}"
        time.sleep(every)


_given: set[int] = set()
"""Ports that were handed out: whoever asked may not have bound its own yet."""


def _reserve(port: int) -> bool:
    """Takes the port for this process for as long as it lives; other processes that run tests ask here, too."""
    if port in _given:
        return False
    if sys.platform == "linux":
        mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            mark.bind(f"\0trio-runner-tests-port-{port}")
        except OSError:
            mark.close()
            return False
        mark.detach()  # open until the process ends
    _given.add(port)
    return True


def free_port() -> int:
    """A free loopback port below the range the kernel takes client ports from.

    A port from that range could be taken by an outgoing connection while n8n is down between two starts, and a runner
    that keeps dialling a dead port in it may even connect to itself. No port is given twice, on the whole machine.
    """
    while True:
        port = random.randint(15000, 31000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as e:
                if e.errno != errno.EADDRINUSE:
                    raise
                continue
            if _reserve(port):
                return port


def _processes() -> Iterator[tuple[int, int, int]]:
    """(pid, parent, session) of every process that has not ended; zombies are left out."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent, _group, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if state not in "ZX":
                    yield int(entry.name), int(parent), int(session)


def descendants(pid: int) -> set[int]:
    children: dict[int, set[int]] = {}
    for child, parent, _ in _processes():
        children.setdefault(parent, set()).add(child)
    found: set[int] = set()
    todo = [pid]
    while todo:
        new = children.get(todo.pop(), set()) - found
        found |= new
        todo.extend(new)
    return found


def in_session(leader: int) -> set[int]:
    return {pid for pid, _, session in _processes() if session == leader}


def alive(pids: set[int]) -> set[int]:
    return pids & {pid for pid, _, _ in _processes()}


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def tail(path: Path, lines: int) -> str:
    if not path.exists():
        return "(no such file)"
    return "\n".join(line[:400] for line in path.read_text(errors="replace").splitlines()[-lines:])


def clean_environment(**more: str) -> dict[str, str]:
    """The environment of this process without what would configure n8n or a runner, plus `more`."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("N8N_", "CODE_", "DB_"))} | more


class Process:
    """One child, its session and its log."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str]) -> None:
        self.log = log
        with log.open("ab") as out:
            self.child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=log.parent,  # not the repository: the installed package is meant, not a folder that is near
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def running(self) -> bool:
        return self.child.poll() is None

    def signal(self, number: int) -> None:
        self.child.send_signal(number)

    def wait(self, timeout: float) -> int:
        """The exit code; a process that outstays its time is killed and fails the test."""
        try:
            return self.child.wait(timeout)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(f"{self.child.args!r} had not ended after {timeout:g} s") from None

    def tree(self) -> set[int]:
        """Every process below this one, and those of its session; empty of the process itself once it is reaped."""
        return in_session(self.pid) | (descendants(self.pid) | {self.pid} if self.running else set())

    def end(self) -> None:
        """Kills what is left of the whole tree. Never fails, can be called twice."""
        for pid in self.tree():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.child.wait(10)


# ---- the runner


class Runner(Process):
    def __init__(self, log: Path, env: dict[str, str]) -> None:
        super().__init__(RUNNER, log, clean_environment(**env))

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, times: int = 1, timeout: float = 20.0) -> None:
        """Waits until the log holds `text` as often as `times`."""

        def seen() -> bool:
            # looked at before the log: the last words of a process that ends in between still count
            running = self.running
            found = self.text().count(text) >= times
            assert found or running, f"the runner ended with {self.child.poll()}, before {text!r}"
            return found

        eventually(seen, f"{text!r} (x{times}) in the runner's log", timeout)

    def stop(self, timeout: float = 15.0) -> int:
        """SIGTERM; returns the exit code, and fails when a process of the runner is left over."""
        tree = self.tree()
        if self.running:
            self.signal(signal.SIGTERM)
        code = self.wait(timeout)
        eventually(lambda: not alive(tree | in_session(self.pid)), "every process of the runner to be gone", timeout=5)
        return code


# ---- n8n


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int  # 0: no answer, the connection failed
    body: Any
    seconds: float


def install() -> Path:
    """The folder with n8n in it: $TRIO_RUNNER_N8N_DIR or a cache folder, filled on first use."""
    default = Path.home() / ".cache" / "trio-runner" / f"n8n-{VERSION}"
    folder = Path(os.environ.get("TRIO_RUNNER_N8N_DIR") or default)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs must not fill the same folder at once
        if not (folder / "env.sh").exists():  # install.sh writes it last
            done = subprocess.run(
                [str(KIT / "install.sh"), str(folder)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=INSTALL_LIMIT,
                check=False,
            )
            assert done.returncode == 0, f"installing n8n failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return folder


class N8n:
    """One data folder and two ports that survive any number of starts and kills of the server."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder = folder
        self.data = data
        self.log = data / "n8n.log"
        self.port = free_port()
        self.broker_port = free_port()
        self.broker_uri = f"http://127.0.0.1:{self.broker_port}"
        self._server: Process | None = None
        self._settings: dict[str, str] = {}
        self._synced = False
        self._callers = concurrent.futures.ThreadPoolExecutor(64)

    # -- life

    @property
    def server(self) -> Process:
        assert self._server is not None
        return self._server

    def ensure(self, **settings: str) -> None:
        """Has n8n running with exactly these settings on top of the kit's."""
        if self._server is not None and self._server.running and self._settings == settings:
            return
        self.stop()
        self.start(**settings)

    def start(self, **settings: str) -> None:
        env = clean_environment(
            FOREGROUND="1", PORT=str(self.port), BROKER_PORT=str(self.broker_port), TOKEN=AUTH_TOKEN, LOG_LEVEL="debug"
        )
        self._settings = settings
        self._server = Process([str(KIT / "start.sh"), str(self.folder), str(self.data)], self.log, env | settings)
        # readiness comes a little before the last routes of the web API do, hence both
        for url in (
            f"{self.broker_uri}/healthz",
            f"http://127.0.0.1:{self.port}/healthz/readiness",
            f"http://127.0.0.1:{self.port}/rest/settings",
        ):
            self._wait_for(url)
        if not self._synced:
            Admin(self.port).sync(KIT / "workflows")
            self._synced = True
        self._wait_for(f"http://127.0.0.1:{self.port}/webhook/ping")

    def _wait_for(self, url: str) -> None:
        def up() -> bool:
            assert self.server.running, f"n8n ended during its start:\n{tail(self.log, 30)}"
            try:
                urllib.request.urlopen(url, timeout=2).close()
            except urllib.error.HTTPError as e:
                e.close()
                return False
            except OSError:
                return False
            return True

        eventually(up, f"{url} to answer; n8n's log:\n{tail(self.log, 30)}", BOOT_LIMIT, every=0.1)

    def kill(self) -> None:
        """As a crash would: no goodbye to anybody."""
        self.server.signal(signal.SIGKILL)
        self.server.wait(10)

    def stop(self) -> int:
        """Ends n8n as its user would; returns the exit code, 0 when it had not been started."""
        if self._server is None:
            return 0
        if self._server.running:
            self._server.signal(signal.SIGTERM)
        code = self._server.wait(STOP_LIMIT)
        self._server.end()
        return code

    def close(self) -> None:
        try:
            self.stop()
        finally:
            if self._server is not None:
                self._server.end()
            self._callers.shutdown(wait=True, cancel_futures=True)

    # -- runners

    def grant_token(self) -> str:
        """What a launcher does for its runner."""
        request = urllib.request.Request(
            f"{self.broker_uri}/runners/auth",
            json.dumps({"token": AUTH_TOKEN}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            token: str = json.load(response)["data"]["token"]
        return token

    def runner(self, log: Path, **env: str) -> Runner:
        """Starts a runner, with the auth token unless `env` has a grant token; returns when it is registered."""
        settings = {
            "N8N_RUNNERS_TASK_BROKER_URI": self.broker_uri,
            "N8N_RUNNERS_MAX_CONCURRENCY": "5",
            "N8N_RUNNERS_STDLIB_ALLOW": "time",
            **({} if "N8N_RUNNERS_GRANT_TOKEN" in env else {"N8N_RUNNERS_AUTH_TOKEN": AUTH_TOKEN}),
            **env,
        }
        started = Runner(log, settings)
        try:
            started.wait_for("Registered with broker")
        except BaseException:
            started.end()
            raise
        return started

    def javascript_runner(self, log: Path, **env: str) -> Process:
        """The runner that n8n ships for JavaScript, started as a launcher would."""
        (node,) = self.folder.glob("node24/node_modules/node-linux-*/bin/node")
        script = self.folder / "node_modules" / "@n8n" / "task-runner" / "dist" / "start.js"
        environment = clean_environment(
            N8N_RUNNERS_TASK_BROKER_URI=self.broker_uri,
            N8N_RUNNERS_GRANT_TOKEN=self.grant_token(),
            N8N_RUNNERS_MAX_CONCURRENCY="5",
            NODE_ENV="production",
            HOME=os.environ.get("HOME", "/"),
            **env,
        )
        return Process([str(node), str(script)], log, environment)

    # -- calls

    def call(
        self,
        path: str,
        body: bytes = b'{"hello": "world"}',
        content_type: str = "application/json",
        timeout: float = 60.0,
    ) -> Answer:
        """POSTs to a webhook; `path` may hold a query. Failures are answers, too."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/webhook/{path}", body, {"Content-Type": content_type}
        )
        start = time.monotonic()
        status, text = 0, ""
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                status, text = response.status, response.read().decode()
        except urllib.error.HTTPError as e:
            with e:
                status, text = e.code, e.read().decode(errors="replace")
        except (OSError, ValueError) as e:  # refused, reset, closed without an answer, timeout
            text = repr(e)
        try:
            parsed = json.loads(text)
        except ValueError:
            parsed = text
        return Answer(status, parsed, time.monotonic() - start)

    def later(self, path: str, timeout: float = 60.0) -> concurrent.futures.Future[Answer]:
        return self._callers.submit(self.call, path, timeout=timeout)

    # -- what n8n remembers

    def newest(self) -> int:
        return max((e["id"] for e in latest(self.data)), default=0)

    def stored(self, path: str, after: int, timeout: float = 20.0) -> dict[str, Any]:
        """The execution of the workflow `path` that came after the execution `after`, once n8n has written it down."""
        name = json.loads((KIT / "workflows" / f"{path.partition('?')[0]}.json").read_text())["name"]

        def find() -> dict[str, Any] | None:
            for execution in latest(self.data, 100):
                if execution["id"] > after and execution["workflow"] == name:
                    return None if execution["status"] in NOT_FINISHED else execution
            return None

        found = eventually(find, f"a stored execution of {name!r} after {after}", timeout, every=0.1)
        assert found is not None
        return found

    def executed(self, path: str, **call: Any) -> tuple[Answer, dict[str, Any]]:
        """Calls a webhook; returns the answer and the execution n8n stored for it."""
        before = self.newest()
        answer = self.call(path, **call)
        return answer, self.stored(path, before)

    def log_position(self) -> int:
        return self.log.stat().st_size

    def logged_since(self, position: int) -> str:
        with self.log.open("rb") as f:
            f.seek(position)
            return f.read().decode(errors="replace")

    # -- internal mode

    @property
    def python_of_internal_mode(self) -> Path:
        """Where this n8n looks for the Python that starts its runner."""
        return self.folder / "node_modules" / "@n8n" / "task-runner-python" / ".venv" / "bin" / "python"

    def internal_mode(self, scratch: Path, start: Path) -> dict[str, str]:
        """Puts ``start`` where n8n looks for its own Python; returns the settings for start().

        n8n runs `<n8n package>/../@n8n/task-runner-python/.venv/bin/python -m src.main` and passes little more than
        PATH on. So the file in the installation only says "whatever PATH has", stays the same for every run, and the
        folder on PATH holds the choice.
        """
        _script(self.python_of_internal_mode, 'exec trio-runner-in-internal-mode "$@"')
        _script(scratch / "bin" / "trio-runner-in-internal-mode", f'exec {shlex.quote(str(start))} "$@"')
        return {
            "N8N_RUNNERS_MODE": "internal",
            "N8N_RUNNERS_STDLIB_ALLOW": "time",
            "PATH": f"{scratch / 'bin'}{os.pathsep}{os.environ['PATH']}",
        }


def _script(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_text(f"#!/bin/sh\n{line}\n")
    fresh.chmod(0o755)
    fresh.replace(path)  # in one step: another run may be starting the old one right now
