"""The page: one self-contained HTML file, to be looked at before it is read.

Owns the order of the sections and the HTML. Takes pictures, captions and rows as they are; must not compute figures.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Final

from bench import captions, tables
from bench.numerals import duration, figure
from bench.pictures import draw
from bench.pictures.canvas import Mark
from bench.pictures.strokes import Picture
from bench.results import MACHINE, OURS, Line, Run
from bench.tables import Row, cell, describe_limit, describe_value, floor_cell

LEAD: Final = (
    "A runner for n8n's Python Code node, measured through a real WebSocket on loopback: each task in a process that "
    "was forked ahead, is confined by the kernel and used once; beside peers, and above floors that no runner passes."
)
STYLE: Final = Path(__file__).with_name("page.css")

SECTIONS: Final = (
    (
        "A trivial task",
        "One item, one line of Python: what a task costs before it does anything. Every task of ours runs in a process "
        "of its own, forked ahead and confined by the kernel; the in-process peer isolates nothing.",
        ("latency", "throughput", "latency_growth", "processor", "webhook"),
    ),
    (
        "Payloads",
        "Both axes are logarithmic: a straight line means that time grows with size and nothing else.",
        ("payload_bytes", "payload_items", "payload_memory", "pandas"),
    ),
    (
        "A long life",
        "The same runner, task after task. Anything but flat would be a leak.",
        ("growth_latency", "growth_memory"),
    ),
    (
        "Start and rest",
        "What it costs to have a runner at all.",
        ("start", "memory"),
    ),
    (
        "Messages",
        "Reading and writing the wire vocabulary. Ours leaves the items of a task as they are, because only the task's "
        "own process needs them as objects; the pale bars build them too.",
        ("messages_small", "messages_large", "messages_read", "messages_write"),
    ),
)
NOTES: Final = {
    "latency": "Further left is better. Grey: floors that no runner can pass.",
    "throughput": "Higher is better. Logarithmic axes; grey: floors.",
    "latency_growth": "Bands: from the 5th to the 95th percentile.",
    "processor": "At concurrency 5, kernel time included.",
    "payload_bytes": "Every item comes back as it was; the program runs once for all items.",
    "payload_items": "Filled: the program runs once for all items. Hollow: once per item.",
    "payload_memory": "Growth of the main process's peak over its idle size, divided by the payload.",
    "growth_latency": "Line: median of the window. Band: from the 5th to the 95th percentile.",
    "growth_memory": "Filled: the whole tree (PSS). Hollow: the main process alone (RSS).",
    "memory": "PSS, so that shared pages are counted once.",
    "webhook": "Symbol: median. Band: from the 5th to the 95th percentile.",
    "messages_small": "Speed as a share of bare msgspec on the same structs (dashed); geometric means over messages.",
    "messages_large": "Speed as a share of bare msgspec on the same structs (dashed).",
    "messages_read": "Further left is better. The tick is bare msgspec.",
    "messages_write": "Further left is better. The tick is bare msgspec.",
}
_REACH: Final = 100.0
"""How many times a line may be passed or missed before its dot stops moving."""


def render(run: Run) -> str:
    """The whole document."""
    drawn = draw(run)
    said = {name: sentence for name, caption in captions.CAPTIONS.items() if (sentence := caption(run)) is not None}
    parts = [_header(run), _lines(run)]
    for title, introduction, names in SECTIONS:
        figures = [_figure(drawn[name], said.get(name, ""), NOTES.get(name, "")) for name in names if name in drawn]
        if figures:
            pictures = "".join(figures)
            parts.append(f'<h2>{title}</h2><p>{introduction}</p><div class="pictures">{pictures}</div>')
    parts += [_figures(run), _subjects(run), _reproduce(run)]
    style = re.sub(r"\s*\n\s*", "\n", STYLE.read_text(encoding="utf-8"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>trio-runner, measured</title><style>{style}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _header(run: Run) -> str:
    latency = run.find("latency", OURS, concurrency=1)
    title = "trio-runner, measured"
    if latency is not None:
        title = f"A task takes {duration(latency.median)}, in a fresh process of its own"
    machine = run.machine
    facts = (
        f"{run.started[:10]}, {run.mode} run of {figure(run.seconds)} s",
        f"{machine.processor}, {machine.processors} processors, {figure(machine.memory_mb / 1024)} GiB",
        machine.platform,
        f"Python {machine.python}",
        f"commit {machine.commit}" if machine.commit else "",
        "" if run.noise.noisy else "quiet machine",
    )
    remarks = [*run.failures, *run.noise.remarks]
    notice = f'<div class="notice">{"".join(f"<p>{escape(text)}</p>" for text in remarks)}</div>' if remarks else ""
    return (
        f'<p class="kicker">trio-runner, measured</p><h1>{escape(title)}</h1>'
        f'<p class="lead">{escape(LEAD)}</p>'
        f'<ul class="facts">{"".join(f"<li>{escape(fact)}</li>" for fact in facts if fact)}</ul>{notice}{_tiles(run)}'
    )


def _tiles(run: Run) -> str:
    tiles = []
    for row in tables.rows(run):
        if row.label not in tables.HEADLINES:
            continue
        ours = cell(run, row, OURS)
        assert ours is not None, "rows are those that were measured for ours"
        peers = [(name, found) for name in tables.runners(run)[1:2] if (found := cell(run, row, name)) is not None]
        beside = "".join(
            f"<dd class=quiet>{found.relative} better than the {escape(name)}</dd>" for name, found in peers
        )
        tiles.append(f"<div><dt>{escape(row.label)}</dt><dd>{ours.absolute}</dd>{beside}</div>")
    return f'<dl class="tiles">{"".join(tiles)}</dl>' if tiles else ""


def _lines(run: Run) -> str:
    if not run.lines:
        return ""
    key = (
        '<div class="key"><span><i></i>this run</span><span><i class="them"></i>the runner that n8n ships, where known'
        '</span><span><i class="bar"></i>the line</span><span>left of it is reached, ten times better a quarter further'
        "</span></div>"
    )
    return (
        f"<h2>{escape(captions.verdicts(run))}</h2><p>What must be reached. The unit is one bare interpreter start"
        f"{_unit(run)}, so that figures travel between machines.</p>"
        f'<div class="card lines">{key}{"".join(map(_line, run.lines))}</div>'
    )


def _unit(run: Run) -> str:
    unit = run.find("unit", MACHINE)
    return f", {duration(unit.median)} here" if unit is not None else ""


def _line(line: Line) -> str:
    dots = ""
    if theirs := [float(number) for number in re.findall(r"[\d.]+", line.reference)]:
        dots = f'<i class="them" style="left:{_place(line, sum(theirs) / len(theirs)):.1f}%"></i>'
    if line.value is not None:
        dots += f'<i style="left:{_place(line, line.value):.1f}%"></i>'
    limit = describe_limit(line) + (f" · n8n's runner: {line.reference}" if line.reference else "")
    return (
        f'<div class="line {"unmeasured" if line.value is None else line.verdict}">'
        f'<div class="name"><b>{escape(line.name)}</b><small>{escape(limit)}</small></div>'
        f'<div class="track">{dots}</div>'
        f'<div class="value"><span>{escape(describe_value(line))}</span><small>{escape(line.absolute)}</small></div>'
        f'<div class="mark"><span class="badge">{line.verdict}</span></div></div>'
    )


def _place(line: Line, value: float) -> float:
    """Per cent from the left: the line is in the middle, and left is better."""
    if value <= 0 or line.limit <= 0:
        return 2.0 if not line.least else 98.0
    beyond = line.limit / value if line.least else value / line.limit
    return min(98.0, max(2.0, 50 + 50 * math.log10(beyond) / math.log10(_REACH)))


def _figure(picture: Picture, sentence: str, note: str) -> str:
    legend = "".join(f"<li>{_sample(mark)}{escape(mark.subject)}</li>" for mark in picture.legend)
    svg = picture.svg.replace("<svg ", f'<svg aria-label="{escape(sentence, quote=True)}" ', 1)
    return (
        f"<figure><h3>{escape(sentence)}</h3>{f'<ul class=legend>{legend}</ul>' if legend else ''}{svg}"
        f"<figcaption>{escape(note)}</figcaption></figure>"
    )


_SHAPES: Final = {
    "o": '<circle cx="15" cy="6" r="4"/>',
    "s": '<rect x="11.5" y="2.5" width="7" height="7"/>',
    "D": '<path d="M15 1l5 5-5 5-5-5z"/>',
    "^": '<path d="M15 1.5l5 8.5H10z"/>',
    "v": '<path d="M15 10.5l5-8.5H10z"/>',
    "P": '<path d="M13 1.5h4V4h3v4h-3v2.500h-4V8h-3V4h3z"/>',
    "X": '<path d="M11 2l8 8m0-8l-8 8" stroke-width="3"/>',
    "x": '<path d="M12 3l6 6m0-6l-6 6" stroke-width="1.5"/>',
    "|": '<path d="M15 1v10" stroke-width="2"/>',
}
"""matplotlib's markers, for legends that wrap as text does."""


