"""A control group for each worker, where one was delegated to the runner: memory, number of tasks, and a sure kill.

Delegated means that systemd says so (``Delegate=yes`` sets an attribute on the folder) or that the operator names a
folder with N8N_RUNNERS_SANDBOX_CGROUP. Elsewhere (most containers mount the tree read-only) the other layers must do.
Groups are made once and used again: one is free when nothing runs in it any more.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_MEMBERSHIP: Final = Path("/proc/self/cgroup")
_MOUNTS: Final = Path("/proc/self/mountinfo")
_DELEGATED: Final = ("user.delegate", "trusted.delegate")
_CONTROLLERS: Final = ("memory", "pids")
_TASKS: Final = 64
"""Threads, for a worker can have nothing else; what native libraries start is below it."""


class CgroupError(Exception):
    """Why there are no control groups here."""


class Groups:
    """Folders below ``base``, one per living worker. Raises `CgroupError` when the tree cannot be used."""

    def __init__(self, base: Path, *, memory: int) -> None:
        self._base = base
        self._memory = memory
        self._free: list[Path] = []
        self._used: dict[int, Path] = {}
        self._made = 0
        try:
            self.controllers = self._delegate()
        except OSError as error:
            raise CgroupError(f"{base}: {error.strerror}") from error

    def enter(self, pid: int) -> Path:
        """Puts a worker that was just forked, and has not been given anything, into a group. Raises OSError."""
        group = self._free.pop() if self._free else self._make()
        try:
            (group / "cgroup.procs").write_text(str(pid))
        except OSError:
            self._free.append(group)
            raise
        self._used[pid] = group
        return group

    def leave(self, pid: int) -> None:
        """A worker is dead: ends whatever is left in its group and frees it."""
        group = self._used.pop(pid, None)
        if group is None:
            return
        with suppress(OSError):  # kernels before 5.14 have no such file; the process group was killed already
            (group / "cgroup.kill").write_text("1")
        self._free.append(group)

    def remove(self) -> None:
        """Takes the folders away, as far as they are empty."""
        for group in (*self._free, *self._used.values()):
            with suppress(OSError):
                group.rmdir()

    def _delegate(self) -> tuple[str, ...]:
        """Makes room: a group that hands controllers to its children may hold no process itself."""
        members = (self._base / "cgroup.procs").read_text().split()
        if members:
            leaf = self._base / "runner"
            leaf.mkdir(exist_ok=True)
            for pid in members:
                with suppress(ProcessLookupError):
                    (leaf / "cgroup.procs").write_text(pid)
        offered = (self._base / "cgroup.controllers").read_text().split()
        controllers = tuple(name for name in _CONTROLLERS if name in offered)
        if controllers:
            (self._base / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))
        return controllers

    def _make(self) -> Path:
        self._made += 1
        group = self._base / f"task-{os.getpid()}-{self._made}"
        group.mkdir()
        if "memory" in self.controllers and self._memory:
            (group / "memory.max").write_text(str(self._memory))
            with suppress(OSError):  # not every kernel counts swap
                (group / "memory.swap.max").write_text("0")
        if "pids" in self.controllers:
            (group / "pids.max").write_text(str(_TASKS))
        return group


def open_groups(setting: str, *, memory: int) -> Groups:
    """Groups in the folder that the operator named, or in our own one if it was delegated. Raises `CgroupError`."""
    if setting == "off":
        raise CgroupError("N8N_RUNNERS_SANDBOX_CGROUP is off")
    if setting != "auto":
        return Groups(Path(setting), memory=memory)
    own = own_folder()
    if own is None:
        raise CgroupError("there is no cgroup v2 tree here")
    if not _is_delegated(own):
        raise CgroupError(f"{own} is not delegated to the runner")
    return Groups(own, memory=memory)


def own_folder(membership: Path = _MEMBERSHIP, mounts: Path = _MOUNTS) -> Path | None:
    """The folder of this process's cgroup v2, or None where there is no such tree."""
    try:
        path = next(line[3:] for line in membership.read_text().splitlines() if line.startswith("0::"))
        rows = [line.split(" - ") for line in mounts.read_text().splitlines()]
    except (OSError, StopIteration):
        return None
    for left, right in (row for row in rows if len(row) == 2):
        if right.startswith("cgroup2 "):
            root, mount = left.split()[3:5]
            inside = path.removeprefix(root.rstrip("/")) if path.startswith(root) else path
            return Path(mount) / inside.lstrip("/")
    return None


def _is_delegated(folder: Path) -> bool:
    for name in _DELEGATED:
        with suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    return False
