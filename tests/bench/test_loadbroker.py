"""The load broker against a runner whose every word was written down before."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection as Close
from wsproto.events import Event, Message, Ping, Pong, TextMessage

from bench import tasks
from bench.loadbroker import RunnerError, Session
from bench.tasks import WrongResultError

RESULT = [{"json": {"n": 1}}]


class ScriptedRunner:
    """The other end of a session. Ids of tasks are known beforehand, so that it can speak before it is spoken to."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        theirs.settimeout(5)
        self.session = Session(ours)
        self._socket = theirs
        self._frames = Connection(ConnectionType.CLIENT)

    def say(self, type_: str, **fields: object) -> None:
        self.send(TextMessage(data=json.dumps({"type": type_, **fields})))

    def send(self, event: Event) -> None:
        self._socket.sendall(self._frames.send(event))

    def offer(self, valid_for: float = 5000) -> None:
        self.say("runner:taskoffer", offerId=f"o{valid_for}", taskType="python", validFor=valid_for)

    def serve(self, number: int, result: object = RESULT) -> None:
        self.say("runner:taskaccepted", taskId=f"t{number:07d}")
        self.say("runner:taskdone", taskId=f"t{number:07d}", data={"result": result})

    def heard(self) -> list[Event]:
        """What was sent to it so far."""
        self._socket.setblocking(False)
        self._frames.receive_data(self._socket.recv(1 << 16))
        return list(self._frames.events())

    def messages(self) -> list[dict[str, object]]:
        return [json.loads(event.data) for event in self.heard() if isinstance(event, Message)]

    def leave(self) -> None:
        self._socket.close()


@pytest.fixture
def runner() -> Iterator[ScriptedRunner]:
    runner = ScriptedRunner()
    with runner.session:
        yield runner
    runner.leave()


def test_a_task_is_taken_through_its_five_messages(runner: ScriptedRunner) -> None:
    runner.offer()
    runner.serve(1)
    batch = runner.session.run(tasks.TRIVIAL)
    assert len(batch.latencies) == batch.finished == 1
    accept, settings = runner.messages()
    assert accept == {"type": "broker:taskofferaccept", "taskId": "t0000001", "offerId": "o5000"}
    assert settings["taskId"] == "t0000001"
    assert settings["settings"]["items"] == [{"json": {"a": 1}, "pairedItem": {"item": 0}}]  # type: ignore[index]


def test_offers_are_taken_in_their_order_and_never_after_their_time(runner: ScriptedRunner) -> None:
    for valid_for in (0, -1, 60_000):
        runner.offer(valid_for)
    runner.serve(1)
    runner.serve(2)
    runner.session.run(tasks.TRIVIAL, count=2)
    taken = [one["offerId"] for one in runner.messages() if "offerId" in one]
    assert taken == ["o-1", "o60000"]


def test_a_rejected_task_is_tried_again_with_the_next_offer(runner: ScriptedRunner) -> None:
    runner.offer()
    runner.say("runner:taskrejected", taskId="t0000001", reason="Offer expired")
    runner.offer()
    runner.serve(2)
    batch = runner.session.run(tasks.TRIVIAL)
    assert (batch.rejected, len(batch.latencies)) == (1, 1)


def test_tasks_still_out_at_the_end_are_waited_for_and_do_not_count(runner: ScriptedRunner) -> None:
    for _ in range(3):
        runner.offer()
    for number in (1, 2, 3):
        runner.serve(number)
    batch = runner.session.run(tasks.TRIVIAL, concurrency=3, count=2)
    assert (len(batch.latencies), batch.finished) == (2, 3)


def test_the_clock_starts_when_the_loop_is_full(runner: ScriptedRunner) -> None:
    for number in (1, 2, 3):
        runner.offer()
        runner.serve(number)
    batch = runner.session.run(tasks.TRIVIAL, count=1, lead=2)
    assert (len(batch.latencies), batch.finished) == (1, 3)


def test_the_least_number_is_measured_however_long_it_takes(runner: ScriptedRunner) -> None:
    for number in (1, 2, 3):
        runner.offer()
        runner.serve(number)
    assert len(runner.session.run(tasks.TRIVIAL, count=10, seconds=0, least=3).latencies) == 3


def test_one_task_counts_even_when_the_time_was_over_before_it_ended(runner: ScriptedRunner) -> None:
    runner.offer()
    runner.offer()
    runner.serve(1)
    runner.serve(2)
    assert len(runner.session.run(tasks.TRIVIAL, count=10, seconds=0).latencies) == 1


def test_a_wrong_result_is_no_figure(runner: ScriptedRunner) -> None:
    runner.offer()
    runner.serve(1, result=[{"json": {"n": 2}}])
    with pytest.raises(WrongResultError, match="trivial"):
        runner.session.run(tasks.TRIVIAL)


def test_a_failed_task_is_no_figure(runner: ScriptedRunner) -> None:
    runner.offer()
    runner.say("runner:taskerror", taskId="t0000001", error={"message": "no such luck"})
    with pytest.raises(RunnerError, match="no such luck"):
        runner.session.run(tasks.TRIVIAL)


def test_a_runner_that_leaves_is_no_figure(runner: ScriptedRunner) -> None:
    runner.offer()
    runner.leave()
    with pytest.raises(RunnerError):
        runner.session.run(tasks.TRIVIAL)


def test_what_is_no_message_ends_the_measurement(runner: ScriptedRunner) -> None:
    runner.send(TextMessage(data="hello"))
    with pytest.raises(RunnerError, match="no message"):
        runner.session.run(tasks.TRIVIAL)


def test_pings_are_answered_while_it_waits(runner: ScriptedRunner) -> None:
    runner.send(Ping(payload=b"still there?"))
    runner.offer()
    runner.session.sit(0.01)
    (pong,) = runner.heard()
    assert isinstance(pong, Pong)
    assert bytes(pong.payload) == b"still there?"
    runner.serve(1)
    runner.session.run(tasks.TRIVIAL)  # with the offer that came behind the ping


def test_a_goodbye_is_answered(runner: ScriptedRunner) -> None:
    runner.send(Close(code=1000))
    runner.session.part(5.0)
    assert any(isinstance(event, Close) for event in runner.heard())


def test_tasks_that_are_held_are_counted_when_they_have_their_settings(runner: ScriptedRunner) -> None:
    for number in (1, 2, 3):
        runner.offer()
        if number < 3:
            runner.say("runner:taskaccepted", taskId=f"t{number:07d}")
    assert runner.session.hold(tasks.TRIVIAL, 3, limit=0.05) == 2
