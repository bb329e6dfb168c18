"""The runner's half of the protocol: one object per connection, sans-IO.

Rules of this file:
- Every method is synchronous and atomic, takes ``now`` (monotonic seconds) where time matters and returns actions for
  the shell to carry out in order. Ids and jitter are injected, so a run can be replayed.
- A broker message that makes no sense in the current state changes nothing; it is noted and skipped. Nothing that a
  broker sends raises.
- Every path that can change capacity ends in ``_settle``, so that no freed slot is ever forgotten, here or by the other
  sessions of the process.
- A task is in exactly one state: waiting (accepted, no settings yet), running, aborting. Whoever is not in the table is
  gone, and a task id is never started twice on a connection.

The state table is protocol.md 13; the offers are protocol.md 11.
"""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import assert_never

import msgspec

from trio_runner.protocol.messages import (
    BrokerMessage,
    Drain,
    ErrorBody,
    InfoRequest,
    NodeTypes,
    Refused,
    Rpc,
    RpcResponse,
    RunnerInfo,
    RunnerMessage,
    RunnerRegistered,
    TaskAccepted,
    TaskCancel,
    TaskDataRequest,
    TaskDataResponse,
    TaskError,
    TaskOffer,
    TaskOfferAccept,
    TaskRejected,
    TaskReply,
    TaskResult,
    TaskSettings,
    TaskSettingsMessage,
    encode,
)
from trio_runner.protocol.slots import Slots

REJECT_EXPIRED = "Offer expired - not accepted within validity window"
REJECT_FULL = "No open task slots - runner already at capacity"
REJECT_DRAINING = "Runner is shutting down"
REJECT_SUSPENDED = "Runner cannot run tasks now - its worker processes are being started"
ACCEPT_WINDOW_ELAPSED = "Acknowledgement window elapsed"
CONNECTION_LOST = "Connection to the broker was lost"

NO_SETTINGS = "n8n started the task and then did not send the code: it is overloaded. Run the node again. [TR413]"
_REMEMBERED_TASKS = 1024


class OfferTerms(msgspec.Struct, frozen=True, kw_only=True):
    """The clock of the offers, in seconds (protocol.md 11)."""

    validity: float = 5.0
    jitter: float = 0.5
    slack: float = 0.1
    """How much longer than announced an offer is honoured: the broker counts from its receipt."""
    settings_timeout: float = 10.0
    """How long an accepted task may wait for its settings: a broker that forgot it must not keep the slot."""


# What the shell is asked to do


class Send(msgspec.Struct, frozen=True):
    """Write this message."""

    message: RunnerMessage


class StartTask(msgspec.Struct, frozen=True):
    """Run this task; report with `Session.finish` exactly once."""

    task_id: str
    settings: TaskSettings


class AbortTask(msgspec.Struct, frozen=True):
    """Stop this running task, then report with `Session.finish`."""

    task_id: str
    reason: str


class Deliver(msgspec.Struct, frozen=True):
    """Hand this answer to the running task that asked."""

    task_id: str
    message: TaskReply


class OffersDue(msgspec.Struct, frozen=True):
    """There is capacity that is not offered: call `Session.make_offers`."""


class Registered(msgspec.Struct, frozen=True):
    """The broker knows us; offers may start."""


class Drained(msgspec.Struct, frozen=True):
    """Draining is over: no task is left."""


class Note(msgspec.Struct, frozen=True):
    """Worth a line in the log."""

    level: str
    text: str
    task_id: str = ""
    outcome: str = ""
    """How the task ended that is ended with this: one that was accepted and never started."""


Action = Send | StartTask | AbortTask | Deliver | OffersDue | Registered | Drained | Note


class Phase(enum.Enum):
    """Where the connection is."""

    CONNECTED = enum.auto()
    REGISTERED = enum.auto()
    DRAINING = enum.auto()
    LOST = enum.auto()


class TaskState(enum.Enum):
    """Where a task in hand is; a task that is not in hand has no state."""

    WAITING = enum.auto()
    RUNNING = enum.auto()
    ABORTING = enum.auto()


class _Offer(msgspec.Struct, frozen=True):
    lapses_at: float
    """From here on the broker may have dropped it, and another one may stand in its place."""
    expires_at: float
    """Until here an acceptance is honoured all the same."""
    made_at: float


