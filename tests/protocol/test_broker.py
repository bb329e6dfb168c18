"""The broker's half of the protocol, row by row: matching, answers to acceptances, timers, evictions, drain."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from msgspec import UNSET, Raw

from tests.protocol.protocol_kit import (
    DONE,
    ask,
    broker,
    closed,
    counter,
    done,
    join,
    matched,
    offer,
    ready,
    started,
    supply,
    to_requester,
    to_runners,
)
from trio_runner.protocol.broker import Broker, BrokerTerms, RawRpcResponse, RawSettings, ToRunner
from trio_runner.protocol.messages import (
    Drain,
    ForwardedDone,
    ForwardedError,
    InfoRequest,
    NodeTypes,
    NodeTypesRequest,
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
    TaskDataResponse,
    TaskDeferred,
    TaskDone,
    TaskError,
    TaskOfferAccept,
    TaskReady,
    TaskRejected,
    encode,
)

INFO = RunnerInfo(name="r", types=("python",))
ACCEPTED = TaskAccepted(task_id="t1")
REJECTED = TaskRejected(task_id="t1", reason="Offer expired - not accepted within validity window")


def accepts(actions: list[Any]) -> list[tuple[str, str, str]]:
    """Who is asked to take which task for which offer."""
    return [
        (runner_id, message.task_id, message.offer_id)
        for runner_id, message in to_runners(actions)
        if isinstance(message, TaskOfferAccept)
    ]


def cancels(actions: list[Any]) -> list[tuple[str, str, str]]:
    """Who is told to stop which task, and why."""
    return [
        (runner_id, message.task_id, message.reason)
        for runner_id, message in to_runners(actions)
        if isinstance(message, TaskCancel)
    ]


def expired(actions: list[Any]) -> list[tuple[str, str]]:
    return [(m.request_id, m.reason) for m in to_requester(actions) if isinstance(m, RequestExpired)]


# Registration (protocol.md 4)


def test_a_connection_is_asked_who_it_is() -> None:
    assert broker().connect("r") == [ToRunner("r", InfoRequest())]


def test_a_runner_that_says_who_it_is_is_registered() -> None:
    machine = broker()
    machine.connect("r")
    assert to_runners(machine.receive("r", INFO, 0.0)) == [("r", RunnerRegistered())]
    assert machine.runners == {"r"}


def test_before_registration_everything_else_is_dropped() -> None:
    machine = broker()
    machine.connect("r")
    machine.request(ask("q"), 0.0)
    assert machine.receive("r", offer("o"), 0.0) == []
    assert to_runners(machine.receive("r", INFO, 0.0)) == [("r", RunnerRegistered())]
    assert machine.open_offers(0.0) == 0


def test_a_second_registration_is_ignored() -> None:
    machine = broker()
    join(machine)
    assert machine.receive("r", INFO, 0.0) == []


def test_messages_of_a_connection_that_is_not_there_are_ignored() -> None:
    machine = broker()
    assert machine.receive("ghost", INFO, 0.0) == []
    assert machine.runners == frozenset()


def test_a_second_connection_with_the_same_id_replaces_the_first_and_fails_its_tasks() -> None:
    machine = started(broker())
    machine.receive("r", offer("o2"), 0.0)
    actions = machine.connect("r")
    assert closed(actions) == [("r", 1000)]
    assert [type(message) for message in to_requester(actions)] == [ForwardedError]
    assert to_runners(actions) == [("r", InfoRequest())]
    assert (machine.open_tasks, machine.open_offers(0.0), machine.runners) == ({}, 0, frozenset())


def test_what_a_replaced_connection_had_not_accepted_goes_to_another_runner() -> None:
    machine = matched(broker())
    join(machine, "s")
    machine.receive("s", offer("other"), 0.0)
    machine.connect("r")
    assert accepts(machine.receive("r", INFO, 0.0)) == [("s", "t2", "other")]


# Offers and matching (protocol.md 11)


def test_a_request_and_an_offer_match_whichever_comes_first() -> None:
    machine = broker()
    join(machine)
    machine.receive("r", offer("o1"), 0.0)
    assert accepts(machine.request(ask("q1"), 0.0)) == [("r", "t1", "o1")]
    machine.request(ask("q2"), 0.0)
    assert accepts(machine.receive("r", offer("o2"), 0.0)) == [("r", "t2", "o2")]


def test_requests_and_offers_are_served_in_order_of_arrival() -> None:
    machine = broker()
    for runner_id in "rs":
        join(machine, runner_id)
        for number in (1, 2):
            machine.receive(runner_id, offer(f"{runner_id}{number}"), 0.0)
    given = [accepts(machine.request(ask(f"q{number}"), 0.0)) for number in (1, 2, 3)]
    assert given == [[("r", "t1", "r1")], [("r", "t2", "r2")], [("s", "t3", "s1")]]


def test_waiting_requests_are_served_in_order_of_arrival() -> None:
    machine = broker()
    join(machine)
    machine.request(ask("first"), 0.0)
    machine.request(ask("second"), 0.0)
    machine.receive("r", offer("o1"), 0.0)
    [message] = to_requester(machine.receive("r", ACCEPTED, 0.0))
    assert message == TaskReady(request_id="first", task_id="t1")


def test_only_the_task_type_of_the_offer_decides() -> None:
    machine = broker()
    join(machine, types=("python",))
    machine.request(ask("q", "python"), 0.0)
    assert machine.receive("r", offer("o1", task_type="javascript"), 0.0) == []
    assert accepts(machine.request(ask("q2", "javascript"), 0.0)) == [("r", "t1", "o1")]


def test_a_request_of_another_type_does_not_hold_up_the_queue() -> None:
    machine = broker()
    join(machine)
    machine.request(ask("js", "javascript"), 0.0)
    machine.request(ask("py"), 0.0)
    machine.receive("r", offer("o1"), 0.0)
    assert to_requester(machine.receive("r", ACCEPTED, 0.0)) == [TaskReady(request_id="py", task_id="t1")]
    assert machine.queued == 1


@pytest.mark.parametrize(("valid_for", "age", "usable"), [(5000, 4.999, True), (5000, 5.0, False), (0, 0.0, False)])
def test_an_offer_can_be_used_until_its_validity_ends(valid_for: float, age: float, usable: bool) -> None:
    machine = broker()
    join(machine)
    machine.receive("r", offer("o", valid_for=valid_for), 10.0)
    assert machine.open_offers(10.0 + age) == usable
    assert (machine.request(ask("q"), 10.0 + age) != []) is usable


def test_lapsed_offers_do_not_pile_up_while_nobody_asks() -> None:
    machine = broker()
    join(machine)
    for number in range(100):
        machine.receive("r", offer(f"o{number}", valid_for=5000), 5.0 * number)
    assert [one.offer_id for one in machine._offers] == ["o99"]


@pytest.mark.parametrize("valid_for", [10**400, 1e308, 1e-7, 0.00000015])
def test_an_offer_whose_validity_n8n_cannot_compute_is_lost(valid_for: float) -> None:
    machine = broker()
    join(machine)
    assert machine.receive("r", offer("o", valid_for=valid_for), 0.0) == []
    assert machine.open_offers(0.0) == 0


def test_an_offer_is_used_once() -> None:
    machine = matched(broker())
    assert machine.request(ask("q2"), 0.0) == []
    assert machine.open_offers(0.0) == 0


def test_a_lapsed_offer_does_not_stand_in_the_way_of_a_good_one() -> None:
    machine = broker()
    join(machine)
    machine.receive("r", offer("old", valid_for=1000), 0.0)
    machine.receive("r", offer("new", valid_for=5000), 0.5)
    assert accepts(machine.request(ask("q"), 1.0)) == [("r", "t1", "new")]


# Answers to an acceptance (protocol.md 12.2)


def test_an_accepted_task_waits_for_its_settings() -> None:
    machine = matched(broker())
    assert to_requester(machine.receive("r", ACCEPTED, 0.0)) == [TaskReady(request_id="q", task_id="t1")]
    assert machine.open_tasks == {"t1": "r"}


def test_a_rejected_request_is_matched_again_at_once_under_a_new_task_id() -> None:
    machine = broker()
    join(machine)
    machine.receive("r", offer("o1"), 0.0)
    machine.receive("r", offer("o2"), 0.0)
    machine.request(ask("q"), 0.0)
    assert accepts(machine.receive("r", REJECTED, 0.0)) == [("r", "t2", "o2")]


def test_a_rejected_request_without_another_offer_waits() -> None:
    machine = matched(broker())
    assert machine.receive("r", REJECTED, 0.0) == []
    assert machine.queued == 1
    assert machine.next_deadline() == 60.0


def test_requests_that_come_back_keep_their_places() -> None:
    machine = broker()
    join(machine)
    for number in (1, 2, 3):
        machine.receive("r", offer(f"o{number}"), 0.0)
    for number in (1, 2, 3, 4):
        machine.request(ask(f"q{number}"), 0.0)
    for task_id in ("t1", "t3", "t2"):
        machine.receive("r", TaskRejected(task_id=task_id, reason=""), 0.0)
    served = []
    for number in (4, 5, 6, 7):
        machine.receive("r", offer(f"again{number}"), 0.0)
        [message] = to_requester(machine.receive("r", TaskAccepted(task_id=f"t{number}"), 0.0))
        served.append(message.request_id)
    assert served == ["q1", "q2", "q3", "q4"]


def test_the_requests_of_a_runner_that_left_keep_their_places() -> None:
    machine = broker()
    join(machine)
    for number in (1, 2):
        machine.receive("r", offer(f"o{number}"), 0.0)
        machine.request(ask(f"q{number}"), 0.0)
    join(machine, "s")
    machine.receive("s", offer("other"), 0.0)
    [(runner_id, task_id, _)] = accepts(machine.disconnect("r", 0.0))
    assert runner_id == "s"
    [message] = to_requester(machine.receive("s", TaskAccepted(task_id=task_id), 0.0))
    assert message.request_id == "q1"


def test_a_deferred_request_waits_for_the_next_offer_with_a_fresh_timer() -> None:
    machine = broker()
    join(machine)
    machine.receive("r", offer("o1"), 0.0)
    machine.receive("r", offer("o2"), 0.0)
    machine.request(ask("q"), 0.0)
    assert machine.receive("r", TaskDeferred(task_id="t1"), 1.0) == []
    assert machine.next_deadline() == 61.0
    assert machine.tick(1.5) == []
    assert machine.receive("r", Rpc(call_id="c", task_id="none", name="x", params=Raw(b"[]")), 1.5) == []
    assert accepts(machine.receive("r", offer("o3"), 2.0)) == [("r", "t2", "o2")]


def test_an_unanswered_acceptance_is_cancelled_and_all_offers_of_that_runner_are_dropped() -> None:
    machine = broker()
    for runner_id in "rs":
        join(machine, runner_id)
    machine.receive("r", offer("r1"), 0.0)
    machine.receive("r", offer("r2"), 0.0)
    machine.request(ask("q"), 0.0)
    assert machine.next_deadline() == 2.0
    assert machine.tick(1.999) == []
    actions = machine.tick(2.0)
    assert cancels(actions) == [("r", "t1", "Acknowledgement window elapsed")]
    assert accepts(actions) == []
    assert (machine.queued, machine.open_offers(2.0)) == (1, 0)
    assert machine.next_deadline() == 62.0


def test_after_an_unanswered_acceptance_another_runner_is_asked_at_once() -> None:
    machine = matched(broker())
    join(machine, "s")
    machine.receive("s", offer("other"), 0.0)
    assert accepts(machine.tick(2.0)) == [("s", "t2", "other")]


@pytest.mark.parametrize("answer", [ACCEPTED, REJECTED, TaskDeferred(task_id="t1")], ids=lambda m: type(m).__name__)
def test_an_answer_after_the_window_is_ignored(answer: Any) -> None:
    machine = matched(broker())
    machine.tick(2.0)
    assert machine.receive("r", answer, 2.1) == []
    assert (machine.queued, machine.open_tasks) == (1, {})


@pytest.mark.parametrize("answer", [ACCEPTED, REJECTED, TaskDeferred(task_id="t1")], ids=lambda m: type(m).__name__)
def test_a_second_answer_is_ignored(answer: Any) -> None:
    machine = ready(broker())
    assert machine.receive("r", answer, 0.0) == []
    assert (machine.queued, machine.open_tasks) == (0, {"t1": "r"})


def test_a_request_timer_is_refreshed_three_times_in_all() -> None:
    machine = broker()
    join(machine)
    machine.request(ask("q"), 0.0)
    ids = itertools.count(1)
    deadlines = []
    for turn in range(5):
        machine.receive("r", offer("o"), 10.0 * turn)
        machine.receive("r", TaskDeferred(task_id=f"t{next(ids)}"), 10.0 * turn)
        deadlines.append(machine.next_deadline())
    assert deadlines == [60.0, 70.0, 80.0, 80.0, 80.0]


def test_a_connection_that_closes_counts_as_a_reject() -> None:
    machine = matched(broker())
    join(machine, "s")
    machine.receive("s", offer("other"), 0.0)
    actions = machine.disconnect("r", 1.0)
    assert accepts(actions) == [("s", "t2", "other")]
    assert to_requester(actions) == []


# The request timer (protocol.md 12.1, 12.3)


def test_a_request_that_nobody_takes_expires() -> None:
    machine = broker()
    machine.request(ask("q"), 5.0)
    assert machine.next_deadline() == 65.0
    assert machine.tick(64.999) == []
    assert expired(machine.tick(65.0)) == [("q", "timeout")]
    assert (machine.queued, machine.next_deadline()) == (0, None)


def test_an_expired_request_is_matched_no_more() -> None:
    machine = broker()
    join(machine)
    machine.request(ask("q"), 0.0)
    assert accepts(machine.receive("r", offer("o"), 60.0)) == []
    assert expired(machine.tick(60.0)) == [("q", "timeout")]


def late_match() -> Broker:
    """A request of time 0 that was matched at 59: its time ends while the runner may still accept."""
    machine = broker()
    join(machine)
    machine.request(ask("q"), 0.0)
    machine.receive("r", offer("o"), 59.0)
    return machine


def test_a_request_expires_on_time_while_the_runner_accepts_and_the_runner_is_told() -> None:
    machine = late_match()
    assert machine.next_deadline() == 60.0
    assert expired(machine.tick(60.0)) == [("q", "timeout")]
    assert machine.next_deadline() == 61.0
    actions = machine.receive("r", ACCEPTED, 60.5)
    assert cancels(actions) == [("r", "t1", "Task request expired")]
    assert to_requester(actions) == []
    assert machine.open_tasks == {}


def test_an_acceptance_that_overtakes_the_tick_is_as_late() -> None:
    actions = late_match().receive("r", ACCEPTED, 60.0)
    assert cancels(actions) == [("r", "t1", "Task request expired")]
    assert expired(actions) == [("q", "timeout")]


@pytest.mark.parametrize("answer", [REJECTED, TaskDeferred(task_id="t1"), None], ids=["reject", "defer", "silence"])
def test_a_request_that_expired_under_way_does_not_come_back(answer: Any) -> None:
    machine = late_match()
    machine.tick(60.0)
    actions = machine.tick(61.0) if answer is None else machine.receive("r", answer, 60.5)
    assert expired(actions) == []
    assert (machine.queued, machine.next_deadline()) == (0, None)


# After the accept (protocol.md 12.3)


def test_settings_go_to_the_runner_and_start_the_task_timer() -> None:
    machine = ready(broker(), now=1.0)
    assert machine.next_deadline() == 3.0
    settings = Raw(b'{"code" : "\\u0041"}')
    actions = machine.request(RequesterSettings(task_id="t1", settings=settings), 2.0)
    assert to_runners(actions) == [("r", RawSettings(task_id="t1", settings=settings))]
    assert machine.next_deadline() == 302.0


def test_settings_are_sent_once() -> None:
    assert started(broker()).request(supply("t1"), 0.0) == []


def test_a_requester_that_gives_no_settings_loses_the_task() -> None:
    machine = ready(broker())
    assert machine.tick(1.999) == []
    actions = machine.tick(2.0)
    reason = "Requester took too long to acknowledge the task"
    assert cancels(actions) == [("r", "t1", reason)]
    [error] = to_requester(actions)
    assert (type(error), msgspec.json.decode(error.error)) == (ForwardedError, {"message": reason})
    assert machine.request(supply("t1"), 2.0) == []


def test_a_requester_that_does_not_know_the_request_cancels_and_the_runner_reads_why() -> None:
    machine = ready(broker())
    reason = "Request ID not found."
    assert cancels(machine.request(RequesterCancel(task_id="t1", reason=reason), 0.0)) == [("r", "t1", reason)]
    assert machine.open_tasks == {}


def test_a_stopped_execution_cancels_its_task_and_the_task_is_forgotten() -> None:
    machine = started(broker())
    reason = "Task cancelled by user"
    actions = machine.request(RequesterCancel(task_id="t1", reason=reason), 0.0)
    assert cancels(actions) == [("r", "t1", reason)]
    assert to_requester(actions) == []
    for late in (done("t1"), TaskError(task_id="t1", error=Raw(b"{}"))):
        assert machine.receive("r", late, 1.0) == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(300.0, "300 seconds"), (1.0, "1 second"), (0.5, "0.5 seconds")], ids=str
)
def test_a_task_that_takes_too_long_is_cancelled_and_fails(seconds: float, text: str) -> None:
    machine = started(broker(BrokerTerms(task_timeout=seconds)))
    assert machine.tick(seconds - 0.001) == []
    actions = machine.tick(seconds)
    assert cancels(actions) == [("r", "t1", "Task execution timed out")]
    [error] = to_requester(actions)
    assert msgspec.json.decode(error.error) == {"message": f"Task execution timed out after {text}"}
    assert machine.receive("r", done("t1"), seconds) == []


def test_a_result_is_handed_over_once() -> None:
    machine = started(broker())
    assert to_requester(machine.receive("r", done("t1"), 0.0)) == [ForwardedDone(task_id="t1", data=DONE)]
    assert machine.receive("r", done("t1"), 0.0) == []
    assert machine.next_deadline() is None


def test_a_result_without_data_stays_without() -> None:
    [message] = to_requester(started(broker()).receive("r", TaskDone(task_id="t1"), 0.0))
    assert message.data is UNSET


def test_an_error_is_handed_over_as_it_is() -> None:
    error = Raw(b'{"message" : "boom","lineNumber":3}')
    [message] = to_requester(started(broker()).receive("r", TaskError(task_id="t1", error=error), 0.0))
    assert message == ForwardedError(task_id="t1", error=error)


def test_a_result_may_come_before_the_settings_and_from_any_runner() -> None:
    machine = ready(broker())
    join(machine, "s")
    assert to_requester(machine.receive("s", done("t1"), 0.0)) == [ForwardedDone(task_id="t1", data=DONE)]


def test_a_runner_that_leaves_fails_its_tasks_and_no_others() -> None:
    machine = started(broker())
    join(machine, "s")
    machine.receive("s", offer("other"), 0.0)
    machine.request(ask("q2"), 0.0)
    machine.receive("s", TaskAccepted(task_id="t2"), 0.0)
    machine.receive("r", offer("o2"), 0.0)
    [error] = to_requester(machine.disconnect("r", 1.0))
    assert (error.task_id, msgspec.json.decode(error.error)) == ("t1", {"message": "Node execution failed"})
    assert (machine.open_tasks, machine.open_offers(1.0), machine.runners) == ({"t2": "s"}, 0, {"s"})


def test_a_runner_that_leaves_twice_leaves_once() -> None:
    machine = started(broker())
    machine.disconnect("r", 1.0)
    assert machine.disconnect("r", 1.0) == []


# Calls (protocol.md 14 to 16)

CALLS = [
    (
        Rpc(call_id="c", task_id="t1", name="logNodeOutput", params=Raw(b'["a"]')),
        RequesterRpcResponse(task_id="t1", call_id="c", status="success"),
        RawRpcResponse(task_id="t1", call_id="c", status="success"),
    ),
    (
        TaskDataRequest(task_id="t1", request_id="r", request_params=Raw(b"{}")),
        RequesterTaskData(task_id="t1", request_id="r", data=Raw(b'{"a":1}')),
        TaskDataResponse(task_id="t1", request_id="r", data=Raw(b'{"a":1}')),
    ),
    (
        NodeTypesRequest(task_id="t1", request_id="r", request_params=Raw(b"[]")),
        RequesterNodeTypes(task_id="t1", request_id="r", node_types=Raw(b"[1]")),
        NodeTypes(task_id="t1", request_id="r", node_types=Raw(b"[1]")),
    ),
]
calls = pytest.mark.parametrize(("call", "answer", "relayed"), CALLS, ids=["rpc", "data", "node types"])


@calls
def test_a_call_goes_to_the_requester_and_its_answer_to_the_owner(call: Any, answer: Any, relayed: Any) -> None:
    machine = started(broker())
    join(machine, "s")
    [forwarded] = to_requester(machine.receive("s", call, 0.0))
    ours, theirs = (msgspec.json.decode(encode(message)) for message in (call, forwarded))
    assert theirs == ours | {"type": ours["type"].replace("runner:", "broker:")}
    assert to_runners(machine.request(answer, 0.0)) == [("r", relayed)]


@calls
def test_a_call_for_an_unknown_task_gets_no_answer(call: Any, answer: Any, relayed: Any) -> None:
    machine = started(broker())
    machine.receive("r", done("t1"), 0.0)
    assert machine.receive("r", call, 0.0) == []
    assert machine.request(answer, 0.0) == []


# Evictions (protocol.md 12.4)


def unanswered(machine: Broker, at: float) -> list[Any]:
    """The runner offers at ``at``, is asked, and says nothing until the window has elapsed."""
    machine.receive("r", offer("o"), at)
    machine.request(ask(f"at {at}"), at)
    return machine.tick(at + 2.0)


def test_three_unanswered_acceptances_in_a_row_close_the_runner() -> None:
    machine = broker(BrokerTerms(request_timeout=1000.0))
    join(machine)
    assert [closed(unanswered(machine, at)) for at in (0.0, 2.0, 4.0)] == [[], [], [("r", 1002)]]


def test_the_windows_count_even_when_clocks_do_not_add_up_exactly() -> None:
    machine = broker(BrokerTerms(request_timeout=1000.0))
    join(machine)
    now, verdicts = 0.1, []
    for _ in range(3):
        verdicts.append(closed(unanswered(machine, now)))
        now += 2.0
    assert verdicts == [[], [], [("r", 1002)]]


def test_unanswered_acceptances_less_than_a_window_apart_count_once() -> None:
    machine = broker(BrokerTerms(request_timeout=1000.0))
    join(machine)
    for number in range(4):
        machine.receive("r", offer(f"o{number}"), 0.5 * number)
        machine.request(ask(f"q{number}"), 0.5 * number)
    assert [closed(machine.tick(2.0 + 0.5 * number)) for number in range(4)] == [[]] * 4
    assert [closed(unanswered(machine, at)) for at in (4.0, 6.0)] == [[], [("r", 1002)]]


@pytest.mark.parametrize("answer", ["accept", "reject", "defer", "done", "error"])
def test_any_answer_starts_the_count_anew(answer: str) -> None:
    machine = started(broker(BrokerTerms(request_timeout=1000.0)))
    unanswered(machine, 0.0)
    unanswered(machine, 2.0)
    if answer in ("accept", "reject", "defer"):
        [(_, task_id, _)] = accepts(machine.receive("r", offer("answered"), 4.0))
        said: Any = {
            "accept": TaskAccepted(task_id=task_id),
            "reject": TaskRejected(task_id=task_id, reason=""),
            "defer": TaskDeferred(task_id=task_id),
        }[answer]
        machine.receive("r", said, 4.0)
        for ended in ("t1", task_id):  # by the requester, since what the runner says of a task counts as an answer
            machine.request(RequesterCancel(task_id=ended, reason=""), 4.0)
    else:
        machine.receive("r", done("t1") if answer == "done" else TaskError(task_id="t1", error=Raw(b"{}")), 4.0)
    assert [closed(unanswered(machine, at)) for at in (4.0, 6.0, 8.0)] == [[], [], [("r", 1002)]]


def test_a_runner_with_a_task_in_flight_is_not_closed_for_silence() -> None:
    machine = started(broker(BrokerTerms(request_timeout=1000.0)))
    assert [closed(unanswered(machine, at)) for at in (0.0, 2.0, 4.0)] == [[], [], []]


def request_and_expire(machine: Broker, at: float, task_type: str = "python") -> list[Any]:
    machine.request(ask(f"at {at}", task_type), at)
    return machine.tick(at + 60.0)


def test_a_runner_that_does_nothing_while_two_requests_expire_is_closed() -> None:
    machine = broker()
    join(machine)
    assert closed(request_and_expire(machine, 0.0)) == []
    assert closed(request_and_expire(machine, 2.0)) == [("r", 1002)]


def test_two_expiries_less_than_two_seconds_apart_are_one() -> None:
    machine = broker()
    join(machine)
    assert closed(request_and_expire(machine, 0.0)) == []
    assert closed(request_and_expire(machine, 1.999)) == []
    assert closed(request_and_expire(machine, 2.0)) == [("r", 1002)]


@pytest.mark.parametrize("sign", ["message", "offer", "task", "pending", "other type"])
def test_any_sign_of_life_between_two_expiries_saves_the_runner(sign: str) -> None:
    machine = broker(BrokerTerms(request_timeout=1.0, accept_timeout=100.0))
    join(machine, types=("ruby",) if sign == "other type" else ("python",))
    if sign in ("task", "pending"):
        machine.receive("r", offer("o"), 0.0)
        machine.request(ask("first"), 0.0)
    if sign == "task":
        machine.receive("r", ACCEPTED, 0.0)
        machine.request(supply("t1"), 0.0)
    machine.request(ask("q1"), 0.0)
    assert closed(machine.tick(1.0)) == []
    if sign == "message":
        machine.receive("r", TaskRejected(task_id="unknown", reason=""), 2.0)
    if sign == "offer":
        machine.receive("r", offer("o", task_type="something else"), 2.0)
    machine.request(ask("q2"), 9.0)
    assert closed(machine.tick(10.0)) == []


def test_an_offer_that_has_lapsed_is_no_sign_of_life() -> None:
    machine = broker(BrokerTerms(request_timeout=1.0))
    join(machine, types=("python", "javascript"))
    machine.receive("r", offer("o", valid_for=500), 0.0)
    machine.request(ask("q1", "javascript"), 0.0)
    assert closed(machine.tick(1.0)) == []
    machine.request(ask("q2", "javascript"), 2.0)
    assert closed(machine.tick(3.0)) == [("r", 1002)]


# Drain (protocol.md 17)


def test_a_drain_tells_all_runners_in_order_and_fails_what_waits() -> None:
    machine = broker()
    for runner_id in ("r", "s", "q", "p"):
        join(machine, runner_id)
    machine.connect("not registered")
    machine.receive("r", offer("o", task_type="javascript"), 0.0)
    machine.request(ask("q1"), 0.0)
    machine.request(ask("q2"), 0.0)
    actions = machine.drain()
    assert machine.open_offers(0.0) == 0
    assert to_runners(actions) == [(runner_id, Drain()) for runner_id in ("r", "s", "q", "p")]
    assert expired(actions) == [("q1", "draining"), ("q2", "draining")]
    assert machine.next_deadline() is None


def test_a_request_while_draining_fails_at_once() -> None:
    machine = broker()
    machine.drain()
    assert expired(machine.request(ask("q"), 0.0)) == [("q", "draining")]
    assert machine.queued == 0


def test_a_runner_that_registers_while_draining_is_told() -> None:
    machine = broker()
    machine.connect("r")
    machine.drain()
    assert to_runners(machine.receive("r", INFO, 0.0)) == [("r", RunnerRegistered()), ("r", Drain())]


def test_tasks_in_flight_may_finish_while_draining() -> None:
    machine = started(broker())
    machine.drain()
    assert to_requester(machine.receive("r", done("t1"), 0.0)) == [ForwardedDone(task_id="t1", data=DONE)]


def test_an_acceptance_under_way_when_draining_begins_becomes_a_task() -> None:
    machine = matched(broker())
    machine.drain()
    assert to_requester(machine.receive("r", ACCEPTED, 0.0)) == [TaskReady(request_id="q", task_id="t1")]


@pytest.mark.parametrize("answer", [REJECTED, TaskDeferred(task_id="t1"), "left", "silence"], ids=str)
def test_a_request_that_comes_back_while_draining_fails_at_once(answer: Any) -> None:
    machine = matched(broker())
    machine.drain()
    if answer == "left":
        actions = machine.disconnect("r", 1.0)
    elif answer == "silence":
        actions = machine.tick(2.0)
    else:
        actions = machine.receive("r", answer, 1.0)
    assert expired(actions) == [("q", "draining")]
    assert machine.queued == 0


# Ids


def test_every_attempt_gets_a_new_task_id() -> None:
    used = []
    names = counter("t")

    def new_task_id() -> str:
        used.append(names())
        return used[-1]

    machine = Broker(new_task_id=new_task_id)
    join(machine)
    machine.request(ask("q"), 0.0)
    for turn in range(3):
        [(_, task_id, _)] = accepts(machine.receive("r", offer(f"o{turn}"), 0.0))
        machine.receive("r", TaskRejected(task_id=task_id, reason=""), 0.0)
    assert used == ["t1", "t2", "t3"]
