"""The runner's half of the protocol, row by row: registration, offers, the state table, drain, a lost connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from tests.protocol.protocol_kit import (
    SETTINGS,
    aborting,
    accept,
    answers,
    cancel,
    connected,
    done,
    of,
    offering,
    running,
    sent,
    settings,
    waiting,
    wants_offers,
)
from trio_runner.protocol.messages import (
    Drain,
    ErrorBody,
    InfoRequest,
    Refused,
    Rpc,
    RpcResponse,
    RunnerInfo,
    RunnerRegistered,
    TaskAccepted,
    TaskDataRequest,
    TaskDataResponse,
    TaskError,
    TaskOffer,
    TaskRejected,
    decode_from_broker,
)
from trio_runner.protocol.session import (
    NO_SETTINGS,
    AbortTask,
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

EXPIRED = "Offer expired - not accepted within validity window"
FULL = "No open task slots - runner already at capacity"
SHUTTING_DOWN = "Runner is shutting down"
WINDOW_ELAPSED = "Acknowledgement window elapsed"

ACCEPTED = TaskAccepted(task_id="t")


def rejected(task_id: str, reason: str) -> TaskRejected:
    return TaskRejected(task_id=task_id, reason=reason)


def state_of(session: Session, task_id: str = "t") -> TaskState | None:
    return session.tasks.get(task_id)


def commands(actions: list[Any]) -> list[Any]:
    """What the shell has to do; notes are only for the log."""
    return [action for action in actions if not isinstance(action, Note)]


# Registration (protocol.md 4)


def test_the_broker_is_told_who_we_are_when_it_asks() -> None:
    assert sent(connected().receive(InfoRequest(), 0.0)) == [RunnerInfo(name="Python Task Runner", types=("python",))]


def test_no_offers_are_made_before_registration() -> None:
    session = connected()
    session.receive(InfoRequest(), 0.0)
    assert session.make_offers(0.0) == []
    assert session.next_deadline() is None


def test_registration_makes_offers_due_at_once() -> None:
    session = connected()
    assert session.receive(RunnerRegistered(), 0.0) == [Registered(), OffersDue()]
    assert session.phase is Phase.REGISTERED


def test_a_second_registration_is_not_reported_again() -> None:
    session = offering()
    assert session.receive(RunnerRegistered(), 1.0) == []


def test_asked_again_we_say_again_who_we_are_and_keep_our_offers() -> None:
    session = offering()
    assert len(sent(session.receive(InfoRequest(), 1.0))) == 1
    assert session.open_offers(1.0) == 1


# Offers (protocol.md 11)


def test_each_free_slot_is_offered_once() -> None:
    session = connected(3)
    session.receive(RunnerRegistered(), 0.0)
    offers = sent(session.make_offers(0.0))
    assert [(offer.offer_id, offer.task_type) for offer in offers] == [(f"o{n}", "python") for n in (1, 2, 3)]
    assert session.make_offers(0.0) == []
    assert session.open_offers(0.0) == 3


@given(random=st.floats(0, 1, exclude_max=True), now=st.floats(0, 1e6))
def test_an_offer_is_valid_for_whole_milliseconds_from_5000_to_5500(random: float, now: float) -> None:
    session = connected(random=random)
    session.receive(RunnerRegistered(), now)
    [offer] = sent(session.make_offers(now))
    assert isinstance(offer, TaskOffer)
    assert isinstance(offer.valid_for, int)
    assert 5000 <= offer.valid_for <= 5500


def test_the_jitter_reaches_both_ends_of_the_validity() -> None:
    ends = []
    for random in (0.0, 0.9999):
        session = connected(random=random)
        session.receive(RunnerRegistered(), 0.0)
        ends += [offer.valid_for for offer in sent(session.make_offers(0.0))]
    assert ends == [5000, 5500]


def test_each_offer_draws_its_own_validity() -> None:
    numbers = iter([0.0, 0.5])
    session = Session(
        name="",
        task_type="python",
        slots=Slots(2),
        terms=OfferTerms(),
        new_id=iter("ab").__next__,
        random=lambda: next(numbers),
    )
    session.receive(RunnerRegistered(), 0.0)
    assert [offer.valid_for for offer in sent(session.make_offers(0.0))] == [5000, 5250]


def test_an_offer_is_replaced_when_it_lapses_and_not_before() -> None:
    session = offering()
    assert session.next_deadline() == 5.0
    assert not wants_offers(session.tick(4.999))
    assert session.make_offers(4.999) == []
    assert wants_offers(session.tick(5.0))
    assert [offer.offer_id for offer in sent(session.make_offers(5.0))] == ["o2"]


@pytest.mark.parametrize("now", [0.0, 4.999, 5.0, 5.0999])
def test_an_offer_is_honoured_until_100_ms_after_it_lapsed(now: float) -> None:
    session = offering()
    session.tick(now)
    session.make_offers(now)
    assert sent(session.receive(accept("t", "o1"), now)) == [ACCEPTED]


def test_an_offer_is_no_longer_honoured_100_ms_after_it_lapsed() -> None:
    session = offering()
    assert sent(session.receive(accept("t", "o1"), 5.1)) == [rejected("t", EXPIRED)]


def test_an_offer_and_its_replacement_cannot_both_take_the_one_slot() -> None:
    session = offering()
    session.make_offers(5.0)
    assert sent(session.receive(accept("t", "o1"), 5.05)) == [ACCEPTED]
    assert sent(session.receive(accept("u", "o2"), 5.06)) == [rejected("u", FULL)]
    assert session.tasks == {"t": TaskState.WAITING}


def test_the_deadline_does_not_stand_still_at_a_lapsed_offer() -> None:
    session = offering()
    session.tick(5.0)
    assert session.next_deadline() is None
    session.make_offers(5.0)
    session.tick(5.05)
    assert session.next_deadline() == 10.0


def test_a_session_has_no_deadline_while_another_one_holds_all_slots() -> None:
    slots = Slots(1)
    session = offering(slots=slots)
    slots.take()
    session.tick(5.0)
    assert session.make_offers(5.0) == []
    assert session.next_deadline() is None, "it is woken when there is something to offer"


def test_offers_that_are_no_longer_honoured_are_forgotten() -> None:
    session = offering(2)
    for turn in range(1, 100):
        session.make_offers(5.0 * turn)
    assert len(session._offers) <= 4


def test_what_is_not_offered_can_be_asked_for() -> None:
    slots = Slots(3)
    session = connected(slots=slots)
    assert session.unoffered(0.0) == 0
    session.receive(RunnerRegistered(), 0.0)
    assert session.unoffered(0.0) == 3
    session.make_offers(0.0)
    assert (session.unoffered(4.999), session.unoffered(5.0)) == (0, 3)
    slots.take()
    assert (session.unoffered(4.999), session.unoffered(5.0)) == (0, 2)
    session.drain(5.0)
    assert session.unoffered(5.0) == 0


def test_an_accepted_task_uses_up_its_offer_and_its_slot() -> None:
    session = offering(2)
    assert not wants_offers(session.receive(accept("t", "o1"), 0.0))
    assert (session.open_offers(0.0), session.make_offers(0.0)) == (1, [])


def test_an_offer_can_be_accepted_only_once() -> None:
    session = offering(2)
    session.receive(accept("t", "o1"), 0.0)
    assert sent(session.receive(accept("u", "o1"), 0.0)) == [rejected("u", EXPIRED)]
    assert session.tasks == {"t": TaskState.WAITING}


def freed_by_done(session: Session) -> list[Any]:
    return session.finish("t", done("t"), 1.0)


def freed_by_cancel_while_waiting(session: Session) -> list[Any]:
    return session.receive(cancel("t"), 1.0)


def freed_by_unreadable_settings(session: Session) -> list[Any]:
    return session.refuse(Refused("invalid_value", "text", "field", "broker:tasksettings", "t"), 1.0)


def freed_by_the_settings_timer(session: Session) -> list[Any]:
    return session.tick(10.0)


def freed_after_a_cancel(session: Session) -> list[Any]:
    return session.finish("t", None, 1.0)


@pytest.mark.parametrize(
    ("made", "free"),
    [
        (running, freed_by_done),
        (waiting, freed_by_cancel_while_waiting),
        (waiting, freed_by_unreadable_settings),
        (waiting, freed_by_the_settings_timer),
        (aborting, freed_after_a_cancel),
    ],
    ids=lambda value: value.__name__,
)
def test_a_freed_slot_is_offered_again_at_once(
    made: Callable[..., Session], free: Callable[[Session], list[Any]]
) -> None:
    slots = Slots(1)
    session = made(slots=slots)
    assert not wants_offers(session.tick(0.5))
    assert wants_offers(free(session))
    assert (slots.taken, session.tasks) == (0, {})
    assert len(sent(session.make_offers(10.0))) == 1


def test_a_reject_leaves_no_slot_without_an_offer() -> None:
    session = offering()
    session.make_offers(5.0)
    session.receive(accept("t", "o2"), 5.0)
    session.receive(accept("u", "o1"), 5.05)
    assert wants_offers(session.receive(cancel("t"), 5.06))
    assert len(sent(session.make_offers(5.06))) == 1


def test_an_aborting_task_still_holds_its_slot() -> None:
    session = aborting()
    assert not wants_offers(session.tick(100.0))
    assert session.make_offers(100.0) == []


# Acceptance: what is checked, and in which order (protocol.md 13)


def test_an_unknown_offer_is_rejected_as_expired() -> None:
    session = offering()
    assert sent(session.receive(accept("t", "never made"), 0.0)) == [rejected("t", EXPIRED)]
    assert session.tasks == {}


def test_an_acceptance_before_registration_meets_no_offer() -> None:
    session = connected()
    assert sent(session.receive(accept("t", "o1"), 0.0)) == [rejected("t", EXPIRED)]


def test_the_offer_is_checked_before_the_capacity() -> None:
    slots = Slots(1)
    session = offering(slots=slots)
    slots.take()
    assert sent(session.receive(accept("t", "never made"), 0.0)) == [rejected("t", EXPIRED)]
    assert sent(session.receive(accept("t", "o1"), 0.0)) == [rejected("t", FULL)]


def test_without_a_free_slot_the_offer_is_used_up_and_the_task_rejected() -> None:
    slots = Slots(1)
    session = offering(slots=slots)
    slots.take()
    session.receive(accept("t", "o1"), 0.0)
    slots.release()
    assert sent(session.receive(accept("t", "o1"), 0.0)) == [rejected("t", EXPIRED)]


def test_an_acceptance_of_a_good_offer_is_answered_and_the_task_waits_for_settings() -> None:
    session = offering()
    actions = session.receive(accept("t", "o1"), 0.0)
    assert sent(actions) == [ACCEPTED]
    assert session.tasks == {"t": TaskState.WAITING}


@pytest.mark.parametrize("made", [waiting, running, aborting])
def test_the_same_acceptance_again_is_ignored(made: Callable[..., Session]) -> None:
    session = made(2)
    before = session.tasks
    assert commands(session.receive(accept("t", "o1"), 0.0)) == []
    assert session.tasks == before


def test_while_waiting_an_acceptance_of_another_offer_is_answered_again_and_takes_no_second_slot() -> None:
    slots = Slots(2)
    session = waiting(slots=slots)
    assert sent(session.receive(accept("t", "o2"), 0.0)) == [ACCEPTED]
    assert (slots.taken, session.tasks) == (1, {"t": TaskState.WAITING})


@pytest.mark.parametrize("made", [running, aborting])
def test_once_started_an_acceptance_of_another_offer_is_ignored(made: Callable[..., Session]) -> None:
    slots = Slots(2)
    session = made(slots=slots)
    before = session.tasks
    assert sent(session.receive(accept("t", "o2"), 0.0)) == []
    assert (slots.taken, session.tasks) == (1, before)


def test_an_offer_that_a_repeated_acceptance_used_up_is_made_again() -> None:
    session = waiting(2)
    assert wants_offers(session.receive(accept("t", "o2"), 0.0))


def test_a_task_in_hand_is_not_rejected_over_an_offer_that_expired() -> None:
    session = waiting(2)
    assert sent(session.receive(accept("t", "o2"), 6.0)) == []
    assert state_of(session) is TaskState.WAITING


def test_a_task_that_ended_is_never_started_again_and_the_broker_gets_its_answer() -> None:
    session = running(2)
    session.finish("t", done("t"), 0.0)
    assert sent(session.receive(accept("t", "o2"), 0.0)) == [rejected("t", EXPIRED)]
    assert commands(session.receive(settings("t"), 0.0)) == [OffersDue()]
    assert session.tasks == {}


def test_the_memory_of_ended_tasks_is_bounded() -> None:
    session = offering()
    for number in range(5000):
        offer_id = f"o{number + 1}"
        session.receive(accept(f"t{number}", offer_id), 0.0)
        session.receive(cancel(f"t{number}"), 0.0)
        session.make_offers(0.0)
    assert len(session._ended) < 2000


# Waiting


def test_settings_start_the_task() -> None:
    session = waiting()
    actions = commands(session.receive(settings("t"), 0.0))
    assert actions == [StartTask("t", SETTINGS)]
    assert state_of(session) is TaskState.RUNNING


def test_a_cancel_while_waiting_frees_the_slot_and_sends_nothing() -> None:
    session = waiting()
    assert commands(session.receive(cancel("t"), 0.0)) == [OffersDue()]
    assert session.tasks == {}


def test_settings_right_behind_a_cancel_start_nothing() -> None:
    session = waiting()
    session.receive(cancel("t"), 0.0)
    assert of(session.receive(settings("t"), 0.0), StartTask) == []


def test_settings_that_never_come_end_in_an_error_when_the_timer_fires_and_not_before() -> None:
    session = waiting()
    session.make_offers(0.0)
    assert session.next_deadline() == 10.0
    assert sent(session.tick(9.999)) == []
    [error] = sent(session.tick(10.0))
    body = ErrorBody(message="Task settings did not arrive within 10 seconds", description=NO_SETTINGS)
    assert error == task_error("t", body)
    assert session.tasks == {}


def test_settings_are_waited_for_as_long_as_a_large_message_is_coming_in() -> None:
    session = waiting()
    session.make_offers(0.0)
    for second in range(10, 100):
        assert sent(session.tick(float(second), receiving=True)) == []
        assert session.next_deadline() == second + 1
    assert of(session.receive(settings("t"), 99.5), StartTask) != []
    session = waiting()
    session.tick(10.0, receiving=True)
    [error] = sent(session.tick(11.0))
    assert "within 10 seconds" in bytes(error.error).decode()


def test_the_settings_timer_can_be_set() -> None:
    session = waiting(terms=OfferTerms(settings_timeout=2.5))
    assert session.next_deadline() == 2.5
    [error] = sent(session.tick(2.5))
    assert "within 2.5 seconds" in bytes(error.error).decode()


@pytest.mark.parametrize("made", [running, aborting])
def test_the_settings_timer_ends_with_the_wait(made: Callable[..., Session]) -> None:
    session = made()
    assert session.next_deadline() is None
    assert session.tick(1000.0) == []
    assert state_of(session) is not None


def test_settings_after_the_timer_start_nothing() -> None:
    session = waiting()
    session.tick(10.0)
    assert of(session.receive(settings("t"), 10.0), StartTask) == []


@pytest.mark.parametrize("made", [offering, running, aborting])
def test_unreadable_settings_concern_only_a_waiting_task(made: Callable[..., Session]) -> None:
    session = made()
    before = session.tasks
    assert session.refuse(Refused("wrong_type", "text", "field", "broker:tasksettings", "t"), 0.0) == []
    assert session.tasks == before


def test_unreadable_settings_fail_the_task_with_a_text_that_helps() -> None:
    session = waiting()
    with pytest.raises(Refused) as caught:
        decode_from_broker(
            '{"type":"broker:tasksettings","taskId":"t","settings":{"code":"","nodeMode":"runCode","items":[]}}'
        )
    [error] = sent(session.refuse(caught.value, 0.0))
    assert isinstance(error, TaskError)
    body = msgspec.json.decode(error.error)
    assert error.task_id == "t"
    assert "runCode" in body["message"]
    assert "versions match" in body["description"]


def test_any_other_refused_frame_changes_nothing() -> None:
    session = waiting()
    for refused in (
        Refused("invalid_json", "text"),
        Refused("missing_field", "text", "offerId", "broker:taskofferaccept", "t"),
        Refused("wrong_type", "text", "settings", "broker:tasksettings", "another"),
    ):
        assert session.refuse(refused, 0.0) == []
    assert session.tasks == {"t": TaskState.WAITING}


# Running and aborting


def test_settings_again_start_no_second_run() -> None:
    session = running()
    assert commands(session.receive(settings("t"), 0.0)) == []
    assert state_of(session) is TaskState.RUNNING


def test_a_cancel_stops_the_run_and_the_slot_is_free_when_nothing_of_it_is_left() -> None:
    session = running()
    assert commands(session.receive(cancel("t", "Task cancelled by user"), 0.0)) == [
        AbortTask("t", "Task cancelled by user")
    ]
    assert state_of(session) is TaskState.ABORTING
    assert commands(session.finish("t", None, 1.0)) == [OffersDue()]


def test_a_cancel_right_behind_the_settings_sticks() -> None:
    session = waiting()
    [start] = commands(session.receive(settings("t"), 0.0))
    [abort] = commands(session.receive(cancel("t"), 0.0))
    assert (type(start), type(abort)) == (StartTask, AbortTask)


def test_a_cancel_without_a_reason_is_as_good() -> None:
    session = running()
    message = decode_from_broker('{"type":"broker:taskcancel","taskId":"t"}')
    assert of(session.receive(message, 0.0), AbortTask) == [AbortTask("t", "")]


@pytest.mark.parametrize("result", [done("t"), task_error("t", ErrorBody(message="boom"))], ids=["done", "error"])
def test_a_result_is_sent_and_the_task_is_gone(result: Any) -> None:
    session = running()
    assert sent(session.finish("t", result, 1.0)) == [result]
    assert session.tasks == {}


def test_a_run_may_end_without_a_word_to_the_broker() -> None:
    session = running()
    assert session.finish("t", None, 1.0) == [OffersDue()]


@pytest.mark.parametrize("result", [done("t"), task_error("t", ErrorBody(message="boom"))], ids=["done", "error"])
def test_after_a_cancel_no_result_is_sent(result: Any) -> None:
    session = aborting()
    assert sent(session.finish("t", result, 1.0)) == []
    assert session.tasks == {}


def test_a_second_cancel_is_ignored() -> None:
    session = aborting()
    assert commands(session.receive(cancel("t"), 0.0)) == []


def test_settings_while_aborting_start_nothing() -> None:
    session = aborting()
    assert commands(session.receive(settings("t"), 0.0)) == []


CALLS = {
    "rpc": (
        Rpc(call_id="c", task_id="t", name="helpers.httpRequest", params=Raw(b"[]")),
        RpcResponse(task_id="t", call_id="c", status="success"),
    ),
    "data": (
        TaskDataRequest(request_id="c", task_id="t", request_params=Raw(b"{}")),
        TaskDataResponse(task_id="t", request_id="c", data=Raw(b"{}")),
    ),
}
calls = pytest.mark.parametrize(("call", "answer"), CALLS.values(), ids=CALLS)


@calls
def test_a_call_of_a_running_task_is_sent_and_its_answer_delivered_once(call: Any, answer: Any) -> None:
    session = running()
    assert session.call(call) == [Send(call)]
    assert session.receive(answer, 0.0) == [Deliver("t", answer)]
    assert session.receive(answer, 0.0) == []


def test_answers_that_nobody_waits_for_are_dropped() -> None:
    session = running()
    session.call(CALLS["rpc"][0])
    for answer in (RpcResponse(task_id="t", call_id="a print's", status="success"), *answers("t")[1:]):
        assert session.receive(answer, 0.0) == []


@calls
@pytest.mark.parametrize("made", [offering, waiting, aborting])
def test_a_task_that_does_not_run_asks_for_nothing_and_is_told_nothing(
    made: Callable[..., Session], call: Any, answer: Any
) -> None:
    session = made()
    assert session.call(call) == []
    assert commands(session.receive(answer, 0.0)) == []


@calls
def test_calls_end_with_their_task(call: Any, answer: Any) -> None:
    for end in (
        lambda session: session.finish("t", done("t"), 0.0),
        lambda session: session.receive(cancel("t"), 0.0),
        lambda session: session.lose(),
    ):
        session = running()
        session.call(call)
        end(session)
        assert of(session.receive(answer, 0.0), Deliver) == []
        assert session.call(call) == []


@calls
def test_a_task_that_runs_on_while_the_broker_drains_goes_on_asking(call: Any, answer: Any) -> None:
    session = running()
    session.receive(Drain(), 0.0)
    assert session.call(call) == [Send(call)]
    assert session.receive(answer, 0.0) == [Deliver("t", answer)]


def test_answers_go_to_no_task_but_their_own() -> None:
    session = running(2)
    session.receive(accept("u", "o2"), 0.0)
    session.receive(settings("u"), 0.0)
    call, answer = CALLS["rpc"]
    session.call(call)
    assert session.receive(msgspec.structs.replace(answer, task_id="u"), 0.0) == []
    assert session.receive(answer, 0.0) == [Deliver("t", answer)]


# Gone


def gone() -> Session:
    session = running()
    session.finish("t", done("t"), 0.0)
    session.make_offers(0.0)
    return session


@pytest.mark.parametrize("made", [offering, gone])
@pytest.mark.parametrize("message", [settings("t"), cancel("t"), *answers("t")], ids=lambda m: type(m).__name__)
def test_messages_about_a_task_that_is_not_in_hand_do_nothing(made: Callable[[], Session], message: Any) -> None:
    session = made()
    assert commands(session.receive(message, 0.0)) == []
    assert session.tasks == {}


@pytest.mark.parametrize("message", [settings("t"), cancel("t")], ids=["settings", "cancel"])
def test_settings_and_cancels_for_an_unknown_task_are_worth_a_warning(message: Any) -> None:
    [note] = of(offering().receive(message, 0.0), Note)
    assert note.level == "warning"
    assert "unknown task: t" in note.text


# Illegal reports of the shell


def test_finishing_an_unknown_task_raises_and_changes_nothing() -> None:
    slots = Slots(2)
    session = running(slots=slots)
    with pytest.raises(KeyError):
        session.finish("another", done("another"), 0.0)
    assert (slots.taken, session.tasks) == (1, {"t": TaskState.RUNNING})


def test_finishing_a_task_that_was_never_started_raises_and_changes_nothing() -> None:
    slots = Slots(1)
    session = waiting(slots=slots)
    with pytest.raises(RuntimeError, match="never started"):
        session.finish("t", done("t"), 0.0)
    assert (slots.taken, session.tasks) == (1, {"t": TaskState.WAITING})
    assert of(session.receive(settings("t"), 0.0), StartTask) != []


@pytest.mark.parametrize("made", [running, aborting])
def test_finishing_twice_raises_and_frees_one_slot(made: Callable[..., Session]) -> None:
    slots = Slots(2)
    slots.take()
    session = made(slots=slots)
    session.finish("t", None, 0.0)
    with pytest.raises(KeyError):
        session.finish("t", None, 0.0)
    assert slots.taken == 1


# The acknowledgement window (protocol.md 12.2, race 5)


@pytest.mark.parametrize("task_id", ["t", "unknown"])
def test_an_elapsed_window_voids_all_offers_and_new_ones_are_due_at_once(task_id: str) -> None:
    session = waiting(3)
    assert wants_offers(session.receive(cancel(task_id, WINDOW_ELAPSED), 0.0))
    assert session.open_offers(0.0) == 0
    assert sent(session.receive(accept("u", "o2"), 0.0)) == [rejected("u", EXPIRED)]
    assert len(sent(session.make_offers(0.0))) == (3 if task_id == "t" else 2)


def test_an_accept_answered_too_late_is_a_cancel_while_waiting() -> None:
    session = waiting()
    session.receive(cancel("t", WINDOW_ELAPSED), 2.0)
    assert session.tasks == {}


def test_a_cancel_for_any_other_reason_leaves_the_offers_alone() -> None:
    session = waiting(3)
    session.receive(cancel("t"), 0.0)
    assert session.open_offers(0.0) == 2


# Draining (protocol.md 17)


def by_the_broker(session: Session) -> list[Any]:
    return session.receive(Drain(), 0.0)


def by_ourselves(session: Session) -> list[Any]:
    return session.drain(0.0)


drains = pytest.mark.parametrize("drain", [by_the_broker, by_ourselves], ids=lambda value: value.__name__)


@drains
def test_a_draining_session_without_tasks_is_drained_at_once(drain: Callable[[Session], list[Any]]) -> None:
    session = offering()
    assert commands(drain(session)) == [Drained()]
    assert session.phase is Phase.DRAINING


@drains
def test_a_draining_session_offers_nothing_and_forgets_what_it_offered(drain: Callable[[Session], list[Any]]) -> None:
    session = waiting(3)
    assert not wants_offers(drain(session))
    assert session.open_offers(0.0) == 0
    assert session.make_offers(0.0) == []
    assert not wants_offers(session.tick(9.0))
    assert session.next_deadline() == 10.0


@drains
def test_a_draining_session_rejects_with_the_reason(drain: Callable[[Session], list[Any]]) -> None:
    session = waiting(2)
    drain(session)
    assert sent(session.receive(accept("u", "o2"), 0.0)) == [rejected("u", SHUTTING_DOWN)]


@drains
@pytest.mark.parametrize("made", [waiting, running])
def test_a_draining_session_does_not_reject_what_it_has_in_hand(
    drain: Callable[[Session], list[Any]], made: Callable[..., Session]
) -> None:
    session = made(2)
    drain(session)
    for offer_id in ("o1", "o2"):
        assert sent(session.receive(accept("t", offer_id), 0.0)) == []


@drains
def test_a_task_that_waited_when_draining_began_still_runs(drain: Callable[[Session], list[Any]]) -> None:
    session = waiting()
    assert of(drain(session), Drained) == []
    assert commands(session.receive(settings("t"), 0.0)) == [StartTask("t", SETTINGS)]
    assert commands(session.finish("t", done("t"), 1.0)) == [Send(done("t")), Drained()]


@drains
def test_draining_is_over_when_the_last_task_has_ended(drain: Callable[[Session], list[Any]]) -> None:
    session = running(2)
    session.receive(accept("u", "o2"), 0.0)
    drain(session)
    assert of(session.finish("t", done("t"), 1.0), Drained) == []
    assert of(session.receive(cancel("u"), 1.0), Drained) == [Drained()]


@drains
def test_the_settings_timer_runs_while_draining(drain: Callable[[Session], list[Any]]) -> None:
    session = waiting()
    drain(session)
    actions = session.tick(10.0)
    assert [type(message) for message in sent(actions)] == [TaskError]
    assert of(actions, Drained) == [Drained()]


@drains
def test_registration_does_not_end_a_drain(drain: Callable[[Session], list[Any]]) -> None:
    session = connected()
    drain(session)
    session.receive(RunnerRegistered(), 0.0)
    assert session.phase is Phase.DRAINING
    assert session.make_offers(0.0) == []


# The connection is lost (protocol.md 13)


def test_a_lost_connection_frees_what_waited_at_once_and_stops_what_ran() -> None:
    slots = Slots(3)
    session = running(slots=slots)
    session.receive(accept("u", "o2"), 0.0)
    stop, note = session.lose()
    assert isinstance(note, Note)
    assert (note.task_id, note.outcome) == ("u", "lost")
    assert stop == AbortTask("t", "Connection to the broker was lost")
    assert session.tasks == {"t": TaskState.ABORTING}
    assert slots.taken == 1


def test_a_lost_connection_does_not_stop_twice_what_was_stopped_already() -> None:
    assert aborting().lose() == []
    session = running()
    session.lose()
    assert session.lose() == []


def test_the_result_of_a_task_whose_connection_is_lost_goes_nowhere() -> None:
    slots = Slots(1)
    session = running(slots=slots)
    session.lose()
    assert session.finish("t", done("t"), 1.0) == []
    assert slots.taken == 0


@pytest.mark.parametrize("made", [connected, offering, waiting, running, aborting])
def test_a_lost_session_takes_no_messages_and_makes_no_offers(made: Callable[..., Session]) -> None:
    session = made()
    session.lose()
    before = session.tasks
    late = [InfoRequest(), RunnerRegistered(), accept("u", "o1"), settings("t"), cancel("t"), Drain(), *answers("t")]
    for message in late:
        assert session.receive(message, 0.0) == []
    assert session.open_offers(0.0) == 0
    assert session.tick(1000.0) == []
    assert session.make_offers(1000.0) == []
    assert session.next_deadline() is None
    assert (session.phase, session.tasks) == (Phase.LOST, before)


def test_draining_a_lost_session_leaves_it_lost() -> None:
    session = running()
    session.lose()
    assert session.drain(0.0) == []
    assert session.phase is Phase.LOST
    assert session.finish("t", done("t"), 0.0) == []


def test_a_session_that_was_draining_when_its_connection_was_lost_sends_nothing_more() -> None:
    session = running()
    session.drain(0.0)
    assert of(session.lose(), AbortTask) != []
    assert session.finish("t", done("t"), 0.0) == []


# What the broker reads


def test_an_error_of_ours_has_only_the_keys_that_say_something() -> None:
    assert task_error("t", ErrorBody(message="boom")) == TaskError(task_id="t", error=Raw(b'{"message":"boom"}'))
