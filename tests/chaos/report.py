"""The end of a run for people: one row per kind of fault, then what became of the tasks, then what was checked."""

from __future__ import annotations

import io
from collections import defaultdict

from rich.console import Console
from rich.table import Table

from tests.chaos.campaign import Result
from tests.chaos.faults import FAULTS, FROZEN, PAIRED, Fault
from tests.chaos.lane import MORE_MEMORY, MORE_ZYGOTE_MEMORY

WIDTH = 118
_SHOWN = 25


def render(result: Result, *, more: tuple[Fault, ...] = (), colour: bool = False) -> str:
    """The whole report as text. ``more`` are kinds of faults besides those that everybody knows."""
    out = io.StringIO()
    console = Console(file=out, width=WIDTH, force_terminal=colour, no_color=not colour, highlight=False)
    console.print(_recoveries(result, (*FAULTS, FROZEN, *more, PAIRED)))
    console.print(_summary(result))
    for problem in result.problems[:_SHOWN]:
        console.print(f"✗ {problem}", markup=False, style="red")
    if len(result.problems) > _SHOWN:
        console.print(f"… and {len(result.problems) - _SHOWN} more problems")
    return out.getvalue()


def _recoveries(result: Result, kinds: tuple[Fault, ...]) -> Table:
    title = f"Seed {result.seed}: {result.survived} of {result.planned} faults survived in {result.seconds:.0f} s"
    table = Table(title=title, caption="Seconds from the end of a fault to five fresh tasks at once on full capacity")
    table.add_column("fault")
    table.add_column("may cost")
    for column in ("faults", "bound", "p50", "p99", "max"):
        table.add_column(column, justify="right")
    table.add_column("")
    taken: defaultdict[str, list[float]] = defaultdict(list)
    late: defaultdict[str, int] = defaultdict(int)
    for recovery in result.recoveries:
        taken[recovery.step.kind].append(recovery.seconds)
        late[recovery.step.kind] += recovery.seconds > recovery.step.bound
    for fault in kinds:
        if seconds := sorted(taken[fault.name]):
            is_pair = fault is PAIRED
            table.add_row(
                fault.name,
                "of both" if is_pair else ", ".join(sorted(cost.name.lower() for cost in fault.costs)) or "nothing",
                str(len(seconds) * (2 if is_pair else 1)),
                "of both" if is_pair else f"{fault.bound:g}",
                *(f"{value:.2f}" for value in (percentile(seconds, 50), percentile(seconds, 99), seconds[-1])),
                f"[red]{late[fault.name]} late[/]" if late[fault.name] else "[green]✓[/]",
            )
    return table


def _summary(result: Result) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    total = result.outcomes.total()
    table.add_row("tasks", f"{total} asked for: " + _listed(result.outcomes))
    if result.endings:
        table.add_row("at the broker", f"{result.endings.total()} accepted, each ended once: {_listed(result.endings)}")
    killed = f"{result.replaced} were killed and replaced"
    table.add_row("runners", f"{killed}; {result.connections} connections in all" if result.connections else killed)
    if any(result.growth):
        table.add_row(
            "memory",
            f"{result.growth[0] / 1024:+.1f} MiB at most since the warm-up ({MORE_MEMORY // 1024} allowed), "
            f"zygotes {result.growth[1] / 1024:+.1f} MiB ({MORE_ZYGOTE_MEMORY // 1024} allowed)",
        )
    if result.stood_still:
        text = (
            f"made processes wait {result.machine_took:.1f} s for memory or the disk; brokers and proxies stood still"
        )
        table.add_row("the machine", f"{text} for {result.stood_still:.2f} s at most")
    verdict = f"[red]{len(result.problems)} problems[/]" if result.problems else (
        "[green]all well[/]: every slot free again, no process, descriptor or memory leaked, every runner ended with 0"
    )  # fmt: skip
    table.add_row("in the end", verdict)
    return table


def percentile(ordered: list[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed."""
    return ordered[max(0, -(-len(ordered) * int(percent) // 100) - 1)]


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
