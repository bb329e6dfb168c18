"""The two state machines under messages and events in any order, from peers that keep to no rule at all.

An input is a list of steps. A machine may refuse whatever it likes; it may not raise, lose a slot, exceed its capacity,
say two ends of a task, or ask to be called at a time that has passed.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, assert_never

from msgspec import Raw

from tests.fuzz.reader import Reader
from tests.protocol.protocol_kit import DONE, SETTINGS, answers, broker, connected
from trio_runner.protocol.broker import BrokerAction, BrokerTerms, CloseRunner, ToRequester, ToRunner
from trio_runner.protocol.messages import (
    Drain,
    ForwardedDone,
    ForwardedError,
    InfoRequest,
    NodeTypesRequest,
    Refused,
    RequesterCancel,
    RequesterNodeTypes,
    RequesterRpcResponse,
    RequesterSettings,
    RequesterTaskData,
    RequestExpired,
    Rpc,
    RunnerInfo,
    RunnerRegistered,
    TaskAccepted,
    TaskCancel,
    TaskDataRequest,
    TaskDeferred,
    TaskDone,
    TaskError,
    TaskOffer,
    TaskOfferAccept,
    TaskReady,
    TaskRejected,
    TaskRequest,
    TaskSettingsMessage,
)
from trio_runner.protocol.session import (
    ACCEPT_WINDOW_ELAPSED,
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
    TaskState,
)
from trio_runner.protocol.slots import Slots

TASKS = ("a", "b", "c")
SPANS = (0.0, 0.001, 0.05, 0.3, 1.0, 2.1, 5.6, 11.0, 400.0)
MAX_STEPS = 400


class _Runner:
    """Sessions that share slots, and the programs that their shell would run."""

    def __init__(self, read: Reader) -> None:
        self.read = read
        self.now = 0.0
        self.slots = Slots(1 + read.below(3))
        self.sessions = [connected(slots=self.slots, random=read.byte() / 256) for _ in range(1 + read.below(2))]
        self.offers: list[str] = ["never made"]
        self.programs: set[tuple[int, str]] = set()
        self.aborted: set[tuple[int, str]] = set()
        self.started: Counter[tuple[int, str]] = Counter()
        self.told: Counter[tuple[int, str]] = Counter()
        for number, session in enumerate(self.sessions):
            if not read.flag():  # the usual beginning, so that more of the input is about what follows
                for action in [*session.receive(RunnerRegistered(), 0.0), *session.make_offers(0.0)]:
                    self._carry_out(number, action)

    def step(self) -> None:
        number = self.read.below(len(self.sessions))
        session = self.sessions[number]
        lost = session.phase is Phase.LOST
        actions = self._event(number, session)
        for action in actions:
            self._carry_out(number, action)
        assert not (lost and any(isinstance(action, Send) for action in actions)), "a lost session sends"
        self._check()

    def _event(self, number: int, session: Session) -> list[Action]:
        read, task = self.read, self.read.pick(TASKS)
        match read.below(17):
            case 0:
                return session.receive(InfoRequest(), self.now)
            case 1:
                return session.receive(RunnerRegistered(), self.now)
            case 2 | 3 | 4:
                offer = read.pick(self.offers[-200:])
                return session.receive(TaskOfferAccept(task_id=task, offer_id=offer), self.now)
            case 5 | 6:
                return session.receive(TaskSettingsMessage(task_id=task, settings=SETTINGS), self.now)
            case 7:
                reason = read.pick(["", ACCEPT_WINDOW_ELAPSED, "Task cancelled by user"])
                return session.receive(TaskCancel(task_id=task, reason=reason), self.now)
            case 8:
                return session.receive(read.pick(answers(task)), self.now)
            case 9:
                return session.receive(Drain(), self.now) if read.flag() else []
            case 10:
                kind = read.pick(["broker:tasksettings", "broker:taskcancel", ""])
                return session.refuse(Refused("wrong_type", "odd", "", kind, task), self.now)
            case 11:
                self.now += read.pick(SPANS)
                return session.tick(self.now)
            case 12 | 13:
                return session.make_offers(self.now)
            case 14 | 15:
                return self._finish(number, session)
            case _:
                if read.flag():
                    return session.drain(self.now) if read.flag() else session.lose()
                return []

    def _finish(self, number: int, session: Session) -> list[Action]:
        mine = sorted(task for owner, task in self.programs if owner == number)
        if not mine:
            return []
        task = self.read.pick(mine)
        self.programs.remove((number, task))
        result = self.read.pick([TaskDone(task_id=task, data=DONE), TaskError(task_id=task, error=Raw(b"{}")), None])
        return session.finish(task, result, self.now)

    def _carry_out(self, number: int, action: Action) -> None:
        match action:
            case Send(message):
                if isinstance(message, TaskOffer):
                    self.offers.append(message.offer_id)
                elif isinstance(message, TaskDone | TaskError):
                    self.told[number, message.task_id] += 1
                    assert self.told[number, message.task_id] == 1, "two results of one task"
                    assert (number, message.task_id) not in self.aborted, "a result of a task that was to stop"
            case StartTask(task_id):
                self.started[number, task_id] += 1
                assert self.started[number, task_id] == 1, "a task is started twice"
                self.programs.add((number, task_id))
            case AbortTask(task_id):
                assert (number, task_id) in self.programs, "a task that does not run is to stop"
                self.aborted.add((number, task_id))
            case Deliver(task_id):
                assert (number, task_id) in self.programs, "an answer for a task that does not run"
            case OffersDue() | Registered() | Drained() | Note():
                pass
            case _:
                assert_never(action)

    def _check(self) -> None:
        in_hand = sum(len(session.tasks) for session in self.sessions)
        assert self.slots.taken == in_hand <= self.slots.capacity
        for number, session in enumerate(self.sessions):
            running = {task for task, state in session.tasks.items() if state is not TaskState.WAITING}
            assert running == {task for owner, task in self.programs if owner == number}
            assert session.open_offers(self.now) <= self.slots.capacity

    def come_to_rest(self) -> None:
        """Whatever happened, every slot can be had again, and nobody has to be called again at once."""
        for number, session in enumerate(self.sessions):
            for action in session.tick(self.now):
                self._carry_out(number, action)
            session.make_offers(self.now)
            deadline = session.next_deadline()
            assert deadline is None or deadline > self.now, "a deadline in the past makes the shell spin"
            session.lose()
        for number, task in sorted(self.programs):
            self.sessions[number].finish(task, None, self.now)
        assert self.slots.taken == 0, "a slot is lost"


def session_steps(data: bytes) -> None:
    """One or two sessions of one runner."""
    runner = _Runner(Reader(data))
    for _ in range(MAX_STEPS):
        if not runner.read:
            break
        runner.step()
    runner.come_to_rest()


class _N8n:
    """One broker, its runners and its requesters, none of which keeps to any rule."""

    RUNNERS = ("r", "s", "t")

    def __init__(self, read: Reader) -> None:
        self.read = read
        self.now = 0.0
        self.machine = broker(BrokerTerms(request_timeout=read.pick([1.0, 1.5, 5.0, 60.0])))
        self.requests = 0
        self.machine_tasks = 0
        """How many tasks it has made: their ids are t1, t2, …"""
        self.connected: set[str] = set()
        self.ready: dict[str, str] = {}
        self.ended: set[str] = set()
        self.expired: set[str] = set()
        for runner in self.RUNNERS[: read.below(4)]:  # some are there already
            self.connected.add(runner)
            self.machine.connect(runner)
            self.machine.receive(runner, RunnerInfo(name=runner, types=("python",)), 0.0)
            self.machine.receive(runner, TaskOffer(offer_id="o", task_type="python", valid_for=5000), 0.0)

    def step(self) -> None:
        for action in self._event():
            self._carry_out(action)
        open_tasks = self.machine.open_tasks
        assert set(open_tasks.values()) <= self.connected, "a task of nobody"
        assert not self.ended & set(open_tasks), "a task that has ended is open"

    def _event(self) -> list[BrokerAction]:
        read, runner = self.read, self.read.pick(self.RUNNERS)
        match read.below(10):
            case 0:
                self.connected.add(runner)
                return self.machine.connect(runner)
            case 1:
                self.connected.discard(runner)
                return self.machine.disconnect(runner, self.now)
            case 2 | 3 | 4:
                return self.machine.receive(runner, self._from_runner(), self.now)
            case 5 | 6:
                self.requests += 1
                task_type = read.pick(["python", "javascript"])
                return self.machine.request(TaskRequest(request_id=f"q{self.requests}", task_type=task_type), self.now)
            case 7:
                return self.machine.request(self._from_requester(), self.now)
            case 8:
                self.now += read.pick(SPANS)
                return self.machine.tick(self.now)
            case _:
                return self.machine.drain() if read.flag() and read.flag() else []

    def _task(self) -> str:
        last = self.machine_tasks
        return self.read.pick(["nobody's", *[f"t{number}" for number in range(max(1, last - 6), last + 1)]])

    def _from_runner(self) -> Any:
        read, task = self.read, self._task()
        raw = Raw(b"{}")
        return read.pick(
            [
                RunnerInfo(name="r", types=read.pick([("python",), (), ("python", "javascript")])),
                TaskOffer(offer_id=read.text(), task_type="python", valid_for=read.pick([-1, 5000, 0, 1e308, 0.5, -7])),
                TaskOffer(offer_id="o", task_type="python", valid_for=5000),
                TaskAccepted(task_id=task),
                TaskAccepted(task_id=task),
                TaskRejected(task_id=task, reason=""),
                TaskDeferred(task_id=task),
                TaskDone(task_id=task, data=DONE),
                TaskDone(task_id=task),
                TaskError(task_id=task, error=raw),
                Rpc(call_id="c", task_id=task, name="logNodeOutput", params=raw),
                TaskDataRequest(task_id=task, request_id="r", request_params=raw),
                NodeTypesRequest(task_id=task, request_id="r", request_params=raw),
            ]
        )

    def _from_requester(self) -> Any:
        task, raw = self._task(), Raw(b"{}")
        return self.read.pick(
            [
                RequesterSettings(task_id=task, settings=raw),
                RequesterCancel(task_id=task, reason=""),
                RequesterRpcResponse(task_id=task, call_id="c", status="success"),
                RequesterTaskData(task_id=task, request_id="r", data=raw),
                RequesterNodeTypes(task_id=task, request_id="r", node_types=raw),
            ]
        )

    def _carry_out(self, action: BrokerAction) -> None:
        match action:
            case ToRunner(runner_id, message):
                assert runner_id in self.connected, "a message for nobody"
                self.machine_tasks += isinstance(message, TaskOfferAccept)
            case CloseRunner(runner_id, _):
                assert runner_id in self.connected
            case ToRequester(TaskReady(request_id=request_id, task_id=task_id)):
                assert task_id not in self.ready
                assert request_id not in self.expired, "a request that has expired is served"
                self.ready[task_id] = request_id
            case ToRequester(ForwardedDone(task_id=task_id) | ForwardedError(task_id=task_id)):
                assert task_id in self.ready
                assert task_id not in self.ended, "two ends of one task"
                self.ended.add(task_id)
            case ToRequester(RequestExpired(request_id=request_id)):
                assert request_id not in self.expired, "a request expires twice"
                assert request_id not in self.ready.values(), "a request that is served expires"
                self.expired.add(request_id)
            case ToRequester():
                pass
            case _:
                assert_never(action)

    def come_to_rest(self) -> None:
        for action in self.machine.tick(self.now):
            self._carry_out(action)
        deadline = self.machine.next_deadline()
        assert deadline is None or deadline > self.now, "a deadline in the past makes the shell spin"


def broker_steps(data: bytes) -> None:
    """One broker."""
    n8n = _N8n(Reader(data))
    for _ in range(MAX_STEPS):
        if not n8n.read:
            break
        n8n.step()
    n8n.come_to_rest()


TARGETS = {"session": session_steps, "broker": broker_steps}
