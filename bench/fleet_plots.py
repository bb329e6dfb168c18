"""The pictures of the fleet simulation: one function per question, each gives an SVG with a title and some words.

Owns what is drawn of which rows. Must not simulate, and must not know the page around it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from bench.fleet_record import Fleet, Restart, n8n_share
from bench.fleet_world import UPGRADES
from bench.numerals import count
from bench.pictures.canvas import Sheet, colour, sheet

COLOURS = ("ours", "peer1", "peer2", "peer3", "peer4", "peer5", "peer6")
SYMBOLS = ("o", "s", "D", "^", "v", "P", "X")
SHOWN_POLICIES = (
    "as shipped",
    "fixed 5 s",
    "doubling to 10 s, no jitter",
    "full jitter to 5 s",
    "full jitter to 30 s",
)


class Picture(NamedTuple):
    """One plot with its words."""

    title: str
    text: str
    svg: str


def pictures(fleet: Fleet) -> Iterator[Picture]:
    """All of them, for the rows that there are."""
    drawings: tuple[tuple[Sequence[object], Callable[[Fleet], Picture]], ...] = (
        (fleet.scale, matching),
        (fleet.renewal, renewing),
        (fleet.restarts, coming_back),
        (fleet.restarts, all_back),
        (fleet.restarts, refusing),
        (fleet.silence, falling_silent),
        (fleet.bursts, spreading),
        (fleet.sharing, sharing),
        (fleet.stale, turning_down),
        (fleet.newcomers, finding),
    )
    for rows, draw in drawings:
        if rows:
            yield draw(fleet)


def matching(fleet: Fleet) -> Picture:
    """Time to match against the number of runners."""
    with sheet("matching") as drawn:
        groups = sorted({row.brokers for row in fleet.scale})
        for number, brokers in enumerate(groups):
            rows = sorted((row for row in fleet.scale if row.brokers == brokers), key=lambda row: row.runners)
            xs = [row.runners for row in rows]
            name = f"{brokers} broker{'s' * (brokers > 1)}"
            _line(drawn, number, xs, [1000 * row.match_p50 for row in rows], name)
            _line(drawn, number, xs, [1000 * row.match_p99 for row in rows], None, dashed=True)
        _log(drawn, "runners, 5 slots each", "ms from request to accept")
        _legend(drawn)
    return Picture(
        "Time to match",
        "From a node's request to a runner's acceptance: median (filled) and 99th percentile (hollow), links of 0.2 to "
        "1 ms. A runner alone at half of its capacity has queues now and then; from ten on, nobody waits.",
        drawn.svg,
    )


def renewing(fleet: Fleet) -> Picture:
    """What n8n pays for offers against the number of slots."""
    terms = sorted({(row.validity, row.jitter) for row in fleet.renewal})
    slots = [10 * 1.5**step for step in range(19)]
    with sheet("renewing") as drawn:
        for number, (validity, jitter) in enumerate(terms):
            mean = validity + jitter / 2
            drawn.axes.plot(slots, [100 * n8n_share(s / mean, s) for s in slots], color=colour(COLOURS[number % 7]))
            rows = [row for row in fleet.renewal if (row.validity, row.jitter) == (validity, jitter)]
            ys = [100 * row.n8n_share for row in rows]
            _line(drawn, number, [row.slots for row in rows], ys, f"{validity:g} to {validity + jitter:g} s", bare=True)
        drawn.axes.axhline(5, color=colour("floor"), linestyle=(0, (4, 2)), linewidth=1)
        drawn.axes.set_ylim(0.005, 100)
        _log(drawn, "slots of all runners at one broker", "% of a processor")
        _legend(drawn, "an offer lives")
    return Picture(
        "What keeping offers open costs n8n",
        "Processor time of n8n for an idle fleet: offers a second from the simulation (points), priced with what a "
        "real n8n spends on one, which grows with the number of open ones. Dashed: 5 %.",
        drawn.svg,
    )


def coming_back(fleet: Fleet) -> Picture:
    """Share of the runners that are back against time."""
    sizes = {row.runners for row in fleet.restarts if row.curve}
    runners = max((size for size in sizes if size <= 300), default=max(sizes))
    rows = {row.policy: row for row in fleet.restarts if row.runners == runners and row.down > 0}
    with sheet("coming-back") as drawn:
        for number, policy in enumerate(SHOWN_POLICIES):
            if row := rows.get(policy):
                xs, ys = [x for x, _ in row.curve], [100 * y for _, y in row.curve]
                _line(drawn, number, [0, *xs], [0, *ys], policy, symbols=False)
        floor = runners / UPGRADES
        drawn.axes.plot([0, floor], [0, 100], color=colour("floor"), linestyle=(0, (4, 2)), label="5 a second")
        drawn.axes.set_xlim(0, 2.6 * floor)
        drawn.axes.set_xlabel("seconds since n8n is back")
        drawn.axes.set_ylabel(f"% of {runners} runners")
        _legend(drawn)
    return Picture(
        f"{runners} runners after a restart of n8n",
        "n8n takes 5 upgrades a second from all runners together. Without jitter whole groups come in the same "
        "moment, five get in, and the others wait for the next round.",
        drawn.svg,
    )


def all_back(fleet: Fleet) -> Picture:
    """Time until all are back against the number of runners."""
    with sheet("all-back") as drawn:
        for number, policy, rows in _by_policy(fleet.restarts):
            _line(drawn, number, [row.runners for row in rows], [max(0.1, row.everybody) for row in rows], policy)
        sizes = sorted({row.runners for row in fleet.restarts})
        drawn.axes.plot(
            sizes, [size / UPGRADES for size in sizes], color=colour("floor"), linestyle=(0, (4, 2)), label="5 a second"
        )
        drawn.axes.axhline(60, color=colour("quiet"), linewidth=0.8)
        drawn.axes.set_ylim(0.2, None)
        _log(drawn, "runners of one broker", "seconds until all are back")
        _legend(drawn)
    return Picture(
        "Until the last runner is back",
        "Mean over several restarts. The thin line is one minute: as long as n8n lets a request wait for a runner.",
        drawn.svg,
    )


def refusing(fleet: Fleet) -> Picture:
    """What the storm costs n8n against the number of runners."""
    with sheet("refusing") as drawn:
        for number, policy, rows in _by_policy(fleet.restarts):
            busy = [(row.runners, 100 * row.n8n_seconds / row.everybody) for row in rows if row.refused >= 1]
            _line(drawn, number, [x for x, _ in busy], [y for _, y in busy], policy)
        drawn.axes.axhline(100, color=colour("floor"), linestyle=(0, (4, 2)), linewidth=1)
        _log(drawn, "runners of one broker", "% of a processor")
        _legend(drawn)
    return Picture(
        "What the refused ones cost n8n meanwhile",
        "Processor time for logins and for upgrades that n8n refuses, as a share of the time until all are back. Above "
        "the dashed line n8n would do nothing else.",
        drawn.svg,
    )


def falling_silent(fleet: Fleet) -> Picture:
    """Tasks that wait for a dead runner against validity."""
    with sheet("falling-silent") as drawn:
        for number, rate in enumerate(sorted({row.tasks_per_s for row in fleet.silence})):
            rows = [row for row in fleet.silence if row.tasks_per_s == rate]
            name = f"{rate:g} task{'s' * (rate != 1)} a second"
            _line(drawn, number, [row.validity for row in rows], [row.late_per_death for row in rows], name)
        drawn.axes.set_ylim(0, 5.5)
        drawn.axes.set_xscale("log")
        _count_axis(drawn, "x", [row.validity for row in fleet.silence])
        drawn.axes.set_xlabel("seconds that an offer lives at least")
        drawn.axes.set_ylabel("tasks 2 s late per death")
        _legend(drawn)
    longest = max(row.longest for row in fleet.silence)
    return Picture(
        "One of four runners vanishes without a word",
        "Its offers stay at the broker until they lapse or one is accepted in vain: that takes 2 s, then n8n drops all "
        f"of them. The longest wait in all of these runs was {longest:.1f} s.",
        drawn.svg,
    )


def spreading(fleet: Fleet) -> Picture:
    """The largest pile of a burst against jitter."""
    runners = fleet.bursts[0].runners
    with sheet("spreading") as drawn:
        kinds = sorted({(row.rest, row.validity) for row in fleet.bursts})
        for number, (rest, validity) in enumerate(kinds):
            rows = [row for row in fleet.bursts if (row.rest, row.validity) == (rest, validity)]
            xs = [100 * row.jitter / row.validity for row in rows]
            _line(drawn, number, xs, [row.most for row in rows], f"{validity:g} s, burst each {rest:g} s")
        drawn.axes.axhline(fleet.bursts[0].drawn, color=colour("floor"), linestyle=(0, (4, 2)), label="drawn at random")
        drawn.axes.set_ylim(0, 5.5)
        drawn.axes.set_xlabel("jitter, % of an offer's validity")
        drawn.axes.set_ylabel("tasks on one runner")
        _legend(drawn)
    return Picture(
        f"{runners} tasks at once for {runners} runners of 5 slots",
        "n8n takes the oldest offer first, and a runner's offers are of the same age unless jitter spreads them. Shown "
        "is how many tasks the runner got that got most; 1 would be ideal, 5 fills it.",
        drawn.svg,
    )


def sharing(fleet: Fleet) -> Picture:
    """Fairness between brokers that are all busy."""
    rows = sorted(fleet.sharing, key=lambda row: row.brokers)
    xs = [row.brokers for row in rows]
    with sheet("sharing") as drawn:
        _line(drawn, 0, xs, [100 * row.used for row in rows], "slots in use")
        _line(drawn, 1, xs, [100 * row.least for row in rows], "share of the broker with least")
        _line(drawn, 2, xs, [100 * row.most for row in rows], "share of the broker with most")
        _line(drawn, 3, xs, [100 * row.rejected_per_task for row in rows], "rejections per 100 tasks")
        drawn.axes.set_xscale("log")
        _count_axis(drawn, "x", xs)
        drawn.axes.set_ylim(0, 125)
        drawn.axes.set_xlabel("busy brokers")
        drawn.axes.set_ylabel("%")
        _legend(drawn)
    light = max(row.light_p99 for row in rows)
    return Picture(
        f"Brokers that all want the same {rows[0].runners} runners",
        "Every broker has more work than all runners can do: shares are percent of a fair one. One more broker has two "
        f"tasks a second; 99 % of them were matched within {1000 * light:.0f} ms at worst.",
        drawn.svg,
    )


def turning_down(fleet: Fleet) -> Picture:
    """Rejections per task against load."""
    with sheet("turning-down") as drawn:
        kinds = sorted({(row.brokers, row.validity) for row in fleet.stale})
        for number, (brokers, validity) in enumerate(kinds):
            rows = [row for row in fleet.stale if (row.brokers, row.validity) == (brokers, validity)]
            ys = [row.rejected_per_task for row in rows]
            _line(drawn, number, [100 * row.load for row in rows], ys, f"{brokers} brokers, {validity:g} s")
        drawn.axes.set_ylim(0, None)
        drawn.axes.set_xlabel("% of the slots that are busy")
        drawn.axes.set_ylabel("rejections per task")
        _legend(drawn)
    return Picture(
        "Offers whose slot another broker took",
        "20 runners offer each slot to every broker. An offer cannot be withdrawn; who accepts one whose slot is taken "
        "is rejected and tries its next one at once, one round trip later. How long offers live changes little.",
        drawn.svg,
    )


def finding(fleet: Fleet) -> Picture:
    """Time to find a new broker against the interval of look-ups."""
    with sheet("finding") as drawn:
        for number, runners in enumerate(sorted({row.runners for row in fleet.newcomers})):
            rows = [row for row in fleet.newcomers if row.runners == runners]
            xs = [row.interval for row in rows]
            _line(drawn, number, xs, [row.everybody for row in rows], f"{runners} runners: all")
            _line(drawn, number, xs, [row.half for row in rows], f"{runners} runners: half", dashed=True)
        _log(drawn, "seconds between look-ups", "seconds until connected")
        _legend(drawn)
    return Picture(
        "A new n8n behind the name that all runners look up",
        "Each runner finds it at its own next look-up. For 100 runners and less than 20 s, the 5 upgrades a second are "
        "the limit.",
        drawn.svg,
    )


def _by_policy(restarts: Iterable[Restart]) -> Iterator[tuple[int, str, list[Restart]]]:
    rows = [row for row in restarts if row.down > 0]
    for number, policy in enumerate(SHOWN_POLICIES):
        if found := sorted((row for row in rows if row.policy == policy), key=lambda row: row.runners):
            yield number, policy, found


def _line(
    drawn: Sheet,
    number: int,
    xs: Sequence[float],
    ys: Sequence[float],
    label: str | None,
    *,
    dashed: bool = False,
    symbols: bool = True,
    bare: bool = False,
) -> None:
    style: dict[str, Any] = {"color": colour(COLOURS[number % len(COLOURS)])}
    if symbols:
        style |= {"marker": SYMBOLS[number % len(SYMBOLS)], "markersize": 4.5}
    if bare:
        style["linestyle"] = "none"
    elif dashed:
        style |= {"linestyle": (0, (1.5, 1.5)), "markerfacecolor": "none"}
    drawn.axes.plot(xs, ys, label=label or "_", **style)


def _log(drawn: Sheet, x: str, y: str) -> None:
    drawn.axes.set_xscale("log")
    drawn.axes.set_yscale("log")
    drawn.axes.set_xlabel(x)
    drawn.axes.set_ylabel(y)
    drawn.axes.xaxis.set_major_formatter(_plain)
    drawn.axes.yaxis.set_major_formatter(_plain)
    drawn.axes.minorticks_off()


def _plain(value: float, _position: float) -> str:
    return count(value) if value >= 1 else f"{value:g}"


def _count_axis(drawn: Sheet, axis: str, values: Iterable[float]) -> None:
    ticks = sorted(set(values))
    target = drawn.axes.xaxis if axis == "x" else drawn.axes.yaxis
    drawn.axes.minorticks_off()
    target.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])


def _legend(drawn: Sheet, title: str | None = None) -> None:
    """Above the axes, where it hides nothing: two columns of short names or one of long ones, for a phone's width."""
    names = drawn.axes.get_legend_handles_labels()[1]
    columns = 1 if max(map(len, names)) > 26 else 2
    drawn.figure.set_figheight(2.9 + 0.19 * math.ceil(len(names) / columns))
    drawn.axes.tick_params(labelsize=10)
    drawn.axes.xaxis.label.set_fontsize(10)
    drawn.axes.yaxis.label.set_fontsize(10)
    drawn.figure.legend(
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        title=title,
        alignment="left",
        fontsize=9.5,
        title_fontsize=9.5,
        handlelength=1.8,
        columnspacing=1.2,
        borderpad=0,
    )
