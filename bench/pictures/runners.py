"""The pictures of runners: latency, throughput, payloads, growth, start and memory.

Owns which figures are drawn on which axes. A function returns None when the run has nothing for it to draw.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from bench.numerals import count, duration, figure, size
from bench.pictures.canvas import Mark, colour, sheet
from bench.pictures.strokes import (
    Picture,
    Text,
    band,
    by_subject,
    few_ticks,
    grouped,
    line,
    logarithmic_x,
    logarithmic_y,
    marks_of,
    of,
    row_axis,
    stacked,
    tasks_axis,
    values,
)
from bench.results import MACHINE, Run, Series, percentile

FORK: Final = Mark("fork and exit", "floor", (1.0, 1.8), "x")
PARSE: Final = Mark("parse and build the JSON", "floor", (1.0, 1.8), "x")
UNIT: Final = Mark("a bare interpreter start", "floor", (1.0, 3.5), "")
_CURVE_POINTS: Final = 300


def latency(run: Run) -> Picture | None:
    """The share of trivial tasks that are done within a time; the floors beside them."""
    runners, floors = of(run, "latency", concurrency=1), of(run, "exchange", concurrency=1)
    if not runners:
        return None
    known = marks_of(run, (*runners, *floors))
    points = ((run.find("fork", MACHINE, in_flight=1), replace(FORK, symbol="")), (run.find("unit", MACHINE), UNIT))
    with sheet("latency") as drawn:
        axes = drawn.axes
        shares = [n / _CURVE_POINTS * 100 for n in range(_CURVE_POINTS + 1)]
        for one in (*floors, *runners):
            ordered = sorted(one.samples)
            style = known[one.subject].line(symbols=False)
            axes.plot([percentile(ordered, share) for share in shares], shares, **style)
        for point, mark in points:
            if point is not None:
                axes.axvline(point.median, lw=1.4, color=colour("floor"), ls=(0, mark.dashes))
        axes.set_ylim(0, 101)
        axes.set_yticks([0, 25, 50, 75, 100], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        # the slowest of thousands would stretch the axis over nothing
        edges = [one.percentile(p) for one in (*floors, *runners) for p in (0, 99.5)]
        edges += [point.median for point, _ in points if point is not None]
        axes.set_xlim(min(edges) * 0.8, max(edges) * 1.2)
        logarithmic_x(axes, duration)
        axes.set_xlabel("from the offer's acceptance to the result")
    return Picture(drawn.svg, (*known.values(), *(mark for point, mark in points if point is not None)))


def throughput(run: Run) -> Picture | None:
    """Trivial tasks per second against concurrency, under the two floors."""
    runners, exchanges = of(run, "throughput"), of(run, "exchange_rate")
    forks = of(run, "fork_rate")
    if not runners:
        return None
    known = marks_of(run, (*runners, *exchanges))
    with sheet("throughput") as drawn:
        for subject, group in by_subject((*exchanges, *runners)).items():
            line(drawn.axes, group, "concurrency", known[subject])
        line(drawn.axes, forks, "in_flight", FORK)
        logarithmic_x(drawn.axes, count, values((*runners, *exchanges), "concurrency"))
        logarithmic_y(drawn.axes, lambda value: f"{figure(value)}/s")
        drawn.axes.set_xlabel("tasks at the same time")
    return Picture(drawn.svg, (*known.values(), *((FORK,) if forks else ())))


def latency_growth(run: Run) -> Picture | None:
    """The median of trivial tasks against concurrency, with a band from the 5th to the 95th percentile."""
    runners, floors = of(run, "latency"), of(run, "exchange")
    if len(values(runners, "concurrency")) < 2:
        return None
    known = marks_of(run, (*runners, *floors))
    with sheet("latency_growth") as drawn:
        for subject, group in by_subject((*floors, *runners)).items():
            band(drawn.axes, group, "concurrency", known[subject])
            line(drawn.axes, group, "concurrency", known[subject])
        logarithmic_x(drawn.axes, count, values((*runners, *floors), "concurrency"))
        logarithmic_y(drawn.axes, duration)
        drawn.axes.set_xlabel("tasks at the same time")
    return Picture(drawn.svg, tuple(known.values()))


def processor(run: Run) -> Picture | None:
    """Processor time of one trivial task: the runner's main process, and what is below it."""
    concurrency = next((n for n in (5, 1, 20) if of(run, "cpu", part="tree", concurrency=n)), None)
    if concurrency is None:
        return None
    tree = of(run, "cpu", part="tree", concurrency=concurrency)
    parts = {
        "the main process": _medians(of(run, "cpu", part="main", concurrency=concurrency)),
        "everything below it": _medians(of(run, "cpu", part="below", concurrency=concurrency)),
    }
    return stacked("processor", marks_of(run, tree), parts, _medians(tree), lambda value: f"{figure(value)} ms")


def payload_bytes(run: Run) -> Picture | None:
    """Time of an echo against its size, above the time to parse and build the same JSON."""
    runners, floors = of(run, "echo", mode="all"), of(run, "json")
    return _against_size("payload_bytes", run, runners, "bytes", size, "JSON of the items", floors=floors)


def payload_items(run: Run) -> Picture | None:
    """Time of a task against the number of its items: run once for all of them, and (hollow) once per item."""
    once, each = of(run, "items", mode="all"), of(run, "items", mode="each")
    return _against_size("payload_items", run, once, "items", count, "items", hollow=each)


