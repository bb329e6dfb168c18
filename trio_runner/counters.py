"""What happened so far, in plain numbers: the runner counts here, `/metrics` reads.

Nothing here knows Prometheus: counting one task takes a microsecond or two, where the library's own objects would take
ten times that, and nobody pays for the library who never scrapes. Every label has a fixed set of values, or those of
the configuration: names and ids of workflows, nodes and tasks must never become one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from trio_runner.protocol.messages import RunnerMessage, TaskAccepted, TaskOffer, TaskRejected
from trio_runner.protocol.requests import HELPERS
from trio_runner.protocol.session import REJECT_DRAINING, REJECT_EXPIRED, REJECT_FULL, REJECT_SUSPENDED, Note
from trio_runner.taskrecord import OUTCOMES, TaskRecord

RUN_BUCKETS: Final = (
    *(0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)
"""Seconds. Close together where a trivial task is, then up to the time limits that people set."""
QUEUE_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds, up to the time after which a task without a worker fails."""
_CALL_OUTCOMES: Final = ("success", "error", "refused")
BUILD_BUCKETS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds, from a wheel that is at hand to a slow index."""
_REASONS: Final = {
    REJECT_EXPIRED: "expired",
    REJECT_FULL: "full",
    REJECT_DRAINING: "draining",
    REJECT_SUSPENDED: "no_workers",
}


class Histogram:
    """How many values lie up to each bound, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """One more value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Counters:
    """All numbers of one runner."""

    def __init__(self) -> None:
        self.brokers: dict[str, BrokerCounters] = {}
        self.run = Histogram(RUN_BUCKETS)
        self.queue = Histogram(QUEUE_BUCKETS)
        self.limits = dict.fromkeys(("timeout", "memory", "cpu", "result_size", "prints", "calls"), 0)
        self.call = Histogram(RUN_BUCKETS)
        self.calls = {method: dict.fromkeys(_CALL_OUTCOMES, 0) for method in (*sorted(HELPERS), "data", "other")}
        self.worker_deaths = dict.fromkeys(("idle", "lease", "task"), 0)
        self.forks = 0
        self.fork_failures = 0
        self.environments = 0
        """Environments of programs with packages of their own that have workers now."""
        self.builds = dict.fromkeys(("built", "resolver", "timeout", "size", "internal"), 0)
        self.build_time = Histogram(BUILD_BUCKETS)
        self.task_ended: Callable[[TaskRecord], None] | None = None
        """Who is told of each task that was started and has ended: see `listen`."""
        self.task_not_started: Callable[[str, Note], None] | None = None
        """To be set by whoever wants to know the tasks that ended before, with their broker. Must not wait."""

    def listen(self, listener: Callable[[TaskRecord], None]) -> None:
        """``listener`` wants to know each task that has ended, besides those who do so already. Must not wait."""
        earlier = self.task_ended
        self.task_ended = listener if earlier is None else partial(_tell_both, earlier, listener)

    def called(self, method: str, outcome: str, seconds: float | None = None) -> None:
        """A call of a program to n8n has ended: answered after so many seconds, or refused here."""
        self.calls[method][outcome] += 1
        if seconds is not None:
            self.call.observe(seconds)

    def broker(self, name: str) -> BrokerCounters:
        """The numbers of one broker, or of all those behind one name of the configuration."""
        return self.brokers.setdefault(name, BrokerCounters(name, self))


class BrokerCounters:
    """What happened with one broker, over all of its connections."""

    def __init__(self, name: str, all_brokers: Counters | None = None) -> None:
        self.name = name
        self.offers = 0
        self.accepts = 0
        self.rejections = dict.fromkeys((*_REASONS.values(), "other"), 0)
        self.tasks = dict.fromkeys(OUTCOMES, 0)
        self.connections = 0
        self.reconnects = 0
        self.failures = dict.fromkeys(("unreachable", "rate_limited", "grant_refused", "auth_refused", "lost"), 0)
        self._all = all_brokers or Counters()
        self._received = 0
        self._sent = 0
        self._open: list[Callable[[], tuple[int, int]]] = []

    def said(self, message: RunnerMessage) -> None:
        """A message that goes to the broker."""
        kind = type(message)
        if kind is TaskOffer:
            self.offers += 1
        elif kind is TaskAccepted:
            self.accepts += 1
        elif isinstance(message, TaskRejected):
            self.rejections[_REASONS.get(message.reason, "other")] += 1

    def connected(self, *, again: bool) -> None:
        """A connection was made."""
        self.connections += 1
        self.reconnects += again

    def failed(self, reason: str) -> None:
        """A connection could not be made, or was lost."""
        self.failures[reason] += 1

    @contextmanager
    def counting(self, moved: Callable[[], tuple[int, int]]) -> Iterator[None]:
        """A connection is open for the block; ``moved`` says how many bytes came and went on it so far."""
        self._open.append(moved)
        try:
            yield
        finally:
            self._open.remove(moved)
            received, sent = moved()
            self._received += received
            self._sent += sent

    def moved(self) -> tuple[int, int]:
        """Bytes that came and went so far, over all connections."""
        received, sent = self._received, self._sent
        for moved in self._open:
            more_received, more_sent = moved()
            received += more_received
            sent += more_sent
        return received, sent

    def not_started(self, note: Note) -> None:
        """A task that was accepted has ended before it was started."""
        self.tasks[note.outcome] += 1
        if self._all.task_not_started is not None:
            self._all.task_not_started(self.name, note)

    def ended(self, record: TaskRecord) -> None:
        """A task that was started is over, and nothing of it is left."""
        everything = self._all
        self.tasks[record.outcome or "lost"] += 1
        everything.queue.observe(record.queued)
        if (ran := record.ran) is not None:
            everything.run.observe(ran)
        if everything.task_ended is not None:
            everything.task_ended(record)


def _tell_both(one: Callable[[TaskRecord], None], other: Callable[[TaskRecord], None], record: TaskRecord) -> None:
    one(record)
    other(record)
