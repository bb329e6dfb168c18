"""The command: measures in interleaved rounds, judges, reports. ``python -m bench`` or ``python bench/run.py``.

Owns the order of things: every subject in every round, in an order that is rotated, with the unit taken before each.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import click
import msgspec

ROOT: Final = Path(__file__).resolve().parent.parent
if not __package__:  # started as a script: the folder of this file must not pose as a place for modules
    sys.path[0] = str(ROOT)

from bench import groups  # noqa: E402

if not __package__:
    groups.ensure()

from bench import floors, lines, machine, phases, plan, processes, results, runners, vocabulary  # noqa: E402
from bench.loadbroker import LoadBroker, RunnerError  # noqa: E402
from bench.tasks import WrongResultError  # noqa: E402

Mode = results.Mode
_PLANS: Final[dict[Mode, plan.Plan]] = {"full": plan.FULL, "quick": plan.QUICK, "smoke": plan.SMOKE}


@click.command()
@click.option("--quick", "mode", flag_value="quick", help="About two minutes, without the largest payloads.")
@click.option("--smoke", "mode", flag_value="smoke", help="Under a minute; shows that it works, judges nothing.")
@click.option("--full", "mode", flag_value="full", default=True, help="About eight minutes (the default).")
@click.option("--only", default="", metavar="PART,PART", help=f"Some parts of: {', '.join(plan.PARTS)}.")
@click.option("--rounds", type=click.IntRange(1, 100), help="Interleaved rounds.")
@click.option("--long", is_flag=True, help=f"The growth series up to {plan.LONG_GROWTH:,} tasks; minutes more.")
@click.option(
    "--runner", "others", multiple=True, metavar="NAME=COMMAND", help="Another runner to measure beside ours."
)
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Where to write the figures."
)
@click.option("--html", "html_file", type=click.Path(dir_okay=False, path_type=Path), help="Where to write the page.")
def main(
    mode: Mode,
    only: str,
    rounds: int | None,
    long: bool,
    others: tuple[str, ...],
    json_file: Path | None,
    html_file: Path | None,
) -> None:
    """Measures trio-runner beside its peers and its floors.

    Exit code 1 when a line is missed (in a full run) or our runner failed, 0 otherwise.
    """
    if not sys.platform.startswith("linux"):
        raise click.ClickException("The benchmark reads /proc, which only Linux has.")
    chosen = _PLANS[mode]
    if rounds is not None:
        chosen = msgspec.structs.replace(chosen, rounds=rounds)
    if long:
        chosen = msgspec.structs.replace(chosen, growth_tasks=plan.LONG_GROWTH, growth_windows=20)
    try:
        subjects = runners.with_others(others)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--runner") from None
    run = measure(mode, chosen, parse_parts(only), subjects)
    run.lines = lines.judge(run)
    if json_file is not None:
        results.save(run, json_file)
    show(run, html_file)
    sys.exit(exit_code(run))


def parse_parts(only: str) -> frozenset[str]:
    """The parts to measure; nothing chosen means all of them. Raises `click.BadParameter`."""
    parts = frozenset(part.strip() for part in only.split(",") if part.strip()) or frozenset(plan.PARTS)
    if unknown := parts - plan.PARTS.keys():
        raise click.BadParameter(
            f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(plan.PARTS)}", param_hint="--only"
        )
    return parts


def exit_code(run: results.Run) -> int:
    """Whether the run is bad news: a fault of our runner always is, a missed line only where it was measured well."""
    missed = any(line.verdict == "missed" for line in run.lines)
    return 1 if run.failures or (missed and run.mode == "full") else 0


def measure(mode: Mode, chosen: plan.Plan, parts: frozenset[str], subjects: Sequence[results.Subject]) -> results.Run:
    """All rounds of all subjects."""
    run = machine.new_run(mode)
    run.subjects = [*subjects, *floors.EXCHANGES]
    begun, ticks = time.monotonic(), processes.steal_and_total()
    with LoadBroker() as broker:
        for turn in range(chosen.rounds):
            bench = phases.Bench(run, chosen, broker, parts, turn)
            for name, step in _steps(bench, subjects):
                _say(begun, f"round {turn + 1}/{chosen.rounds}: {name}")
                phases.measure_unit(bench)
                step()
        if "messages" in parts:
            _say(begun, "wire vocabulary")
            vocabulary.measure(
                run,
                rounds=chosen.rounds,
                heavy_rounds=chosen.message_heavy_rounds,
                sizes=chosen.message_sizes,
                batch_seconds=chosen.message_seconds,
            )
    run.seconds = round(time.monotonic() - begun, 1)
    run.noise = machine.judge_noise(run, ticks, processes.steal_and_total())
    return run


def _steps(bench: phases.Bench, subjects: Sequence[results.Subject]) -> list[tuple[str, Callable[[], None]]]:
    """One round: phase by phase, so that the same figure of all subjects is taken within seconds."""

    steps: list[tuple[str, Callable[[], None]]] = []
    for phase in (phases.EXCHANGE, *phases.RUNNER_PHASES):
        here = floors.EXCHANGES if phase is phases.EXCHANGE else subjects
        first = bench.turn % len(here)
        steps += [
            (f"{subject.name}, {phase.name}", partial(_attempt, bench, phase, subject))
            for subject in (*here[first:], *here[:first])
            if phase.applies(bench, subject)
        ]
    if bench.wants("floors"):
        steps.append(("floors without a socket", partial(phases.measure_floors, bench)))
    return steps


def _attempt(bench: phases.Bench, phase: phases.Phase, subject: results.Subject) -> None:
    """A runner that fails a phase has no figures there; the others go on."""
    try:
        phase.measure(bench, subject)
    except (RunnerError, WrongResultError, OSError) as error:
        text = "; ".join([f"{subject.name}, {phase.name}: {error}", *getattr(error, "__notes__", ())])
        if subject.name == results.OURS:
            bench.run.failures.append(text)
        else:
            phases.remark(bench, text)


def _say(begun: float, text: str) -> None:
    print(f"[{time.monotonic() - begun:4.0f} s] {text}", file=sys.stderr, flush=True)


def show(run: results.Run, html_file: Path | None = None) -> None:
    """The tables on the terminal, and the page where it is asked for. Needs what the measurement does without."""
    from bench import report

    report.print_run(run)
    if html_file is not None:
        report.write_html(run, html_file)


if __name__ == "__main__":
    main()