def payload_memory(run: Run) -> Picture | None:
    """What an echo adds to the main process's memory, in copies of its payload."""
    runners = of(run, "peak_copies")
    if not runners:
        return None
    known = marks_of(run, runners)
    with sheet("payload_memory") as drawn:
        for subject, group in by_subject(runners).items():
            line(drawn.axes, group, "bytes", known[subject])
        logarithmic_x(drawn.axes, size, values(runners, "bytes"))
        drawn.axes.set_ylim(0, max(one.median for one in runners) * 1.15)
        drawn.axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
        drawn.axes.set_xlabel("JSON of the items")
    return Picture(drawn.svg, tuple(known.values()))


def growth_latency(run: Run) -> Picture | None:
    """The latencies of the tasks so far, window by window."""
    windows = of(run, "growth_latency")
    if not windows:
        return None
    known = marks_of(run, windows)
    with sheet("growth_latency", height=2.4) as drawn:
        for subject, group in by_subject(windows).items():
            band(drawn.axes, group, "tasks", known[subject])
            line(drawn.axes, group, "tasks", known[subject])
        drawn.axes.set_ylim(0, max(one.percentile(95) for one in windows) * 1.25)
        drawn.axes.yaxis.set_major_formatter(lambda value, _: duration(value) if value else "0")
        tasks_axis(drawn.axes)
    return Picture(drawn.svg, tuple(known.values()))


def growth_memory(run: Run) -> Picture | None:
    """Memory after so many tasks: of the whole tree, and (hollow) of the main process alone."""
    windows = of(run, "growth_memory")
    if not windows:
        return None
    known = marks_of(run, windows)
    with sheet("growth_memory", height=2.4) as drawn:
        for part in ("tree", "main"):
            for subject, group in by_subject(of(run, "growth_memory", part=part)).items():
                line(drawn.axes, group, "tasks", known[subject], hollow=part == "main")
        drawn.axes.set_ylim(0, max(one.median for one in windows) * 1.25)
        drawn.axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} MB" if value else "0")
        tasks_axis(drawn.axes)
    return Picture(drawn.svg, tuple(known.values()))


def start(run: Run) -> Picture | None:
    """From the start of the process to its registration, and from there to the first result."""
    begun = of(run, "start_registered")
    if not begun:
        return None
    registered, first = _medians(begun), _medians(of(run, "start_first_result"))
    rest = {subject: max(0.0, first[subject] - since) for subject, since in registered.items() if subject in first}
    parts = {"registered": registered, "first result": rest}
    return stacked("start", marks_of(run, begun), parts, first, duration)


def pandas(run: Run) -> Picture | None:
    """A trivial task beside pandas, and one that uses it."""
    with_pandas, trivial = of(run, "pandas"), of(run, "pandas_trivial")
    if not with_pandas:
        return None
    parts = {"with pandas": _medians(with_pandas), "a trivial task there": _medians(trivial)}
    return grouped("pandas", marks_of(run, with_pandas), parts, duration)


def memory(run: Run) -> Picture | None:
    """Memory of the whole tree when idle, and of each task that runs."""
    idle, tasks = of(run, "idle_memory"), of(run, "task_memory")
    if not idle:
        return None
    parts = {"the whole tree, idle": _medians(idle), "each task that runs": _medians(tasks)}
    return grouped("memory", marks_of(run, (*idle, *tasks)), parts, lambda value: f"{figure(value)} MB")


def webhook(run: Run) -> Picture | None:
    """A webhook through a real n8n: the median, and the range from the 5th to the 95th percentile."""
    workflows = of(run, "webhook")
    if not workflows:
        return None
    known = marks_of(run, workflows)
    with sheet("webhook", height=0.7 + 0.45 * len(workflows)) as drawn:
        for row, one in enumerate(workflows):
            mark = known[one.subject]
            drawn.axes.plot(
                [one.percentile(5), one.percentile(95)], [row, row], color=colour(mark.colour), lw=6, alpha=0.25
            )
            drawn.axes.plot([one.median], [row], color=colour(mark.colour), marker=mark.symbol, ms=7)
            drawn.axes.annotate(
                duration(one.median), (one.median, row), (0, 8), textcoords="offset points", ha="center"
            )
        row_axis(drawn.axes, [one.subject.replace(" ", "\n", 1) for one in workflows])
        drawn.axes.set_xlim(left=0)
        few_ticks(drawn.axes, duration)
    return Picture(drawn.svg)


def _against_size(
    name: str,
    run: Run,
    filled: list[Series],
    param: str,
    text: Text,
    label: str,
    *,
    hollow: list[Series] | None = None,
    floors: list[Series] | None = None,
) -> Picture | None:
    """Times on logarithmic axes."""
    if not filled:
        return None
    known = marks_of(run, filled)
    with sheet(name) as drawn:
        line(drawn.axes, floors or [], param, PARSE)
        for subject, group in by_subject(hollow or []).items():
            line(drawn.axes, group, param, known[subject], hollow=True)
        for subject, group in by_subject(filled).items():
            line(drawn.axes, group, param, known[subject])
        logarithmic_x(drawn.axes, text, values((*filled, *(floors or [])), param))
        logarithmic_y(drawn.axes, duration)
        drawn.axes.set_xlabel(label)
    return Picture(drawn.svg, (*known.values(), *((PARSE,) if floors else ())))


def _medians(series: list[Series]) -> dict[str, float]:
    return {one.subject: one.median for one in series}
