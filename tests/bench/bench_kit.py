"""Made-up runs for tests of what is concluded from them."""

from __future__ import annotations

from bench.results import MACHINE, Machine, Mode, Noise, Param, Run


def make_run(unit: float = 10.0, rounds: int = 3, mode: Mode = "full") -> Run:
    """A run that has measured nothing but its unit."""
    run = Run(
        mode=mode,
        started="2026-01-01T00:00:00+00:00",
        machine=Machine(
            processor="made up", processors=2, memory_mb=4096, platform="Linux", python="3.13.0", commit="abc1234"
        ),
        noise=Noise(load_at_start=0.0, unit_spread=0.01, steal=0.0),
    )
    fill(run, "unit", MACHINE, unit, rounds)
    return run


def fill(run: Run, figure: str, subject: str, value: float, rounds: int = 3, /, **params: Param) -> None:
    """The same value in every round."""
    for turn in range(rounds):
        run.record(figure, subject, [value], turn=turn, **params)
