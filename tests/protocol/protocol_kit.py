"""Shorthands for the protocol tests: machines with plain ids, ready in the state that a test is about."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Raw

from trio_runner.protocol.broker import Broker, BrokerAction, BrokerTerms, CloseRunner, ToRequester, ToRunner
from trio_runner.protocol.messages import (
    NodeTypes,
    RequesterSettings,
    ResultData,
    RpcResponse,
    RunnerInfo,
    RunnerRegistered,
    TaskAccepted,
    TaskCancel,
    TaskDataResponse,
    TaskDone,
    TaskOffer,
    TaskOfferAccept,
    TaskRequest,
    TaskSettings,
    TaskSettingsMessage,
)
from trio_runner.protocol.session import Action, OffersDue, OfferTerms, Send, Session
from trio_runner.protocol.slots import Slots

T = TypeVar("T")

WIRE_VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parent.parent / "vectors.json").read_text())[
    "wireMessages"
]

SETTINGS = TaskSettings(code="return _items", node_mode="runOnceForAllItems", items=Raw(b'[{"json":{}}]'))
DONE = ResultData(result=Raw(b"[]"))


def counter(prefix: str) -> Callable[[], str]:
    """Ids that tell where they come from: ``o1``, ``o2``, ..."""
    numbers = itertools.count(1)
    return lambda: f"{prefix}{next(numbers)}"


def of(actions: Iterable[object], wanted: type[T]) -> list[T]:
    """The actions of one kind."""
    return [action for action in actions if isinstance(action, wanted)]


# The runner's side


def connected(
    capacity: int = 1, *, slots: Slots | None = None, terms: OfferTerms | None = None, random: float = 0.0
) -> Session:
    """A session that has not heard of its broker yet."""
    return Session(
        name="Python Task Runner",
        task_type="python",
        slots=slots or Slots(capacity),
        terms=terms or OfferTerms(),
        new_id=counter("o"),
        random=lambda: random,
    )


def offering(capacity: int = 1, **kwargs: Any) -> Session:
    """A registered session whose slots are all offered at time 0, as ``o1``, ``o2``, ..."""
    session = connected(capacity, **kwargs)
    session.receive(RunnerRegistered(), 0.0)
    session.make_offers(0.0)
    return session


def waiting(capacity: int = 1, **kwargs: Any) -> Session:
    """A session with task ``t`` accepted at time 0 and without settings."""
    session = offering(capacity, **kwargs)
    session.receive(accept("t", "o1"), 0.0)
    return session


def running(capacity: int = 1, **kwargs: Any) -> Session:
    """A session that runs task ``t``."""
    session = waiting(capacity, **kwargs)
    session.receive(settings("t"), 0.0)
    return session


def aborting(capacity: int = 1, **kwargs: Any) -> Session:
    """A session that was told to stop task ``t`` and has not reported yet."""
    session = running(capacity, **kwargs)
    session.receive(cancel("t"), 0.0)
    return session


def accept(task_id: str, offer_id: str) -> TaskOfferAccept:
    return TaskOfferAccept(task_id=task_id, offer_id=offer_id)


def settings(task_id: str) -> TaskSettingsMessage:
    return TaskSettingsMessage(task_id=task_id, settings=SETTINGS)


def cancel(task_id: str, reason: str = "Task cancelled by user") -> TaskCancel:
    return TaskCancel(task_id=task_id, reason=reason)


def done(task_id: str) -> TaskDone:
    return TaskDone(task_id=task_id, data=DONE)


def answers(task_id: str) -> list[RpcResponse | TaskDataResponse | NodeTypes]:
    """One of each message that answers a call of a task."""
    return [
        RpcResponse(task_id=task_id, call_id="c", status="success"),
        TaskDataResponse(task_id=task_id, request_id="r", data=Raw(b"{}")),
        NodeTypes(task_id=task_id, request_id="r", node_types=Raw(b"[]")),
    ]


def sent(actions: Iterable[Action]) -> list[Any]:
    """The messages that go to the broker."""
    return [action.message for action in of(actions, Send)]


def wants_offers(actions: Iterable[Action]) -> bool:
    """Whether the session says that it has capacity to offer."""
    return bool(of(actions, OffersDue))


# The broker's side


def broker(terms: BrokerTerms | None = None) -> Broker:
    """A broker whose tasks are ``t1``, ``t2``, ..."""
    return Broker(new_task_id=counter("t"), terms=terms)


def join(machine: Broker, runner_id: str = "r", *, types: tuple[str, ...] = ("python",), now: float = 0.0) -> None:
    """Connects and registers a runner."""
    machine.connect(runner_id)
    machine.receive(runner_id, RunnerInfo(name=runner_id, types=types), now)


def offer(offer_id: str, *, task_type: str = "python", valid_for: float = -1) -> TaskOffer:
    return TaskOffer(offer_id=offer_id, task_type=task_type, valid_for=valid_for)


def ask(request_id: str, task_type: str = "python") -> TaskRequest:
    return TaskRequest(request_id=request_id, task_type=task_type)


def supply(task_id: str) -> RequesterSettings:
    return RequesterSettings(task_id=task_id, settings=Raw(b"{}"))


def matched(machine: Broker, *, now: float = 0.0) -> Broker:
    """The broker with runner ``r``, whose offer ``o`` was just matched with request ``q``: task ``t1`` is pending."""
    join(machine, now=now)
    machine.receive("r", offer("o"), now)
    machine.request(ask("q"), now)
    return machine


def ready(machine: Broker, *, task_id: str = "t1", now: float = 0.0) -> Broker:
    """The broker with its first task accepted by ``r`` and the settings still due."""
    matched(machine, now=now)
    machine.receive("r", TaskAccepted(task_id=task_id), now)
    return machine


def started(machine: Broker, *, task_id: str = "t1", now: float = 0.0) -> Broker:
    """The broker with its first task running at ``r``."""
    ready(machine, task_id=task_id, now=now)
    machine.request(supply(task_id), now)
    return machine


def to_runners(actions: Iterable[BrokerAction]) -> list[tuple[str, Any]]:
    """Who is sent what."""
    return [(action.runner_id, action.message) for action in of(actions, ToRunner)]


def to_requester(actions: Iterable[BrokerAction]) -> list[Any]:
    """What the requester hears."""
    return [action.message for action in of(actions, ToRequester)]


def closed(actions: Iterable[BrokerAction]) -> list[tuple[str, int]]:
    """Who is closed with which code."""
    return [(action.runner_id, action.code) for action in of(actions, CloseRunner)]
