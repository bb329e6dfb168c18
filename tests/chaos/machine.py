"""What the machine itself kept from running: no runner can be blamed for a disk or a host that made everybody wait.

Counts seconds in which this process could not run, and in which any process waited for memory or for pages from the
disk (pressure stall information of the kernel, where it is there). Waiting for a processor does not count.
"""

from __future__ import annotations

from bisect import bisect_right
from contextlib import suppress
from pathlib import Path

import trio

EVERY = 0.1
PRESSURE = (Path("/proc/pressure/io"), Path("/proc/pressure/memory"))


class Machine:
    """A clock of the time that the machine took for itself."""

    def __init__(self) -> None:
        self._times = [trio.current_time()]
        self._totals = [0.0]
        self.longest = 0.0
        """The longest time in seconds for which this process, brokers and proxies and all, did not run."""

    async def watch(self) -> None:
        """Keeps the clock until cancelled."""
        pressure = _pressure()
        while True:
            due = trio.current_time() + EVERY
            await trio.sleep_until(due)
            now, before, pressure = trio.current_time(), pressure, _pressure()
            self.longest = max(self.longest, now - due)
            self._times.append(now)
            self._totals.append(self._totals[-1] + (now - due) + (pressure - before))

    def took_since(self, time: float) -> float:
        """Seconds since then, those that may have been counted twice included."""
        return self._totals[-1] - self._totals[max(0, bisect_right(self._times, time) - 1)]


def _pressure() -> float:
    """Seconds since the machine's start in which some process waited for memory or the disk."""
    total = 0
    for path in PRESSURE:
        with suppress(OSError, IndexError, ValueError):
            total += int(path.read_text().splitlines()[0].rpartition("total=")[2])
    return total / 1e6
