"""The record of one run of the benchmark: every sample, the machine, the noise, and the verdicts.

Owns the schema of the JSON file and the statistics that everybody uses. Must not measure, judge or print.

All samples are kept by round, because a ratio is only honest between figures of the same round: `ratio` compares
round by round and takes the median of that, so that a machine that slows down between two rounds changes nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

Mode = Literal["full", "quick", "smoke"]
Param = str | int | float | bool

OURS: Final = "trio-runner"
FORKSERVER: Final = "forkserver peer"
FORKSERVER_PRELOADED: Final = "forkserver peer, preloaded"
IN_PROCESS: Final = "in-process peer"
JAVASCRIPT: Final = "n8n's JavaScript runner"
NO_CODE: Final = "n8n without a Code node"
MACHINE: Final = "machine"
"""The subject of what belongs to no runner: the unit, the fork loop, the JSON floor."""

UNITS: Final = {
    # runners; every one of them has a subject that is a runner
    "latency": "ms",  # concurrency: from sending broker:taskofferaccept to receiving runner:taskdone, every sample
    "throughput": "tasks/s",  # concurrency: one sample per round; the runner's own limit is 5, or 20 for 20
    "cpu": "ms/task",  # part (tree, main, below), concurrency; "tree" is main plus everything below it
    "broker_cpu": "ms/task",  # concurrency: what the load broker itself spent
    "echo": "ms",  # bytes, items, mode: every item comes back as it is
    "items": "ms",  # items, mode (all, each): small items, one key added to each
    "pandas": "ms",  # a task that imports pandas and makes a small DataFrame
    "pandas_trivial": "ms",  # the trivial task on the same runner, so with the same modules preloaded
    "start_registered": "ms",
    "start_first_result": "ms",
    "idle_memory": "MB",  # PSS of the whole tree, registered, with warm workers
    "idle_cpu": "ms/s",
    "idle_wakeups": "/s",  # context switches of the whole tree
    "task_memory": "MB",  # PSS of the tree per task that runs (each sleeps), less the idle tree's
    "peak_copies": "copies",  # bytes: growth of the main process's peak RSS by one echo, in copies of its payload
    "growth_latency": "ms",  # tasks: latencies of the window of tasks that ends there
    "growth_memory": "MB",  # tasks, part (main: RSS, tree: PSS): after so many tasks
    # floors; the subject is a client of the load broker, or MACHINE
    "unit": "ms",  # one start of `python -I -S -c pass`
    "exchange": "ms",  # concurrency: the five messages of a task, answered with constant bytes
    "exchange_rate": "tasks/s",  # concurrency
    "fork_rate": "forks/s",  # in_flight: fork of the preloaded zygote, _exit(0), wait
    "fork_lean_rate": "forks/s",  # in_flight: the same without threading's hook, as our zygote forks
    "fork": "ms",  # in_flight
    "json": "ms",  # bytes, items: msgspec parses and builds what an echo of this size carries
    # messages; the subject is a library
    "codec": "µs",  # message, operation (encode, decode), items
    # a real n8n
    "webhook": "ms",  # workflow (py-all, js-all, no-code)
}
"""Every figure, the unit of its samples, and the parameters that tell its series apart."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where the run took place."""

    processor: str
    processors: int
    memory_mb: int
    platform: str
    python: str
    commit: str
    """Short hash, with a ``+`` when the tree had changes; empty outside of a clone."""


