"""One frame of `trio-runner top`: a snapshot drawn for a terminal.

Owns how things are called and coloured there. Texts of workflows are shown as they are, never as markup; the runner has
taken control characters out of them already, and what answered may be no runner, so that is done here again.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trio_runner.health import BrokerState
from trio_runner.log import one_line
from trio_runner.status import FailedTask, RunningTask, Snapshot

_BARS: Final = "▁▂▃▄▅▆▇█"
_OTHER_LINES: Final = 15
"""Of a frame, beside brokers, tasks and failures, if there are any of each."""
_LABEL: Final = 10
_NARROW: Final = 90
"""Columns below which what a broker failed with has a line of its own."""
_GOOD, _WARN, _BAD = "green", "yellow", "red"


def frame(snapshot: Snapshot, *, width: int, height: int | None = None, notice: str = "") -> RenderableType:
    """One screen. Without a ``height`` it is as long as it needs to be."""
    brokers = _brokers(snapshot.brokers, width)
    advice = [Text(line, "dim") for line in textwrap.wrap(_clean(snapshot.advice), width)]
    room = max(2, (height or 10_000) - _OTHER_LINES - len(brokers) - bool(notice) - len(advice))
    tasks = min(len(snapshot.running), max(room // 2, room - len(snapshot.failures)))
    failures = min(len(snapshot.failures), room - tasks)
    parts: list[RenderableType] = [
        _head(snapshot, notice),
        *advice,
        _numbers(snapshot, width),
        _workers(snapshot),
        _finished(snapshot),
        *brokers,
        _sandbox(snapshot),
        Text(),
        _running(snapshot, snapshot.running[:tasks]),
        Text(),
        _failures(snapshot.failures[:failures], len(snapshot.failures) - failures),
    ]
    return Group(*parts)


def _head(snapshot: Snapshot, notice: str) -> RenderableType:
    full, leaving = snapshot.tasks >= snapshot.slots, any(broker.draining for broker in snapshot.brokers)
    style = _WARN if leaving else _BAD if not snapshot.ready else _WARN if full else _GOOD
    head = Text.assemble(
        ("trio_runner ", "bold"),
        (f" {_clean(snapshot.state)} ", f"bold reverse {style}"),
        (f"  {_clean(snapshot.version)} on {_clean(snapshot.runner)}, up {duration(snapshot.uptime)}", "dim"),
        overflow="ellipsis",
        no_wrap=True,
    )
    return Group(Text(f" {notice} ", f"bold reverse {_BAD}"), head) if notice else head


def _numbers(snapshot: Snapshot, width: int) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True, min_width=_LABEL)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="crop")
    columns = max(10, min(60, width - 48))
    history = snapshot.history
    total = [done + failed for done, failed in zip(history.done, history.failed, strict=True)]
    slots = Text(f"{snapshot.tasks} of {snapshot.slots} taken", "bold")
    filled = round(min(1.0, snapshot.tasks / max(1, snapshot.slots)) * columns)
    bar = Text.assemble(("━" * filled, "blue"), ("━" * (columns - filled), "bright_black"))
    table.add_row("slots", slots, bar)
    table.add_row("throughput", Text(f"{rate(snapshot.rate)} tasks/s", "bold"), Text(sparkline(total, columns), "blue"))
    run = Text.assemble((milliseconds(snapshot.run.p50), "bold"), f", 95% below {milliseconds(snapshot.run.p95)}")
    if snapshot.run.p50 is None:
        run = Text("no task lately", "dim")
    table.add_row("run time", run, Text(sparkline(history.p50, columns), "blue"))
    return table


def _line(label: str, *parts: str | tuple[str, str]) -> Text:
    return Text.assemble((f"{label:<{_LABEL + 2}}", "dim"), *parts, overflow="ellipsis", no_wrap=True)


def _workers(snapshot: Snapshot) -> Text:
    if not snapshot.workers_alive:
        return _line("workers", ("none can be made, see the log", _BAD))
    text = f"{snapshot.workers_idle} idle, {snapshot.workers_busy} busy, {snapshot.workers_starting} starting"
    return _line("workers", text, (f"; a task waits {milliseconds(snapshot.queue.p50)}", "dim"))


def _finished(snapshot: Snapshot) -> Text:
    failed = "".join(f", {count} {_clean(name)}" for name, count in snapshot.failed.items())
    return _line("finished", f"{snapshot.done} done", (failed, _BAD))


def _brokers(brokers: Iterable[BrokerState], width: int) -> list[Text]:
    """A line for each; where there is little room, one more for what it failed with, which says the most."""
    lines: list[Text] = []
    for broker in brokers:
        words, style = broker_state(broker)
        again = f" ({broker.reconnects} reconnects)" if broker.reconnects else ""
        state = Text(f"  ● {words}{again}", style)
        name = Text(_clean(broker.broker))
        room = 30 if width >= _NARROW else width - _LABEL - 2 - len(state)
        name.truncate(max(8, room), overflow="ellipsis", pad=width >= _NARROW)
        line = _line("" if lines else "brokers").append(name).append(state)
        lines.append(line)
        if broker.last_error:
            if width < _NARROW:
                lines.append(line := _line(""))
            else:
                line.append("  ")
            line.append(_clean(broker.last_error), "dim" if broker.registered else _BAD)
    return lines


def _sandbox(snapshot: Snapshot) -> Text:
    style = {"full": _GOOD, "degraded": _WARN, "off": _BAD}.get(snapshot.sandbox, "dim")
    wanted = [layer for layer in snapshot.layers if layer.status != "off"]
    missing = [layer.name for layer in wanted if layer.status != "active"]
    if snapshot.sandbox == "off":
        words = "off: programs run with the rights of the runner"
    elif snapshot.sandbox == "unknown":
        words = "not known yet"
    else:
        words = f"{snapshot.sandbox_mode}, {len(wanted) - len(missing)} of {len(wanted)} layers"
        words += f"; missing: {', '.join(missing)}" if missing else ""
    return Text.assemble(("sandbox     ", "dim"), (_clean(words), style), overflow="ellipsis", no_wrap=True)


def _table(title: str, *columns: tuple[str, int, bool]) -> Table:
    """Columns of (name, share of the width that is left, right-aligned)."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, expand=True, padding=(0, 1, 0, 0),
        show_edge=False, pad_edge=False, header_style="dim",
    )  # fmt: skip
    for name, share, right in columns:
        table.add_column(
            name, ratio=share or None, justify="right" if right else "left", no_wrap=True, overflow="ellipsis"
        )
    return table


