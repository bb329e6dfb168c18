"""The page of the fleet simulation: one HTML file with everything in it, for light and dark, from phone to desk.

Owns the tables, on the page and on the terminal. Must not simulate or draw.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from bench.fleet_plots import pictures
from bench.fleet_record import Fleet, Row
from bench.numerals import figure

HEADINGS = {
    "scale": "Fleets at work",
    "renewal": "Keeping offers open",
    "silence": "A runner falls silent",
    "bursts": "Bursts",
    "restarts": "Restarts of n8n",
    "newcomers": "A new broker",
    "sharing": "Busy brokers that share runners",
    "stale": "Offers whose slot is taken",
}
"""The lists of a record, in the order in which they are shown."""
MILLISECONDS = ("match_p50", "match_p99", "light_p50", "light_p99")
PERCENT = ("load", "n8n_share", "used")
LEFT_OUT = ("curve", "events")

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --quiet: #57606a; --grid: #e4e8ec; --page: #ffffff; --card: #f6f8fa;
  --floor: #6e7781; --ours: #0a66c2; --peer1: #c2410c; --peer2: #15803d; --peer3: #9333ea; --peer4: #a16207;
  --peer5: #be185d; --peer6: #0e7490; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --quiet: #9aa4af; --grid: #2b323b; --page: #0d1117;
  --card: #151b23; --floor: #8b949e; --ours: #58a6ff; --peer1: #fb923c; --peer2: #4ade80; --peer3: #c084fc;
  --peer4: #facc15; --peer5: #f472b6; --peer6: #22d3ee; } }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.2; } h2 { font-size: 1.05rem; margin: 0 0 .25rem; }
p { margin: .25rem 0 .75rem; color: var(--quiet); font-size: .9rem; max-width: 46rem; }
.pictures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 23rem), 1fr)); }
figure { margin: 0; padding: .9rem; background: var(--card); border-radius: .6rem; min-width: 0; }
svg { width: 100%; height: auto; font-family: system-ui, sans-serif; }
details { margin: .75rem 0; } summary { cursor: pointer; font-weight: 600; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--grid); }
th { color: var(--quiet); font-weight: 500; } td.text, th.text { text-align: left; }
"""


def write(fleet: Fleet, path: Path) -> None:
    """Draws everything into one file."""
    figures = "\n".join(
        f"<figure><h2>{html.escape(picture.title)}</h2><p>{html.escape(picture.text)}</p>{picture.svg}</figure>"
        for picture in pictures(fleet)
    )
    tables = "\n".join(
        f"<details><summary>{html.escape(heading)}</summary><div class=wide>{_html_table(rows)}</div></details>"
        for name, heading in HEADINGS.items()
        if (rows := getattr(fleet, name))
    )
    path.write_text(
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>trio-runner: fleet simulation</title><style>{_STYLE}</style>"
        f"<h1>How a fleet of runners behaves</h1><p>{html.escape(summary(fleet))}</p>"
        f"<div class=pictures>{figures}</div><h1>All figures</h1>{tables}</html>\n",
        encoding="utf-8",
    )


def summary(fleet: Fleet) -> str:
    """One sentence about the run."""
    tasks = sum(row.tasks for row in fleet.scale)
    runners = max((row.runners for row in fleet.scale), default=0)
    return (
        f"trio-runner {fleet.version}: real sessions and brokers in virtual time, up to {runners:,} runners and "
        f"{tasks:,} tasks, seed {fleet.seed}{', short form' if fleet.quick else ''}, {fleet.seconds:.0f} s."
    )


def show(fleet: Fleet) -> None:
    """The tables on the terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)  # a file or a pipe: nothing needs to be folded
    for name, heading in HEADINGS.items():
        rows: list[Row] = getattr(fleet, name)
        if not rows:
            continue
        table = Table(title=heading, title_justify="left", header_style="dim", box=None)
        names, cells = _cells(rows)
        for column in names:
            text = column == "policy"
            table.add_column(column.replace("_", " "), justify="left" if text else "right", no_wrap=text)
        for line in cells:
            table.add_row(*line)
        console.print(table)
    console.print(summary(fleet))


def _cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    first = msgspec.to_builtins(rows[0])
    fields = [name for name in first if name not in LEFT_OUT]
    return [_title(name) for name in fields], [[_cell(name, getattr(row, name)) for name in fields] for row in rows]


def _title(field: str) -> str:
    return f"{field} ms" if field in MILLISECONDS else f"{field} %" if field in PERCENT else field


def _cell(field: str, value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    assert isinstance(value, int | float)
    scaled = value * 1000 if field in MILLISECONDS else value * 100 if field in PERCENT else value
    return figure(round(scaled, 3))


def _html_table(rows: Iterable[Row]) -> str:
    names, cells = _cells(list(rows))

    def tag(kind: str, name: str, text: str) -> str:
        return f"<{kind}{' class=text' * (name == 'policy')}>{html.escape(text)}</{kind}>"

    head = "".join(tag("th", name, name.replace("_", " ")) for name in names)
    body = "".join(
        f"<tr>{''.join(tag('td', name, text) for name, text in zip(names, line, strict=True))}</tr>" for line in cells
    )
    return f"<table><tr>{head}</tr>{body}</table>"
