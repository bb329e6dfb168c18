"""What must be reached: each demand as a line with its value, its limit and the verdict.

Owns the limits. Compares within rounds (`results.ratio`), so that a machine that changes its speed between two rounds
changes no verdict. What was not measured is neither reached nor missed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Final

from bench import vocabulary
from bench.floors import BARE_TRIO
from bench.numerals import figure
from bench.results import JAVASCRIPT, MACHINE, OURS, Line, Run, Series, ratio

IDLE_WAKEUPS: Final = 4.0
"""Per second; as often as the reference's beat of 250 ms. Renewing five offers every 5 s needs far fewer."""


def judge(run: Run) -> list[Line]:
    """All lines, in the order of the table."""
    return [line for make in _LINES for line in make(run)]


def _trivial(run: Run) -> list[Line]:
    latency = run.find("latency", OURS, concurrency=1)
    exchange = run.find("exchange", BARE_TRIO, concurrency=1)
    return [
        _in_units(run, "trivial task, p50 at concurrency 1", latency, 0.35, "11"),
        Line(
            name="the same, against the bare exchange of its messages",
            value=_ratio(latency, exchange),
            limit=3.0,
            unit="x",
            absolute=_absolute(latency, exchange),
        ),
    ]


def _throughput(run: Run) -> list[Line]:
    ours = run.find("throughput", OURS, concurrency=5)
    floors = (run.find("exchange_rate", BARE_TRIO, concurrency=5), run.find("fork_rate", MACHINE, in_flight=5))
    slower = min((floor for floor in floors if floor is not None), key=lambda floor: floor.median, default=None)
    return [
        Line(
            name="trivial tasks per unit of time at concurrency 5",
            value=_per_unit(run, ours),
            limit=4.2,
            least=True,
            unit="per unit",
            absolute=_absolute(ours),
            reference="0.14",
        ),
        Line(
            name="the same, against the slower floor",
            value=_ratio(ours, slower if None not in floors else None),
            limit=0.7,
            least=True,
            unit="x",
            absolute=_absolute(ours, slower),
        ),
    ]


def _processor(run: Run) -> list[Line]:
    cpu = run.find("cpu", OURS, part="tree", concurrency=5)
    return [_in_units(run, "processor time of the whole tree per trivial task", cpu, 0.45, "11")]


def _payloads(run: Run) -> list[Line]:
    each = run.find("items", OURS, items=1000, mode="each")
    large = run.find("echo", OURS, bytes=10_000_000, mode="all")
    copies = run.find("peak_copies", OURS, bytes=100_000_000)
    return [
        _in_units(run, "once per item, 1,000 items, p50", each, 1.0, "14"),
        _in_units(run, "echo of 10 MB in 20,000 items, p50", large, 15.0, "66"),
        _plain("echo of 100 MB: copies that the main process holds at most", copies, 3.0),
    ]


def _pandas(run: Run) -> list[Line]:
    pandas, trivial = run.find("pandas", OURS), run.find("pandas_trivial", OURS)
    return [
        Line(
            name="import pandas and a small DataFrame, against our trivial task with pandas preloaded",
            value=_ratio(pandas, trivial),
            limit=2.0,
            unit="x",
            absolute=_absolute(pandas, trivial),
        )
    ]


def _residence(run: Run) -> list[Line]:
    return [
        _in_units(run, "start to registered", run.find("start_registered", OURS), 25.0, "15 to 25"),
        _plain("idle memory of the tree, PSS with 5 warm children", run.find("idle_memory", OURS), 60.0, "39"),
        _plain("idle: wake-ups of the tree per second", run.find("idle_wakeups", OURS), IDLE_WAKEUPS, "4"),
    ]


def webhook(run: Run) -> list[Line]:
    """The line that needs a real n8n, and is measured by a command of its own."""
    ours = run.find("webhook", OURS, workflow="py-all")
    javascript = run.find("webhook", JAVASCRIPT, workflow="js-all")
    return [
        Line(
            name="webhook through a real n8n, p50, against the JavaScript runner's",
            value=_ratio(ours, javascript),
            limit=1.15,
            unit="x",
            absolute=_absolute(ours, javascript),
            reference="5.6",
        )
    ]


_LINES: Final[tuple[Callable[[Run], list[Line]], ...]] = (
    _trivial,
    _throughput,
    _processor,
    _payloads,
    _pandas,
    _residence,
    vocabulary.lines,
    webhook,
)


def _in_units(run: Run, name: str, series: Series | None, limit: float, reference: str) -> Line:
    value = None if series is None else run.in_units(series)
    return Line(name=name, value=value, limit=limit, unit="units", absolute=_absolute(series), reference=reference)


def _plain(name: str, series: Series | None, limit: float, reference: str = "") -> Line:
    value = None if series is None else series.median
    unit = "" if series is None else series.unit
    return Line(name=name, value=value, limit=limit, unit=unit, absolute=_absolute(series), reference=reference)


def _ratio(above: Series | None, below: Series | None) -> float | None:
    return None if above is None or below is None else ratio(above, below)


def _per_unit(run: Run, rate: Series | None) -> float | None:
    """How many of something happen while a bare interpreter starts: the other way round than `ratio`."""
    unit = run.find("unit", MACHINE)
    if rate is None or unit is None:
        return None
    return statistics.median(
        statistics.median(rates) * statistics.median(starts) / 1000
        for rates, starts in zip(rate.rounds, unit.rounds, strict=False)
        if rates and starts
    )


def _absolute(*series: Series | None) -> str:
    known = [one for one in series if one is not None]
    if len(known) < len(series):
        return ""
    return " : ".join(figure(one.median) for one in known) + f" {known[0].unit}"
