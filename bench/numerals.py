"""Numbers for people: three significant digits, a thousands separator, units that fit the size. Nothing else."""

from __future__ import annotations

import math


def figure(value: float) -> str:
    """``0.0123``, ``1.23``, ``123``, ``12,300``: three significant digits (more for large ones), never an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def count(value: float) -> str:
    """``1``, ``1k``, ``100k``, ``1M``: for axes and tables."""
    return _scaled(value, ((1e6, "M"), (1e3, "k")))


def size(value: float) -> str:
    """``500 B``, ``100 KB``, ``10 MB``: bytes by powers of ten."""
    return _scaled(value, ((1e6, " MB"), (1e3, " KB"), (1, " B")))


def duration(milliseconds: float) -> str:
    """``47 ns``, ``0.8 µs``, ``2.1 ms``, ``1.35 s``."""
    if milliseconds < 0.0001:
        return f"{figure(milliseconds * 1e6)} ns"
    if milliseconds < 0.1:
        return f"{figure(milliseconds * 1000)} µs"
    return f"{figure(milliseconds)} ms" if milliseconds < 1000 else f"{figure(milliseconds / 1000)} s"


def _scaled(value: float, steps: tuple[tuple[float, str], ...]) -> str:
    for step, name in steps:
        if value >= step:
            return f"{value / step:g}{name}"
    return f"{value:g}"
