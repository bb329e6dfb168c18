"""What several pictures share: series in a stable order, lines, bands, bars and axes that people can read.

Owns shapes. Must not choose figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench.numerals import count
from bench.pictures.canvas import Mark, Sheet, colour, marks, sheet
from bench.results import Param, Run, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

SOLID, PALE = 1.0, 0.4
Text = Callable[[float], str]
_WIDE_RANGE: Final = 60.0
"""An axis whose ends are further apart has a tick per power of ten only."""


@dataclass(frozen=True)
class Picture:
    """One drawing and the subjects that are in it."""

    svg: str
    legend: tuple[Mark, ...] = ()


def of(run: Run, figure: str, /, **params: Param) -> list[Series]:
    """The series of a figure, by subject in the order of the run, and by their parameters."""
    order = {subject.name: number for number, subject in enumerate(run.subjects)}
    found = list(run.select(figure, **params))
    return sorted(found, key=lambda one: order.get(one.subject, len(order)))


def by_subject(series: Iterable[Series]) -> dict[str, list[Series]]:
    """In the order in which the subjects come."""
    found: dict[str, list[Series]] = {}
    for one in series:
        found.setdefault(one.subject, []).append(one)
    return found


def marks_of(run: Run, series: Iterable[Series]) -> dict[str, Mark]:
    """The marks of the subjects that are drawn."""
    known = marks(run.subjects)
    return {one.subject: known.get(one.subject, Mark(one.subject, "quiet")) for one in series}


def line(axes: Axes, group: Sequence[Series], param: str, mark: Mark, *, hollow: bool = False) -> None:
    """The medians of one subject against a parameter."""
    points = sorted((float(one.params[param]), one.median) for one in group)
    style = mark.line()
    if hollow:
        style |= {"markerfacecolor": colour("page"), "linewidth": 1.1}
    axes.plot([x for x, _ in points], [y for _, y in points], **style)


def band(axes: Axes, group: Sequence[Series], param: str, mark: Mark) -> None:
    """From the 5th to the 95th percentile of one subject."""
    points = sorted((float(one.params[param]), one.percentile(5), one.percentile(95)) for one in group)
    places, low, high = zip(*points, strict=True)
    axes.fill_between(places, low, high, color=colour(mark.colour), alpha=0.16, linewidth=0)


def values(series: Iterable[Series], param: str) -> list[float]:
    """Every value of a parameter, once."""
    return sorted({float(one.params[param]) for one in series})


def logarithmic_y(axes: Axes, text: Text) -> None:
    """Words at powers of ten, or at 1-2-5 steps where there would be few."""
    axes.set_yscale("log")
    _ticks(axes.yaxis, text, axes.get_ylim())


def logarithmic_x(axes: Axes, text: Text, places: Sequence[float] = ()) -> None:
    """The same; or words at the places that were measured, and nowhere else."""
    limits = axes.get_xlim()
    axes.set_xscale("log")
    if places:
        axes.set_xlim(places[0] / 1.3, places[-1] * 1.3)
    elif limits[0] > 0:
        axes.set_xlim(*limits)  # a linear axis around positive values may begin below zero
    _ticks(axes.xaxis, text, axes.get_xlim(), places)


def _ticks(axis: Axis, text: Text, limits: tuple[float, float], places: Sequence[float] = ()) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    wide = limits[1] / limits[0] > _WIDE_RANGE
    axis.set_major_locator(FixedLocator(places) if places else LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def tasks_axis(axes: Axes) -> None:
    """Tasks so far, from none."""
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda value, _: count(value) if value else "0")
    axes.set_xlabel("tasks so far")


def stacked(
    name: str, known: dict[str, Mark], parts: dict[str, dict[str, float]], totals: dict[str, float], text: Text
) -> Picture:
    """One bar per subject, of a solid and a pale part, with ``totals`` at its end."""
    with sheet(name, height=0.75 + 0.36 * len(known)) as drawn:
        for row, mark in enumerate(known.values()):
            left = 0.0
            for values_of, alpha in zip(parts.values(), (SOLID, PALE), strict=True):
                length = values_of.get(mark.subject, 0.0)
                drawn.axes.barh(row, length, 0.55, left, color=colour(mark.colour), alpha=alpha, linewidth=0)
                left += length
            label(drawn.axes, left, row, text(totals.get(mark.subject, left)))
        _rows(drawn, known, parts)
        few_ticks(drawn.axes, text)
    return Picture(drawn.svg)


def grouped(name: str, known: dict[str, Mark], parts: dict[str, dict[str, float]], text: Text) -> Picture:
    """Two bars per subject, a solid and a pale one, each with its value at its end."""
    with sheet(name, height=0.75 + 0.5 * len(known)) as drawn:
        for row, mark in enumerate(known.values()):
            for values_of, alpha, place in zip(parts.values(), (SOLID, PALE), (-0.19, 0.19), strict=True):
                if (length := values_of.get(mark.subject)) is not None:
                    drawn.axes.barh(row + place, length, 0.34, color=colour(mark.colour), alpha=alpha, linewidth=0)
                    label(drawn.axes, length, row + place, text(length))
        _rows(drawn, known, parts)
        few_ticks(drawn.axes, text)
    return Picture(drawn.svg)


def row_axis(axes: Axes, labels: Sequence[str]) -> None:
    """One word or two per row, from the top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", labelcolor=colour("ink"))
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def few_ticks(axes: Axes, text: Text) -> None:
    """A linear axis from zero, with room for its words on a phone."""
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(lambda value, _: text(value) if value else "0")


def _rows(drawn: Sheet, known: dict[str, Mark], parts: Iterable[str]) -> None:
    row_axis(drawn.axes, [subject.replace(", ", ",\n") for subject in known])
    solid, pale = parts
    words = f"solid: {solid} · pale: {pale}"
    # of the whole figure, since the axes begin behind names of any length
    drawn.figure.suptitle(words, x=0.01, ha="left", fontsize=8.6, color=colour("quiet"))
    drawn.axes.set_xlim(0, drawn.axes.get_xlim()[1] * 1.12)  # room for the words at the end of the longest bar


def label(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Words at the end of a bar, readable over lines."""
    place: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
    axes.annotate(text, (x, y), bbox={"facecolor": colour("page"), "edgecolor": "none", "pad": 0.6}, **place, **style)
