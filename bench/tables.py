"""What a run found, as rows: every figure of every subject beside ours, ratios and absolute values.

Owns which figures are compared, in which order and words, and how a ratio reads. The terminal, the page and the README
show the same rows; must not know any of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from bench.floors import BARE_TRIO
from bench.numerals import count, figure, size
from bench.results import MACHINE, OURS, Line, Param, Run, Series, ratio
from bench.vocabulary import SMALL_ITEMS, comparisons, geometric_mean

Floor = tuple[str, str, dict[str, Param]]
"""Figure, subject and parameters of what nobody can beat."""


HEADLINES: Final = ("trivial task, p50", "trivial tasks, 5 at a time", "1k items, per item", "echo of 10 MB, once")
"""The labels of the rows that stand above all others."""


@dataclass(frozen=True)
class Row:
    """One figure under one set of parameters."""

    label: str
    figure: str
    params: dict[str, Param] = field(default_factory=dict)
    percentile: float | None = None
    """None: the median of the rounds."""
    more: bool = False
    """Whether more is better."""
    floor: Floor | None = None


@dataclass(frozen=True)
class Cell:
    """One subject in one row."""

    value: float
    unit: str
    spread: float | None
    """Of the rounds, as a share of the value; None after one round."""
    times: float
    """How many times better ours is; below 1: how much of ours this one needs."""

    @property
    def absolute(self) -> str:
        """``2.13 ms``."""
        return f"{figure(self.value)} {self.unit}"

    @property
    def relative(self) -> str:
        """``31x``; a dash where one of the two is zero."""
        return f"{figure(self.times)}x" if self.times and math.isfinite(self.times) else "–"


def rows(run: Run) -> Iterator[Row]:
    """Those that were measured for ours."""
    return (row for row in _rows(run) if _find(run, row, OURS) is not None)


def _rows(run: Run) -> Iterator[Row]:
    exchange: Floor = ("exchange", BARE_TRIO, {"concurrency": 1})
    for name, percentile in (("p50", None), ("p95", 95.0), ("p99", 99.0)):
        yield Row(f"trivial task, {name}", "latency", {"concurrency": 1}, percentile, floor=exchange)
    for concurrency in _values(run, "throughput", "concurrency"):
        floor = _slower_floor(run, int(concurrency))
        yield Row(
            f"trivial tasks, {concurrency} at a time", "throughput", {"concurrency": concurrency}, None, True, floor
        )
    for concurrency in _values(run, "cpu", "concurrency"):
        params: dict[str, Param] = {"part": "tree", "concurrency": concurrency}
        yield Row(f"processor time, {concurrency} at a time", "cpu", params)
    for items in _values(run, "items", "items"):
        for mode, words in (("all", "once"), ("each", "per item")):
            label = f"{count(float(items))} {'item' if items == 1 else 'items'}, {words}"
            yield Row(label, "items", {"items": items, "mode": mode})
    for many in _values(run, "echo", "bytes"):
        for mode, words in (("all", "once"), ("each", "per item")):
            json_floor: Floor = ("json", MACHINE, {"bytes": many})
            yield Row(f"echo of {size(float(many))}, {words}", "echo", {"bytes": many, "mode": mode}, floor=json_floor)
        yield Row(f"echo of {size(float(many))}, peak memory", "peak_copies", {"bytes": many})
    yield Row("task with pandas", "pandas")
    yield Row("trivial task beside pandas", "pandas_trivial")
    yield Row("start to registered", "start_registered")
    yield Row("start to first result", "start_first_result")
    yield Row("idle memory", "idle_memory")
    yield Row("memory per running task", "task_memory")
    yield Row("idle processor time", "idle_cpu")
    yield Row("idle wake-ups", "idle_wakeups")


def cell(run: Run, row: Row, subject: str) -> Cell | None:
    """None where it was not measured."""
    theirs, ours = _find(run, row, subject), _find(run, row, OURS)
    if theirs is None or ours is None:
        return None
    return Cell(_value(theirs, row), theirs.unit, _spread(theirs), _times(theirs, ours, row))


def floor_cell(run: Run, row: Row) -> Cell | None:
    """What lies under the row. Its ``times`` says how far ours is from it: 1 would be on it."""
    ours = _find(run, row, OURS)
    if row.floor is None or ours is None:
        return None
    name, subject, params = row.floor
    found = run.find(name, subject, **params)
    if found is None:
        return None
    away = _times(found, ours, row)
    return Cell(_value(found, row), found.unit, _spread(found), 1 / away if away else 0.0)


def runners(run: Run) -> list[str]:
    """The subjects of the columns: ours first, the others in the order of the run."""
    names = [subject.name for subject in run.subjects if subject.kind in ("runner", "peer")]
    return sorted(names, key=lambda name: name != OURS)


@dataclass(frozen=True)
class Codecs:
    """How long one group of messages takes everybody, as geometric means over its messages."""

    label: str
    items: int
    microseconds: dict[str, float]
    """By codec, ours first."""
    megabytes_per_second: dict[str, float]


def codecs(run: Run) -> list[Codecs]:
    """Reading and writing, of small messages and of each larger size."""
    compared = comparisons(run)
    found = []
    for items in sorted({max(one.items, SMALL_ITEMS) for one in compared}):
        for operation, verb in (("decode", "read"), ("encode", "write")):
            group = [one for one in compared if max(one.items, SMALL_ITEMS) == items and one.operation == operation]
            ours, rate = (
                geometric_mean([one.microseconds for one in group]),
                geometric_mean([one.megabytes_per_second for one in group]),
            )
            if ours is None or rate is None:
                continue
            times = {OURS: 1.0}
            for codec in group[0].times:
                times[codec] = geometric_mean([one.times[codec] for one in group if codec in one.times]) or 1.0
            what = "a small message" if items <= SMALL_ITEMS else f"{items:,} items"
            found.append(
                Codecs(
                    f"{verb} {what}",
                    items,
                    {codec: ours * factor for codec, factor in times.items()},
                    {codec: rate / factor for codec, factor in times.items()},
                )
            )
    return found


def describe_value(line: Line) -> str:
    """``0.31 units``; a dash for what was not measured."""
    return "–" if line.value is None else _with_unit(line.value, line.unit)


def describe_limit(line: Line) -> str:
    """``at most 0.35 units``."""
    return f"{'at least' if line.least else 'at most'} {_with_unit(line.limit, line.unit)}"


def _with_unit(value: float, unit: str) -> str:
    return f"{figure(value)}{'' if unit == 'x' else ' '}{unit}".strip()


def _find(run: Run, row: Row, subject: str) -> Series | None:
    return run.find(row.figure, subject, **row.params)


def _value(series: Series, row: Row) -> float:
    return series.median if row.percentile is None else series.percentile(row.percentile)


def _spread(series: Series) -> float | None:
    return series.spread if len(series.round_medians) > 1 else None


def _times(theirs: Series, ours: Series, row: Row) -> float:
    """How many times better ours is; infinitely, or not at all, where one of the two is zero."""
    above, below = (ours, theirs) if row.more else (theirs, ours)
    if not _value(below, row):
        return math.inf if _value(above, row) else 1.0
    return ratio(above, below) if row.percentile is None else _value(above, row) / _value(below, row)


def _values(run: Run, name: str, param: str) -> list[Param]:
    return sorted({one.params[param] for one in run.select(name)}, key=float)


def _slower_floor(run: Run, concurrency: int) -> Floor | None:
    """Whichever of the exchange and the fork is slower: no runner of this design can pass it."""
    floors: list[Floor] = [
        ("exchange_rate", BARE_TRIO, {"concurrency": concurrency}),
        ("fork_rate", MACHINE, {"in_flight": concurrency}),
    ]
    known = [(found.median, floor) for floor in floors if (found := run.find(floor[0], floor[1], **floor[2]))]
    return min(known, key=lambda pair: pair[0])[1] if len(known) == len(floors) else None
