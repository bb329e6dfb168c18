"""Real sessions and real brokers back to back, over links that lose, duplicate and delay, in virtual time.

Everything here is what a shell would do, in the plainest way: carry out actions in order, tick at deadlines, make
offers when they are due. What must never happen is asserted where it would happen (`check` and the ``_..._did``
methods); what must happen in the end is asserted by `come_to_rest`, after the links have healed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, assert_never

from msgspec import Raw

from trio_runner.protocol.broker import Broker, BrokerAction, BrokerTerms, CloseRunner, ToRequester, ToRunner
from trio_runner.protocol.messages import (
    ErrorBody,
    ForwardedDataRequest,
    ForwardedDone,
    ForwardedError,
    ForwardedNodeTypesRequest,
    ForwardedRpc,
    Refused,
    RequesterCancel,
    RequesterMessage,
    RequesterRpcResponse,
    RequesterSettings,
    RequestExpired,
    ResultData,
    Rpc,
    TaskDone,
    TaskReady,
    TaskRequest,
    decode_from_broker,
    decode_from_requester,
    decode_from_runner,
    decode_to_requester,
    encode,
)
from trio_runner.protocol.session import (
    AbortTask,
    Action,
    Deliver,
    Drained,
    Note,
    OffersDue,
    OfferTerms,
    Phase,
    Registered,
    Send,
    Session,
    StartTask,
    TaskState,
    task_error,
)
from trio_runner.protocol.slots import Slots

BROKER_TERMS = BrokerTerms(request_timeout=20.0, accept_timeout=2.0, requester_timeout=2.0, task_timeout=30.0)
LONGEST_TIMER = 45.0
"""Longer than a task can stay open whose result was lost on the way: a settings timer and a task timer."""
MANY_FRAMES = 5000
STANDS_STILL = "a deadline that stands still makes the shell spin"

GOOD_SETTINGS = Raw(b'{"code":"return 1","nodeMode":"runOnceForAllItems","items":[]}')
BAD_SETTINGS = Raw(b'{"code":"return 1","nodeMode":"runCode","items":[]}')


@dataclass(eq=False)
class Host:
    """One runner process: its slots and its connections, of which the lost ones stay until their programs are gone."""

    name: str
    slots: Slots
    connections: list[Connection] = field(default_factory=list)


@dataclass(eq=False)
class Connection:
    """One WebSocket: a session at the one end, a broker at the other, frames in flight between them."""

    host: Host
    n8n: N8n
    session: Session
    up: bool = True
    to_runner: list[bytes] = field(default_factory=list)
    to_broker: list[bytes] = field(default_factory=list)
    alarm: float | None = None
    """When the shell looks again: what the session said when it last looked, not what it would say now."""
    programs: dict[str, TaskState] = field(default_factory=dict)
    """The shell's own view of what runs; a program that is told to stop runs until it says that it has ended."""


@dataclass(eq=False)
class Request:
    """What a node asked for, and all that it ever heard of it."""

    prompt: bool
    readable: bool
    task_id: str | None = None
    settled: bool = False
    outcome: str | None = None


@dataclass(eq=False)
class N8n:
    """One n8n process: a broker and the requester in front of it."""

    name: str
    broker: Broker
    links: dict[str, Connection] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    tasks: dict[str, Request] = field(default_factory=dict)
    answers: list[RequesterMessage] = field(default_factory=list)
    draining: bool = False


