"""What a broker believes about every task, written down while it happens, and what must be true of it in the end.

`WatchedBroker` is the broker's machine with a witness; `Ledger` outlives brokers that are killed and runners that come
back. A task that the broker believed accepted ends once: by one result, by a cancel, or with its connection.
"""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import dataclass

import trio

from trio_runner.protocol.broker import Broker, BrokerAction, BrokerTerms, RawSettings, ToRunner
from trio_runner.protocol.messages import (
    RequesterMessage,
    RunnerMessage,
    TaskAccepted,
    TaskCancel,
    TaskDone,
    TaskError,
    TaskOfferAccept,
    TaskRejected,
)


@dataclass
class Entry:
    """One task, as the broker gave it out on one connection."""

    connection: int
    answered: bool = False
    """Accepted, rejected, or too late for either."""
    accepted: bool = False
    has_settings: bool = False
    results: int = 0
    cancelled: bool = False
    lost: bool = False


class Ledger:
    """All tasks and connections of one lane. ``problems`` must be empty in the end."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.tasks: dict[str, Entry] = {}
        self.problems: list[str] = []
        self.connections = 0
        """How many there were; the number of the present one, too."""
        self.news = trio.Event()
        """Set and replaced whenever anything happens."""
        self._open: dict[str, int] = {}
        self._in_hand: dict[str, Entry] = {}
        """Those of ``tasks`` that have had no end yet."""

    @property
    def connected(self) -> bool:
        """Whether the broker has a runner."""
        return bool(self._open)

    def unanswered(self) -> int:
        """Offers that were taken up and not answered yet."""
        return sum(1 for entry in self._in_hand.values() if not entry.answered)

    def check_ends(self) -> None:
        """Every accepted task must have had its end. To be called when nothing is going on any more."""
        for task_id, entry in self._in_hand.items():
            if entry.accepted:
                self.problems.append(f"task {task_id} was accepted on connection {entry.connection} and never ended")

    def counts(self) -> Counter[str]:
        """Accepted tasks by how they ended."""
        return Counter(
            "result" if entry.results else "cancelled" if entry.cancelled else "lost" if entry.lost else "open"
            for entry in self.tasks.values()
            if entry.accepted
        )

    # What the witness says

    def opened(self, runner_id: str) -> None:
        """A connection takes the place of the one that this runner may have had."""
        self.closed(runner_id)
        self.connections += 1
        self._open[runner_id] = self.connections

    def closed(self, runner_id: str) -> None:
        """A connection is gone, and what it had in hand with it."""
        connection = self._open.pop(runner_id, None)
        for task_id, entry in list(self._in_hand.items()):
            if entry.connection == connection:
                entry.lost = entry.answered = True
                del self._in_hand[task_id]

    def offered(self, runner_id: str, task_id: str) -> None:
        """The broker takes up an offer."""
        if task_id in self.tasks:
            self.problems.append(f"task {task_id} was given out twice")
        self.tasks[task_id] = self._in_hand[task_id] = Entry(self._open.get(runner_id, 0))

    def rejected(self, task_id: str) -> None:
        """The runner did not take the task."""
        if entry := self._in_hand.pop(task_id, None):
            entry.answered = True

    def accepted(self, task_id: str, in_hand: int) -> None:
        """The broker believes that the runner has the task, one of so many."""
        self.tasks[task_id].accepted = self.tasks[task_id].answered = True
        if in_hand > self.capacity:
            self.problems.append(f"{in_hand} tasks at once on a runner with {self.capacity} slots")

    def heard_result(self, runner_id: str, task_id: str, *, done: bool) -> None:
        """The runner sent a result or an error."""
        entry, connection = self.tasks.get(task_id), self._open.get(runner_id)
        if entry is None:
            self.problems.append(f"a result of task {task_id}, which nobody gave out")
            return
        entry.results += 1
        self._in_hand.pop(task_id, None)
        if entry.results > 1:
            self.problems.append(f"task {task_id} has {entry.results} results")
        if entry.connection != connection:
            self.problems.append(f"a result of task {task_id} on connection {connection}, not on {entry.connection}")
        if not entry.accepted:
            self.problems.append(f"a result of task {task_id}, which was not accepted")
        if done and not entry.has_settings:
            self.problems.append(f"a result of task {task_id}, which has no settings yet")

    def told(self, message: TaskOfferAccept | RawSettings | TaskCancel, runner_id: str) -> None:
        """The broker sends the runner a message about a task."""
        if isinstance(message, TaskOfferAccept):
            self.offered(runner_id, message.task_id)
        elif message.task_id in self.tasks:
            entry = self.tasks[message.task_id]
            if isinstance(message, RawSettings):
                entry.has_settings = True
            else:
                entry.cancelled = entry.answered = True
                self._in_hand.pop(message.task_id, None)


class WatchedBroker(Broker):
    """The machine of one broker process; another one may go on with the same ledger."""

    def __init__(self, ledger: Ledger, terms: BrokerTerms) -> None:
        super().__init__(new_task_id=lambda: secrets.token_urlsafe(6), terms=terms)
        self._ledger = ledger

    def in_view(self, now: float) -> int:
        """Slots that this broker knows of: offered, taken up, or busy. A runner that is well shows all it has."""
        return self.open_offers(now) + self._ledger.unanswered() + len(self.open_tasks)

    def connect(self, runner_id: str) -> list[BrokerAction]:
        self._ledger.opened(runner_id)
        return self._noted(super().connect(runner_id))

    def disconnect(self, runner_id: str, now: float) -> list[BrokerAction]:
        self._ledger.closed(runner_id)
        return self._noted(super().disconnect(runner_id, now))

    def receive(self, runner_id: str, message: RunnerMessage, now: float) -> list[BrokerAction]:
        if isinstance(message, TaskDone | TaskError):
            self._ledger.heard_result(runner_id, message.task_id, done=isinstance(message, TaskDone))
        elif isinstance(message, TaskRejected):
            self._ledger.rejected(message.task_id)
        actions = super().receive(runner_id, message, now)
        if isinstance(message, TaskAccepted) and message.task_id in self.open_tasks:
            self._ledger.accepted(message.task_id, list(self.open_tasks.values()).count(runner_id))
        return self._noted(actions)

    def request(self, message: RequesterMessage, now: float) -> list[BrokerAction]:
        return self._noted(super().request(message, now))

    def tick(self, now: float) -> list[BrokerAction]:
        return self._noted(super().tick(now))

    def _noted(self, actions: list[BrokerAction]) -> list[BrokerAction]:
        for action in actions:
            if isinstance(action, ToRunner) and isinstance(action.message, TaskOfferAccept | RawSettings | TaskCancel):
                self._ledger.told(action.message, action.runner_id)
        self._ledger.news.set()
        self._ledger.news = trio.Event()
        return actions
