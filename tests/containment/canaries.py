"""What hostile programs are aimed at, planted by the test itself: files, sockets, a process, secrets.

A canary tells afterwards whether it was touched. Nothing else on the machine is a target.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Self


def new_secret(name: str) -> str:
    """A text that is nowhere else."""
    return f"{name}-{os.urandom(12).hex()}"


_IDLE = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
print("ready", flush=True)
sys.stdin.read()
"""
"""Blocks every signal, so that one that was sent is still to be seen as pending."""
_OUTSIDE = ("/tmp", "/var/tmp", "/dev/shm", "/run")


class Canaries:
    """All canaries of one run. ``uid`` is the user that tasks run as: what it may touch by its rights counts.

    ``secrets`` are those that are kept elsewhere, by what they belong to.
    """

    def __init__(self, uid: int, secrets: dict[str, str]) -> None:
        self.token = new_secret("canary")
        self.secrets = {"file": new_secret("file"), **secrets}
        self.base = Path(tempfile.mkdtemp(prefix="canaries-", dir="/tmp"))
        self.base.chmod(0o755)
        self.secret_file = self.base / "secret"
        self.secret_file.write_text(self.secrets["file"])
        self.secret_file.chmod(0o644)
        self.folder = self.base / "open"
        self.folder.mkdir()
        self.folder.chmod(0o777)
        self.own_file = self.folder / "own"
        self.own_file.write_text("as it was")
        with suppress(OSError):
            os.setxattr(self.own_file, "user.canary", b"as it was")
        for path in (self.folder, self.own_file):
            if os.geteuid() == 0:
                os.chown(path, uid, uid)
        self._sockets = {
            "tcp": _listening(socket.AF_INET, ("127.0.0.1", 0)),
            "udp": _bound(socket.AF_INET, ("127.0.0.1", 0)),
            "unix": _listening(socket.AF_UNIX, str(self.base / "stream")),
            "datagram": _bound(socket.AF_UNIX, str(self.base / "datagram")),
            "abstract": _bound(socket.AF_UNIX, f"\0{self.token}"),
        }
        for name in ("stream", "datagram"):
            (self.base / name).chmod(0o777)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _IDLE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            user=uid if os.geteuid() == 0 else None,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        self.system_v = int.from_bytes(os.urandom(3)) + 1
        """The key of the System V objects that the corpus tries to make: others may run it at the same time."""
        self._before = self._state()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()
        for sock in self._sockets.values():
            sock.close()
        shutil.rmtree(self.base)
        for place in _OUTSIDE:
            for path in Path(place).glob(f"*{self.token}*"):
                path.unlink()
        _remove_system_v(self.system_v)

    def targets(self) -> dict[str, Any]:
        """What a hostile program is told."""
        return {
            "token": self.token,
            "secret_file": str(self.secret_file),
            "folder": str(self.folder),
            "own_file": str(self.own_file),
            "canary_pid": self._process.pid,
            "system_v": self.system_v,
            "runner_pid": os.getpid(),
            "tcp_port": self._sockets["tcp"].getsockname()[1],
            "udp_port": self._sockets["udp"].getsockname()[1],
            "unix_path": str(self.base / "stream"),
            "dgram_path": str(self.base / "datagram"),
        }

    def problems(self, outcome: object) -> list[str]:
        """What a program reached, by what it says and by the state of the canaries."""
        said = json.dumps(outcome, ensure_ascii=False)
        found = [f"the secret of the {name} leaked" for name, secret in self.secrets.items() if secret in said]
        for name, sock in self._sockets.items():
            found += [f"the {name} socket was reached"] if _was_reached(sock) else []
        now = self._state()
        changed = [name for name in now.keys() | self._before.keys() if now.get(name) != self._before.get(name)]
        found += [f"{name} was {self._before.get(name)!r} and is {now.get(name)!r}" for name in changed]
        self._before = now
        return found

    def _state(self) -> dict[str, object]:
        state: dict[str, object] = {}
        for path in (self.base, self.folder, *self.base.iterdir(), *self.folder.iterdir()):
            about = path.lstat()
            kept = (about.st_mode, about.st_uid, about.st_gid, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
            state[str(path)] = (*kept, about.st_nlink, about.st_ino)
        for place in _OUTSIDE:
            state[place] = [path.name for path in Path(place).iterdir() if self.token in path.name]
        pid = self._process.pid
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        state["canary runs"] = lines[2].split()[1] in "RSD"
        watched = ("TracerPid", "Uid", "SigPnd", "ShdPnd", "Cpus_allowed")
        state["canary process"] = [line for line in lines if line.startswith(watched)]
        state["canary limits"] = Path(f"/proc/{pid}/limits").read_text()
        state["canary niceness"] = [os.getpriority(os.PRIO_PROCESS, who) for who in (pid, os.getpid())]
        state["canary adjustment"] = Path(f"/proc/{pid}/oom_score_adj").read_text()
        state["mounts"] = len(Path("/proc/self/mounts").read_text().splitlines())
        for kind in ("shm", "sem", "msg"):
            with suppress(OSError):
                state[f"System V {kind}"] = _keys(Path(f"/proc/sysvipc/{kind}").read_text(), self.system_v)
        return state


def _keys(table: str, key: int) -> list[str]:
    return [line for line in table.splitlines() if line.split()[:1] == [str(key)]]


def _remove_system_v(key: int) -> None:
    """What is left where nothing was refused; removing what is not there does nothing."""
    libc = ctypes.CDLL(None)
    libc.shmctl(libc.shmget(key, 0, 0), 0, None)
    libc.semctl(libc.semget(key, 0, 0), 0, 0)
    libc.msgctl(libc.msgget(key, 0), 0, None)


def _listening(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.bind(address)
    sock.listen()
    sock.setblocking(False)
    return sock


def _bound(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind(address)
    sock.setblocking(False)
    return sock


def _was_reached(sock: socket.socket) -> bool:
    try:
        if sock.type == socket.SOCK_STREAM:
            sock.accept()[0].close()
        else:
            sock.recv(1)
    except BlockingIOError:
        return False
    return True