class World:
    """Hosts, brokers, links and one clock. The types of the machines can be given, to try broken ones."""

    def __init__(
        self,
        capacities: Iterable[int],
        brokers: int,
        *,
        session_type: type[Session] = Session,
        slots_type: type[Slots] = Slots,
        broker_type: type[Broker] = Broker,
        look_inside: bool = True,
    ) -> None:
        self.now = 0.0
        self.sound = True
        """False in the middle of a step, and for good after one that failed."""
        self._session_type = session_type
        self._broker_type = broker_type
        self._look_inside = look_inside
        self._numbers = itertools.count(1)
        self._started: set[tuple[str, str]] = set()
        self._woken: list[Connection] = []
        self.n8ns = [N8n(f"n8n{number}", self._new_broker()) for number in range(brokers)]
        self.hosts = [Host(f"host{number}", slots_type(capacity)) for number, capacity in enumerate(capacities)]
        for host, n8n in self.pairs():
            self.connect(host, n8n)

    # What a test may choose from, always in the same order

    def pairs(self) -> Iterator[tuple[Host, N8n]]:
        return itertools.product(self.hosts, self.n8ns)

    def links(self) -> list[Connection]:
        """The connections whose runner's end is open."""
        return [connection for host in self.hosts for connection in host.connections if connection.up]

    def missing_links(self) -> list[tuple[Host, N8n]]:
        there = {(connection.host, connection.n8n) for connection in self.links()}
        return [pair for pair in self.pairs() if pair not in there]

    def queues(self) -> list[list[bytes]]:
        """The frames in flight, per direction, where there are any."""
        return [queue for link in self.links() for queue in (link.to_runner, link.to_broker) if queue]

    def programs(self) -> list[tuple[Connection, str]]:
        """Everything that runs, also what was told to stop."""
        return [(link, task_id) for host in self.hosts for link in host.connections for task_id in link.programs]

    def unsettled(self) -> list[tuple[N8n, str]]:
        """Tasks that are ready and whose requester has not sent the settings."""
        return [(n8n, t) for n8n in self.n8ns for t, r in n8n.tasks.items() if not r.settled and r.outcome is None]

    def open_tasks(self) -> list[tuple[N8n, str]]:
        """Tasks whose requester knows of no end."""
        return [(n8n, t) for n8n in self.n8ns for t, request in n8n.tasks.items() if request.outcome is None]

    # Runners

    def connect(self, host: Host, n8n: N8n) -> None:
        """The host opens a connection. A broker that did not notice the loss of the last one replaces it."""
        session = self._session_type(
            name=host.name,
            task_type="python",
            slots=host.slots,
            terms=OfferTerms(),
            new_id=self._ids("offer"),
            random=lambda: next(self._numbers) % 7 / 7,
        )
        connection = Connection(host, n8n, session)
        session.wake = lambda: self._woken.append(connection)
        host.connections.append(connection)
        old, n8n.links[host.name] = n8n.links.get(host.name), connection
        for action in n8n.broker.connect(host.name):
            if isinstance(action, CloseRunner):
                assert (action.code, old is not None) == (1000, True)
            else:
                self._broker_did(n8n, [action])

    def lose(self, link: Connection, *, noticed: bool) -> None:
        """The connection breaks; the broker may notice only when the runner comes back."""
        link.up = False
        link.to_runner.clear()
        link.to_broker.clear()
        self._session_did(link, link.session.lose())
        if noticed:
            self._forget(link)

    def drain_host(self, host: Host) -> None:
        for link in list(host.connections):
            if link.up:
                self._session_did(link, link.session.drain(self.now))

    def finish(self, link: Connection, task_id: str, *, ok: bool) -> None:
        """A program ends."""
        result = (
            TaskDone(task_id=task_id, data=ResultData(result=Raw(b"[]")))
            if ok
            else task_error(task_id, ErrorBody(message="boom"))
        )
        del link.programs[task_id]
        self._session_did(link, link.session.finish(task_id, result, self.now))

    def call(self, link: Connection, task_id: str) -> None:
        """A program prints."""
        if link.up:
            message = Rpc(call_id=self._ids("call")(), task_id=task_id, name="logNodeOutput", params=Raw(b'["x"]'))
            link.to_broker.append(encode(message))

    # Requesters and brokers

    def request(self, n8n: N8n, *, prompt: bool = True, readable: bool = True) -> None:
        """A node asks for a runner; a prompt requester gives the settings as soon as it hears of the task."""
        request_id = self._ids("request")()
        n8n.requests[request_id] = Request(prompt, readable)
        self._ask(n8n, TaskRequest(request_id=request_id, task_type="python"))

    def settle(self, n8n: N8n, task_id: str) -> None:
        """The requester sends the settings."""
        request = n8n.tasks[task_id]
        request.settled = True
        self._ask(n8n, RequesterSettings(task_id=task_id, settings=GOOD_SETTINGS if request.readable else BAD_SETTINGS))

    def cancel(self, n8n: N8n, task_id: str) -> None:
        """A user stops the execution."""
        n8n.tasks[task_id].outcome = "cancel"
        self._ask(n8n, RequesterCancel(task_id=task_id, reason="Task cancelled by user"))

    def drain_n8n(self, n8n: N8n) -> None:
        n8n.draining = True
        self._broker_did(n8n, n8n.broker.drain())

    def restart_n8n(self, n8n: N8n) -> None:
        """n8n goes down with all that it knew, and comes back knowing nothing."""
        for link in list(n8n.links.values()):
            if link.up:
                self.lose(link, noticed=False)
        n8n.broker = self._new_broker()
        n8n.links, n8n.requests, n8n.tasks, n8n.answers, n8n.draining = {}, {}, {}, [], False

    # Frames in flight

    def deliver(self, queue: list[bytes], index: int = 0) -> None:
        """A frame arrives; any but the first overtakes others."""
        link = next(link for link in self.links() if queue is link.to_runner or queue is link.to_broker)
        frame = queue.pop(index)
        if queue is link.to_broker:
            message = decode_from_runner(frame)
            if link.n8n.links.get(link.host.name) is link:
                self._broker_did(link.n8n, link.n8n.broker.receive(link.host.name, message, self.now))
            return
        try:
            actions = link.session.receive(decode_from_broker(frame), self.now)
        except Refused as refused:
            if b"runCode" not in frame:
                raise
            actions = link.session.refuse(refused, self.now)
            if not actions:
                return
        self._session_did(link, actions)

    def deliver_some(self, frames: int, *, times: int = 1) -> None:
        """The next frames arrive, in order, from each link in turn, each of them so many times."""
        while frames > 0 and (queues := self.queues()):
            for queue in queues[:frames]:
                queue[:0] = queue[:1] * (times - 1)
                for _ in range(times):
                    if queue:  # an earlier frame may have broken this link
                        self.deliver(queue)
            frames -= len(queues)

    def deliver_all(self) -> None:
        """The network catches up."""
        self.deliver_some(MANY_FRAMES)
        assert self.queues() == [], "session and broker never stop talking"

    # Time

    def next_deadline(self) -> float | None:
        deadlines = [link.alarm for host in self.hosts for link in host.connections]
        deadlines += [n8n.broker.next_deadline() for n8n in self.n8ns]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def advance_to(self, end: float) -> None:
        """Time passes; every machine is ticked at its deadlines and at no other time."""
        while (deadline := self.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            for host in self.hosts:
                for link in list(host.connections):
                    if link.alarm is not None and link.alarm <= self.now:
                        self._look(link)
            for n8n in self.n8ns:
                if _due(n8n.broker, self.now):
                    self._broker_did(n8n, n8n.broker.tick(self.now))
                    assert not _due(n8n.broker, self.now), STANDS_STILL
        self.now = end

    # What must never happen

    def check(self) -> None:
        """Holds after every step."""
        self.sound = False
        for host in self.hosts:
            running = sum(len(link.programs) for link in host.connections)
            assert running <= host.slots.capacity, "more programs than slots"
            if self._look_inside:
                in_hand = sum(len(link.session.tasks) for link in host.connections)
                assert in_hand <= host.slots.capacity, "more tasks in hand than slots"
                assert host.slots.taken == in_hand, "the slots that are taken are not the tasks in hand"
            for link in host.connections:
                self._check_link(link)
        for n8n in self.n8ns:
            unfinished = {task_id for task_id, request in n8n.tasks.items() if request.outcome is None}
            assert set(n8n.broker.open_tasks) == unfinished, "broker and requester disagree about what is open"
            assert set(n8n.broker.open_tasks.values()) <= set(n8n.links), "a task of nobody"
        self.sound = True

    def _check_link(self, link: Connection) -> None:
        begun = {task_id: state for task_id, state in link.session.tasks.items() if state is not TaskState.WAITING}
        assert begun == link.programs, "session and shell disagree about what runs"
        assert link.up is (link.session.phase is not Phase.LOST)
        if link.session.phase is Phase.REGISTERED and self._look_inside:
            # one more when a slot that is kept for this broker is called up
            assert link.session.open_offers(self.now) <= link.host.slots.capacity + 1, "more offers than slots"
            # whichever session gave it back
            assert link.session.unoffered(self.now) == 0, "a free slot is not offered"

    # What must happen in the end

    def come_to_rest(self) -> None:
        """The links heal, programs end, time passes: everything has an end, and every slot is offered and works."""
        for n8n in self.n8ns:
            for link in list(n8n.links.values()):
                if not link.up:
                    self._forget(link)
        self._quiet(LONGEST_TIMER)
        assert self.open_tasks() == [], "a task has no end"
        assert [r for n8n in self.n8ns for r in n8n.requests.values() if r.outcome is None] == [], (
            "a request has no end"
        )
        assert self.programs() == []
        if self._look_inside:
            assert [host.slots.taken for host in self.hosts] == [0] * len(self.hosts), "a slot is lost"
        for n8n in self.n8ns:
            if n8n.draining:
                self.restart_n8n(n8n)
        for link in self.links():
            if link.session.phase is not Phase.REGISTERED:
                self.lose(link, noticed=True)
        self._quiet(1.0)
        everything = sum(host.slots.capacity for host in self.hosts)
        for link in self.links():
            assert link.session.open_offers(self.now) == link.host.slots.capacity, "a slot is not offered"
        for n8n in self.n8ns:
            assert n8n.broker.open_offers(self.now) == everything, "the broker does not hold an offer for each slot"
            self._use_every_slot(n8n, everything)

    def _use_every_slot(self, n8n: N8n, slots: int) -> None:
        for _ in range(slots):
            self.request(n8n)
        self.deliver_all()
        assert len(self.programs()) == slots, "a slot that is offered does not work"
        self.check()
        for link, task_id in self.programs():
            self.finish(link, task_id, ok=True)
        self.deliver_all()
        self.check()
        assert [request.outcome for request in list(n8n.requests.values())[-slots:]] == ["done"] * slots

    def _quiet(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            for host, n8n in self.missing_links():
                self.connect(host, n8n)
            for link in self.links():
                if link.session.phase is Phase.CONNECTED and not link.to_runner and not link.to_broker:
                    self.lose(link, noticed=True)  # its registration was lost
            for n8n, task_id in self.unsettled():
                self.settle(n8n, task_id)
            for link, task_id in self.programs():
                self.finish(link, task_id, ok=True)
            self.deliver_all()
            self.check()
            if self.unsettled() or self.programs() or self.missing_links():
                continue
            deadline = self.next_deadline()
            if deadline is None or deadline > end:
                self.advance_to(end)
                return
            self.advance_to(deadline)

    # Carrying out what the machines decide

    def _session_did(self, link: Connection, actions: list[Action]) -> None:
        self.sound = False
        session, host = link.session, link.host
        offers_due = False
        for action in actions:
            match action:
                case Send(message):
                    assert link.up, "a lost session sends"
                    link.to_broker.append(encode(message))
                case StartTask(task_id):
                    assert (host.name, task_id) not in self._started, "a task is started twice"
                    self._started.add((host.name, task_id))
                    link.programs[task_id] = TaskState.RUNNING
                case AbortTask(task_id):
                    assert link.programs.get(task_id) is TaskState.RUNNING, "what does not run is told to stop"
                    link.programs[task_id] = TaskState.ABORTING
                case Deliver(task_id):
                    assert link.programs.get(task_id) is TaskState.RUNNING, "an answer goes to what does not run"
                case OffersDue():
                    offers_due = True
                case Drained():
                    assert session.tasks == {}
                    assert link.programs == {}
                case Registered() | Note():
                    pass
                case _:
                    assert_never(action)
        if offers_due:
            self._look(link)
        if not link.up and not session.tasks:
            host.connections.remove(link)
        while self._woken:
            if (woken := self._woken.pop(0)).up:
                self._look(woken)

    def _look(self, link: Connection) -> None:
        """What the shell's emitter does when it is woken or its alarm goes off."""
        ticked = link.session.tick(self.now)
        self._session_did(link, [action for action in ticked if not isinstance(action, OffersDue)])
        self._session_did(link, link.session.make_offers(self.now))
        link.alarm = link.session.next_deadline()
        assert link.alarm is None or link.alarm > self.now, STANDS_STILL

    def _broker_did(self, n8n: N8n, actions: list[BrokerAction]) -> None:
        self.sound = False
        for action in actions:
            match action:
                case ToRunner(runner_id, message):
                    if (receiver := n8n.links.get(runner_id)) and receiver.up:
                        receiver.to_runner.append(encode(message))
                case ToRequester(message):
                    self._requester_hears(n8n, decode_to_requester(encode(message)))
                case CloseRunner(runner_id, code):
                    assert code == 1002
                    if link := n8n.links.get(runner_id):
                        if link.up:
                            self.lose(link, noticed=False)
                        self._forget(link)
                case _:
                    assert_never(action)
        answers, n8n.answers = n8n.answers, []
        for answer in answers:
            if isinstance(answer, RequesterSettings):
                self.settle(n8n, answer.task_id)
            else:
                self._ask(n8n, answer)

    def _requester_hears(self, n8n: N8n, message: Any) -> None:
        match message:
            case TaskReady():
                request = n8n.requests[message.request_id]
                assert (request.task_id, request.outcome) == (None, None), "a request becomes two tasks"
                assert message.task_id not in n8n.tasks, "a task id is used twice"
                request.task_id = message.task_id
                n8n.tasks[message.task_id] = request
                if request.prompt:
                    n8n.answers.append(RequesterSettings(task_id=message.task_id, settings=GOOD_SETTINGS))
            case ForwardedDone() | ForwardedError():
                assert n8n.tasks[message.task_id].outcome is None, "a task ends twice"
                n8n.tasks[message.task_id].outcome = "done" if isinstance(message, ForwardedDone) else "error"
            case RequestExpired():
                request = n8n.requests[message.request_id]
                assert (request.task_id, request.outcome) == (None, None), "a request ends twice"
                request.outcome = "expired"
            case ForwardedRpc():
                assert n8n.tasks[message.task_id].outcome is None, "a call of a task that has ended"
                n8n.answers.append(
                    RequesterRpcResponse(task_id=message.task_id, call_id=message.call_id, status="success")
                )
            case ForwardedDataRequest() | ForwardedNodeTypesRequest():
                raise AssertionError("nobody asked for that")

    def _ask(self, n8n: N8n, message: RequesterMessage) -> None:
        self._broker_did(n8n, n8n.broker.request(decode_from_requester(encode(message)), self.now))

    def _forget(self, link: Connection) -> None:
        """The broker notices that the connection is gone."""
        if link.n8n.links.get(link.host.name) is link:
            del link.n8n.links[link.host.name]
            self._broker_did(link.n8n, link.n8n.broker.disconnect(link.host.name, self.now))

    def _ids(self, kind: str) -> Callable[[], str]:
        return lambda: f"{kind}-{next(self._numbers)}"

    def _new_broker(self) -> Broker:
        return self._broker_type(new_task_id=self._ids("task"), terms=BROKER_TERMS)


def _due(broker: Broker, now: float) -> bool:
    deadline = broker.next_deadline()
    return deadline is not None and deadline <= now