class Noise(msgspec.Struct, frozen=True, kw_only=True):
    """Whether other work was going on."""

    load_at_start: float
    """Load average of the last minute before the first measurement."""
    unit_spread: float
    """Interquartile range of all samples of the unit, over their median."""
    steal: float
    """Share of the processors' time that the hypervisor gave to somebody else, 0 to 1."""
    remarks: tuple[str, ...] = ()
    """One sentence for each sign of noise; empty means quiet."""

    @property
    def noisy(self) -> bool:
        """Whether absolute figures of this run should not be compared with those of another."""
        return bool(self.remarks)


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was measured."""

    name: str
    kind: Literal["runner", "peer", "floor", "codec", "workflow"]
    command: tuple[str, ...] = ()
    note: str = ""


class Series(msgspec.Struct, kw_only=True):
    """All samples of one figure of one subject with one set of parameters, by round."""

    figure: str
    subject: str
    params: dict[str, Param] = {}
    rounds: list[list[float]] = []

    @property
    def unit(self) -> str:
        """The unit of the samples."""
        return UNITS[self.figure]

    @property
    def samples(self) -> list[float]:
        """Every sample, in the order in which they were taken."""
        return [sample for one in self.rounds for sample in one]

    @property
    def round_medians(self) -> list[float]:
        """One value per round that has samples."""
        return [statistics.median(one) for one in self.rounds if one]

    @property
    def median(self) -> float:
        """The median of the rounds' medians: one disturbed round does not count."""
        return statistics.median(self.round_medians)

    @property
    def spread(self) -> float:
        """How far the rounds are apart: largest less smallest median, over the median."""
        medians = self.round_medians
        return (max(medians) - min(medians)) / self.median if self.median else 0.0

    def percentile(self, p: float) -> float:
        """Of all samples of all rounds."""
        return percentile(self.samples, p)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One demand on a figure and whether it was reached."""

    name: str
    value: float | None
    """None: not measured in this run."""
    limit: float
    least: bool = False
    """Whether ``limit`` is a lower bound."""
    unit: str
    """What value and limit count: ``units``, ``x the bare exchange``, ``MB``, …"""
    absolute: str = ""
    """The same in milliseconds and the like, for people."""
    reference: str = ""
    """What the runner that n8n ships needed for it, in the same unit, where that is known."""

    @property
    def verdict(self) -> Literal["reached", "missed", "not measured"]:
        """Only "missed" is a failure."""
        if self.value is None:
            return "not measured"
        reached = self.value >= self.limit if self.least else self.value <= self.limit
        return "reached" if reached else "missed"


class Run(msgspec.Struct, kw_only=True):
    """One run of the benchmark."""

    schema: int = 1
    mode: Mode
    started: str
    """ISO time, UTC."""
    seconds: float = 0.0
    machine: Machine
    noise: Noise
    subjects: list[Subject] = []
    series: list[Series] = []
    lines: list[Line] = []
    remarks: list[str] = []
    """What could not be measured, and why: ``forkserver peer, payload: …``."""
    failures: list[str] = []
    """The same for our own runner, where it is a fault."""

    @property
    def unit_ms(self) -> float:
        """Milliseconds of one bare interpreter start."""
        unit = self.find("unit", MACHINE)
        assert unit is not None, "every run measures the unit"
        return unit.median

    def select(self, figure: str, subject: str | None = None, /, **params: Param) -> Iterator[Series]:
        """The series of a figure that have these parameters, and maybe others."""
        for one in self.series:
            if one.figure != figure or (subject is not None and one.subject != subject) or not any(one.rounds):
                continue
            if all(one.params.get(key) == value for key, value in params.items()):
                yield one

    def find(self, figure: str, subject: str, /, **params: Param) -> Series | None:
        """The first such series that has samples, or None."""
        return next(self.select(figure, subject, **params), None)

    def in_units(self, series: Series) -> float:
        """A time as a multiple of a bare interpreter start."""
        unit = self.find("unit", MACHINE)
        assert unit is not None, "every run measures the unit"
        return ratio(series, unit)

    def record(self, figure: str, subject: str, samples: Sequence[float], /, *, turn: int, **params: Param) -> None:
        """Adds samples of round number ``turn`` to their series, which begins to exist with its first samples."""
        assert figure in UNITS, f"{figure} is not a figure"
        for one in self.series:
            if (one.figure, one.subject, one.params) == (figure, subject, params):
                break
        else:
            one = Series(figure=figure, subject=subject, params=dict(params), rounds=[])
            self.series.append(one)
        while len(one.rounds) <= turn:
            one.rounds.append([])
        one.rounds[turn].extend(round(sample, 5) for sample in samples)


def ratio(above: Series, below: Series) -> float:
    """How many times ``above`` is ``below``: the median over the rounds that have both, else of the medians."""
    pairs = [
        statistics.median(a) / statistics.median(b)
        for a, b in zip(above.rounds, below.rounds, strict=False)
        if a and b and statistics.median(b)
    ]
    return statistics.median(pairs) if pairs else above.median / below.median


def percentile(samples: Sequence[float], p: float) -> float:
    """The sample below which ``p`` per cent of them lie; always one that was measured."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))]


def quartile_spread(samples: Sequence[float]) -> float:
    """Interquartile range over the median: how wide the middle half lies."""
    if len(samples) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(samples, n=4)
    return (high - low) / middle if middle else 0.0


def save(run: Run, path: Path) -> None:
    """Writes the JSON file."""
    path.write_bytes(msgspec.json.encode(run) + b"\n")


def load(path: Path) -> Run:
    """Reads the JSON file of a run. Raises `msgspec.ValidationError` for a file of another schema."""
    run = msgspec.json.decode(path.read_bytes(), type=Run)
    if run.schema != 1:
        raise msgspec.ValidationError(f"{path} has schema {run.schema}, this version reads schema 1")
    return run