def _running(snapshot: Snapshot, tasks: list[RunningTask]) -> RenderableType:
    waiting = snapshot.waiting_for_code
    more = len(snapshot.running) - len(tasks) + snapshot.running_more
    title = f"Running tasks: {snapshot.tasks}"
    title += f", {waiting} of them waiting for code and data from n8n" if waiting else ""
    title += f"; {more} younger ones are not shown" if more else ""
    if not tasks:
        return Text(title, "bold")
    table = _table(title, ("age", 0, True), ("workflow › node", 1, False), ("state", 0, False))
    for task in tasks:
        words, style = task_state(task, snapshot.task_timeout)
        table.add_row(duration(task.age), _place(task), Text(words, style))
    return table


def _failures(failures: list[FailedTask], more: int) -> RenderableType:
    if not failures:
        return Text("Recent failures: none", "bold")
    title = "Recent failures" + (f"; {more} older ones are not shown" if more else "")
    columns = (("when", 0, True), ("outcome", 0, False), ("workflow › node", 2, False), ("reason", 3, False))
    table = _table(title, *columns)
    for task in failures:
        outcome = Text(_clean(task.outcome), "dim" if task.outcome == "cancelled" else _BAD)
        outcome.append(f" ×{task.times}" if task.times > 1 else "", "dim")
        when = "now" if task.ago < 1 else f"{duration(int(task.ago))} ago".replace(".0", "")
        table.add_row(when, outcome, _place(task), Text(_clean(task.reason)))
    return table


def broker_state(broker: BrokerState) -> tuple[str, str]:
    """In words, and how they look."""
    if broker.auth_refused:
        return "refused our auth token", _BAD
    if broker.draining:
        return "draining", _WARN
    if broker.registered:
        return "registered", _GOOD
    return ("connected, not registered", _WARN) if broker.connected else ("not connected", _BAD)


def task_state(task: RunningTask, limit: float) -> tuple[str, str]:
    """In words, and how they look."""
    if task.ended:
        return "telling its result", _GOOD
    if task.ran is None:
        return "waits for a worker", _WARN
    return (f"runs, limit {duration(limit)}", _BAD) if task.ran > 0.8 * limit else ("runs", "")


def sparkline(values: Iterable[float | None], columns: int) -> str:
    """The values as bars, the newest on the right; where there is no value there is no bar. Zero is the lowest."""
    rows = list(values)
    per_column = max(1, -(-len(rows) // columns))
    rows = rows[len(rows) % per_column :]
    groups = [rows[start : start + per_column] for start in range(0, len(rows), per_column)]
    highest = [max((value for value in group if value is not None), default=None) for group in groups]
    top = max((value for value in highest if value is not None), default=0)
    return "".join(" " if value is None else _BARS[int(value / top * 7 + 0.5) if top else 0] for value in highest)


def rate(value: float) -> str:
    """Tasks a second, with as many digits as say something."""
    return f"{value:.1f}" if 0 < value < 10 else f"{value:,.0f}"


def milliseconds(value: float | None) -> str:
    """A time, from milliseconds."""
    if value is None:
        return "–"
    if value < 1000:
        return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"
    return f"{value / 1000:.1f} s" if value < 60_000 else duration(value / 1000)


def duration(seconds: float) -> str:
    """A time, from seconds."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{int(seconds)} s"
    minutes = int(seconds) // 60
    if minutes < 60:
        return f"{minutes} min {int(seconds) % 60} s"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"


def _clean(text: str) -> str:
    return one_line(text, 500, "…")


def _place(task: RunningTask | FailedTask) -> Text:
    return Text.assemble(_clean(task.workflow) or "(no name)", (f" › {_clean(task.node) or '(no name)'}", "dim"))