def _sample(mark: Mark) -> str:
    dashes = f' stroke-dasharray="{" ".join(f"{dash * 1.6:g}" for dash in mark.dashes)}"' if mark.dashes else ""
    return (
        f'<svg viewBox="0 0 30 12" aria-hidden="true" style="stroke:var(--{mark.colour});fill:var(--{mark.colour})">'
        f'<path d="M1 6h28" stroke-width="2"{dashes}/>{_SHAPES.get(mark.symbol, "")}</svg>'
    )


def _figures(run: Run) -> str:
    rows, names = list(tables.rows(run)), tables.runners(run)
    if not rows:
        return ""
    others = [name for name in names if name != OURS]
    ratios = _table(
        ["", OURS, *others, "the floor"],
        [[row.label, *_ratio_cells(run, row, others)] for row in rows],
    )
    absolute = _table(
        ["", *names, "the floor"],
        [[row.label, *_absolute_cells(run, row, names)] for row in rows],
    )
    return (
        "<h2>All figures</h2><p>How many times better ours is than each of the others, compared within rounds. "
        "Below 1 (red), the other one is better. For floors: how far ours is from it.</p>"
        f'<div class="card scroll">{ratios}</div>'
        f'<details class="card"><summary>Absolute values, with the spread of the rounds</summary><div class="scroll">'
        f"{absolute}</div></details>"
    )


