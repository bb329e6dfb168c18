"""What is done with a runner in one round: each phase starts it anew, measures, ends it, and records the samples.

Owns which figures come from which runner process. The order of rounds and subjects is run.py's business.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec

from bench import floors, machine, processes, tasks
from bench.loadbroker import Batch, LoadBroker, Session
from bench.plan import Plan
from bench.results import FORKSERVER_PRELOADED, IN_PROCESS, MACHINE, OURS, Run, Subject
from bench.runners import Runner

SETTLE: Final = 0.5
"""Seconds in which a runner may tidy up and make new workers before its sums are read."""
_NO_LIMIT: Final = 1 << 30
_HELD: Final = 5
_LARGE: Final = 5_000_000
"""Bytes from which on a payload gets no warm-up."""
_HUGE: Final = 50_000_000
"""Bytes from which on once is enough."""
_LEAST: Final = 3
"""Samples of a payload, so that the median is not the one that went wrong."""
_KEPT: Final = 300
"""Samples kept of each window of the growth series."""


class Bench(msgspec.Struct):
    """What every phase needs."""

    run: Run
    plan: Plan
    broker: LoadBroker
    parts: frozenset[str]
    turn: int = 0

    def wants(self, *parts: str) -> bool:
        """Whether any of these parts was chosen."""
        return not self.parts.isdisjoint(parts)

    def rounds_of(self, planned: int, subject: Subject) -> int:
        """In how many rounds something slow is done: with others than ours only once, they are there for context."""
        return planned if subject.name == OURS else min(1, planned)

    def record(self, figure: str, subject: str, samples: list[float], /, **params: str | int) -> None:
        """Adds samples to the round under way."""
        self.run.record(figure, subject, samples, turn=self.turn, **params)


def measure_unit(bench: Bench) -> None:
    """Starts bare interpreters. Done before each subject, so that the unit sees the machine that the subject sees."""
    bench.record("unit", MACHINE, machine.interpreter_starts(bench.plan.unit_starts))


def measure_tasks(bench: Bench, subject: Subject) -> None:
    """A runner as it comes: start, latency, throughput up to its own limit of 5, and what it costs when idle."""
    with Runner(subject, bench.broker) as runner:
        session = runner.session
        session.run(tasks.TRIVIAL)
        if bench.wants("start"):
            bench.record("start_registered", subject.name, [runner.registered_ms])
            bench.record("start_first_result", subject.name, [(time.perf_counter() - runner.begun) * 1000])
        _warm_up(bench, session)
        if bench.wants("latency", "throughput"):
            _measure_load(bench, runner, concurrency=1)
        if bench.wants("throughput"):
            _measure_load(bench, runner, concurrency=5)
        if bench.wants("idle") and bench.turn < bench.rounds_of(bench.plan.idle_rounds, subject):
            _measure_idle(bench, runner)


def measure_wide(bench: Bench, subject: Subject) -> None:
    """A runner with 20 slots: throughput there, and the memory of tasks that run."""
    with Runner(subject, bench.broker, MAX_CONCURRENCY="20", STDLIB_ALLOW="time") as runner:
        _warm_up(bench, runner.session)
        if bench.wants("throughput"):
            _measure_load(bench, runner, concurrency=20)
        idle_rounds = bench.rounds_of(bench.plan.idle_rounds, subject)
        if bench.wants("memory") and bench.turn < idle_rounds and subject.name != IN_PROCESS:
            _measure_task_memory(bench, runner)


def measure_payload(bench: Bench, subject: Subject) -> None:
    """Small items by number, then large ones by bytes, with the main process's peak."""
    with Runner(subject, bench.broker) as runner:
        _warm_up(bench, runner.session)
        for count in bench.plan.items:
            for mode in tasks.MODES:
                task = tasks.small_items(count, mode)
                batch = _repeat(bench, runner.session, task)
                bench.record("items", subject.name, batch.milliseconds, items=count, mode=mode)
    for size in bench.plan.echo:
        _measure_echo(bench, subject, size)


def measure_pandas(bench: Bench, subject: Subject) -> None:
    """A runner that allows pandas; whether it imports it ahead of the tasks is its own affair."""
    with Runner(subject, bench.broker, EXTERNAL_ALLOW="pandas,numpy") as runner:
        for figure, task in (("pandas", tasks.PANDAS), ("pandas_trivial", tasks.TRIVIAL)):
            runner.session.run(task)
            batch = runner.session.run(task, count=200, seconds=bench.plan.task_seconds)
            bench.record(figure, subject.name, batch.milliseconds)


