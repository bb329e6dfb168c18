"""What is counted, and when."""

from __future__ import annotations

import pytest
from msgspec import Raw

from trio_runner.counters import BrokerCounters, Counters, Histogram
from trio_runner.protocol.messages import RunnerInfo, TaskAccepted, TaskOffer, TaskRejected, TaskSettings
from trio_runner.protocol.session import REJECT_DRAINING, REJECT_EXPIRED, REJECT_FULL, REJECT_SUSPENDED
from trio_runner.taskrecord import OUTCOMES, Outcome, TaskRecord

SETTINGS = TaskSettings(
    code="return 1",
    node_mode="runOnceForAllItems",
    items=Raw(b"[1,2]"),
    node_id="n",
    node_name="Code",
    workflow_id="w",
    workflow_name="Flow",
)


def a_task(*, leased_at: float | None = 11.0) -> TaskRecord:
    record = TaskRecord("t", SETTINGS, broker="n8n:5679", accepted_at=10.0)
    record.leased_at = leased_at
    return record


def test_a_value_counts_for_the_first_bound_that_it_does_not_exceed() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.0, 1.0, 1.5, 2.0, 2.5, 100.0):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 2]
    assert histogram.sum == 107.0


def test_offers_acceptances_and_rejections_are_counted_as_they_are_said() -> None:
    broker = Counters().broker("b")
    broker.said(TaskOffer(offer_id="o", task_type="python", valid_for=5000))
    broker.said(TaskOffer(offer_id="p", task_type="python", valid_for=5000))
    broker.said(TaskAccepted(task_id="t"))
    broker.said(RunnerInfo(name="n", types=("python",)))
    for reason in (REJECT_EXPIRED, REJECT_EXPIRED, REJECT_FULL, REJECT_DRAINING, REJECT_SUSPENDED, "no idea"):
        broker.said(TaskRejected(task_id="t", reason=reason))
    assert (broker.offers, broker.accepts) == (2, 1)
    assert broker.rejections == {"expired": 2, "full": 1, "draining": 1, "no_workers": 1, "other": 1}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_each_outcome_has_a_number_of_its_own(outcome: Outcome) -> None:
    broker = BrokerCounters("b")
    record = a_task()
    record.end(outcome, 12.0)
    broker.ended(record)
    assert {name: count for name, count in broker.tasks.items() if count} == {outcome: 1}


def test_the_time_before_the_worker_and_the_time_with_it_are_counted_apart() -> None:
    counters = Counters()
    record = a_task()
    record.end("done", 14.0)
    counters.broker("b").ended(record)
    assert (counters.queue.sum, counters.run.sum) == (1.0, 3.0)


def test_a_task_that_never_had_a_worker_waited_until_its_end_and_did_not_run() -> None:
    counters = Counters()
    record = a_task(leased_at=None)
    record.end("worker", 40.0)
    counters.broker("b").ended(record)
    assert (counters.queue.sum, sum(counters.run.counts)) == (30.0, 0)
    assert record.fields()["run_ms"] is None


def test_only_the_first_end_of_a_task_has_an_outcome_to_be_logged() -> None:
    record = a_task()
    assert record.end("done", 12.0) == {"task": record, "outcome": "done"}
    assert record.abort("cancelled", 13.0) == {"task": record}
    assert (record.outcome, record.ended_at) == ("done", 12.0)


def test_a_task_that_was_stopped_while_its_result_waited_counts_as_stopped() -> None:
    record = a_task()
    record.end("done", 12.0)
    record.abort("cancelled", 13.0)
    record.never_told(14.0)
    assert record.outcome == "cancelled"


def test_a_task_of_which_nobody_heard_any_more_is_lost() -> None:
    record = a_task()
    record.never_told(14.0)
    assert (record.outcome, record.ran) == ("lost", 3.0)


def test_a_task_says_where_it_belongs_and_never_what_it_works_on() -> None:
    record = a_task()
    assert record.fields() == {
        "task_id": "t",
        "workflow_id": "w",
        "workflow_name": "Flow",
        "node_id": "n",
        "node_name": "Code",
        "broker": "n8n:5679",
        "bytes_in": 5,
    }
    record.bytes_out = 7
    record.end("done", 11.5)
    assert record.fields() == {
        **a_task().fields(),
        "bytes_out": 7,
        "queue_ms": 1000.0,
        "run_ms": 500.0,
    }
    assert record.place == 'for node "Code" (n) in workflow "Flow" (w)'


def test_bytes_of_an_open_connection_count_and_stay_when_it_is_gone() -> None:
    broker = BrokerCounters("b")
    moved = (0, 0)
    with broker.counting(lambda: moved):
        moved = (10, 20)
        assert broker.moved() == (10, 20)
        with broker.counting(lambda: (1, 2)):
            assert broker.moved() == (11, 22)
        assert broker.moved() == (11, 22)
    moved = (99, 99)
    assert broker.moved() == (11, 22)


def test_who_wants_to_know_is_told_of_each_task() -> None:
    counters = Counters()
    told: list[TaskRecord] = []
    counters.listen(told.append)
    record = a_task()
    record.end("done", 12.0)
    counters.broker("b").ended(record)
    assert told == [record]


def test_brokers_of_one_name_share_their_numbers() -> None:
    counters = Counters()
    counters.broker("b").connected(again=False)
    counters.broker("b").connected(again=True)
    assert (counters.brokers["b"].connections, counters.brokers["b"].reconnects) == (2, 1)
