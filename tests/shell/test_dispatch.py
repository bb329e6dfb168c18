"""The dispatcher between a real session and workers without processes: memory channels and a clock that jumps."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator

import msgspec
import pytest
import trio
from msgspec import Raw
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.shell.shell_kit import FakeExecutor, Records
from trio_runner.counters import BrokerCounters
from trio_runner.dispatch import CUT_OFF_ADVICE, Dispatcher, Outgoing
from trio_runner.outlet import PIECE
from trio_runner.protocol.messages import (
    Drain,
    InfoRequest,
    Refused,
    ResultData,
    Rpc,
    RpcResponse,
    RunnerInfo,
    RunnerMessage,
    RunnerRegistered,
    TaskAccepted,
    TaskCancel,
    TaskDone,
    TaskError,
    TaskOffer,
    TaskOfferAccept,
    TaskRejected,
    TaskSettings,
    TaskSettingsMessage,
    decode_from_broker,
)
from trio_runner.protocol.session import NO_SETTINGS, REJECT_DRAINING, REJECT_EXPIRED, OfferTerms, Session
from trio_runner.protocol.slots import Slots

NEVER_CAME = {"message": "Task settings did not arrive within 10 seconds", "description": NO_SETTINGS}
TERMS = OfferTerms(validity=5.0, jitter=0.0)


class Rig:
    """A dispatcher whose messages end in a list; the test plays the broker and, if it wants, the writer."""

    def __init__(
        self, nursery: trio.Nursery, slots: Slots, room: int, *, writing: bool, terms: OfferTerms = TERMS
    ) -> None:
        numbers = itertools.count(1)
        session = Session(
            name="r",
            task_type="python",
            slots=slots,
            terms=terms,
            new_id=lambda: f"o{next(numbers)}",
            random=lambda: 0.0,
        )
        outbox, self.inbox = trio.open_memory_channel[Outgoing](room)
        self.nursery = nursery
        self.executor = FakeExecutor()
        self.activity: list[tuple[float, int]] = []
        self.sent: list[tuple[float, RunnerMessage]] = []
        self.slots = slots
        self.counters = BrokerCounters("b")
        self.closed = False
        self.hold: trio.Event | None = None
        """Set, it stands in the way of the writer until it happens."""
        self.arriving = False
        self.dispatcher = Dispatcher(
            session,
            outbox,
            nursery,
            self.executor,  # type: ignore[arg-type]
            lambda: self.activity.append((round(trio.current_time(), 3), slots.taken)),
            counters=self.counters,
            large_one_arrives=lambda: self.arriving,
        )
        if writing:
            nursery.start_soon(self.write)
        nursery.start_soon(self.dispatcher.emit_offers)

    async def write(self) -> None:
        async for outgoing in self.inbox:
            if self.hold is not None:
                await self.hold.wait()
            self.sent.append((trio.current_time(), outgoing.message))
            if outgoing.written is not None:
                outgoing.written.set()
        self.closed = True

    def receive(self, message: InfoRequest | RunnerRegistered | TaskOfferAccept | TaskCancel | Drain) -> None:
        self.dispatcher.receive(message)

    def settings(self, task_id: str, code: str) -> None:
        settings = TaskSettings(code=code, node_mode="runOnceForAllItems", items=Raw(b"[]"))
        self.dispatcher.receive(TaskSettingsMessage(task_id=task_id, settings=settings))

    def accept(self, task_id: str, offer_id: str | None = None) -> None:
        self.receive(TaskOfferAccept(task_id=task_id, offer_id=offer_id or self.offers[-1]))

    def start(self, task_id: str, code: str, offer_id: str | None = None) -> None:
        self.accept(task_id, offer_id)
        self.settings(task_id, code)

    @property
    def messages(self) -> list[RunnerMessage]:
        return [message for _, message in self.sent]

    @property
    def offers(self) -> list[str]:
        return [message.offer_id for message in self.messages if isinstance(message, TaskOffer)]

    def about(self, task_id: str) -> list[RunnerMessage]:
        return [message for message in self.messages if getattr(message, "task_id", None) == task_id]


@contextlib.asynccontextmanager
async def rigged(
    capacity: int = 1, *, register: bool = True, writing: bool = True, room: int = 1000, terms: OfferTerms = TERMS
) -> AsyncIterator[Rig]:
    async with trio.open_nursery() as nursery:
        with trio.fail_after(10_000):
            rig = Rig(nursery, Slots(capacity), room, writing=writing, terms=terms)
            if register:
                rig.receive(InfoRequest())
                rig.receive(RunnerRegistered())
                await wait_all_tasks_blocked()
            yield rig
        nursery.cancel_scope.cancel()


def done(task_id: str, result: bytes = b"null") -> TaskDone:
    return TaskDone(task_id=task_id, data=ResultData(result=Raw(result)))


def failure_of(message: RunnerMessage) -> dict[str, object]:
    assert isinstance(message, TaskError)
    body: dict[str, object] = msgspec.json.decode(message.error)
    return body


# Offers


@pytest.mark.parametrize("capacity", [1, 5, 40])
async def test_registration_is_followed_by_an_offer_for_each_slot(capacity: int) -> None:
    async with rigged(capacity) as rig:
        assert isinstance(rig.messages[0], RunnerInfo)
        assert len(rig.offers) == capacity
        assert len(set(rig.offers)) == capacity


async def test_nothing_is_offered_before_the_registration() -> None:
    async with rigged(register=False) as rig:
        assert rig.dispatcher.unregistered
        assert not rig.dispatcher.heard
        rig.receive(InfoRequest())
        await wait_all_tasks_blocked()
        assert [type(message) for message in rig.messages] == [RunnerInfo]
        assert rig.dispatcher.heard
        assert not rig.dispatcher.registered


async def test_a_freed_slot_is_offered_again_in_the_same_moment(autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        await trio.sleep(0.1)
        rig.start("t1", "sleep 1")
        await trio.sleep(1.05)
        times = {type(message): at for at, message in rig.sent}
        assert times[TaskDone] == times[TaskOffer] == trio.current_time() - 0.05


async def test_one_slot_serves_a_queue_of_fifty_without_waiting_for_any_beat(autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        started = trio.current_time()
        for number in range(50):
            rig.start(f"t{number}", f"return {number}")
            await wait_all_tasks_blocked()
        assert [m for m in rig.messages if isinstance(m, TaskDone)] == [done(f"t{n}", b"%d" % n) for n in range(50)]
        assert len(rig.offers) == 51
        assert trio.current_time() == started


async def test_an_offer_is_renewed_when_it_lapses_and_not_before(autojump_clock: MockClock) -> None:
    async with rigged(2) as rig:
        await trio.sleep(22)
        times = [at for at, message in rig.sent if isinstance(message, TaskOffer)]
        assert times == pytest.approx([0, 0, 5, 5, 10, 10, 15, 15, 20, 20])


async def test_an_idle_dispatcher_does_not_spin(autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        steps = 0

        class Count(trio.abc.Instrument):
            def before_task_step(self, task: trio.lowlevel.Task) -> None:
                nonlocal steps
                steps += 1

        trio.lowlevel.add_instrument(counter := Count())
        await trio.sleep(101)
        trio.lowlevel.remove_instrument(counter)
        assert len(rig.offers) == 21
        assert steps < 200, "a few steps for each of twenty renewals"


async def test_an_accept_of_a_lapsed_offer_is_rejected(autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        await trio.sleep(5.2)
        rig.accept("t", "o1")
        await wait_all_tasks_blocked()
        assert rig.messages[-1] == TaskRejected(task_id="t", reason=REJECT_EXPIRED)
        assert rig.slots.taken == 0


# Odd frames


def refused(frame: str) -> Refused:
    with pytest.raises(Refused) as caught:
        decode_from_broker(frame)
    return caught.value


async def test_an_unknown_type_is_logged_once_and_another_once_more(records: Records) -> None:
    async with rigged() as rig:
        for message_type in ("broker:new", "broker:new", "broker:newer", "broker:new"):
            rig.dispatcher.refuse(refused(f'{{"type":"{message_type}"}}'))
        assert [line.partition(".")[0] for line in records.having("Unknown message type")] == [
            "Unknown message type: broker:new",
            "Unknown message type: broker:newer",
        ]


async def test_a_broker_that_invents_types_without_end_fills_neither_log_nor_memory(records: Records) -> None:
    async with rigged() as rig:
        for number in range(1000):
            rig.dispatcher.refuse(refused(f'{{"type":"broker:{number}-{"x" * 1000}"}}'))
        lines = records.having("Unknown message type")
        assert len(lines) == 100
        assert max(map(len, lines)) < 400


async def test_a_bad_message_is_logged_with_its_reason_and_changes_nothing(records: Records) -> None:
    async with rigged() as rig:
        before = rig.messages
        for frame in ("no json", "[]", "{}", '{"type":5}', '{"type":"broker:taskcancel"}'):
            rig.dispatcher.refuse(refused(frame))
        await wait_all_tasks_blocked()
        assert rig.messages == before
        assert len(records.having("Error handling message: ")) == 5
        rig.start("t", "return 1")
        await wait_all_tasks_blocked()
        assert done("t", b"1") in rig.messages


async def test_settings_that_cannot_be_read_fail_their_task_and_free_its_slot() -> None:
    async with rigged() as rig:
        rig.accept("t")
        rig.dispatcher.refuse(refused('{"type":"broker:tasksettings","taskId":"t","settings":{"code":5}}'))
        await wait_all_tasks_blocked()
        accepted, error = rig.about("t")
        assert isinstance(accepted, TaskAccepted)
        assert str(failure_of(error)["message"]).startswith("The task's settings could not be read: ")
        assert rig.slots.taken == 0
        assert len(rig.offers) == 2


async def test_messages_that_make_no_sense_now_change_nothing() -> None:
    async with rigged() as rig:
        rig.settings("never accepted", "return 1")
        rig.receive(TaskCancel(task_id="never seen", reason="x"))
        rig.dispatcher.receive(RpcResponse(task_id="nobody", call_id="1", status="success"))
        rig.receive(RunnerRegistered())
        await wait_all_tasks_blocked()
        assert rig.executor.started == []
        assert len(rig.offers) == 1
        rig.start("t", "hang")
        await wait_all_tasks_blocked()
        rig.settings("t", "return 2")
        rig.accept("t", "o1")
        await wait_all_tasks_blocked()
        assert rig.executor.started == ["t"]
        assert rig.about("t") == [TaskAccepted(task_id="t")]


# Cancelling


async def test_a_task_cancelled_while_it_waits_for_settings_frees_its_slot_at_once(autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        rig.accept("t")
        assert rig.slots.taken == 1
        rig.receive(TaskCancel(task_id="t", reason="Task cancelled by user"))
        assert rig.slots.taken == 0
        await wait_all_tasks_blocked()
        assert rig.about("t") == [TaskAccepted(task_id="t")]
        assert len(rig.offers) == 2


async def test_a_running_task_that_is_cancelled_keeps_its_slot_until_its_worker_is_gone(
    autojump_clock: MockClock,
) -> None:
    async with rigged() as rig:
        rig.start("t", "die 3")
        await trio.sleep(1)
        rig.receive(TaskCancel(task_id="t", reason="Task cancelled by user"))
        await trio.sleep(2.9)
        assert rig.slots.taken == 1
        assert len(rig.offers) == 1
        await trio.sleep(0.2)
        assert rig.slots.taken == 0
        assert len(rig.offers) == 2
        assert rig.about("t") == [TaskAccepted(task_id="t")], "nothing more is said of a cancelled task"


async def test_a_cancel_right_behind_the_settings_is_not_lost() -> None:
    async with rigged() as rig:
        rig.start("t", "hang")
        rig.receive(TaskCancel(task_id="t", reason="x"))
        await wait_all_tasks_blocked()
        assert rig.slots.taken == 0
        assert rig.executor.running == set()
        assert rig.about("t") == [TaskAccepted(task_id="t")]


async def test_a_second_cancel_is_nothing_new() -> None:
    async with rigged() as rig:
        rig.start("t", "hang")
        await wait_all_tasks_blocked()
        rig.receive(TaskCancel(task_id="t", reason="x"))
        rig.receive(TaskCancel(task_id="t", reason="x"))
        await wait_all_tasks_blocked()
        rig.receive(TaskCancel(task_id="t", reason="x"))
        assert rig.slots.taken == 0


async def test_a_cancel_reaches_a_result_that_is_not_yet_in_the_outbox() -> None:
    async with rigged(2, writing=False) as rig:
        rig.start("t1", "return 1", "o1")
        await wait_all_tasks_blocked()
        rig.start("t2", "return 2", "o2")
        await wait_all_tasks_blocked()
        for task_id in ("t1", "t2"):
            rig.receive(TaskCancel(task_id=task_id, reason="x"))
        rig.nursery.start_soon(rig.write)
        await wait_all_tasks_blocked()
        assert rig.about("t1")[-1] == done("t1", b"1"), "too late"
        assert rig.about("t2") == [TaskAccepted(task_id="t2")]
        assert rig.slots.taken == 0


async def test_settings_that_never_come_cost_a_slot_for_ten_seconds_only(autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        rig.accept("t")
        await trio.sleep(9.9)
        assert rig.slots.taken == 1
        await trio.sleep(0.2)
        assert rig.slots.taken == 0
        at, error = next((at, message) for at, message in rig.sent if isinstance(message, TaskError))
        assert at == pytest.approx(10)
        assert failure_of(error) == NEVER_CAME
        assert len(rig.offers) == 2
        rig.settings("t", "return 1")
        await wait_all_tasks_blocked()
        assert rig.executor.started == []


async def test_settings_that_never_come_are_given_up_in_time_however_long_offers_last(
    autojump_clock: MockClock,
) -> None:
    async with rigged(2, terms=OfferTerms(validity=3600.0, jitter=0.0)) as rig:
        await trio.sleep(3)
        rig.accept("t")
        await trio.sleep(5)
        rig.accept("u", "o1")
        await trio.sleep(15)
        times = [at for at, message in rig.sent if isinstance(message, TaskError)]
        assert times == pytest.approx([13, 18])


# Results


async def test_prints_and_the_result_go_out_in_their_order() -> None:
    async with rigged() as rig:
        rig.start("t", "print 3")
        await wait_all_tasks_blocked()
        kinds = [type(message) for message in rig.about("t")]
        assert kinds == [TaskAccepted, Rpc, Rpc, Rpc, TaskDone]


async def test_a_failed_task_is_reported_and_its_slot_free() -> None:
    async with rigged() as rig:
        rig.start("t", "fail because")
        await wait_all_tasks_blocked()
        assert failure_of(rig.about("t")[-1]) == {"message": "because"}
        assert rig.slots.taken == 0


async def test_while_nobody_writes_one_result_waits_and_the_others_keep_their_slots() -> None:
    async with rigged(3, writing=False) as rig:
        for number, offer_id in enumerate(["o1", "o2", "o3"]):
            rig.start(f"t{number}", "result 1000", offer_id)
        await wait_all_tasks_blocked()
        assert rig.executor.running == set()
        assert rig.slots.taken == 2, "one result is in the outbox, two are held by their tasks"
        rig.nursery.start_soon(rig.write)
        await wait_all_tasks_blocked()
        assert rig.slots.taken == 0
        assert sum(isinstance(message, TaskDone) for message in rig.messages) == 3


@pytest.mark.parametrize("size", [1000, 1_000_000])
async def test_while_a_large_result_leaves_nothing_is_offered_for_it_would_come_too_late(
    autojump_clock: MockClock, size: int
) -> None:
    async with rigged(3) as rig:
        rig.hold = trio.Event()
        rig.start("t", f"result {size}")
        await wait_all_tasks_blocked()
        assert rig.slots.taken == 0
        await trio.sleep(17)
        rig.hold.set()
        held_until = trio.current_time()
        await trio.sleep(0.001)
        late = [at for at, message in rig.sent[5:] if isinstance(message, TaskOffer)]
        if size > PIECE:
            assert late == [held_until] * 3, "each slot once"
        else:
            assert len(late) > 3, "a small one is not worth the trouble: what is behind it has lapsed"


async def test_settings_that_are_on_their_way_are_waited_for(autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        rig.arriving = True
        rig.accept("t")
        await trio.sleep(60)
        assert len(rig.about("t")) == 1
        rig.settings("t", "return 1")
        await wait_all_tasks_blocked()
        assert rig.about("t")[-1] == done("t", b"1")
        rig.accept("u")
        await trio.sleep(30)
        rig.arriving = False
        await trio.sleep(1.1)
        assert failure_of(rig.about("u")[-1]) == NEVER_CAME


async def test_a_broker_that_reads_nothing_while_messages_pile_up_is_given_up_on() -> None:
    async with trio.open_nursery() as outer:
        with trio.fail_after(5):
            rig: Rig | None = None
            async with trio.open_nursery() as nursery:
                rig = Rig(nursery, Slots(1), 50, writing=False)
                rig.receive(RunnerRegistered())
                for _ in range(60):
                    rig.receive(InfoRequest())
                await trio.sleep_forever()
            assert rig.dispatcher.failure is not None
            assert "does not read" in str(rig.dispatcher.failure)
        outer.cancel_scope.cancel()


async def test_answers_to_prints_are_taken_and_forgotten() -> None:
    async with rigged() as rig:
        rig.start("t", "hang")
        await wait_all_tasks_blocked()
        rig.dispatcher.receive(RpcResponse(task_id="t", call_id="1", status="error", data=Raw(b'"no"')))
        await wait_all_tasks_blocked()
        assert rig.executor.running == {"t"}


# Calls


def response(task_id: str, data: bytes = b"7") -> RpcResponse:
    return RpcResponse(task_id=task_id, call_id=f"call of {task_id}", status="success", data=Raw(data))


async def test_a_call_goes_out_and_its_answer_reaches_the_task_that_asked() -> None:
    async with rigged() as rig:
        rig.start("t", "ask 10")
        await wait_all_tasks_blocked()
        assert isinstance(rig.messages[-1], Rpc)
        rig.dispatcher.receive(response("t"))
        await wait_all_tasks_blocked()
        assert rig.messages[-1] == done("t", b"7") or done("t", b"7") in rig.messages


async def test_an_answer_that_comes_after_a_cancel_goes_nowhere() -> None:
    async with rigged() as rig:
        rig.start("t", "ask 10")
        await wait_all_tasks_blocked()
        rig.receive(TaskCancel(task_id="t", reason="Task cancelled by user"))
        rig.dispatcher.receive(response("t"))
        await wait_all_tasks_blocked()
        assert rig.executor.cancelled == ["t"]
        assert not any(isinstance(message, TaskDone) for message in rig.messages)


async def test_large_calls_leave_one_at_a_time_and_offers_wait_for_them(autojump_clock: MockClock) -> None:
    async with rigged(3) as rig:
        before = len(rig.offers)
        rig.hold = trio.Event()
        rig.start("a", f"ask {2 * PIECE}", "o1")
        rig.start("b", f"ask {2 * PIECE}", "o2")
        await wait_all_tasks_blocked()
        assert rig.executor.asked == []
        assert rig.inbox.statistics().current_buffer_used <= 2  # an acceptance and one call at most
        await trio.sleep(6)  # offers have lapsed meanwhile
        assert len(rig.offers) == before
        rig.hold.set()
        await wait_all_tasks_blocked()
        assert sorted(rig.executor.asked) == ["a", "b"]
        assert len(rig.offers) > before


# Draining and ends


async def test_a_drain_stops_offers_refuses_accepts_and_lets_tasks_finish(autojump_clock: MockClock) -> None:
    async with rigged(2) as rig:
        rig.start("t", "sleep 20", "o1")
        await wait_all_tasks_blocked()
        rig.receive(Drain())
        assert rig.dispatcher.draining
        assert not rig.dispatcher.registered
        rig.accept("late", "o2")
        await trio.sleep(19)
        assert rig.messages[-1] == TaskRejected(task_id="late", reason=REJECT_DRAINING)
        await trio.sleep(2)
        assert rig.messages[-1] == done("t", b"20")
        assert len(rig.offers) == 2
        assert not rig.closed, "it is for the broker to close"


async def test_leaving_ends_the_outbox_after_the_last_result(autojump_clock: MockClock) -> None:
    async with rigged(2) as rig:
        rig.start("t", "sleep 3", "o1")
        rig.dispatcher.leave()
        await trio.sleep(2.9)
        assert not rig.closed
        assert not rig.dispatcher.left
        await trio.sleep(0.2)
        assert rig.closed
        assert rig.dispatcher.left
        assert rig.messages[-1] == done("t", b"3")


async def test_leaving_without_tasks_ends_the_outbox_at_once() -> None:
    async with rigged() as rig:
        rig.dispatcher.leave()
        rig.dispatcher.leave()
        await wait_all_tasks_blocked()
        assert rig.closed
        rig.receive(InfoRequest())  # too late to be answered, and no harm
        await wait_all_tasks_blocked()


async def test_leaving_lets_a_task_that_waits_for_settings_have_them() -> None:
    async with rigged() as rig:
        rig.accept("t")
        rig.dispatcher.leave()
        await wait_all_tasks_blocked()
        assert not rig.closed
        rig.settings("t", "return 1")
        await wait_all_tasks_blocked()
        assert rig.messages[-1] == done("t", b"1")
        assert rig.closed


async def test_tasks_that_are_cut_off_are_reported_with_the_reason() -> None:
    async with rigged(2) as rig:
        rig.start("t1", "hang", "o1")
        rig.start("t2", "hang", "o2")
        await wait_all_tasks_blocked()
        rig.dispatcher.leave()
        assert rig.dispatcher.cut_off("out of patience") == 2
        await wait_all_tasks_blocked()
        told = {"message": "out of patience", "description": CUT_OFF_ADVICE}
        assert [failure_of(rig.about(task)[-1]) for task in ("t1", "t2")] == [told] * 2
        assert rig.closed


async def test_a_task_that_was_cancelled_before_is_not_reported_when_it_is_cut_off(autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        rig.start("t", "die 5")
        await wait_all_tasks_blocked()
        rig.receive(TaskCancel(task_id="t", reason="x"))
        rig.dispatcher.leave()
        rig.dispatcher.cut_off("out of patience")
        await trio.sleep(6)
        assert rig.about("t") == [TaskAccepted(task_id="t")]
        assert rig.closed


async def test_a_lost_connection_stops_its_tasks_and_says_nothing_more_of_them(autojump_clock: MockClock) -> None:
    async with rigged(3) as rig:
        rig.start("running", "sleep 1", "o1")
        rig.start("slow to die", "die 2", "o2")
        rig.accept("waiting", "o3")
        await wait_all_tasks_blocked()
        before = len(rig.messages)
        rig.dispatcher.lose()
        assert rig.slots.taken == 2, "whoever waited for settings is gone at once"
        await trio.sleep(10)
        assert rig.slots.taken == 0
        assert sorted(rig.executor.cancelled) == ["running", "slow to die"]
        assert len(rig.messages) == before
        rig.receive(RunnerRegistered())
        await wait_all_tasks_blocked()
        assert len(rig.messages) == before


async def test_a_nursery_that_is_cancelled_gives_every_slot_back() -> None:
    slots = Slots(3)
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery, slots, 10, writing=False)
        rig.receive(RunnerRegistered())
        await wait_all_tasks_blocked()
        for number, code in enumerate(["hang", "return 1", "result 10"]):
            rig.start(f"t{number}", code, f"o{number + 1}")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert slots.taken == 0


async def test_activity_is_told_at_registration_accept_end_cancel_and_loss(autojump_clock: MockClock) -> None:
    async with rigged(2) as rig:
        assert rig.activity == [(0.0, 0)]
        await trio.sleep(1)
        rig.accept("t1", "o1")
        await trio.sleep(1)
        rig.settings("t1", "sleep 5")
        await trio.sleep(1)
        rig.accept("t2", "o2")
        await trio.sleep(1)
        rig.receive(TaskCancel(task_id="t2", reason="x"))
        await trio.sleep(5)
        assert rig.activity == [(0, 0), (1, 1), (3, 2), (4, 1), (7, 0)]
        rig.dispatcher.lose()
        assert rig.activity[-1] == (9, 0)


# What is counted


def counted(rig: Rig) -> dict[str, int]:
    return {outcome: count for outcome, count in rig.counters.tasks.items() if count}


async def test_what_is_offered_taken_and_given_back_is_counted() -> None:
    async with rigged(2) as rig:
        rig.start("t", "return", "o1")
        rig.accept("late", "unheard of")
        await wait_all_tasks_blocked()
        assert (rig.counters.offers, rig.counters.accepts) == (len(rig.offers), 1)
        assert rig.counters.rejections["expired"] == 1
        assert counted(rig) == {"done": 1}


async def test_every_task_that_is_taken_is_counted_once_however_it_ends(
    autojump_clock: MockClock, records: Records
) -> None:
    async with rigged(8) as rig:
        rig.start("done", "return", "o1")
        rig.start("failed", "fail", "o2")
        rig.accept("no settings", "o3")
        rig.accept("bad settings", "o4")
        rig.dispatcher.refuse(Refused("invalid", "broker:tasksettings", "bad settings", "no"))
        rig.accept("cancelled early", "o5")
        rig.receive(TaskCancel(task_id="cancelled early", reason="by user"))
        rig.start("cancelled", "hang", "o6")
        rig.start("cut off", "hang", "o7")
        await wait_all_tasks_blocked()
        rig.receive(TaskCancel(task_id="cancelled", reason="by user"))
        await trio.sleep(11)
        rig.dispatcher.cut_off("stopping")
        await wait_all_tasks_blocked()
        rig.start("lost", "hang")
        rig.accept("lost early", rig.offers[-2])
        await wait_all_tasks_blocked()
        rig.dispatcher.lose()
        await wait_all_tasks_blocked()
        assert counted(rig) == {"done": 1, "error": 1, "settings": 2, "cancelled": 2, "cut_off": 1, "lost": 2}
        assert rig.counters.accepts == 9
    # the fake workers write no lines of their own; every other end has one
    ends = [record for record in records.records if "outcome" in record.__dict__]
    assert sorted(record.__dict__["outcome"] for record in ends) == sorted(
        ["settings", "settings", "cancelled", "cancelled", "cut_off", "lost", "lost"]
    )
    lines = records.having(" cancelled for node")
    assert lines == ['Cancelled task cancelled for node "Unknown" (Unknown) in workflow "Unknown" (Unknown): by user']


async def test_a_result_that_a_cancel_met_on_its_way_counts_as_cancelled() -> None:
    async with rigged(2, writing=False) as rig:
        rig.start("first", "return", "o1")
        await wait_all_tasks_blocked()
        rig.start("second", "return", "o2")
        await wait_all_tasks_blocked()
        rig.receive(TaskCancel(task_id="second", reason="by user"))
        rig.nursery.start_soon(rig.write)
        await wait_all_tasks_blocked()
        assert counted(rig) == {"done": 1, "cancelled": 1}


async def test_a_connection_that_is_torn_down_loses_its_tasks() -> None:
    async with trio.open_nursery() as outer:
        with trio.fail_after(5):
            rig: Rig | None = None
            async with trio.open_nursery() as nursery:
                rig = Rig(nursery, Slots(1), 50, writing=True)
                rig.receive(InfoRequest())
                rig.receive(RunnerRegistered())
                await wait_all_tasks_blocked()
                rig.start("t", "hang")
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            assert counted(rig) == {"lost": 1}
        outer.cancel_scope.cancel()