class _Task(msgspec.Struct):
    state: TaskState
    settings_due: float
    calls: set[str] | None = None
    """The ids of what it has asked for and not got yet."""


class Session:
    """One registered (or registering) connection to one broker."""

    def __init__(
        self,
        *,
        name: str,
        task_type: str,
        slots: Slots,
        terms: OfferTerms,
        new_id: Callable[[], str],
        random: Callable[[], float],
    ) -> None:
        self._info = RunnerInfo(name=name, types=(task_type,))
        self._task_type = task_type
        self._slots = slots
        self._seat = slots.join(self)
        self._freed = False
        self._terms = terms
        self._new_id = new_id
        self._random = random
        self._offers: dict[str, _Offer] = {}
        self._tasks: dict[str, _Task] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._settled_at = float("-inf")
        self._introduced_at: float | None = None
        self.phase = Phase.CONNECTED
        self.wake: Callable[[], None] = _nobody
        """To be set by the shell: called when it should call `make_offers` although nothing happened here."""

    # What the shell may look at

    @property
    def tasks(self) -> dict[str, TaskState]:
        """The tasks in hand."""
        return {task_id: task.state for task_id, task in self._tasks.items()}

    def accepted_at(self, task_id: str) -> float:
        """When this task in hand was accepted."""
        return self._tasks[task_id].settings_due - self._terms.settings_timeout

    def open_offers(self, now: float) -> int:
        """Offers that the broker can be expected to hold."""
        return sum(1 for offer in self._offers.values() if now < offer.lapses_at)

    def unoffered(self, now: float) -> int:
        """How many offers are missing: for places that are there for this broker and not offered to it."""
        if self.phase is not Phase.REGISTERED or (room := self._seat.room(now)) < 1:
            return 0
        # a kept place is called up even where older offers are open: brokers before the newest match a request that was
        # rejected only when another offer comes (protocol.md 12.2)
        open_offers = self.open_offers(now)
        call = self._seat.to_call and open_offers <= self._slots.capacity
        return max(min(room, self._seat.most_offers()) - open_offers, int(call))

    def is_let_lie(self, since: float, now: float) -> bool:
        """Whether the broker holds an offer since then or longer: it had no request that it could have used it for."""
        return any(offer.made_at <= since and now < offer.lapses_at for offer in self._offers.values())

    def answered(self, seconds: float) -> None:
        """The broker took so long to answer a ping."""
        self._seat.learn(seconds)

    def next_deadline(self) -> float | None:
        """When to call `tick` at the latest, or None when only an event can change anything."""
        times = [task.settings_due for task in self._tasks.values() if task.state is TaskState.WAITING]
        if self.phase is Phase.REGISTERED:
            # an offer that has lapsed already is kept for its slack: as a deadline it would be in the past
            lapses = [offer.lapses_at for offer in self._offers.values() if offer.lapses_at > self._settled_at]
            times += lapses
            if (change := self._seat.next_change()) < math.inf:
                times.append(change)
        return min(times, default=None)

    # Events

    def receive(self, message: BrokerMessage, now: float) -> list[Action]:
        """Takes one message of the broker."""
        if self.phase is Phase.LOST:
            return []
        actions: list[Action] = []
        match message:
            case InfoRequest():
                self._introduced_at = now
                actions.append(Send(self._info))
            case RunnerRegistered():
                if self.phase is Phase.CONNECTED:
                    self.phase = Phase.REGISTERED
                    if self._introduced_at is not None:
                        self._seat.learn(now - self._introduced_at)
                    actions.append(Registered())
            case TaskOfferAccept():
                self._accept(message, now, actions)
            case TaskSettingsMessage():
                self._start(message, now, actions)
            case TaskCancel():
                self._cancel(message, actions)
            case RpcResponse(call_id=call_id) | TaskDataResponse(request_id=call_id) | NodeTypes(request_id=call_id):
                self._deliver(message, call_id, actions)
            case Drain():
                actions.append(Note("info", "Broker is draining: no more offers, running tasks may finish"))
                self._stop_offering()
            case _:
                assert_never(message)
        return self._settle(actions, now)

    def refuse(self, refused: Refused, now: float) -> list[Action]:
        """Takes a frame that could not be decoded. Unreadable settings fail their task at once: n8n waits for it."""
        task = self._tasks.get(refused.task_id)
        if refused.message_type != "broker:tasksettings" or task is None or task.state is not TaskState.WAITING:
            return []
        error = ErrorBody(
            message=f"The task's settings could not be read: {refused.text}",
            description="n8n and the Python runner disagree on the message format. "
            "Check that their versions match. [TR412]",
        )
        self._end(refused.task_id)
        note = Note("error", f"Task {refused.task_id} failed: {error.message}", refused.task_id, "settings")
        return self._settle([note, Send(task_error(refused.task_id, error))], now)

    def tick(self, now: float, *, receiving: bool = False) -> list[Action]:
        """Lets time pass: gives up on settings that never came and looks for offers to renew.

        ``receiving`` says that a large message is coming in: who waits for settings waits on, for they may be in it.
        """
        actions: list[Action] = []
        for task_id, task in list(self._tasks.items()):
            if task.state is TaskState.WAITING and task.settings_due <= now:
                if receiving:
                    task.settings_due = now + 1.0
                    continue
                self._end(task_id)
                text = f"Task settings did not arrive within {self._terms.settings_timeout:g} seconds"
                actions.append(Note("warning", f"Gave up on task {task_id}: {text}", task_id, "settings"))
                error = ErrorBody(message=text, description=NO_SETTINGS)
                actions.append(Send(task_error(task_id, error)))
        return self._settle(actions, now)

    def make_offers(self, now: float) -> list[Action]:
        """One offer for each place that is there for this broker and not offered to it."""
        if (missing := self.unoffered(now)) == 0:
            return []
        self._offers = {offer_id: offer for offer_id, offer in self._offers.items() if now < offer.expires_at}
        actions: list[Action] = []
        self._seat.to_call = False
        for _ in range(missing):
            offer_id = self._new_id()
            valid_for_ms = round((self._terms.validity + self._random() * self._terms.jitter) * 1000)
            lapses_at = now + valid_for_ms / 1000
            self._offers[offer_id] = _Offer(lapses_at, lapses_at + self._terms.slack, now)
            actions.append(Send(TaskOffer(offer_id=offer_id, task_type=self._task_type, valid_for=valid_for_ms)))
        return actions

    def call(self, message: Rpc | TaskDataRequest) -> list[Action]:
        """A running task asks n8n for something. The answer is delivered for as long as the task runs.

        Prints, whose answers nobody waits for, need not pass here.
        """
        task = self._tasks.get(message.task_id)
        if task is None or task.state is not TaskState.RUNNING:
            return []  # it is being stopped: nobody would take the answer
        if task.calls is None:
            task.calls = set()
        task.calls.add(message.call_id if isinstance(message, Rpc) else message.request_id)
        return [Send(message)]

    def finish(self, task_id: str, result: TaskResult | None, now: float) -> list[Action]:
        """A started task has ended and nothing of it is left. After a cancel or a lost connection nothing is sent."""
        task = self._tasks[task_id]
        if task.state is TaskState.WAITING:
            raise RuntimeError(f"task {task_id} was never started")
        self._end(task_id)
        sendable = result is not None and task.state is TaskState.RUNNING and self.phase is not Phase.LOST
        return self._settle([Send(result)] if sendable and result is not None else [], now)

    def drain(self, now: float) -> list[Action]:
        """This runner is stopping: as if the broker had asked for it. A lost session stays lost."""
        if self.phase is not Phase.LOST:
            self._stop_offering()
        return self._settle([], now)

    def lose(self) -> list[Action]:
        """The connection is gone: its offers are void, its tasks have failed at the broker already."""
        self.phase = Phase.LOST
        self._offers.clear()
        actions: list[Action] = []
        for task_id, task in list(self._tasks.items()):
            if task.state is TaskState.WAITING:
                self._end(task_id)
                text = f"Cancelled task {task_id} (waiting for settings): {CONNECTION_LOST}"
                actions.append(Note("info", text, task_id, "lost"))
            elif task.state is TaskState.RUNNING:
                task.state = TaskState.ABORTING
                actions.append(AbortTask(task_id, CONNECTION_LOST))
        self._freed = False
        self._seat.leave()
        return actions

    # Transitions

    def _accept(self, message: TaskOfferAccept, now: float, actions: list[Action]) -> None:
        task_id = message.task_id
        known = self._tasks.get(task_id)
        offer = self._offers.pop(message.offer_id, None)
        honoured = offer is not None and now < offer.expires_at
        reason = None
        if known is not None:
            # it was answered, and a reject now would take the task back; with another open offer the answer is repeated
            if honoured and known.state is TaskState.WAITING:
                actions.append(Send(TaskAccepted(task_id=task_id)))
            return
        if self.phase is Phase.DRAINING:
            reason = REJECT_DRAINING
        elif not honoured or task_id in self._ended:
            reason = REJECT_EXPIRED  # an ended task cannot start again; silence would count against us (12.4)
        elif not self._seat.take(now):
            reason = REJECT_SUSPENDED if self._slots.suspended else REJECT_FULL
        if reason is not None:
            actions.append(Note("debug", f"Rejected task {task_id}: {reason}", task_id))
            actions.append(Send(TaskRejected(task_id=task_id, reason=reason)))
            return
        self._tasks[task_id] = _Task(TaskState.WAITING, now + self._terms.settings_timeout)
        actions.append(Send(TaskAccepted(task_id=task_id)))
        actions.append(Note("info", f"Accepted task {task_id}", task_id))

    def _start(self, message: TaskSettingsMessage, now: float, actions: list[Action]) -> None:
        task = self._tasks.get(message.task_id)
        if task is None:
            actions.append(
                Note("warning", f"Received settings for unknown task: {message.task_id}. Discarding message.")
            )
        elif task.state is not TaskState.WAITING:
            actions.append(Note("warning", f"Received settings again for task {message.task_id}. Discarding message."))
        else:
            task.state = TaskState.RUNNING
            self._seat.learn(now - (task.settings_due - self._terms.settings_timeout))
            actions.append(Note("info", f"Received task {message.task_id}", message.task_id))
            actions.append(StartTask(message.task_id, message.settings))

    def _cancel(self, message: TaskCancel, actions: list[Action]) -> None:
        task_id = message.task_id
        if message.reason == ACCEPT_WINDOW_ELAPSED:
            self._offers.clear()  # the broker has dropped them all (protocol.md 12.2)
        task = self._tasks.get(task_id)
        if task is None:
            actions.append(Note("warning", f"Received cancel for unknown task: {task_id}. Discarding message."))
        elif task.state is TaskState.WAITING:
            self._end(task_id)
            text = f"Cancelled task {task_id} (waiting for settings): {message.reason}"
            actions.append(Note("info", text, task_id, "cancelled"))
        elif task.state is TaskState.RUNNING:
            task.state = TaskState.ABORTING
            actions.append(AbortTask(task_id, message.reason))

    def _deliver(self, message: TaskReply, call_id: str, actions: list[Action]) -> None:
        """Once for each call: an answer that nobody waits for (a print's, one that came before) goes no further."""
        task = self._tasks.get(message.task_id)
        if task is not None and task.state is TaskState.RUNNING and task.calls is not None and call_id in task.calls:
            task.calls.remove(call_id)
            actions.append(Deliver(message.task_id, message))

    def _stop_offering(self) -> None:
        self._offers.clear()
        self.phase = Phase.DRAINING
        self._seat.leave()

    def _end(self, task_id: str) -> None:
        del self._tasks[task_id]
        self._seat.give_back()
        self._freed = True
        self._ended[task_id] = None
        if len(self._ended) > _REMEMBERED_TASKS:
            self._ended.popitem(last=False)

    def _settle(self, actions: list[Action], now: float) -> list[Action]:
        self._settled_at = now
        if self._freed:
            self._freed = False
            self._seat.tell_others(now)
        if self.unoffered(now):
            actions.append(OffersDue())
        elif self.phase is Phase.DRAINING and not self._tasks:
            actions.append(Drained())
        return actions


def _nobody() -> None:
    """Nobody listens."""


def task_error(task_id: str, body: ErrorBody) -> TaskError:
    """A `TaskError` with an error of ours."""
    return TaskError(task_id=task_id, error=msgspec.Raw(encode(body)))
