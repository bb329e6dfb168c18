"""Which layers hold: a throw-away child is confined like any other and tries what is forbidden.

The report rests on what was refused, and on what the kernel says of the child from outside, not on which calls were
made.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from trio_runner.sandbox import landlock
from trio_runner.sandbox.lockdown import Lockdown
from trio_runner.sandbox.records import ACTIVE, OFF, PROBED_LAYERS, UNAVAILABLE, Layer

_LIMIT: Final = 10.0
_FDS: Final = 1024
_PR_GET_PDEATHSIG: Final = 2
_PR_GET_DUMPABLE: Final = 3
_NOT_LINUX: Final = "this platform has no such thing, or the portable mode is on"


class _Attempts(msgspec.Struct):
    """What the child found out about itself; texts are what went wrong, empty is as it should be."""

    own_session: bool
    open_files: list[int]
    environment: list[str]
    parent_death_signal: bool
    dumpable: bool
    limits: bool
    read_file: str
    write_file: str
    connect: str
    signal: str
    fork: str


def probe(locks: Lockdown, *, block_env: bool) -> list[Layer]:
    """Forks the throw-away child and reports all layers. Must run in the zygote, after `lockdown.prepare`."""
    ours, theirs = socket.socketpair()
    target = _write_target(locks)
    pid = os.fork()
    if pid == 0:
        ours.close()
        _be_the_probe(locks, theirs, target)
    theirs.close()
    ours.settimeout(_LIMIT)
    found: _Attempts | None = None
    status: dict[str, str] = {}
    with ours, suppress(OSError, msgspec.MsgspecError):
        found = msgspec.msgpack.decode(ours.recv(65536), type=_Attempts)
        status = _status_of(pid)
        ours.sendall(b".")
    if found is None:  # it may hang
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    _, code = os.waitpid(pid, 0)
    if target is not None:  # where it could make the file, nothing says that it could remove it
        with suppress(OSError):
            target.unlink()
    if found is None:
        return [Layer(name, UNAVAILABLE, f"the probe failed with status {code}") for name in PROBED_LAYERS]
    return _conclude(locks, found, status, block_env=block_env)


def _be_the_probe(locks: Lockdown, sock: socket.socket, target: Path | None) -> NoReturn:
    try:
        locks.apply(sock.fileno())
        sock.sendall(msgspec.msgpack.encode(_try_everything(locks, sock.fileno(), target)))
        sock.recv(1)
        os._exit(0)
    except BaseException:
        os._exit(71)


def _try_everything(locks: Lockdown, own_fd: int, target: Path | None) -> _Attempts:
    return _Attempts(
        own_session=os.getsid(0) == os.getpid(),
        open_files=[fd for fd in range(3, _FDS) if fd != own_fd and _is_open(fd)],
        environment=list(os.environ),
        parent_death_signal=_dies_with_its_parent(locks),
        dumpable=locks.prctl is None or locks.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != 0,
        limits=bool(locks.limits) and all(_is_limited(limit, value) for limit, value in locks.limits),
        read_file=_refusal(_open_forbidden(locks)),
        write_file=_refusal(_write_forbidden(target)),
        connect=_refusal(_connect_forbidden),
        signal=_refusal(lambda: os.kill(locks.zygote_pid, 0)),
        fork=_refusal(_fork),
    )


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _dies_with_its_parent(locks: Lockdown) -> bool:
    if locks.prctl is None:
        return False
    import ctypes

    number = ctypes.c_int()
    return locks.prctl(_PR_GET_PDEATHSIG, ctypes.addressof(number), 0, 0, 0) == 0 and number.value == signal.SIGKILL


def _is_limited(limit: int, value: int) -> bool:
    """Whether neither of the two bounds is above ``value`` (the hard one of time is a second later, `Lockdown`)."""
    import resource

    soft, hard = resource.getrlimit(limit)
    return 0 <= soft <= value and 0 <= hard <= value + (limit == resource.RLIMIT_CPU)


def _refusal(action: Callable[[], object]) -> str:
    """The errno's name with which the kernel refused, or nothing when it did not."""
    try:
        action()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    return ""


