"""The broker's half of the protocol: a sans-IO machine for the embedded broker, tests and simulations.

It does what a runner sees n8n's broker do (protocol.md 8, 11, 12; FACTS of a real 2.41), written from those facts. It
has two ports: runners (connections) and requesters (in-process callers). The rules of `session` hold here too: sync
methods, ``now`` as an argument, actions as the answer, ids injected. What concerns a task it does not know is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, assert_never

import msgspec
from msgspec import UNSET, Raw

from trio_runner.protocol.messages import (
    Drain,
    ForwardedDataRequest,
    ForwardedDone,
    ForwardedError,
    ForwardedNodeTypesRequest,
    ForwardedRpc,
    InfoRequest,
    NodeTypes,
    NodeTypesRequest,
    RequesterCancel,
    RequesterMessage,
    RequesterNodeTypes,
    RequesterRpcResponse,
    RequesterSettings,
    RequesterTaskData,
    RequestExpired,
    Rpc,
    RunnerInfo,
    RunnerMessage,
    RunnerRegistered,
    TaskAccepted,
    TaskCancel,
    TaskDataRequest,
    TaskDataResponse,
    TaskDeferred,
    TaskDone,
    TaskError,
    TaskOffer,
    TaskOfferAccept,
    TaskReady,
    TaskRejected,
    TaskRequest,
    ToRequesterMessage,
    encode,
)
from trio_runner.protocol.offers import OpenOffer, OpenOffers

MAX_REFRESHES = 3
"""How often a request's timer starts anew after a deferral or an unanswered acceptance (protocol.md 12.2)."""
SILENCE = 2.0
"""How far apart, in seconds, two requests must expire to close a runner that did nothing meanwhile (12.4)."""
STRIKES = 3
"""Unanswered acceptances in a row after which a runner is closed (protocol.md 12.4)."""


class BrokerTerms(msgspec.Struct, frozen=True, kw_only=True):
    """The broker's timers, in seconds (protocol.md 12.1)."""

    request_timeout: float = 60.0
    accept_timeout: float = 2.0
    requester_timeout: float = 2.0
    task_timeout: float = 300.0


class ToRunner(msgspec.Struct, frozen=True):
    """Write this to the runner. Settings go out as `RawSettings`, since the broker does not look inside."""

    runner_id: str
    message: InfoRequest | RunnerRegistered | TaskOfferAccept | RawSettings | TaskCancel | ForRunner | Drain


class RawSettings(
    msgspec.Struct, frozen=True, tag_field="type", tag="broker:tasksettings", rename="camel", kw_only=True
):
    """`TaskSettingsMessage` with settings that were never parsed: the same bytes on the wire."""

    task_id: str
    settings: Raw


class RawRpcResponse(
    msgspec.Struct, frozen=True, tag_field="type", tag="broker:rpcresponse", rename="camel", kw_only=True
):
    """`RpcResponse` whose ``data`` may be absent."""

    task_id: str
    call_id: str
    status: str
    data: Raw | msgspec.UnsetType = UNSET


ForRunner = RawRpcResponse | TaskDataResponse | NodeTypes


class ToRequester(msgspec.Struct, frozen=True):
    """Hand this to the requester."""

    message: ToRequesterMessage


class CloseRunner(msgspec.Struct, frozen=True):
    """Close the runner's connection with this code."""

    runner_id: str
    code: int


BrokerAction = ToRunner | ToRequester | CloseRunner


class _Runner(msgspec.Struct):
    registered: bool = False
    types: tuple[str, ...] = ()
    silent_since: float | None = None
    strikes: int = 0
    struck_at: float = float("-inf")


class _Request(msgspec.Struct):
    request_id: str
    task_type: str
    arrival: int
    expires_at: float
    refreshes: int = 0
    expired: bool = False


class _Pending(msgspec.Struct, frozen=True):
    request: _Request
    runner_id: str
    sent_at: float
    due: float


class _Task(msgspec.Struct):
    request_id: str
    runner_id: str
    due: float
    started: bool = False


