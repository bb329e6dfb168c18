"""The pictures of the wire vocabulary: everybody's speed as a share of bare msgspec's, and every message's time.

Owns which codecs are drawn on which axes. A function returns None when the run has no messages.
"""

from __future__ import annotations

from typing import Final

from bench.codecs import BARE
from bench.numerals import duration, figure
from bench.pictures.canvas import Mark, colour, marks, sheet
from bench.pictures.strokes import Picture, label, logarithmic_x, row_axis
from bench.results import OURS, Run
from bench.tables import Codecs, codecs
from bench.vocabulary import SMALL_ITEMS, Comparison, Operation, comparisons

_BAR: Final = 0.82
"""Share of its place that a bar fills."""


def messages_small(run: Run) -> Picture | None:
    """The speed of everybody on small messages."""
    return _shares(run, "messages_small", [one for one in codecs(run) if one.items <= SMALL_ITEMS])


def messages_large(run: Run) -> Picture | None:
    """The same for settings and results of many items."""
    return _shares(run, "messages_large", [one for one in codecs(run) if one.items > SMALL_ITEMS])


def messages_read(run: Run) -> Picture | None:
    """The time to read each small message."""
    return _by_message(run, "messages_read", "decode")


def messages_write(run: Run) -> Picture | None:
    """The time to write each small message."""
    return _by_message(run, "messages_write", "encode")


def _shares(run: Run, name: str, groups: list[Codecs]) -> Picture | None:
    """Bars on a linear axis that ends a little behind the floor's speed, with everybody's own time in words."""
    groups = [group for group in groups if BARE in group.microseconds]
    if not groups:
        return None
    known = _marks(run, {codec for group in groups for codec in group.microseconds} - {BARE})
    with sheet(name, height=0.6 + sum(0.17 * len(group.microseconds) + 0.12 for group in groups)) as drawn:
        place, places, longest = 0.0, [], 100.0
        for group in groups:
            first = place
            for codec in known:
                if codec not in group.microseconds:
                    continue
                share = group.microseconds[BARE] / group.microseconds[codec] * 100
                drawn.axes.barh(place, share, _BAR, color=colour(known[codec].colour), linewidth=0)
                text = f"{figure(share)} % · {duration(group.microseconds[codec] / 1000)}"
                label(drawn.axes, share, place, text, fontsize=7.4)
                place, longest = place + 1, max(longest, share)
            places.append((first + place - 1) / 2)
            place += 0.9
        drawn.axes.axvline(100, lw=1.4, color=colour("floor"), ls=(0, (4.0, 2.0)))
        row_axis(drawn.axes, [])
        drawn.axes.set_yticks(places, [group.label.replace(" ", "\n", 1) for group in groups])
        drawn.axes.set_ylim(place - 0.9, -0.7)
        drawn.axes.set_xlim(0, longest * 1.38)
        drawn.axes.set_xticks([0, 50, 100], ["0", "50 %", "100 %"])
    return Picture(drawn.svg, (*known.values(), _bare(run)))


def _by_message(run: Run, name: str, operation: Operation) -> Picture | None:
    """A row per message, a symbol per codec, on a logarithmic axis."""
    compared = [one for one in comparisons(run) if one.small and one.operation == operation]
    if not compared:
        return None
    known = _marks(run, {OURS, *(codec for one in compared for codec in one.times)})
    with sheet(name, height=0.6 + 0.215 * len(compared)) as drawn:
        for row, one in enumerate(compared):
            times = {codec: one.microseconds * factor / 1000 for codec, factor in {**one.times, OURS: 1.0}.items()}
            drawn.axes.plot([min(times.values()), max(times.values())], [row, row], color=colour("grid"), lw=2.5)
            for codec, mark in reversed(known.items()):  # ours over all others
                if codec in times:
                    large, small = (10.0, 1.6), (4.8, 1.0)
                    size, edge = large if codec == BARE else small
                    ink = colour(mark.colour)
                    drawn.axes.plot([times[codec]], [row], color=ink, marker=mark.symbol, ls="", ms=size, mew=edge)
        logarithmic_x(drawn.axes, duration)
        row_axis(drawn.axes, [_describe(one) for one in compared])
        drawn.axes.tick_params(axis="y", labelsize=7.4)
    return Picture(drawn.svg, tuple(known.values()))


def _describe(one: Comparison) -> str:
    items = f", {one.items:,} item{'s' * (one.items > 1)}" if one.items else ""
    return one.tag.partition(":")[2] + items


def _marks(run: Run, wanted: set[str]) -> dict[str, Mark]:
    """Ours first."""
    known = {subject: mark for subject, mark in marks(run.subjects).items() if subject in wanted}
    return dict(sorted(known.items(), key=lambda pair: pair[0] != OURS))


def _bare(run: Run) -> Mark:
    return marks(run.subjects)[BARE]