def measure_growth(bench: Bench, subject: Subject) -> None:
    """Many tasks through one runner of ours: it must be the same runner at the end."""
    window = bench.plan.growth_tasks // bench.plan.growth_windows
    with Runner(subject, bench.broker) as runner:
        for number in range(1, bench.plan.growth_windows + 1):
            batch = runner.session.run(tasks.TRIVIAL, count=window)
            runner.session.sit(SETTLE / 5)
            thinned = batch.milliseconds[:: max(1, window // _KEPT)]
            done = number * window
            bench.record("growth_latency", subject.name, thinned, tasks=done)
            bench.record("growth_memory", subject.name, [processes.resident(runner.pid)], tasks=done, part="main")
            if (memory := _pss(bench, runner)) is not None:
                bench.record("growth_memory", subject.name, [memory], tasks=done, part="tree")


def measure_exchange(bench: Bench, subject: Subject) -> None:
    """A floor that looks like a runner."""
    with Runner(subject, bench.broker) as runner:
        _warm_up(bench, runner.session)
        for concurrency in (1, 5):
            batch = runner.session.run(
                tasks.TRIVIAL, concurrency=concurrency, count=_NO_LIMIT, seconds=bench.plan.task_seconds / 3, lead=100
            )
            thinned = batch.milliseconds[:: max(1, len(batch.latencies) // _KEPT)]
            bench.record("exchange", subject.name, thinned, concurrency=concurrency)
            bench.record("exchange_rate", subject.name, [batch.rate], concurrency=concurrency)


def measure_floors(bench: Bench) -> None:
    """The floors that need no socket."""
    for in_flight in (1, 5):
        forks = floors.run_fork(in_flight, bench.plan.task_seconds / 2)
        thinned = forks.milliseconds[:: max(1, len(forks.milliseconds) // _KEPT)]
        bench.record("fork", MACHINE, thinned, in_flight=in_flight)
        bench.record("fork_rate", MACHINE, [forks.rate], in_flight=in_flight)
        lean = floors.run_fork(in_flight, bench.plan.task_seconds / 2, lean=True)
        bench.record("fork_lean_rate", MACHINE, [lean.rate], in_flight=in_flight)
    if bench.turn < bench.plan.heavy_rounds:
        for size in bench.plan.echo:
            samples = floors.run_json(size, bench.plan.heavy_seconds / 4)
            bench.record("json", MACHINE, samples, bytes=size, items=tasks.count_of(size))


def _warm_up(bench: Bench, session: Session) -> None:
    """The first tasks pay for caches: of sources, of compiled code, of the allocator."""
    session.run(tasks.TRIVIAL, concurrency=2, count=20, seconds=bench.plan.warm_up_seconds)


def _repeat(bench: Bench, session: Session, task: tasks.Task) -> Batch:
    """A few runs of one task; small ones after one that does not count."""
    if task.payload < _LARGE:
        session.run(task)
    least = _LEAST if task.payload < _HUGE else 1
    return session.run(task, count=50, least=least, seconds=bench.plan.heavy_seconds)


def _measure_load(bench: Bench, runner: Runner, concurrency: int) -> None:
    name = runner.subject.name
    runner.session.sit(SETTLE / 5)
    before = processes.cpu(runner.pid)
    batch = runner.session.run(
        tasks.TRIVIAL,
        concurrency=concurrency,
        count=_NO_LIMIT,
        seconds=bench.plan.task_seconds,
        least=2 * concurrency,  # or a slow runner with many slots would be judged by its first task
        lead=concurrency,
    )
    runner.session.sit(SETTLE / 5)
    used = processes.cpu(runner.pid).since(before)
    done = batch.finished
    bench.record("latency", name, batch.milliseconds, concurrency=concurrency)
    bench.record("throughput", name, [batch.rate], concurrency=concurrency)
    bench.record("broker_cpu", name, [batch.broker_cpu * 1000 / len(batch.latencies)], concurrency=concurrency)
    for part, milliseconds in (("tree", used.tree), ("main", used.main), ("below", used.below)):
        bench.record("cpu", name, [milliseconds / done], part=part, concurrency=concurrency)


def _measure_echo(bench: Bench, subject: Subject, size: int) -> None:
    """One size in a runner of its own, so that its peak is that size's."""
    with Runner(subject, bench.broker) as runner:
        _warm_up(bench, runner.session)
        idle = processes.resident(runner.pid)
        for mode in tasks.MODES if size <= tasks.LARGEST_IN_BOTH_MODES else tasks.MODES[:1]:
            batch = _repeat(bench, runner.session, tasks.echo(size, mode))
            bench.record("echo", subject.name, batch.milliseconds, bytes=size, items=tasks.count_of(size), mode=mode)
        if size >= tasks.LARGEST_IN_BOTH_MODES:  # the allocator's own reserve hides what smaller ones take
            copies = (processes.peak(runner.pid) - idle) * 1e6 / size
            bench.record("peak_copies", subject.name, [copies], bytes=size)


def _measure_idle(bench: Bench, runner: Runner) -> None:
    name = runner.subject.name
    runner.session.sit(SETTLE)
    everybody = runner.tree()
    run_time, switches, begun = processes.run_time(everybody), processes.switches(everybody), time.perf_counter()
    runner.session.sit(bench.plan.idle_seconds)
    seconds = time.perf_counter() - begun
    bench.record("idle_cpu", name, [(processes.run_time(everybody) - run_time) / seconds])
    bench.record("idle_wakeups", name, [(processes.switches(everybody) - switches) / seconds])
    if (memory := _pss(bench, runner)) is not None:
        bench.record("idle_memory", name, [memory])


def _measure_task_memory(bench: Bench, runner: Runner) -> None:
    """With tasks that sleep: what the tree holds more than before, for each of them."""
    runner.session.sit(SETTLE)
    idle = _pss(bench, runner)
    if idle is None:
        return
    seconds = bench.plan.hold_seconds
    running = runner.session.hold(tasks.sleep(seconds), _HELD, limit=seconds / 2)
    if running == _HELD:
        runner.session.sit(seconds / 4)
        busy = _pss(bench, runner)
        if busy is not None:
            bench.record("task_memory", runner.subject.name, [(busy - idle) / _HELD])
    else:  # such as a runner that runs one program after the other
        remark(bench, f"{runner.subject.name}, memory: it does not run {_HELD} tasks at the same time")
    runner.session.settle()


def _pss(bench: Bench, runner: Runner) -> float | None:
    try:
        return processes.pss(runner.tree())
    except PermissionError:
        remark(bench, f"{runner.subject.name}, memory: it closes itself to other processes; only root can look inside")
        return None


def remark(bench: Bench, text: str) -> None:
    """Said once, however many rounds it is true for."""
    if text not in bench.run.remarks:
        bench.run.remarks.append(text)


class Phase(msgspec.Struct, frozen=True):
    """One of the functions above, and when it is called."""

    name: str
    parts: tuple[str, ...]
    """The chosen parts that need it."""
    measure: Callable[[Bench, Subject], None]
    heavy: bool = False
    """Only in the plan's heavy rounds."""
    once: bool = False
    """Only in the first round."""
    only: str = ""
    """The one subject it is for."""
    without: str = ""
    """A subject that is left out."""

    def applies(self, bench: Bench, subject: Subject) -> bool:
        """Whether there is something to do for this subject in this round."""
        heavy = bench.rounds_of(bench.plan.heavy_rounds, subject)
        rounds = 1 if self.once else heavy if self.heavy else bench.plan.rounds
        return (
            bench.wants(*self.parts)
            and bench.turn < rounds
            and self.only in ("", subject.name)
            and self.without != subject.name
        )


EXCHANGE: Final = Phase("bare exchange", ("floors",), measure_exchange)
RUNNER_PHASES: Final = (
    Phase("tasks", ("start", "latency", "throughput", "idle"), measure_tasks),
    Phase("20 slots", ("throughput", "memory"), measure_wide),
    # what the preloaded variant saves is its imports, and pandas or 100 MB take the same time with it
    Phase("pandas", ("pandas",), measure_pandas, without=FORKSERVER_PRELOADED),
    Phase("payload", ("payload",), measure_payload, heavy=True, without=FORKSERVER_PRELOADED),
    Phase("growth", ("growth",), measure_growth, once=True, only=OURS),
)
