"""Every target by name: a function of bytes that returns, or raises for a defect. Slow is a defect, too."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.fuzz.targets import inlet, machines, messages, outlet, settings, source, web, workers

LIMIT = 2.0
"""Seconds of processor time that one input may take. They are small."""

TARGETS: dict[str, Callable[[bytes], None]] = {
    **messages.TARGETS,
    **machines.TARGETS,
    **workers.TARGETS,
    **web.TARGETS,
    **inlet.TARGETS,
    **outlet.TARGETS,
    **settings.TARGETS,
    **source.TARGETS,
}


def run(name: str, data: bytes) -> None:
    """One input through one target."""
    bounded(TARGETS[name], data, LIMIT)


def bounded(target: Callable[[bytes], None], data: bytes, limit: float) -> None:
    """Calls ``target``, and raises when it took more than ``limit`` seconds of processor time."""
    started = time.process_time()
    target(data)
    took = time.process_time() - started
    assert took < limit, f"{len(data)} bytes took {took:.1f}s"
