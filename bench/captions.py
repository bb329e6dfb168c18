"""The gist of every picture, as one sentence with its figures.

Owns the words. A sentence says what was measured, whether it flatters or not, and is None when nothing was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from bench.codecs import BARE, DATACLASSES
from bench.floors import BARE_TRIO
from bench.numerals import duration, figure, size
from bench.results import FORKSERVER, MACHINE, OURS, Run, Series, ratio
from bench.tables import Codecs, codecs
from bench.vocabulary import SMALL_ITEMS, comparisons

_SAME: Final = 1.1
"""Figures that are no further apart are called the same."""


def verdicts(run: Run) -> str:
    """How many lines were reached."""
    counts = {verdict: sum(line.verdict == verdict for line in run.lines) for verdict in ("reached", "missed")}
    left = len(run.lines) - sum(counts.values())
    text = f"{counts['reached']} of {counts['reached'] + counts['missed']} lines reached"
    return text + (f", {left} not measured in this run" if left else "")


def latency(run: Run) -> str | None:
    """Against the forkserver peer and the bare exchange."""
    ours = run.find("latency", OURS, concurrency=1)
    if ours is None:
        return None
    text = f"Half of all trivial tasks are done within {duration(ours.median)}"
    text += f", 99 % within {duration(ours.percentile(99))}"
    clauses = []
    if (peer := run.find("latency", FORKSERVER, concurrency=1)) is not None:
        clauses.append(f"the median is {_sooner(peer, ours)}")
    if (floor := run.find("exchange", BARE_TRIO, concurrency=1)) is not None:
        clauses.append(f"{figure(ratio(ours, floor))} times the bare exchange of the same messages")
    return _sentence(text, clauses)


def throughput(run: Run) -> str | None:
    """At the default concurrency, against the forkserver peer and both floors."""
    ours = run.find("throughput", OURS, concurrency=5)
    if ours is None:
        return None
    clauses = []
    if (peer := run.find("throughput", FORKSERVER, concurrency=5)) is not None:
        clauses.append(f"{figure(ratio(ours, peer))} times the forkserver peer's")
    for figure_name, subject, params, words in (
        ("exchange_rate", BARE_TRIO, {"concurrency": 5}, "bare exchange"),
        ("fork_rate", MACHINE, {"in_flight": 5}, "bare fork"),
        ("fork_lean_rate", MACHINE, {"in_flight": 5}, "lean fork"),
    ):
        if (floor := run.find(figure_name, subject, **params)) is not None:
            clauses.append(f"{ratio(ours, floor):.0%} of the {words}'s {figure(floor.median)}")
    return _sentence(f"{figure(ours.median)} trivial tasks a second, 5 at a time", clauses)


def latency_growth(run: Run) -> str | None:
    """From one task at a time to many."""
    series = _ordered(run, "latency", "concurrency")
    if len(series) < 2:
        return None
    first, last = series[0], series[-1]
    growth, more = ratio(last, first), float(last.params["concurrency"]) / float(first.params["concurrency"])
    text = f"The median goes from {duration(first.median)} with one task at a time"
    text += f" to {duration(last.median)} with {more:g}"
    return _sentence(text, [f"{figure(growth)} times as long, on {run.machine.processors} processors"])


def processor(run: Run) -> str | None:
    """Of the whole tree."""
    for concurrency in (5, 1, 20):
        tree = run.find("cpu", OURS, part="tree", concurrency=concurrency)
        main = run.find("cpu", OURS, part="main", concurrency=concurrency)
        if tree is None or main is None:
            continue
        text = f"A trivial task costs {duration(tree.median)} of processor time"
        text += f", {duration(main.median)} of it in the main process"
        peer = run.find("cpu", FORKSERVER, part="tree", concurrency=concurrency)
        return f"{text}; the forkserver peer's costs {duration(peer.median)}." if peer else f"{text}."
    return None


def payload_bytes(run: Run) -> str | None:
    """The largest echo, and its floor."""
    series = [one for one in _ordered(run, "echo", "bytes") if one.params["mode"] == "all"]
    if not series:
        return None
    ours = series[-1]
    many = ours.params["bytes"]
    clauses = [_sooner(run.find("echo", FORKSERVER, bytes=many, mode="all"), ours)]
    if (floor := run.find("json", MACHINE, bytes=many)) is not None:
        clauses.append(f"{figure(ratio(ours, floor))} times what it takes to parse and build that JSON once")
    return _sentence(f"{size(float(many))} of items come back after {duration(ours.median)}", clauses)


def payload_items(run: Run) -> str | None:
    """A thousand items in both modes."""
    once, each = (run.find("items", OURS, items=1000, mode=mode) for mode in ("all", "each"))
    if once is None or each is None:
        return None
    text = f"1,000 items take {duration(once.median)} when the program runs once, {duration(each.median)} once per item"
    return _sentence(text, [_sooner(run.find("items", FORKSERVER, items=1000, mode="each"), each)])


def payload_memory(run: Run) -> str | None:
    """At the largest echo."""
    series = _ordered(run, "peak_copies", "bytes")
    if not series:
        return None
    ours = series[-1]
    many = ours.params["bytes"]
    peer = run.find("peak_copies", FORKSERVER, bytes=many)
    text = f"An echo of {size(float(many))} makes the main process larger by {figure(ours.median)} times its bytes"
    return f"{text}; the forkserver peer's by {figure(peer.median)} times." if peer else f"{text}."


def growth_latency(run: Run) -> str | None:
    """The last window against the first."""
    series = _ordered(run, "growth_latency", "tasks")
    if len(series) < 2:
        return None
    first, last = series[0], series[-1]
    text = f"After {int(last.params['tasks']):,} tasks the median is {duration(last.median)}"
    return f"{text}; in the first {int(first.params['tasks']):,} it was {duration(first.median)}."


def growth_memory(run: Run) -> str | None:
    """The last window against the first."""
    series = [one for one in _ordered(run, "growth_memory", "tasks") if one.params.get("part") != "main"]
    series = series or _ordered(run, "growth_memory", "tasks")
    if len(series) < 2:
        return None
    first, last = series[0], series[-1]
    text = f"After {int(last.params['tasks']):,} tasks the runner holds {figure(last.median)} MB"
    return f"{text}; after {int(first.params['tasks']):,} it held {figure(first.median)} MB."


def start(run: Run) -> str | None:
    """In milliseconds and in bare starts."""
    ours, first = run.find("start_registered", OURS), run.find("start_first_result", OURS)
    if ours is None:
        return None
    text = f"Registered with the broker {duration(ours.median)} after its start"
    clauses = [f"{figure(run.in_units(ours))} bare interpreter starts"]
    return _sentence(text, [*clauses, f"first result after {duration(first.median)}" if first else ""])


def pandas(run: Run) -> str | None:
    """Against the trivial task of the same runner."""
    ours, trivial = run.find("pandas", OURS), run.find("pandas_trivial", OURS)
    if ours is None or trivial is None:
        return None
    text = f"A task that imports pandas takes {duration(ours.median)}"
    clauses = [f"{figure(ratio(ours, trivial))} times a trivial one on the same runner"]
    return _sentence(text, [*clauses, _sooner(run.find("pandas", FORKSERVER), ours)])


def memory(run: Run) -> str | None:
    """Idle, and per task."""
    idle, task = run.find("idle_memory", OURS), run.find("task_memory", OURS)
    if idle is None:
        return None
    text = f"The whole tree with its warm workers holds {figure(idle.median)} MB when idle"
    return f"{text}; each task that runs adds {figure(task.median)} MB." if task else f"{text}."


def webhook(run: Run) -> str | None:
    """Ours first, then whatever else was measured."""
    ours = run.find("webhook", OURS)
    if ours is None:
        return None
    others = [one for one in run.select("webhook") if one is not ours]
    clauses = [f"{duration(one.median)} with {one.subject}" for one in others]
    return _sentence(f"A webhook through a real n8n takes {duration(ours.median)} with ours", clauses)


def messages_small(run: Run) -> str | None:
    """Means over all messages."""
    groups = [group for group in codecs(run) if group.items <= SMALL_ITEMS]
    return _messages("A small message", groups)


def messages_large(run: Run) -> str | None:
    """Of the largest number of items."""
    largest = max((group.items for group in codecs(run)), default=0)
    if largest <= SMALL_ITEMS:
        return None
    return _messages(f"A message of {largest:,} items", [group for group in codecs(run) if group.items == largest])


def messages_read(run: Run) -> str | None:
    """The range over the small messages."""
    return _range(run, "decode", "Reading")


def messages_write(run: Run) -> str | None:
    """The range over the small messages."""
    return _range(run, "encode", "Writing")


CAPTIONS: Final[dict[str, Callable[[Run], str | None]]] = {
    make.__name__: make
    for make in (
        latency,
        throughput,
        latency_growth,
        processor,
        payload_bytes,
        payload_items,
        payload_memory,
        growth_latency,
        growth_memory,
        start,
        pandas,
        memory,
        webhook,
        messages_small,
        messages_large,
        messages_read,
        messages_write,
    )
}
"""By the name of the picture."""


def _messages(what: str, groups: Sequence[Codecs]) -> str | None:
    if len(groups) != 2:
        return None
    read, written = groups
    text = f"{what} is read in {duration(read.microseconds[OURS] / 1000)}"
    text += f" and written in {duration(written.microseconds[OURS] / 1000)}"
    clauses = []
    if DATACLASSES in read.microseconds:
        times = [group.microseconds[DATACLASSES] / group.microseconds[OURS] for group in groups]
        clauses.append(f"{figure(times[0])} and {figure(times[1])} times faster than {DATACLASSES}")
    if BARE in read.microseconds:
        shares = [group.microseconds[BARE] / group.microseconds[OURS] for group in groups]
        clauses.append(f"at {shares[0]:.0%} and {shares[1]:.0%} of {BARE}'s speed")
    return _sentence(text, clauses)


def _range(run: Run, operation: str, verb: str) -> str | None:
    small = [one for one in comparisons(run) if one.small and one.operation == operation]
    if not small:
        return None
    low, high = (choose(one.microseconds for one in small) / 1000 for choose in (min, max))
    text = f"{verb} a small message takes ours between {duration(low)} and {duration(high)}"
    bare = [1 / one.times[BARE] for one in small if BARE in one.times]
    peer = [one.times[DATACLASSES] for one in small if DATACLASSES in one.times]
    clauses = [
        f"{figure(min(bare))} to {figure(max(bare))} times {BARE}" if bare else "",
        f"{figure(min(peer))} to {figure(max(peer))} times faster than {DATACLASSES}" if peer else "",
    ]
    return _sentence(text, clauses)


def _sooner(peer: Series | None, ours: Series) -> str:
    if peer is None:
        return ""
    times = ratio(peer, ours)
    if 1 / _SAME < times < _SAME:
        return f"as soon as with the {peer.subject}"
    return f"{figure(max(times, 1 / times))} times {'sooner' if times > 1 else 'later'} than the {peer.subject}"


def _ordered(run: Run, name: str, param: str) -> list[Series]:
    return sorted(run.select(name, OURS), key=lambda one: float(one.params[param]))


def _sentence(text: str, clauses: Sequence[str]) -> str:
    said = [clause for clause in clauses if clause]
    return f"{text}: {'; '.join(said)}." if said else f"{text}."
