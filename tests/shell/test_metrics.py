"""What a scrape shows."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.shell.test_counters import a_task
from trio_runner import metrics
from trio_runner.counters import QUEUE_BUCKETS, RUN_BUCKETS, Counters
from trio_runner.health import BrokerState, Readiness
from trio_runner.protocol.messages import TaskRejected
from trio_runner.protocol.session import REJECT_FULL

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
STATE = Readiness(
    ready=True,
    brokers=[
        BrokerState(broker="n8n:5679", connected=True, registered=True, draining=False, reconnects=3, last_error=None)
    ],
    workers_idle=4,
    workers_busy=2,
    workers_starting=1,
    workers_alive=True,
    zygote_restarts=2,
    slots=5,
    tasks=1,
    sandbox={"seccomp": "active", "uid": "unavailable"},
)


def counted() -> Counters:
    """Something of everything."""
    counters = Counters()
    counters.forks, counters.fork_failures = 7, 1
    counters.limits["memory"] = 2
    counters.worker_deaths["idle"] = 3
    broker = counters.broker("n8n:5679")
    broker.connected(again=False)
    broker.connected(again=True)
    broker.failed("lost")
    broker.said(TaskRejected(task_id="t", reason=REJECT_FULL))
    with broker.counting(lambda: (100, 200)):
        pass
    task = a_task()
    task.end("done", 11.002)
    broker.ended(task)
    return counters


def families(counters: Counters | None = None, state: Readiness = STATE) -> dict[str, Metric]:
    text = metrics.render(state, counters or counted()).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def samples(counters: Counters | None = None) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(text for _, text in sorted(sample.labels.items()))): sample.value
        for family in families(counters).values()
        for sample in family.samples
    }


def test_a_scrape_shows_slots_workers_brokers_and_sandbox_layers() -> None:
    found = samples()
    assert found["trio_runner_ready",] == 1
    assert found["trio_runner_slots",] == 5
    assert found["trio_runner_tasks",] == 1
    assert found["trio_runner_workers_idle",] == 4
    assert [found["trio_runner_workers", state] for state in ("idle", "busy", "starting")] == [4, 2, 1]
    assert found["trio_runner_zygote_restarts_total",] == 2
    assert found["trio_runner_broker_registered", "n8n:5679"] == 1
    assert found["trio_runner_sandbox_layer", "seccomp", "active"] == 1
    assert found["trio_runner_sandbox_layer", "uid", "unavailable"] == 1


def test_a_scrape_shows_what_was_counted() -> None:
    found = samples()
    assert found["trio_runner_worker_forks_total",] == 7
    assert found["trio_runner_worker_fork_failures_total",] == 1
    assert found["trio_runner_worker_deaths_total", "idle"] == 3
    assert found["trio_runner_limits_hit_total", "memory"] == 2
    assert found["trio_runner_limits_hit_total", "timeout"] == 0
    assert found["trio_runner_broker_connections_total", "n8n:5679"] == 2
    assert found["trio_runner_broker_reconnects_total", "n8n:5679"] == 1
    assert found["trio_runner_broker_failures_total", "n8n:5679", "lost"] == 1
    assert found["trio_runner_broker_received_bytes_total", "n8n:5679"] == 100
    assert found["trio_runner_broker_sent_bytes_total", "n8n:5679"] == 200
    assert found["trio_runner_rejections_total", "n8n:5679", "full"] == 1
    assert found["trio_runner_tasks_ended_total", "n8n:5679", "done"] == 1
    assert found["trio_runner_tasks_ended_total", "n8n:5679", "error"] == 0


def test_a_histogram_is_cumulative_and_ends_with_all() -> None:
    found = samples()
    assert found["trio_runner_task_run_seconds_bucket", "0.0015"] == 0
    assert found["trio_runner_task_run_seconds_bucket", "0.003"] == 1
    assert found["trio_runner_task_run_seconds_bucket", "+Inf"] == 1
    assert found["trio_runner_task_run_seconds_count",] == 1
    assert found["trio_runner_task_queue_seconds_sum",] == 1.0


def test_every_series_is_there_before_anything_happened_so_that_the_first_event_is_an_increase() -> None:
    fresh = Counters()
    fresh.broker("n8n:5679")
    assert samples(fresh).keys() == samples().keys()


def test_however_many_tasks_workflows_and_brokers_behind_a_name_there_were_the_series_are_the_same() -> None:
    counters = counted()
    before = samples(counters).keys()
    broker = counters.broker("n8n:5679")
    for number in range(1000):
        task = a_task()
        task.task_id = f"task-{number}"
        task.settings = msgspec.structs.replace(task.settings, workflow_id=f"w{number}", node_name=f"n{number}")
        task.end("error", 12.0)
        broker.ended(task)
    assert samples(counters).keys() == before
    assert len(before) < 180


def test_buckets_are_close_where_a_trivial_task_is_and_reach_beyond_the_limits() -> None:
    assert list(RUN_BUCKETS) == sorted(RUN_BUCKETS)
    assert list(QUEUE_BUCKETS) == sorted(QUEUE_BUCKETS)
    assert sum(0.001 <= bound <= 0.005 for bound in RUN_BUCKETS) >= 5
    assert RUN_BUCKETS[-1] >= 300


def test_the_process_s_own_memory_and_descriptors_are_there() -> None:
    found = samples()
    if Path("/proc/self/stat").exists():
        assert found["process_resident_memory_bytes",] > 1_000_000
        assert found["process_open_fds",] > 0


def test_the_documentation_explains_every_metric_and_no_other() -> None:
    ours = {name for name in families() if name.startswith("trio_runner_")}
    rows = re.findall(r"^\| `(trio_runner_\w+)", OPERATIONS.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name.removesuffix("_total") for name in rows} == ours
    assert len(rows) == len(set(rows))
