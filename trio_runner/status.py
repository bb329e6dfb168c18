"""The runner at a glance, for the status page and `trio-runner top`: how it is, what it does, what went wrong lately.

Owns what is remembered for that (the last two minutes by the second, the last failures) and the shape of a snapshot.
Is told the time and what others know; has no clock, no timer and no socket of its own. Every text in a snapshot is one
line without control characters, cut to a length that fits a screen: names and reasons are whatever a workflow says.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Final, Literal

import msgspec

from trio_runner.counters import Counters
from trio_runner.health import BrokerState, Readiness
from trio_runner.log import one_line
from trio_runner.protocol.session import Note
from trio_runner.sandbox.records import UNAVAILABLE, Layer
from trio_runner.taskrecord import TaskRecord

KEPT_SECONDS: Final = 120
KEPT_FAILURES: Final = 50
SHOWN_TASKS: Final = 100
"""Running tasks that are named one by one, the oldest; a runner can have a thousand."""
SAMPLES: Final = 256
"""Times that are kept of one second: what comes on top is counted, and taken to be like these."""
RATE_SECONDS: Final = 10
_QUANTILE_SAMPLES: Final = 500
_QUANTILE_SECONDS: Final = 60
_LONGEST_NAME: Final = 80
_LONGEST_REASON: Final = 300

Sandbox = Literal["full", "degraded", "off", "unknown"]


class Quantiles(msgspec.Struct, frozen=True):
    """Milliseconds; None where there was no task."""

    p50: float | None = None
    p95: float | None = None


class History(msgspec.Struct, frozen=True):
    """The last full seconds, the oldest first."""

    done: list[int]
    failed: list[int]
    p50: list[float | None]
    p95: list[float | None]


class RunningTask(msgspec.Struct, frozen=True):
    """One task in hand. Ages are seconds: since it was accepted, and since it has a worker (None: has none yet)."""

    age: float
    ran: float | None
    workflow: str
    node: str
    broker: str
    task_id: str
    ended: bool
    """Whether only its result is left to be told."""


class FailedTask(msgspec.Struct, frozen=True):
    """A failure, which may have happened several times: the last of these tasks.

    ``ago`` and ``ran`` are seconds; ``at`` is the time of day.
    """

    at: str
    ago: float
    times: int
    outcome: str
    reason: str
    workflow: str
    node: str
    broker: str
    task_id: str
    ran: float | None


class SandboxLayer(msgspec.Struct, frozen=True):
    """One layer, as `/readyz` and `doctor` name it."""

    name: str
    status: str
    detail: str


class Snapshot(msgspec.Struct, frozen=True):
    """Everything, in one moment. Also what `/status.json` answers."""

    runner: str
    version: str
    at: str
    uptime: float
    ready: bool
    state: str
    """In words: why no task would be taken, or that one would."""
    advice: str
    """What to do about it; nothing while all is well."""
    slots: int
    tasks: int
    waiting_for_code: int
    task_timeout: float
    workers_idle: int
    workers_busy: int
    workers_starting: int
    workers_alive: bool
    zygote_restarts: int
    rate: float
    """Tasks a second, done or not, over `RATE_SECONDS`."""
    run: Quantiles
    queue: Quantiles
    """How long tasks run and how long they wait for a worker, lately."""
    done: int
    failed: dict[str, int]
    """Since the start, the failed ones by outcome."""
    brokers: list[BrokerState]
    running: list[RunningTask]
    running_more: int
    failures: list[FailedTask]
    sandbox: Sandbox
    sandbox_mode: str
    layers: list[SandboxLayer]
    history: History


class _Second:
    """What ended within one second."""

    __slots__ = ("done", "failed", "number", "queued", "ran", "summary")

    def __init__(self, number: int) -> None:
        self.number = number
        self.done = self.failed = 0
        self.ran: list[float] = []
        self.queued: list[float] = []
        self.summary: Quantiles | None = None


class Recent:
    """Tasks by the second in which they ended. A second begins with its first task: idle ones cost nothing."""

    def __init__(self) -> None:
        self._seconds: deque[_Second] = deque(maxlen=KEPT_SECONDS + 1)  # and the one that is not over

    def note(self, record: TaskRecord) -> None:
        """A task has ended."""
        number = int(record.ended_at)
        seconds = self._seconds
        if not seconds or seconds[-1].number < number:
            seconds.append(_Second(number))
        second = seconds[-1]  # also for a task whose end is told after that of a later one
        if record.outcome == "done":
            second.done += 1
        else:
            second.failed += 1
        if len(second.queued) < SAMPLES:
            second.queued.append(record.queued)
            if (ran := record.ran) is not None:
                second.ran.append(ran)

    def history(self, now: float) -> History:
        """The last `KEPT_SECONDS` full seconds."""
        kept = {second.number: second for second in self._seconds}
        end = int(now)
        seconds = [kept.get(number) for number in range(end - KEPT_SECONDS, end)]
        summaries = [_summary(second) for second in seconds]
        return History(
            done=[second.done if second else 0 for second in seconds],
            failed=[second.failed if second else 0 for second in seconds],
            p50=[summary.p50 for summary in summaries],
            p95=[summary.p95 for summary in summaries],
        )

    def rate(self, now: float) -> float:
        """Tasks a second over the last `RATE_SECONDS` full ones."""
        end = int(now)
        lately = (second for second in self._seconds if end - RATE_SECONDS <= second.number < end)
        return sum(second.done + second.failed for second in lately) / RATE_SECONDS

    def quantiles(self, now: float) -> tuple[Quantiles, Quantiles]:
        """How long tasks ran and waited: of the last minute, or of its end if that has enough of them."""
        ran: list[float] = []
        queued: list[float] = []
        for second in reversed(self._seconds):
            if second.number < now - _QUANTILE_SECONDS or len(queued) >= _QUANTILE_SAMPLES:
                break
            ran += second.ran
            queued += second.queued
        return _quantiles(ran), _quantiles(queued)


def _summary(second: _Second | None) -> Quantiles:
    if second is None:
        return Quantiles()
    if second.summary is None:  # it is over: once is enough
        second.summary = _quantiles(second.ran)
    return second.summary


def _quantiles(values: list[float]) -> Quantiles:
    if not values:
        return Quantiles()
    ordered = sorted(values)
    middle, high = (ordered[math.ceil(len(ordered) * part) - 1] for part in (0.5, 0.95))
    return Quantiles(p50=round(middle * 1000, 3), p95=round(high * 1000, 3))


class _Failure(msgspec.Struct):
    ended_at: float
    times: int
    outcome: str
    reason: str
    workflow: str
    node: str
    broker: str
    task_id: str
    ran: float | None


class Board:
    """What one runner remembers for whoever looks. The state of the moment comes from the callables."""

    def __init__(
        self,
        counters: Counters,
        *,
        runner: str,
        version: str,
        task_timeout: float,
        sandbox_mode: str,
        readiness: Callable[[], Readiness],
        running: Callable[[], Collection[TaskRecord]],
        layers: Callable[[], Iterable[Layer]],
        now: Callable[[], float],
    ) -> None:
        """``now`` is the clock of the task records."""
        self._counters = counters
        self._runner = runner
        self._version = version
        self._task_timeout = task_timeout
        self._sandbox_mode = sandbox_mode
        self._readiness = readiness
        self._running = running
        self._layers = layers
        self._now = now
        self._started_at = now()
        self._recent = Recent()
        self._failures: OrderedDict[tuple[str, ...], _Failure] = OrderedDict()
        counters.listen(self._task_ended)
        counters.task_not_started = self._task_not_started

    def _task_ended(self, record: TaskRecord) -> None:
        self._recent.note(record)
        if record.outcome != "done":
            settings = record.settings
            self._note_failure(
                _Failure(
                    ended_at=record.ended_at,
                    times=1,
                    outcome=record.outcome or "lost",
                    reason=one_line(record.reason or "Nothing more is known", _LONGEST_REASON, "…"),
                    workflow=_name(settings.workflow_name),
                    node=_name(settings.node_name),
                    broker=record.broker,
                    task_id=_name(record.task_id),
                    ran=record.ran,
                )
            )

    def _task_not_started(self, broker: str, note: Note) -> None:
        self._note_failure(
            _Failure(
                ended_at=self._now(),
                times=1,
                outcome=note.outcome,
                reason=one_line(note.text, _LONGEST_REASON, "…"),
                workflow="",
                node="",
                broker=broker,
                task_id=_name(note.task_id),
                ran=None,
            )
        )

    def _note_failure(self, failure: _Failure) -> None:
        """Keeps it, as one with those that are like it: a node that always fails must not hide the others."""
        like = (failure.outcome, failure.workflow, failure.node, failure.reason, failure.broker)
        if (before := self._failures.pop(like, None)) is not None:
            failure.times += before.times
        self._failures[like] = failure
        if len(self._failures) > KEPT_FAILURES:
            self._failures.popitem(last=False)

    def snapshot(self, time_of_day: float) -> Snapshot:
        """Everything as it is now. ``time_of_day`` is that of the wall clock, in seconds, for people to read."""
        now = self._now()
        state = self._readiness()
        words, advice = _in_words(state)
        records = self._running()
        layers = [SandboxLayer(one.name, one.status, one_line(one.detail, _LONGEST_REASON)) for one in self._layers()]
        ran, queued = self._recent.quantiles(now)
        outcomes: Counter[str] = Counter()
        for broker in self._counters.brokers.values():
            outcomes.update(broker.tasks)
        return Snapshot(
            runner=self._runner,
            version=self._version,
            at=_time_of_day(time_of_day),
            uptime=now - self._started_at,
            ready=state.ready,
            state=words,
            advice=advice,
            slots=state.slots,
            tasks=state.tasks,
            waiting_for_code=max(0, state.tasks - len(records)),
            task_timeout=self._task_timeout,
            workers_idle=state.workers_idle,
            workers_busy=state.workers_busy,
            workers_starting=state.workers_starting,
            workers_alive=state.workers_alive,
            zygote_restarts=state.zygote_restarts,
            rate=self._recent.rate(now),
            run=ran,
            queue=queued,
            done=outcomes["done"],
            failed={name: count for name, count in outcomes.items() if count and name != "done"},
            brokers=[_shown(broker) for broker in state.brokers],
            running=[_running(record, now) for record in islice(_oldest_first(records), SHOWN_TASKS)],
            running_more=max(0, len(records) - SHOWN_TASKS),
            failures=[_failed(failure, now, time_of_day) for failure in reversed(self._failures.values())],
            sandbox=_verdict(self._sandbox_mode, layers),
            sandbox_mode=self._sandbox_mode,
            layers=layers,
            history=self._recent.history(now),
        )


def _oldest_first(records: Iterable[TaskRecord]) -> Iterator[TaskRecord]:
    return iter(sorted(records, key=lambda record: record.accepted_at))


def _running(record: TaskRecord, now: float) -> RunningTask:
    return RunningTask(
        age=max(0.0, now - record.accepted_at),
        ran=None if record.leased_at is None else max(0.0, now - record.leased_at),
        workflow=_name(record.settings.workflow_name),
        node=_name(record.settings.node_name),
        broker=record.broker,
        task_id=_name(record.task_id),
        ended=record.outcome is not None,
    )


def _failed(failure: _Failure, now: float, time_of_day: float) -> FailedTask:
    ago = max(0.0, now - failure.ended_at)
    told = {field: getattr(failure, field) for field in failure.__struct_fields__ if field != "ended_at"}
    return FailedTask(at=_time_of_day(time_of_day - ago), ago=ago, **told)


def _name(text: str | None) -> str:
    return one_line(text or "", _LONGEST_NAME, "…")


def _time_of_day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _shown(broker: BrokerState) -> BrokerState:
    # the broker's name stands beside it anyway
    last_error = broker.last_error and broker.last_error.removeprefix(f"{broker.broker}: ")
    if last_error and broker.connected:  # it is over: beside "registered" it would read like the state of now
        last_error = f"earlier: {last_error}"
    last_error = last_error and one_line(last_error, _LONGEST_REASON, "…")
    return msgspec.structs.replace(broker, last_error=last_error)


def _verdict(mode: str, layers: list[SandboxLayer]) -> Sandbox:
    """Whether the sandbox is what was asked for. A layer that is off was not asked for, or is not needed."""
    if mode == "off":
        return "off"
    if not layers:
        return "unknown"
    return "degraded" if any(layer.status == UNAVAILABLE for layer in layers) else "full"


def _in_words(state: Readiness) -> tuple[str, str]:
    """The state, and what to do about it."""
    brokers = state.brokers
    if any(broker.draining for broker in brokers) and not any(broker.registered for broker in brokers):
        return "Draining: takes no more tasks", ""
    if not state.workers_alive:
        return "Not ready: there are no workers", "The log says why none can be made; `trio-runner doctor` tries it."
    if not any(broker.registered for broker in brokers):
        if any(broker.connected for broker in brokers):
            return "Not ready: no broker has registered it", "Is n8n overloaded, or still starting? It does not answer."
        if any(broker.auth_refused for broker in brokers):
            advice = "N8N_RUNNERS_AUTH_TOKEN must be the same for n8n and for this runner."
        else:
            advice = "Is n8n up, with N8N_RUNNERS_MODE=external, and port 5679 in reach? `trio-runner doctor` tries it."
        return "Not ready: no broker is connected", advice
    if state.tasks >= state.slots:
        return (
            "Full: all slots are taken",
            "More tasks wait in n8n: raise N8N_RUNNERS_MAX_CONCURRENCY or add runners.",
        )
    return "Ready", ""
