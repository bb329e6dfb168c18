"""What a tree of processes has used, from /proc: processor time, memory, context switches. Linux only.

Never needs the tree's cooperation. A process that ends between two readings is counted once: its parent's sums of
reaped children take over where its own end.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

_TICK: Final = 1000 / os.sysconf("SC_CLK_TCK")


class Cpu(NamedTuple):
    """Processor time in milliseconds, of the main process and of everything below it, living or reaped.

    Each reading of a process is cut to 10 ms, so differences need at least a second of work to be worth something.
    """

    main: float
    below: float

    @property
    def tree(self) -> float:
        """Both."""
        return self.main + self.below

    def since(self, earlier: Cpu) -> Cpu:
        """What was used in between."""
        return Cpu(self.main - earlier.main, self.below - earlier.below)


def tree(pid: int) -> list[int]:
    """The process and everything below it, parents before children."""
    found = [pid]
    for one in found:
        with suppress(OSError):
            for thread in Path(f"/proc/{one}/task").iterdir():
                with suppress(OSError):
                    found.extend(map(int, (thread / "children").read_text().split()))
    return found


def cpu(pid: int) -> Cpu:
    """Of the whole tree, with what it has reaped. Exact only while no child is coming or going."""
    main = below = 0.0
    for one in tree(pid):
        with suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            own, reaped = (sum(map(int, fields[at : at + 2])) * _TICK for at in (11, 13))
            main, below = (main + own, below + reaped) if one == pid else (main, below + own + reaped)
    return Cpu(main, below)


def run_time(pids: Iterable[int]) -> float:
    """Milliseconds that the living threads have run, from the scheduler's own nanoseconds: for small differences."""
    total = 0
    for thread in _threads(pids):
        with suppress(OSError):
            total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e6


def switches(pids: Iterable[int]) -> int:
    """Context switches of all living threads: an idle process makes one for each time that it is woken."""
    total = 0
    for thread in _threads(pids):
        with suppress(OSError):
            for line in (thread / "status").read_text().splitlines():
                if "ctxt_switches" in line:
                    total += int(line.rpartition(":")[2])
    return total


def pss(pids: Iterable[int]) -> float:
    """MB that the processes hold, shared pages split among those that share them.

    Raises PermissionError where a process is closed to us: the runner closes itself, and only root may look then.
    """
    total = 0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total * 1024 / 1e6


def resident(pid: int) -> float:
    """MB in memory now."""
    return _status(pid, "VmRSS")


def peak(pid: int) -> float:
    """MB in memory at most, so far."""
    return _status(pid, "VmHWM")


def steal_and_total() -> tuple[int, int]:
    """Ticks of all processors since the machine started: taken by the hypervisor for others, and all."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return fields[7], sum(fields)


def _status(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ProcessLookupError(f"process {pid} has no {name}: it has ended")


def _threads(pids: Iterable[int]) -> Iterable[Path]:
    for pid in pids:
        with suppress(OSError):
            yield from Path(f"/proc/{pid}/task").iterdir()
