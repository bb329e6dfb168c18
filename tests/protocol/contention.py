"""Runners and brokers that all want something at once, with latencies, in virtual time: who gets how much, and when.

Real sessions, slots and brokers; what is made up is the distance between them and the work. `simulation` looks for what
must never happen under faults; here nothing fails, and what a rule for sharing does to those who share is measured.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from msgspec import Raw

from trio_runner.protocol.broker import Broker, BrokerAction, BrokerTerms, RawSettings, ToRequester, ToRunner
from trio_runner.protocol.messages import (
    BrokerMessage,
    RequesterSettings,
    ResultData,
    RunnerMessage,
    TaskDone,
    TaskOffer,
    TaskReady,
    TaskRejected,
    TaskRequest,
    TaskSettings,
    TaskSettingsMessage,
)
from trio_runner.protocol.session import Action, OffersDue, OfferTerms, Send, Session, StartTask
from trio_runner.protocol.slots import Slots

TERMS = BrokerTerms(request_timeout=1e6, task_timeout=1e6)
SETTINGS = TaskSettings(code="", node_mode="runOnceForAllItems", items=Raw(b"[]"))


@dataclass(frozen=True)
class Demand:
    """What one broker wants, and how far away it is."""

    backlog: int = 0
    """Requests that always wait: a new one comes for each that is served."""
    rate: float = 0.0
    """Requests a second that come whatever happens."""
    latency: float = 0.0005
    """Seconds that a message is under way; up to a fifth more at random."""


@dataclass(eq=False)
class Office:
    """One broker and what became of its requests."""

    demand: Demand
    broker: Broker
    asked: dict[str, float] = field(default_factory=dict)
    requests: dict[str, str] = field(default_factory=dict)
    waits: list[float] = field(default_factory=list)
    """From the request to the moment that the runner has the task, in the order of the ends."""

    @property
    def served(self) -> int:
        return len(self.waits)


@dataclass(eq=False)
class Line:
    """The connection of one runner with one broker. What is under way arrives in order."""

    office: Office
    runner_id: str
    session: Session
    alarm: float | None = None
    heard: dict[bool, float] = field(default_factory=lambda: {True: 0.0, False: 0.0})


class Lab:
    """A few runners, a few brokers, one clock."""

    def __init__(
        self,
        demands: list[Demand],
        *,
        capacity: int = 1,
        runners: int = 1,
        work: float = 0.05,
        slots_type: type[Slots] = Slots,
        seed: int = 0,
    ) -> None:
        self.now = 0.0
        self.offers = self.rejections = 0
        self.idle = 0.0
        """Seconds that a free slot and a waiting request stood beside each other, slots added up."""
        self._work = work
        self._dice = random.Random(seed)
        self._numbers = itertools.count(1)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._lines: dict[tuple[str, Office], Line] = {}
        self.offices = [Office(demand, Broker(new_task_id=self._id, terms=TERMS)) for demand in demands]
        self.runners = [slots_type(capacity) for _ in range(runners)]
        for number, slots in enumerate(self.runners):
            for office in self.offices:
                self._connect(slots, f"runner{number}", office)
        for office in self.offices:
            for _ in range(office.demand.backlog):
                self._after(0.1, partial(self._request, office))
            if office.demand.rate:
                self._come_again(office)

    def run(self, seconds: float) -> Lab:
        """Lets time pass."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            when, _, event = heapq.heappop(self._events)
            if any(office.broker.queued for office in self.offices):
                self.idle += (when - self.now) * sum(slots.free for slots in self.runners)
            self.now = when
            event()
        self.now = end
        return self

    @property
    def served(self) -> list[int]:
        """Tasks that were started, by broker."""
        return [office.served for office in self.offices]

    @property
    def idle_share(self) -> float:
        """The part of all slots' time that was idle although somebody waited."""
        return self.idle / self.now / sum(slots.capacity for slots in self.runners)

    @property
    def rejections_per_task(self) -> float:
        return self.rejections / max(1, sum(self.served))

    # Requests

    def _come_again(self, office: Office) -> None:
        def come() -> None:
            self._request(office)
            self._come_again(office)

        self._after(self._dice.expovariate(office.demand.rate), come)

    def _request(self, office: Office) -> None:
        request_id = self._id()
        office.asked[request_id] = self.now
        request = TaskRequest(request_id=request_id, task_type="python")
        self._broker_did(office, office.broker.request(request, self.now))

    def _hears(self, office: Office, line: Line, message: RunnerMessage) -> None:
        self._broker_did(office, office.broker.receive(line.runner_id, message, self.now))

    def _broker_did(self, office: Office, actions: list[BrokerAction]) -> None:
        for action in actions:
            match action:
                case ToRunner(runner_id, RawSettings(task_id=task_id)):
                    settings = TaskSettingsMessage(task_id=task_id, settings=SETTINGS)
                    self._send(self._lines[runner_id, office], settings)
                case ToRunner(runner_id, message):
                    self._send(self._lines[runner_id, office], message)  # type: ignore[arg-type]
                case ToRequester(TaskReady() as ready):
                    office.requests[ready.task_id] = ready.request_id
                    settings_given = RequesterSettings(task_id=ready.task_id, settings=Raw(b"{}"))
                    self._broker_did(office, office.broker.request(settings_given, self.now))
                case ToRequester():
                    pass
                case _:
                    raise AssertionError("a runner is thrown out")

    # Runners

    def _connect(self, slots: Slots, runner_id: str, office: Office) -> None:
        session = Session(
            name="r",
            task_type="python",
            slots=slots,
            terms=OfferTerms(),
            new_id=self._id,
            random=self._dice.random,
        )
        line = self._lines[runner_id, office] = Line(office, runner_id, session)
        session.wake = lambda: self._after(0.0, partial(self._look, line))
        self._broker_did(office, office.broker.connect(runner_id))

    def _receives(self, line: Line, message: BrokerMessage) -> None:
        self._session_did(line, line.session.receive(message, self.now))

    def _session_did(self, line: Line, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(message):
                    self.offers += isinstance(message, TaskOffer)
                    self.rejections += isinstance(message, TaskRejected)
                    self._send(line, message)
                case StartTask(task_id):
                    office = line.office
                    office.waits.append(self.now - office.asked.pop(office.requests.pop(task_id)))
                    if office.demand.backlog:
                        self._request(office)
                    self._after(self._dice.expovariate(1 / self._work), partial(self._finish, line, task_id))
                case OffersDue():
                    self._after(0.0, partial(self._look, line))
                case _:
                    pass

    def _finish(self, line: Line, task_id: str) -> None:
        done = TaskDone(task_id=task_id, data=ResultData(result=Raw(b"[]")))
        self._session_did(line, line.session.finish(task_id, done, self.now))

    def _look(self, line: Line) -> None:
        """What the shell's emitter does: tick, offer, sleep until the deadline that it knows of."""
        ticked = line.session.tick(self.now)
        self._session_did(line, [action for action in ticked if not isinstance(action, OffersDue)])
        self._session_did(line, line.session.make_offers(self.now))
        line.alarm = alarm = line.session.next_deadline()
        if alarm is not None:
            self._after(alarm - self.now, lambda: self._look(line) if line.alarm == alarm else None)

    # Time

    def _send(self, line: Line, message: RunnerMessage | BrokerMessage) -> None:
        up = isinstance(message, RunnerMessage)
        latency = line.office.demand.latency * (1 + 0.2 * self._dice.random())
        line.heard[up] = max(self.now + latency, line.heard[up])
        arrive = partial(self._hears, line.office, line) if up else partial(self._receives, line)
        self._after(line.heard[up] - self.now, partial(arrive, message))  # type: ignore[arg-type]

    def _after(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), event))

    def _id(self) -> str:
        return str(next(self._numbers))