def _outside(candidates: tuple[str, ...], granted: tuple[str, ...]) -> Path | None:
    """The first candidate that is there and that no grant covers."""
    for path in map(Path, candidates):
        if path.exists() and not any(path.is_relative_to(grant) for grant in granted):
            return path
    return None


def _open_forbidden(locks: Lockdown) -> Callable[[], object]:
    """Opens a file that everybody may read, outside of what is granted."""
    granted = (*locks.confinement.read, *locks.confinement.write)
    target = _outside(("/etc/passwd", "/proc/version", "/proc/cpuinfo"), granted) or Path("/proc/1/status")
    return lambda: os.close(os.open(target, os.O_RDONLY))


def _write_target(locks: Lockdown) -> Path | None:
    """A file that is not there, where everybody may make one, outside of what is granted."""
    folder = _outside(("/tmp", "/var/tmp", "/dev/shm"), locks.confinement.write)  # noqa: S108 - meant to be refused
    return folder / f".trio-runner-probe-{os.urandom(8).hex()}" if folder is not None else None


def _write_forbidden(target: Path | None) -> Callable[[], object]:
    def attempt() -> None:
        if target is None:
            raise OSError(errno.EACCES, "everything is granted")
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))

    return attempt


def _connect_forbidden() -> None:
    with socket.socket() as sock:
        sock.settimeout(0.2)
        sock.connect(("127.0.0.1", 1))  # nobody listens: what counts is who refuses


def _fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _status_of(pid: int) -> dict[str, str]:
    """``/proc/<pid>/status``, from outside the child."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def _conclude(locks: Lockdown, found: _Attempts, status: dict[str, str], *, block_env: bool) -> list[Layer]:
    mode = locks.confinement.mode
    network = mode == "network"
    # only Landlock says EACCES here: seccomp says EPERM, and everybody may read and write what was tried
    files = locks.ruleset is not None and found.read_file == "EACCES" and found.write_file in ("EACCES", "EROFS")
    checks: dict[str, tuple[bool, str]] = {
        "session": (found.own_session, ""),
        "closed-files": (not found.open_files, f"open: {found.open_files}" if found.open_files else ""),
        "empty-environment": (not found.environment, "" if block_env else "N8N_BLOCK_RUNNER_ENV_ACCESS is false"),
        "parent-death-signal": (found.parent_death_signal, ""),
        "no-new-privileges": (status.get("NoNewPrivs") == "1", ""),
        "not-dumpable": (not found.dumpable, ""),
        "limits": (found.limits, ""),
        "landlock-files": (files, f"ABI {landlock.abi()}"),
        "landlock-network": (network and files and found.connect == "EACCES", ""),
        "landlock-signals": (files and landlock.abi() >= 6 and found.signal == "EPERM", ""),
        "seccomp": (
            status.get("Seccomp") == "2" and found.fork == "EPERM",
            "sealed: no file can be opened" if locks.sealed else "",
        ),
        "capabilities": (all(int(status.get(name, "1"), 16) == 0 for name in ("CapEff", "CapPrm")), ""),
        "uid": ("0" not in status.get("Uid", "0").split("\t"), ""),
    }
    return [_layer(locks, name, *checks[name], network=network) for name in PROBED_LAYERS]


def _layer(locks: Lockdown, name: str, holds: bool, detail: str, *, network: bool) -> Layer:
    if holds:
        return Layer(name, ACTIVE, detail)
    if name == "landlock-network" and locks.confines and not network:
        return Layer(name, OFF, "not needed: no sockets at all")
    if name == "empty-environment" and detail:
        return Layer(name, OFF, detail)
    if locks.prctl is None or sys.platform != "linux":
        return Layer(name, UNAVAILABLE, _NOT_LINUX)
    if not locks.confines:
        return Layer(name, OFF, "N8N_RUNNERS_SANDBOX is off")
    family = "landlock" if name.startswith("landlock") else name
    return Layer(name, UNAVAILABLE, locks.missing.get(family, detail or "the probe could do what it forbids"))
