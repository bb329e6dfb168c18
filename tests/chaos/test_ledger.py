"""The ledger sees what must never happen: otherwise a run in which it has nothing to say would say nothing."""

from __future__ import annotations

import pytest
from msgspec import Raw

from tests.chaos.ledger import Ledger, WatchedBroker
from tests.protocol.protocol_kit import DONE, ask, offer
from trio_runner.protocol.broker import BrokerTerms
from trio_runner.protocol.messages import (
    RequesterCancel,
    RequesterSettings,
    RunnerInfo,
    TaskAccepted,
    TaskDone,
    TaskError,
    TaskRejected,
)


class Scene:
    """A watched broker with runner ``r``, and its one task taken up by that runner."""

    def __init__(self, capacity: int = 1) -> None:
        self.ledger = Ledger(capacity)
        self.broker = WatchedBroker(self.ledger, BrokerTerms())
        self.connect()
        self.task = self.match()

    def connect(self) -> None:
        self.broker.connect("r")
        self.broker.receive("r", RunnerInfo(name="r", types=("python",)), 0.0)

    def match(self) -> str:
        """Another offer and another request for it."""
        known = set(self.ledger.tasks)
        self.broker.receive("r", offer(f"o{len(known)}"), 0.0)
        self.broker.request(ask(f"q{len(known)}"), 0.0)
        (task,) = set(self.ledger.tasks) - known
        return task

    def accept(self) -> None:
        self.broker.receive("r", TaskAccepted(task_id=self.task), 0.0)

    def settle(self) -> None:
        self.broker.request(RequesterSettings(task_id=self.task, settings=Raw(b"{}")), 0.0)

    def done(self) -> None:
        self.broker.receive("r", TaskDone(task_id=self.task, data=DONE), 0.0)

    def problems(self) -> list[str]:
        self.ledger.check_ends()
        return [problem.replace(self.task, "T") for problem in self.ledger.problems]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_task_with_its_one_result_is_well(scene: Scene) -> None:
    assert (scene.ledger.unanswered(), scene.broker.in_view(0.0)) == (1, 1)
    scene.accept()
    assert (scene.ledger.unanswered(), scene.broker.in_view(0.0)) == (0, 1)
    scene.settle()
    scene.done()
    assert scene.broker.in_view(0.0) == 0
    assert scene.problems() == []
    assert scene.ledger.counts() == {"result": 1}


def test_so_is_one_that_was_rejected_or_never_answered(scene: Scene) -> None:
    scene.broker.receive("r", TaskRejected(task_id=scene.task, reason="no"), 0.0)
    scene.match()
    assert scene.problems() == []
    assert scene.ledger.counts() == {}


def test_so_is_one_that_was_cancelled_and_whose_result_crossed_the_cancel(scene: Scene) -> None:
    scene.accept()
    scene.settle()
    scene.broker.request(RequesterCancel(task_id=scene.task, reason="over"), 0.0)
    assert scene.ledger.counts() == {"cancelled": 1}
    scene.done()
    assert scene.problems() == []


def test_so_is_one_whose_connection_went_or_was_replaced(scene: Scene) -> None:
    scene.accept()
    scene.broker.disconnect("r", 0.0)
    assert not scene.ledger.connected
    scene.connect()
    scene.match()
    scene.connect()
    assert scene.problems() == []
    assert scene.ledger.counts() == {"lost": 1}
    assert scene.ledger.connections == 3


def test_a_task_without_an_end_is_a_problem(scene: Scene) -> None:
    scene.accept()
    assert scene.problems() == ["task T was accepted on connection 1 and never ended"]


def test_a_second_result_is_a_problem(scene: Scene) -> None:
    scene.accept()
    scene.settle()
    scene.done()
    scene.broker.receive("r", TaskError(task_id=scene.task, error=Raw(b"{}")), 0.0)
    assert scene.problems() == ["task T has 2 results"]


def test_a_result_on_the_next_connection_is_a_problem(scene: Scene) -> None:
    scene.accept()
    scene.settle()
    scene.connect()
    scene.done()
    assert scene.problems() == ["a result of task T on connection 2, not on 1"]


def test_a_result_before_the_settings_or_the_acceptance_is_a_problem(scene: Scene) -> None:
    scene.done()
    assert scene.problems() == [
        "a result of task T, which was not accepted",
        "a result of task T, which has no settings yet",
    ]


def test_a_result_of_nobody_s_task_is_a_problem(scene: Scene) -> None:
    scene.broker.receive("r", TaskDone(task_id="x", data=DONE), 0.0)
    assert scene.problems() == ["a result of task x, which nobody gave out"]


def test_more_tasks_than_slots_are_a_problem(scene: Scene) -> None:
    scene.accept()
    scene.broker.receive("r", TaskAccepted(task_id=scene.match()), 0.0)
    assert "2 tasks at once on a runner with 1 slots" in scene.problems()
