"""What is remembered of a runner's tasks, and what a snapshot of it says."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace

from trio_runner import status
from trio_runner.counters import Counters
from trio_runner.health import BrokerState, Readiness
from trio_runner.protocol.messages import TaskSettings
from trio_runner.protocol.session import Note
from trio_runner.sandbox.records import Layer
from trio_runner.status import Board, Quantiles, Recent, Snapshot
from trio_runner.taskrecord import Outcome, TaskRecord

BROKER = BrokerState(broker="n8n:5679", connected=True, registered=True)
READY = Readiness(
    ready=True,
    brokers=[BROKER],
    workers_idle=5,
    workers_busy=1,
    workers_starting=0,
    workers_alive=True,
    zygote_restarts=0,
    slots=5,
    tasks=0,
    sandbox={},
)
NOON = 1_772_366_400.0  # 2026-03-01T12:00:00 UTC


def a_task(*, workflow: str = "Orders", node: str = "Code", accepted_at: float = 1000.0) -> TaskRecord:
    settings = TaskSettings(
        code="secret code",
        node_mode="runOnceForAllItems",
        items=Raw(b'["secret item"]'),
        node_id="n",
        node_name=node,
        workflow_id="w",
        workflow_name=workflow,
    )
    return TaskRecord("t", settings, broker="n8n:5679", accepted_at=accepted_at)


def over(ended_at: float, outcome: Outcome = "done", *, ran: float = 0.002, reason: str | None = None) -> TaskRecord:
    record = a_task(accepted_at=ended_at - ran - 0.001)
    record.leased_at = ended_at - ran
    record.reason = reason
    record.end(outcome, ended_at)
    return record


class World:
    """A board, and what it is told."""

    def __init__(self, *, mode: str = "strict", counters: Counters | None = None) -> None:
        self.counters = counters or Counters()
        self.state = READY
        self.running: list[TaskRecord] = []
        self.layers = [Layer("seccomp", "active"), Layer("uid", "off", "not root")]
        self.now = 1000.0
        self.board = Board(
            self.counters,
            runner="host, process 7",
            version="1.2.3",
            task_timeout=60,
            sandbox_mode=mode,
            readiness=lambda: self.state,
            running=lambda: self.running,
            layers=lambda: self.layers,
            now=lambda: self.now,
        )

    def ended(self, *records: TaskRecord) -> None:
        broker = self.counters.broker("n8n:5679")
        for record in records:
            broker.ended(record)

    def snapshot(self, now: float = 1010.0) -> Snapshot:
        self.now = now
        return self.board.snapshot(NOON)


def test_seconds_are_full_ones_with_the_youngest_last() -> None:
    recent = Recent()
    for at, outcome in ((1000.1, "done"), (1000.9, "error"), (1002.0, "done"), (1003.2, "done")):
        recent.note(over(at, outcome))  # type: ignore[arg-type]
    history = recent.history(1003.5)
    assert len(history.done) == len(history.failed) == len(history.p50) == len(history.p95) == status.KEPT_SECONDS
    assert (history.done[-3:], history.failed[-3:]) == ([1, 0, 1], [1, 0, 0]), "the second that goes on does not count"
    assert history.p50[-2] is None
    assert history.p50[-3] == pytest.approx(2.0)
    assert recent.history(1004.0).done[-1] == 1
    assert sum(recent.history(1003.5 + status.KEPT_SECONDS).done) == 1
    assert sum(recent.history(1004.0 + status.KEPT_SECONDS).done) == 0


def test_an_end_that_is_told_late_counts_for_the_second_that_was_begun() -> None:
    recent = Recent()
    recent.note(over(1001.0))
    recent.note(over(1000.9))
    assert recent.history(1002.0).done[-2:] == [0, 2]


def test_the_rate_is_that_of_the_last_ten_full_seconds() -> None:
    recent = Recent()
    for second in range(1000, 1020):
        recent.note(over(second + 0.5))
        recent.note(over(second + 0.6, "error"))
    assert recent.rate(1020.3) == 2.0
    assert recent.rate(1025.0) == 1.0
    assert recent.rate(1030.0) == 0.0


def test_medians_are_of_the_last_minute_and_95_of_100_are_not_above_the_other() -> None:
    recent = Recent()
    recent.note(over(1000.0, ran=50.0))
    for number in range(100):
        recent.note(over(1061.0 + number / 100, ran=(number + 1) / 1000))
    ran, queued = recent.quantiles(1062.0)
    assert ran == Quantiles(p50=pytest.approx(50.0), p95=pytest.approx(95.0))  # type: ignore[arg-type]
    assert queued.p95 == pytest.approx(1.0)
    assert recent.quantiles(1200.0) == (Quantiles(), Quantiles())


def test_memory_is_bounded_however_many_tasks_there_are() -> None:
    recent = Recent()
    for number in range(5000):
        recent.note(over(1000.0 + number / 5000))
    (second,) = recent._seconds
    assert (second.done, len(second.ran), len(second.queued)) == (5000, status.SAMPLES, status.SAMPLES)
    for number in range(1000):
        recent.note(over(2000.0 + number))
    assert len(recent._seconds) == status.KEPT_SECONDS + 1


def test_a_task_that_never_had_a_worker_has_no_run_time() -> None:
    recent = Recent()
    record = a_task(accepted_at=990.0)
    record.end("worker", 1000.0)
    recent.note(record)
    assert recent.quantiles(1001.0) == (Quantiles(), Quantiles(p50=10_000, p95=10_000))


def test_failures_are_told_with_place_reason_and_time_and_the_youngest_comes_first() -> None:
    world = World()
    world.ended(over(1001.0, "error", reason="division by zero (line 3)"), over(1002.0))
    world.ended(over(1004.0, "limit", ran=3.5, reason="Task execution timed out after 3 seconds"))
    timed_out, divided = world.snapshot(1010.0).failures
    assert (divided.workflow, divided.node, divided.outcome) == ("Orders", "Code", "error")
    assert (divided.reason, divided.ago, divided.at) == ("division by zero (line 3)", 9.0, "2026-03-01T11:59:51+00:00")
    assert (timed_out.outcome, timed_out.ran, timed_out.times) == ("limit", 3.5, 1)


def test_a_node_that_always_fails_does_not_hide_the_others() -> None:
    world = World()
    world.ended(over(1001.0, "error", reason="once"))
    world.ended(*(over(1002.0 + number / 100, "error", reason="again") for number in range(200)))
    again, once = world.snapshot().failures
    assert (again.reason, again.times, again.ago) == ("again", 200, pytest.approx(6.01))
    assert (once.reason, once.times) == ("once", 1)


def test_only_the_last_different_failures_are_kept() -> None:
    world = World()
    world.ended(*(over(1001.0, "error", reason=f"number {number}") for number in range(status.KEPT_FAILURES + 5)))
    reasons = [failure.reason for failure in world.snapshot().failures]
    assert reasons == [f"number {number}" for number in reversed(range(5, status.KEPT_FAILURES + 5))]


def test_a_task_that_never_got_its_code_is_a_failure_without_a_place() -> None:
    world = World()
    world.counters.broker("n8n:5679").not_started(Note("warning", "Gave up on task t7", "t7", "settings"))
    (failure,) = world.snapshot().failures
    assert (failure.task_id, failure.outcome, failure.reason) == ("t7", "settings", "Gave up on task t7")
    assert (failure.workflow, failure.node, failure.ago) == ("", "", 10.0)
    assert world.snapshot().failed == {"settings": 1}


def test_whoever_listened_before_is_still_told() -> None:
    counters = Counters()
    told: list[TaskRecord] = []
    late: list[TaskRecord] = []
    counters.listen(told.append)
    world = World(counters=counters)
    counters.listen(late.append)
    record = over(1001.0, "error", reason="both")
    world.ended(record)
    assert told == late == [record]
    assert [failure.reason for failure in world.snapshot().failures] == ["both"]


def test_running_tasks_are_the_oldest_first_with_what_they_wait_for() -> None:
    world = World()
    waits, runs, told = a_task(accepted_at=1007.0), a_task(accepted_at=1001.0), a_task(accepted_at=1009.0)
    runs.leased_at = told.leased_at = 1009.5
    told.end("done", 1009.9)
    world.running = [waits, runs, told]
    world.state = replace(READY, tasks=5)
    snapshot = world.snapshot(1010.0)
    assert [(task.age, task.ran, task.ended) for task in snapshot.running] == [
        (9.0, 0.5, False),
        (3.0, None, False),
        (1.0, 0.5, True),
    ]
    assert snapshot.waiting_for_code == 2


def test_of_very_many_running_tasks_the_oldest_are_named_and_the_rest_is_counted() -> None:
    world = World()
    world.running = [a_task(accepted_at=1000.0 + number / 1000) for number in range(status.SHOWN_TASKS + 7)]
    snapshot = world.snapshot()
    assert (len(snapshot.running), snapshot.running_more) == (status.SHOWN_TASKS, 7)
    assert snapshot.running[0].age == 10.0


@pytest.mark.parametrize(
    "nasty",
    ["a\nb", "\x1b[31mred", "\u202egnp.exe", "\ud800 half", "\u2028", "x" * 100_000, "\x00", "data: {}\r\n\r\n"],
    ids=ascii,
)
def test_whatever_a_workflow_is_called_it_is_one_short_line_that_can_be_encoded(nasty: str) -> None:
    world = World()
    world.running = [a_task(workflow=nasty, node=nasty)]
    failed = a_task(workflow=nasty, node=nasty)
    failed.reason = nasty
    failed.end("error", 1001.0)
    world.ended(failed)
    world.layers = [Layer("uid", "unavailable", nasty)]
    world.state = replace(READY, brokers=[replace(BROKER, last_error=nasty)])
    encoded = msgspec.json.encode(world.snapshot())
    assert b"\n" not in encoded
    assert len(encoded) < 10_000
    snapshot = msgspec.json.decode(encoded, type=Snapshot)
    failure = snapshot.failures[0]
    texts = (snapshot.running[0].workflow, snapshot.running[0].node, failure.workflow, failure.node, failure.reason)
    assert all(text.isprintable() for text in texts)


def test_code_and_data_are_never_part_of_it() -> None:
    world = World()
    world.running = [a_task()]
    world.ended(over(1001.0, "error", reason="failed"))
    assert b"secret" not in msgspec.json.encode(world.snapshot())


def test_what_a_broker_failed_with_does_not_repeat_its_name() -> None:
    world = World()
    world.state = replace(READY, brokers=[replace(BROKER, last_error="n8n:5679: Connection refused"), BROKER])
    assert [broker.last_error for broker in world.snapshot().brokers] == ["earlier: Connection refused", None]
    away = replace(BROKER, connected=False, registered=False, last_error="n8n:5679: Connection refused")
    world.state = replace(READY, brokers=[away])
    assert [broker.last_error for broker in world.snapshot().brokers] == ["Connection refused"]


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, "Ready"),
        ({"tasks": 5}, "Full: all slots are taken"),
        ({"workers_alive": False}, "Not ready: there are no workers"),
        ({"brokers": []}, "Not ready: no broker is connected"),
        ({"brokers": [replace(BROKER, registered=False)]}, "Not ready: no broker has registered it"),
        ({"brokers": [replace(BROKER, registered=False, draining=True)]}, "Draining: takes no more tasks"),
        ({"brokers": [replace(BROKER, registered=False, draining=True), BROKER]}, "Ready"),
    ],
)
def test_the_state_is_said_in_words(change: dict[str, object], state: str) -> None:
    world = World()
    world.state = replace(READY, **change)
    assert world.snapshot().state == state
    assert bool(world.snapshot().advice) == (state.startswith(("Full", "Not ready")))


def test_a_refused_token_is_what_the_advice_is_about() -> None:
    world = World()
    refused = replace(BROKER, connected=False, registered=False, auth_refused=True)
    world.state = replace(READY, ready=False, brokers=[refused])
    assert world.snapshot().advice.startswith("N8N_RUNNERS_AUTH_TOKEN must be the same")


@pytest.mark.parametrize(
    ("mode", "layers", "verdict"),
    [
        ("strict", [Layer("seccomp", "active"), Layer("uid", "off")], "full"),
        ("strict", [Layer("seccomp", "unavailable", "old kernel"), Layer("uid", "active")], "degraded"),
        ("off", [Layer("seccomp", "off")], "off"),
        ("strict", [], "unknown"),
    ],
)
def test_a_sandbox_is_degraded_when_a_layer_is_missing_that_was_asked_for(
    mode: str, layers: list[Layer], verdict: str
) -> None:
    world = World(mode=mode)
    world.layers = layers
    assert world.snapshot().sandbox == verdict