class Broker:
    """Matches requests with offers, first in first out on both sides, and relays everything about a task."""

    def __init__(self, *, new_task_id: Callable[[], str], terms: BrokerTerms | None = None) -> None:
        self._new_task_id = new_task_id
        self._terms = terms or BrokerTerms()
        self._runners: dict[str, _Runner] = {}
        self._offers = OpenOffers()
        self._queue: dict[str, _Request] = {}
        self._arrivals = 0
        self._pending: dict[str, _Pending] = {}
        self._tasks: dict[str, _Task] = {}
        self._draining = False

    # What a shell or a test may look at

    @property
    def runners(self) -> frozenset[str]:
        """The registered runners."""
        return frozenset(runner_id for runner_id, runner in self._runners.items() if runner.registered)

    @property
    def open_tasks(self) -> dict[str, str]:
        """Accepted tasks and their runners."""
        return {task_id: task.runner_id for task_id, task in self._tasks.items()}

    @property
    def queued(self) -> int:
        """Requests that wait for an offer."""
        return len(self._queue)

    def open_offers(self, now: float) -> int:
        """Offers that could be matched now."""
        self._offers.drop_lapsed(now)
        return len(self._offers)

    def next_deadline(self) -> float | None:
        """When to call `tick` at the latest."""
        times = [request.expires_at for request in self._queue.values()]
        times += [pending.due for pending in self._pending.values()]
        times += [p.request.expires_at for p in self._pending.values() if not p.request.expired]
        times += [task.due for task in self._tasks.values()]
        return min(times, default=None)

    # The runners' port

    def connect(self, runner_id: str) -> list[BrokerAction]:
        """A runner's socket is open. A runner of the same id is replaced: its connection is closed with 1000."""
        actions: list[BrokerAction] = []
        if runner_id in self._runners:
            actions.append(CloseRunner(runner_id, 1000))
            self._forget_runner(runner_id, actions)
        self._runners[runner_id] = _Runner()
        actions.append(ToRunner(runner_id, InfoRequest()))
        return actions

    def disconnect(self, runner_id: str, now: float) -> list[BrokerAction]:
        """A runner's socket is gone: its offers are void, its tasks fail, what it had not accepted goes elsewhere."""
        actions: list[BrokerAction] = []
        if self._runners.pop(runner_id, None) is not None:
            self._forget_runner(runner_id, actions)
        return self._match(actions, now)

    def receive(self, runner_id: str, message: RunnerMessage, now: float) -> list[BrokerAction]:
        """Takes one message of a runner. Before `RunnerInfo` everything else is dropped."""
        actions: list[BrokerAction] = []
        runner = self._runners.get(runner_id)
        if runner is None or (not runner.registered and not isinstance(message, RunnerInfo)):
            return actions
        runner.silent_since = None
        match message:
            case RunnerInfo():
                if not runner.registered:
                    runner.registered = True
                    runner.types = message.types
                    actions.append(ToRunner(runner_id, RunnerRegistered()))
                    if self._draining:
                        actions.append(ToRunner(runner_id, Drain()))
                    self._match(actions, now)  # it may have replaced a connection whose requests were requeued
            case TaskOffer():
                if _usable(message.valid_for):
                    expires_at = float("inf") if message.valid_for == -1 else now + message.valid_for / 1000
                    self._offers.drop_lapsed(now)  # also while nobody asks: they must not pile up
                    self._offers.add(OpenOffer(runner_id, message.offer_id, message.task_type, expires_at))
                    self._match(actions, now)
            case TaskAccepted():
                self._accepted(message.task_id, runner, actions, now)
            case TaskRejected():
                if pending := self._pending.pop(message.task_id, None):
                    runner.strikes = 0
                    self._requeue(pending.request, actions)
                    self._match(actions, now)
            case TaskDeferred():
                if pending := self._pending.pop(message.task_id, None):
                    runner.strikes = 0
                    self._refresh(pending.request, now)
                    self._requeue(pending.request, actions)  # not matched now: the deferring runner may offer more
            case TaskDone():
                if self._tasks.pop(message.task_id, None) is not None:
                    runner.strikes = 0
                    actions.append(ToRequester(ForwardedDone(task_id=message.task_id, data=message.data)))
            case TaskError():
                if self._tasks.pop(message.task_id, None) is not None:
                    runner.strikes = 0
                    actions.append(ToRequester(ForwardedError(task_id=message.task_id, error=message.error)))
            case Rpc() | TaskDataRequest() | NodeTypesRequest():
                if message.task_id in self._tasks:
                    actions.append(ToRequester(_forwarded(message)))
            case _:
                assert_never(message)
        return actions

    # The requesters' port

    def request(self, message: RequesterMessage, now: float) -> list[BrokerAction]:
        """Takes one message of a requester."""
        actions: list[BrokerAction] = []
        if isinstance(message, TaskRequest):
            if self._draining:
                return [ToRequester(RequestExpired(request_id=message.request_id, reason="draining"))]
            due = now + self._terms.request_timeout
            self._arrivals += 1
            self._queue[message.request_id] = _Request(message.request_id, message.task_type, self._arrivals, due)
            return self._match(actions, now)
        task = self._tasks.get(message.task_id)
        if task is None:
            return actions
        match message:
            case RequesterSettings():
                if not task.started:
                    task.started = True
                    task.due = now + self._terms.task_timeout
                    actions.append(
                        ToRunner(task.runner_id, RawSettings(task_id=message.task_id, settings=message.settings))
                    )
            case RequesterCancel():
                del self._tasks[message.task_id]
                actions.append(ToRunner(task.runner_id, TaskCancel(task_id=message.task_id, reason=message.reason)))
            case RequesterRpcResponse():
                answer = RawRpcResponse(
                    task_id=message.task_id, call_id=message.call_id, status=message.status, data=message.data
                )
                actions.append(ToRunner(task.runner_id, answer))
            case RequesterTaskData():
                data = TaskDataResponse(task_id=message.task_id, request_id=message.request_id, data=message.data)
                actions.append(ToRunner(task.runner_id, data))
            case RequesterNodeTypes():
                types = NodeTypes(task_id=message.task_id, request_id=message.request_id, node_types=message.node_types)
                actions.append(ToRunner(task.runner_id, types))
            case _:
                assert_never(message)
        return actions

    # Time and shutdown

    def tick(self, now: float) -> list[BrokerAction]:
        """Lets time pass: expires requests, unanswered acceptances, missing settings and long tasks."""
        actions: list[BrokerAction] = []
        for request in [r for r in self._queue.values() if r.expires_at <= now]:
            del self._queue[request.request_id]
            self._expire(request, actions)
            self._notice_silence(request.task_type, actions, now)
        for pending in self._pending.values():
            if pending.request.expires_at <= now and not pending.request.expired:
                self._expire(pending.request, actions)
        late = [task_id for task_id, pending in self._pending.items() if pending.due <= now]
        for task_id in late:
            self._not_acknowledged(task_id, self._pending.pop(task_id), actions, now)
        for task_id in [task_id for task_id, task in self._tasks.items() if task.due <= now]:
            self._overdue(task_id, self._tasks.pop(task_id), actions)
        return self._match(actions, now) if late else actions

    def drain(self) -> list[BrokerAction]:
        """The broker is stopping: runners are told, queued requests fail at once."""
        self._draining = True
        actions: list[BrokerAction] = [
            ToRunner(runner_id, Drain()) for runner_id, runner in self._runners.items() if runner.registered
        ]
        for request in self._queue.values():
            self._expire(request, actions, "draining")
        self._queue.clear()
        self._offers.clear()
        return actions

    # Inside

    def _match(self, actions: list[BrokerAction], now: float) -> list[BrokerAction]:
        if not self._queue or not self._offers:
            return actions
        self._offers.drop_lapsed(now)
        matched: list[tuple[_Request, OpenOffer]] = []
        for request in self._queue.values():
            if not self._offers:
                break
            if request.expires_at > now and (offer := self._offers.take(request.task_type)) is not None:
                matched.append((request, offer))
        for request, offer in matched:
            del self._queue[request.request_id]
            task_id = self._new_task_id()
            self._pending[task_id] = _Pending(request, offer.runner_id, now, now + self._terms.accept_timeout)
            actions.append(ToRunner(offer.runner_id, TaskOfferAccept(task_id=task_id, offer_id=offer.offer_id)))
        return actions

    def _accepted(self, task_id: str, runner: _Runner, actions: list[BrokerAction], now: float) -> None:
        pending = self._pending.pop(task_id, None)
        if pending is None:
            return
        runner.strikes = 0
        if pending.request.expires_at <= now and not pending.request.expired:
            self._expire(pending.request, actions)
        if pending.request.expired:
            actions.append(ToRunner(pending.runner_id, TaskCancel(task_id=task_id, reason="Task request expired")))
            return
        request_id = pending.request.request_id
        self._tasks[task_id] = _Task(request_id, pending.runner_id, now + self._terms.requester_timeout)
        actions.append(ToRequester(TaskReady(request_id=request_id, task_id=task_id)))

    def _not_acknowledged(self, task_id: str, pending: _Pending, actions: list[BrokerAction], now: float) -> None:
        reason = "Acknowledgement window elapsed"
        actions.append(ToRunner(pending.runner_id, TaskCancel(task_id=task_id, reason=reason)))
        self._offers.drop_of(pending.runner_id)
        self._refresh(pending.request, now)
        self._requeue(pending.request, actions)
        runner = self._runners.get(pending.runner_id)
        if runner is None or pending.sent_at < runner.struck_at:
            return  # several acceptances that were out at the same time count once
        runner.strikes += 1
        runner.struck_at = now
        if runner.strikes >= STRIKES and pending.runner_id not in self.open_tasks.values():
            actions.append(CloseRunner(pending.runner_id, 1002))

    def _notice_silence(self, task_type: str, actions: list[BrokerAction], now: float) -> None:
        """A request expired: who says to serve its type, has nothing in hand and offers nothing, is not there."""
        self._offers.drop_lapsed(now)
        busy = {
            item.runner_id for items in (self._offers, self._tasks.values(), self._pending.values()) for item in items
        }
        for runner_id, runner in self._runners.items():
            if task_type not in runner.types or runner_id in busy:
                continue
            if runner.silent_since is None:
                runner.silent_since = now
            elif now - runner.silent_since >= SILENCE:
                actions.append(CloseRunner(runner_id, 1002))

    def _overdue(self, task_id: str, task: _Task, actions: list[BrokerAction]) -> None:
        if task.started:
            reason = "Task execution timed out"
            seconds = self._terms.task_timeout
            error = {"message": f"Task execution timed out after {seconds:g} second{'s' * (seconds != 1)}"}
        else:
            reason = "Requester took too long to acknowledge the task"
            error = {"message": reason}
        actions.append(ToRunner(task.runner_id, TaskCancel(task_id=task_id, reason=reason)))
        actions.append(ToRequester(ForwardedError(task_id=task_id, error=Raw(encode(error)))))

    def _forget_runner(self, runner_id: str, actions: list[BrokerAction]) -> None:
        self._offers.drop_of(runner_id)
        for task_id in [t for t, pending in self._pending.items() if pending.runner_id == runner_id]:
            self._requeue(self._pending.pop(task_id).request, actions)
        for task_id in [t for t, task in self._tasks.items() if task.runner_id == runner_id]:
            del self._tasks[task_id]
            error = Raw(encode({"message": "Node execution failed"}))
            actions.append(ToRequester(ForwardedError(task_id=task_id, error=error)))

    def _expire(
        self, request: _Request, actions: list[BrokerAction], reason: Literal["timeout", "draining"] = "timeout"
    ) -> None:
        """The requester is told once, also while an acceptance is under way; the runner when it accepts after all."""
        request.expired = True
        actions.append(ToRequester(RequestExpired(request_id=request.request_id, reason=reason)))

    def _requeue(self, request: _Request, actions: list[BrokerAction]) -> None:
        if request.expired:
            return
        if self._draining:
            self._expire(request, actions, "draining")
            return
        self._queue[request.request_id] = request
        self._queue = dict(sorted(self._queue.items(), key=lambda entry: entry[1].arrival))

    def _refresh(self, request: _Request, now: float) -> None:
        if request.refreshes < MAX_REFRESHES:
            request.refreshes += 1
            request.expires_at = now + self._terms.request_timeout


def _usable(valid_for: float) -> bool:
    """Whether n8n can turn this into whole nanoseconds; if not it loses the offer (protocol.md 6)."""
    try:
        return (float(valid_for) * 1e6).is_integer()
    except OverflowError:
        return False


def _forwarded(message: Rpc | TaskDataRequest | NodeTypesRequest) -> ToRequesterMessage:
    match message:
        case Rpc():
            return ForwardedRpc(
                task_id=message.task_id, call_id=message.call_id, name=message.name, params=message.params
            )
        case TaskDataRequest():
            return ForwardedDataRequest(
                task_id=message.task_id, request_id=message.request_id, request_params=message.request_params
            )
        case NodeTypesRequest():
            return ForwardedNodeTypesRequest(
                task_id=message.task_id, request_id=message.request_id, request_params=message.request_params
            )
        case _:
            assert_never(message)
