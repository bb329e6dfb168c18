"""Carries out what a session decided: writes, starts and stops tasks, wakes the emitter.

One dispatcher per connection. It owns the scopes of the connection's tasks and the sending end of the outbox; every
message of the broker and every outcome of a task passes through here, one after the other, without a wait in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import assert_never

import msgspec
import trio
from msgspec import Raw

from trio_runner.calls import Question
from trio_runner.counters import BrokerCounters
from trio_runner.errors import ConnectionLostError
from trio_runner.executor import Executor
from trio_runner.log import get_logger, naming
from trio_runner.outlet import PIECE
from trio_runner.protocol.messages import (
    BrokerMessage,
    ErrorBody,
    Refused,
    ResultData,
    Rpc,
    RunnerMessage,
    TaskDone,
    TaskError,
    TaskResult,
)
from trio_runner.protocol.session import (
    AbortTask,
    Action,
    Deliver,
    Drained,
    Note,
    OffersDue,
    Phase,
    Registered,
    Send,
    Session,
    StartTask,
    task_error,
)
from trio_runner.taskrecord import TaskRecord

log = get_logger("dispatch")

BEAT = 0.25
"""Seconds after which capacity that is still not offered is looked at again; events make this a mere fallback."""

CUT_OFF_ADVICE = "The runner is being stopped or replaced. Run the workflow again. [TR414]"
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Outgoing(msgspec.Struct, frozen=True):
    """One message for the writer; ``written`` is set when it has left the process."""

    message: RunnerMessage
    written: trio.Event | None = None


class Dispatcher:
    """The tasks of one connection."""

    def __init__(
        self,
        session: Session,
        outbox: trio.MemorySendChannel[Outgoing],
        nursery: trio.Nursery,
        executor: Executor,
        activity: Callable[[], None],
        *,
        counters: BrokerCounters | None = None,
        large_one_arrives: Callable[[], bool] = lambda: False,
        label: str = "",
    ) -> None:
        """``large_one_arrives`` says whether a part of a large message has come: settings may be on their way."""
        self._session = session
        session.wake = self._wake
        self._outbox = outbox
        self._nursery = nursery
        self._executor = executor
        self._activity = activity
        self._counters = counters or BrokerCounters("")
        self._large_one_arrives = large_one_arrives
        self._large_one_leaves = False
        self._log = naming(log, label)
        self._scopes: dict[str, trio.CancelScope] = {}
        self._records: dict[str, TaskRecord] = {}
        self._cut_off: str | None = None
        self._leaving = False
        self._wake_emitter, self._emitter_woken = trio.open_memory_channel[None](1)
        self._large_lane = trio.Lock()
        self._odd_types: set[str] = set()
        self._in_hand = 0
        self._looks_at = math.inf
        """When the emitter looks again, if nobody wakes it before."""
        self.heard = False
        self.failure: ConnectionLostError | None = None

    @property
    def registered(self) -> bool:
        """Whether the broker takes our offers."""
        return self._session.phase is Phase.REGISTERED

    @property
    def unregistered(self) -> bool:
        """Whether the broker has not taken us in yet."""
        return self._session.phase is Phase.CONNECTED

    @property
    def left(self) -> bool:
        """Whether everything was said and the connection is ours to close."""
        return self._leaving and not self._session.tasks

    @property
    def running(self) -> Collection[TaskRecord]:
        """The tasks of which something is left, except those that still wait for their settings."""
        return self._records.values()

    @property
    def draining(self) -> bool:
        """Whether no more tasks are taken on this connection."""
        return self._session.phase is Phase.DRAINING

    # Events

    def receive(self, message: BrokerMessage) -> None:
        """One message of the broker."""
        self.heard = True
        self._carry_out(self._session.receive(message, trio.current_time()))

    def refuse(self, refused: Refused) -> None:
        """One frame of the broker that is no message of ours: said once per type, then skipped."""
        if refused.kind != "unknown_type":
            self._log.error("Error handling message: %s", refused.text)
        elif refused.message_type not in self._odd_types and len(self._odd_types) < 100:
            self._odd_types.add(refused.message_type)
            self._log.warning(
                "Unknown message type: %s. Messages of this type are skipped.", refused.message_type[:200]
            )
        self._carry_out(self._session.refuse(refused, trio.current_time()))

    def leave(self) -> None:
        """No more offers; when the last task is done and its result written, the outbox ends and with it the link."""
        self._leaving = True
        self._carry_out(self._session.drain(trio.current_time()))

    def cut_off(self, reason: str) -> int:
        """Stops all running tasks; each is reported to n8n as failed with ``reason``. Returns how many there were."""
        self._cut_off = reason
        for scope in self._scopes.values():
            scope.cancel()
        return len(self._scopes)

    def lose(self) -> None:
        """The connection is gone: nothing of its tasks can be used any more."""
        self._carry_out(self._session.lose())
        self._activity()

    def answered(self, seconds: float) -> None:
        """The broker took so long to answer our ping."""
        self._session.answered(seconds)

    def give_up(self, failure: ConnectionLostError) -> None:
        """Ends the connection from our side, without a word to a broker that would not hear it."""
        self.failure = self.failure or failure
        self._nursery.cancel_scope.cancel()

    async def emit_offers(self) -> None:
        """Offers each free slot as soon as it is free, renews offers that lapse. Runs until cancelled.

        While a large result leaves nothing is offered: the offer would come when we count it as lapsed already, and
        the answer to its acceptance too late.
        """
        while True:
            now = trio.current_time()
            ticked = self._session.tick(now, receiving=self._large_one_arrives())
            self._carry_out([action for action in ticked if not isinstance(action, OffersDue)])
            if not self._large_one_leaves:
                self._carry_out(self._session.make_offers(now))
            deadline = self._session.next_deadline() or math.inf
            if not self._large_one_leaves and self._session.unoffered(now):
                deadline = min(deadline, now + BEAT)
            self._looks_at = deadline
            with trio.move_on_at(deadline):
                await self._emitter_woken.receive()

    # Actions

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send():
                    self._counters.said(action.message)
                    self._post(Outgoing(action.message))
                case StartTask():
                    self._start(action)
                case AbortTask():
                    self._abort(action)
                case OffersDue():
                    self._wake()
                case Registered():
                    self._log.info("Registered with broker")
                    self._activity()
                case Deliver():
                    if (deliver := self._records[action.task_id].deliver) is not None:
                        deliver(action.message)
                case Note():
                    self._note(action)
                case Drained():
                    if self._leaving:
                        self._outbox.close()
                case _:
                    assert_never(action)
        if (in_hand := len(self._session.tasks)) != self._in_hand:
            # also a task that still waits for its settings is work, and its end is not
            if in_hand > self._in_hand and (self._session.next_deadline() or math.inf) < self._looks_at:
                self._wake()  # settings may be due before any offer lapses
            self._in_hand = in_hand
            self._activity()

    def _start(self, action: StartTask) -> None:
        task_id = action.task_id
        scope = self._scopes[task_id] = trio.CancelScope()
        record = self._records[task_id] = TaskRecord(
            task_id, action.settings, broker=self._counters.name, accepted_at=self._session.accepted_at(task_id)
        )
        self._nursery.start_soon(self._execute, record, scope)

    def _abort(self, action: AbortTask) -> None:
        record = self._records[action.task_id]
        extra = record.abort("lost" if self._session.phase is Phase.LOST else "cancelled", trio.current_time())
        record.reason = record.reason or action.reason
        self._log.info("Cancelled task %s %s: %s", action.task_id, record.place, action.reason, extra=extra)
        if running := self._scopes.get(action.task_id):
            running.cancel()

    def _note(self, note: Note) -> None:
        extra: dict[str, object] = {"task_id": note.task_id} if note.task_id else {}
        if note.outcome:
            extra["outcome"] = note.outcome
            self._counters.not_started(note)
        self._log.log(_LEVELS[note.level], "%s", note.text, extra=extra)

    def _post(self, outgoing: Outgoing) -> None:
        try:
            self._outbox.send_nowait(outgoing)
        except trio.WouldBlock:
            self.give_up(ConnectionLostError("The broker does not read: too many messages wait to be written"))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the writer is gone: the connection is, and the receiver is about to find out

    def _wake(self) -> None:
        with suppress(trio.WouldBlock):  # it has been woken already and has not run yet
            self._wake_emitter.send_nowait(None)

    async def _execute(self, record: TaskRecord, scope: trio.CancelScope) -> None:
        """One task from its settings to its result. The slot is given back when nothing of the task is left."""
        task_id = record.task_id
        result: TaskResult | None = None
        finished = False
        try:
            with scope:
                result = await self._executor.run(
                    task_id, record.settings, lambda message: self._post(Outgoing(message)), record, self._ask
                )
            if scope.cancelled_caught and self._cut_off is not None and record.aborted is None:
                extra = record.end("cut_off", trio.current_time())
                record.reason = self._cut_off
                self._log.error("Task %s failed %s: %s", task_id, record.place, self._cut_off, extra=extra)
                result = task_error(task_id, ErrorBody(message=self._cut_off, description=CUT_OFF_ADVICE))
            # one result at a time waits in the outbox: a broker that does not read must not make us hoard them
            async with self._large_lane:
                written = trio.Event()
                del self._scopes[task_id]
                finished = True
                self._large_one_leaves = _is_large(result)
                try:
                    self._finish(task_id, result, written)
                    await written.wait()
                finally:
                    if self._large_one_leaves:
                        self._large_one_leaves = False
                        self._wake()
        finally:
            if not finished:
                self._scopes.pop(task_id, None)
                self._finish(task_id, None, trio.Event())

    async def _ask(self, question: Question) -> None:
        """A running task's call to n8n. A large one waits for its turn among the results, and until it is written."""
        params = question.params if isinstance(question, Rpc) else question.request_params
        if len(params) <= PIECE:
            self._carry_out(self._session.call(question))
            return
        async with self._large_lane:
            self._large_one_leaves = True
            try:
                for action in self._session.call(question):
                    assert isinstance(action, Send)
                    self._post(Outgoing(action.message, written := trio.Event()))
                    await written.wait()
            finally:
                self._large_one_leaves = False
                self._wake()

    def _finish(self, task_id: str, result: TaskResult | None, written: trio.Event) -> None:
        actions = self._session.finish(task_id, result, trio.current_time())
        record = self._records.pop(task_id)
        if actions and isinstance(actions[0], Send):
            self._post(Outgoing(actions[0].message, written))
            actions = actions[1:]
        else:
            written.set()
            record.never_told(trio.current_time())
        self._counters.ended(record)
        self._carry_out(actions)


def _is_large(result: TaskResult | None) -> bool:
    """Whether it takes so long to write that what comes after it has to wait."""
    match result:
        case TaskDone(data=ResultData(result=Raw() as value)) | TaskError(error=value):
            return len(value) > PIECE
        case _:
            return False