def _ratio_cells(run: Run, row: Row, others: Sequence[str]) -> Iterable[str]:
    ours = cell(run, row, OURS)
    yield f'<td class="ours">{ours.absolute if ours else "–"}</td>'
    for name in others:
        found = cell(run, row, name)
        worse = ' class="worse"' if found is not None and found.times < 1 else ""
        yield f"<td{worse}>{found.relative if found else '–'}</td>"
    floor = floor_cell(run, row)
    yield f'<td class="quiet">{floor.relative if floor else "–"}</td>'


def _absolute_cells(run: Run, row: Row, names: Sequence[str]) -> Iterable[str]:
    for found in (*(cell(run, row, name) for name in names), floor_cell(run, row)):
        spread = f" <small>±{found.spread / 2:.0%}</small>" if found and found.spread is not None else ""
        yield f"<td>{found.absolute}{spread}</td>" if found else "<td>–</td>"


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    heads = "".join(f"<th>{escape(name)}</th>" for name in head)
    rows = "".join(f"<tr><th>{escape(label)}</th>{''.join(cells)}</tr>" for label, *cells in body)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _subjects(run: Run) -> str:
    known = "".join(
        f"<tr><th>{escape(subject.name)}</th><td style='text-align:left'>{escape(subject.note)}</td></tr>"
        for subject in run.subjects
    )
    return f"<h2>Who is who</h2><p></p><div class='card'><table><tbody>{known}</tbody></table></div>" if known else ""


def _reproduce(run: Run) -> str:
    left_out = "".join(f"<li>{escape(remark)}</li>" for remark in run.remarks)
    remarks = f"<p>Not measured:</p><ul>{left_out}</ul>" if left_out else ""
    return (
        "<h2>Again, on your machine</h2><p>Rounds are interleaved, ratios are taken within a round, and their median "
        "counts: a machine that slows down for a while changes little.</p>"
        f"<pre><code>uv run python -m bench --{run.mode} --json results.json --html report.html</code></pre>{remarks}"
    )
