"""Shows a run: tables on the terminal, one HTML page of pictures, and the figures of the README.

``python -m bench.report results.json --html report.html --readme`` reads what ``python -m bench --json`` wrote. Owns
the terminal's tables and the Markdown; rows come from `bench.tables`, sentences from `bench.captions`, the page from
`bench.page`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import click

from bench import captions, tables
from bench.numerals import duration, figure
from bench.results import OURS, Line, Run, load
from bench.tables import Cell, cell, describe_limit, describe_value, floor_cell

if TYPE_CHECKING:
    from rich.table import Table

README: Final = Path(__file__).with_name("README.md")
BEGIN: Final = "<!-- figures: written by `python -m bench.report results.json --readme`, not by hand -->"
END: Final = "<!-- /figures -->"
_STYLES: Final = {"reached": "green", "missed": "bold red", "not measured": "dim"}


@click.command()
@click.argument("results", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--html", "html_file", type=click.Path(dir_okay=False, path_type=Path), help="Where to write the page.")
@click.option("--readme", "fill", is_flag=True, help="Puts the figures between the markers of bench/README.md.")
def main(results: Path, html_file: Path | None, *, fill: bool) -> None:
    """Shows the run that RESULTS, a JSON file of the benchmark, holds."""
    run = load(results)
    print_run(run)
    if html_file is not None:
        try:
            write_html(run, html_file)
        except ImportError as error:
            raise click.ClickException(f"{error}; uv run --group bench has it") from None
    if fill:
        try:
            fill_readme(run, README)
        except ValueError as error:
            raise click.ClickException(str(error)) from None


def print_run(run: Run, out: IO[str] | None = None) -> None:
    """The verdicts, then ratios, then absolute values, then what disturbed the run; to standard output by default."""
    from rich.console import Console

    console = Console(file=out or sys.stdout, width=None if (out or sys.stdout).isatty() else 150)
    for table in (_verdicts(run), _ratios(run), _absolute(run), _codecs(run)):
        if table.row_count:
            console.print(table)
    console.print(captions.verdicts(run), style="bold", markup=False)
    for text in (*run.failures, *run.noise.remarks, *run.remarks):
        console.print(text, style="yellow", markup=False)


def write_html(run: Run, path: Path) -> None:
    """One self-contained page. Needs matplotlib."""
    from bench.page import render

    path.write_text(render(run), encoding="utf-8")


def fill_readme(run: Run, path: Path) -> None:
    """Replaces what stands between the markers. Raises ValueError when they are not there, or when the run is no good.

    What everybody reads must be what the full command gives.
    """
    parts = ("latency", "echo", "growth_latency", "codec")
    if run.mode != "full" or not all(run.find(part, OURS) for part in parts):
        raise ValueError(
            f"The README takes the figures of a full run of all parts; this is a {run.mode} one, or of some"
        )
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no markers for the figures")
    path.write_text(f"{before}{BEGIN}\n{markdown(run)}{END}{after}", encoding="utf-8")


def markdown(run: Run) -> str:
    """The verdicts, the gist of the pictures, and the ratios, as Markdown."""
    machine = run.machine
    parts = [
        f"{run.started[:10]}, {machine.processor}, {machine.processors} processors, {machine.platform}, Python "
        f"{machine.python}, commit {machine.commit or 'unknown'}; a bare interpreter start: {duration(run.unit_ms)}.",
        " ".join(run.noise.remarks),
        f"**{captions.verdicts(run)}.**",
        _markdown_table(
            ("figure", "measured", "line", "n8n's runner", "verdict"),
            [(line.name, _measured(line), describe_limit(line), line.reference, line.verdict) for line in run.lines],
        ),
        "What the pictures say:",
        "".join(f"- {said}\n" for caption in captions.CAPTIONS.values() if (said := caption(run)) is not None),
        "How many times better ours is than each of the others, and how far it is from the floor:",
        _markdown_table(("figure", *_columns(run)), [(row[0], *row[1:]) for row in _ratio_rows(run)]),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _measured(line: Line) -> str:
    value = describe_value(line)
    return f"{value} ({line.absolute})" if line.absolute else value


def _markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |\n" for line in lines)


def _columns(run: Run) -> list[str]:
    return [OURS, *(name for name in tables.runners(run) if name != OURS), "the floor"]


def _ratio_rows(run: Run) -> Iterable[list[str]]:
    others = [name for name in tables.runners(run) if name != OURS]
    for row in tables.rows(run):
        ours = cell(run, row, OURS)
        ratios = [*(cell(run, row, name) for name in others), floor_cell(run, row)]
        yield [row.label, ours.absolute if ours else "–", *(found.relative if found else "–" for found in ratios)]


def _table(title: str, columns: Sequence[str], *, note: str = "") -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", caption=note or None, caption_justify="left", box=box.SIMPLE_HEAD)
    for number, name in enumerate(columns):
        table.add_column(escape(name), justify="right" if number else "left", overflow="fold")
    return table


def _verdicts(run: Run) -> Table:
    table = _table("What must be reached", ("", "measured", "line", "verdict", "absolute", "n8n's runner"))
    for line in run.lines:
        cells = (
            describe_value(line),
            describe_limit(line),
            f"[{_STYLES[line.verdict]}]{line.verdict}[/]",
            line.absolute,
            line.reference,
        )
        table.add_row(line.name, *cells)
    return table


def _ratios(run: Run) -> Table:
    columns = [OURS, *(f"x {name}" for name in _columns(run)[1:])]
    table = _table("Ratios: how many times better ours is; for the floor, how far ours is from it", ("", *columns))
    for label, ours, *ratios in _ratio_rows(run):
        table.add_row(label, f"[bold]{ours}[/]", *ratios)
    return table


def _absolute(run: Run) -> Table:
    names = tables.runners(run)
    table = _table("Absolute values, ± half the spread of the rounds", ("", *names, "the floor"))
    for row in tables.rows(run):
        cells = [*(cell(run, row, name) for name in names), floor_cell(run, row)]
        table.add_row(row.label, *map(_absolute_text, cells))
    return table


def _absolute_text(found: Cell | None) -> str:
    if found is None:
        return "–"
    return found.absolute if found.spread is None else f"{found.absolute} ±{found.spread / 2:.0%}"


def _codecs(run: Run) -> Table:
    groups = tables.codecs(run)
    names = list(dict.fromkeys(name for group in groups for name in group.microseconds))
    table = _table("Wire vocabulary: how many times as long as ours, geometric means", ("", *names))
    for group in groups:
        ours = group.microseconds[OURS]
        first = f"[bold]{duration(ours / 1000)}, {figure(group.megabytes_per_second[OURS])} MB/s[/]"
        others = [
            f"{figure(group.microseconds[name] / ours)}x" if name in group.microseconds else "–" for name in names[1:]
        ]
        table.add_row(group.label, first, *others)
    return table


if __name__ == "__main__":
    main(prog_name="python -m bench.report")
