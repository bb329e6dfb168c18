"""The machine under a run: what it is, how long it takes to start an interpreter, and whether it was quiet."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from bench.results import MACHINE, Machine, Mode, Noise, Run, quartile_spread

NOISY_SPREAD: Final = 0.20
NOISY_LOAD: Final = 0.5
NOISY_STEAL: Final = 0.02
_INTERPRETER: Final = os.path.realpath(sys.executable)


def new_run(mode: Mode) -> Run:
    """A run that has measured nothing yet."""
    return Run(
        mode=mode,
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=_describe(),
        noise=Noise(load_at_start=os.getloadavg()[0], unit_spread=0.0, steal=0.0),
    )


def interpreter_starts(count: int) -> list[float]:
    """Milliseconds of so many bare starts, ``python -I -S -c pass``: the unit."""
    samples = []
    for _ in range(count):
        begun = time.perf_counter()
        pid = os.posix_spawn(_INTERPRETER, [_INTERPRETER, "-I", "-S", "-c", "pass"], {})
        os.waitpid(pid, 0)
        samples.append((time.perf_counter() - begun) * 1000)
    return samples


def judge_noise(run: Run, before: tuple[int, int], after: tuple[int, int]) -> Noise:
    """Says what disturbed the run."""
    unit = run.find("unit", MACHINE)
    spread = quartile_spread(unit.samples) if unit is not None else 0.0
    steal = (after[0] - before[0]) / max(1, after[1] - before[1])
    load = run.noise.load_at_start
    remarks = []
    if spread > NOISY_SPREAD:
        remarks.append(f"Bare interpreter starts spread by {spread:.0%}: something else used the processors.")
    if load > NOISY_LOAD:
        remarks.append(f"The load average was {load:.2f} before the first measurement.")
    if steal > NOISY_STEAL:
        remarks.append(f"The hypervisor gave {steal:.1%} of the processors' time to others.")
    return Noise(load_at_start=load, unit_spread=spread, steal=steal, remarks=tuple(remarks))


def _describe() -> Machine:
    """The machine under us, and the state of the code."""
    processor = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    return Machine(
        processor=processor or platform.machine(),
        processors=len(os.sched_getaffinity(0)),
        memory_mb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        platform=platform.platform(),
        python=platform.python_version(),
        commit=_git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain") else ""),
    )


def _git(*arguments: str) -> str:
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()
    return ""
