"""What a real runner tells of its work: every outcome once, over HTTP, in the log and as spans."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from tests.runner_kit import Bench, running
from tests.shell.shell_kit import until
from tests.shell.test_health import free_port, get
from tests.shell.test_tracing import collecting
from trio_runner import log, metrics
from trio_runner.config import TracingConfig
from trio_runner.localbroker import LocalBroker
from trio_runner.tracing import Tracing

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]

SETTINGS = {"workflowId": "w1", "workflowName": "Flow\n1", "nodeId": "n1", "nodeName": "Code"}
LIMITS = {
    "N8N_RUNNERS_TASK_TIMEOUT": "2",
    "N8N_RUNNERS_TASK_MEMORY": "256",
    "N8N_RUNNERS_MAX_PAYLOAD": "2000000",
    "N8N_RUNNERS_STDLIB_ALLOW": "os,time",
    "N8N_RUNNERS_MAX_CONCURRENCY": "2",
}
PROGRAMS = {
    "done": "return 1",
    "error": "1 / 0",
    "syntax": "return (",
    "violation": "import socket",
    "timeout": "import time\ntime.sleep(60)",
    "memory": "return len(bytearray(10**9))",
    "result_size": "return 'x' * 3_000_000",
    "prints": "for n in range(200): print(n)",
    "worker": "import os\nos._exit(3)",
}


def numbers(text: str) -> dict[tuple[str, ...], float]:
    """Each sample by its name and the values of its labels without the broker's."""
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()) if name != "broker")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(bench: Bench) -> dict[tuple[str, ...], float]:
    """What a scrape would show now."""
    return numbers(metrics.render(bench.runner.readiness(), bench.runner.counters).decode())


async def start(bench: Bench, nursery: trio.Nursery) -> trio.CancelScope:
    """A task that runs when this returns, and sleeps until it is stopped. Gives what cancels it."""
    printed = trio.Event()
    body = {"code": "import time\nprint('here')\ntime.sleep(60)", "nodeMode": "runOnceForAllItems", "items": []}
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            try:
                await bench.broker.run_task(msgspec.json.encode(body | SETTINGS), lambda _: printed.set())
            except Exception:
                return  # how it ends for n8n is another test's business

    nursery.start_soon(run)
    await printed.wait()
    return scope


@contextmanager
def json_log() -> Iterator[list[dict[str, Any]]]:
    """The lines of the block, decoded at its end."""
    out = io.StringIO()
    lines: list[dict[str, Any]] = []
    log.configure("DEBUG", as_json=True, stream=out)
    yield lines
    lines += map(json.loads, out.getvalue().splitlines())


async def test_a_scrape_shows_each_outcome_and_each_limit_that_was_met() -> None:
    port = free_port()
    health = {"N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED": "true", "N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT": str(port)}
    with trio.fail_after(90):
        async with running(LIMITS | health) as bench:
            for code in PROGRAMS.values():
                await bench.run(code, **SETTINGS)
            async with trio.open_nursery() as nursery:
                (await start(bench, nursery)).cancel()
                await until(lambda: bench.runner.slots.taken == 0)
                await start(bench, nursery)
                await bench.broker.disconnect()
                await until(lambda: bench.runner.slots.taken == 0)
                nursery.cancel_scope.cancel()
            await until(lambda: bench.runner.readiness().ready)
            await until(lambda: bench.runner.readiness().workers_idle == 2)
            status, body = await get(port, "/metrics")
    assert status == 200
    found = numbers(body.decode())
    outcomes = {name[1]: value for name, value in found.items() if name[0] == "trio_runner_tasks_ended_total"}
    # the timeout, the memory and the size
    ends = Counter(done=2, error=1, syntax=1, violation=1, limit=3, worker=1, cancelled=1, lost=1)
    assert outcomes == {"settings": 0, "cut_off": 0, **ends}
    limits = {name[1]: value for name, value in found.items() if name[0] == "trio_runner_limits_hit_total"}
    assert limits == {"cpu": 0, "calls": 0, **dict.fromkeys(("timeout", "memory", "result_size", "prints"), 1)}
    assert found["trio_runner_accepts_total",] == ends.total()
    assert found["trio_runner_offers_total",] >= ends.total()
    assert found["trio_runner_task_run_seconds_count",] == ends.total()
    assert found["trio_runner_task_queue_seconds_count",] == ends.total()
    assert found["trio_runner_worker_deaths_total", "task"] == 1
    assert found["trio_runner_worker_forks_total",] == ends.total() + 2
    assert found["trio_runner_workers", "idle"] == 2
    assert found["trio_runner_workers", "starting"] == 0
    assert found["trio_runner_broker_connections_total",] == 2
    assert found["trio_runner_broker_reconnects_total",] == 1
    assert found["trio_runner_broker_failures_total", "lost"] == 1
    assert found["trio_runner_broker_registered",] == 1
    assert found["trio_runner_broker_received_bytes_total",] > 1000
    assert found["trio_runner_broker_sent_bytes_total",] > 1000


async def test_the_limit_of_processor_time_is_counted_as_such() -> None:
    with trio.fail_after(90):
        async with running({**LIMITS, "N8N_RUNNERS_TASK_CPU": "1", "N8N_RUNNERS_TASK_TIMEOUT": "60"}) as bench:
            await bench.run("while True: pass", **SETTINGS)
            await until(lambda: bench.runner.slots.taken == 0)
            found = scraped(bench)
    assert found["trio_runner_limits_hit_total", "cpu"] == 1
    assert found["trio_runner_limits_hit_total", "timeout"] == 0
    assert found["trio_runner_tasks_ended_total", "limit"] == 1


async def test_what_a_shutdown_cuts_off_is_counted_as_such_and_has_its_line() -> None:
    with trio.fail_after(60), json_log() as lines:
        async with running({**LIMITS, "N8N_RUNNERS_TASK_TIMEOUT": "60"}) as bench, trio.open_nursery() as nursery:
            await start(bench, nursery)
            bench.runner.stop(0)
            await until(lambda: bench.runner.slots.taken == 0)
            found = scraped(bench)
    assert found["trio_runner_tasks_ended_total", "cut_off"] == 1
    (line,) = [line for line in lines if "outcome" in line]
    assert (line["outcome"], line["workflow_id"], line["level"]) == ("cut_off", "w1", "ERROR")


async def test_each_task_ends_with_one_line_of_json_that_has_its_ids_and_its_outcome() -> None:
    with trio.fail_after(60), json_log() as lines:
        async with running(LIMITS) as bench:
            for name in ("done", "error", "syntax", "violation", "worker"):
                await bench.run(PROGRAMS[name], items=[{"json": {"secret": "s3cr3t"}}], **SETTINGS)
            await bench.run("print('hello')\nreturn 1", **SETTINGS)
            async with trio.open_nursery() as nursery:
                (await start(bench, nursery)).cancel()
                await until(lambda: bench.runner.slots.taken == 0)
    ends = [line for line in lines if "outcome" in line]
    assert [line["outcome"] for line in ends] == [
        *("done", "error", "syntax", "violation", "worker", "done", "cancelled"),
    ]
    assert len({line["task_id"] for line in ends}) == len(ends)
    for line in ends:
        assert {name: line[name] for name in ("workflow_id", "workflow_name", "node_id", "node_name")} == {
            "workflow_id": "w1",
            "workflow_name": "Flow\n1",
            "node_id": "n1",
            "node_name": "Code",
        }
        assert line["queue_ms"] >= 0
        assert line["run_ms"] > 0
    (printed,) = [line for line in lines if line["message"] == "[user code] hello"]
    assert printed["task_id"] == ends[5]["task_id"]
    assert {line["task_id"] for line in lines if line["message"].startswith("Accepted task")} == {
        line["task_id"] for line in ends
    }
    assert "s3cr3t" not in json.dumps(lines)


async def test_each_task_is_a_span() -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing(TracingConfig(), exporter)
    with trio.fail_after(60):
        async with running(LIMITS) as bench:
            bench.runner.counters.task_ended = tracing.task_ended
            await bench.run("return _items", items=[{"json": {"a": 1}}], **SETTINGS)
            await bench.run("1 / 0", **SETTINGS)
            await until(lambda: bench.runner.slots.taken == 0)
    assert tracing.close(20)
    attributes = [dict(span.attributes or {}) for span in exporter.get_finished_spans()]
    assert [one["n8n.task.outcome"] for one in attributes] == ["done", "error"]
    assert {one["n8n.workflow.id"] for one in attributes} == {"w1"}
    assert attributes[0]["n8n.task.items.size"] == len(b'[{"json":{"a":1}}]')
    assert attributes[0]["n8n.task.result.size"] > 0
    assert all(0 < one["n8n.task.run_seconds"] < 60 for one in attributes)


async def test_a_runner_process_sends_its_last_spans_before_it_ends_and_hides_the_headers_from_programs() -> None:
    with collecting() as (address, taken), trio.fail_after(90):
        environment = {
            **os.environ,
            "N8N_RUNNERS_AUTH_TOKEN": "token",
            "OTEL_EXPORTER_OTLP_ENDPOINT": address,
            "OTEL_EXPORTER_OTLP_HEADERS": "tenant=s3cr3t",
            "N8N_BLOCK_RUNNER_ENV_ACCESS": "false",
            "N8N_RUNNERS_STDLIB_ALLOW": "os",
        }
        async with trio.open_nursery() as nursery:
            broker = LocalBroker(auth_token="token")
            port = await nursery.start(broker.serve)
            environment["N8N_RUNNERS_TASK_BROKER_URI"] = f"http://127.0.0.1:{port}"
            process = await nursery.start(
                partial(
                    trio.run_process,
                    [sys.executable, "-m", "trio_runner"],
                    env=environment,
                    capture_stdout=True,
                    check=False,
                )
            )
            body = {"code": "import os\nreturn dict(os.environ)", "nodeMode": "runOnceForAllItems", "items": []}
            seen = await broker.run_task(msgspec.json.encode(body | SETTINGS))
            process.send_signal(signal.SIGTERM)
            await process.wait()
            nursery.cancel_scope.cancel()
        assert process.returncode == 0
        assert isinstance(seen.result, msgspec.Raw)
        assert b"OTEL_EXPORTER_OTLP_ENDPOINT" in bytes(seen.result)
        assert b"s3cr3t" not in bytes(seen.result)
        ((path, headers, spans),) = taken
    assert (path, headers["Tenant"]) == ("/v1/traces", "s3cr3t")
    assert b"task.execute" in spans


def test_a_runner_that_nobody_scrapes_or_traces_loads_none_of_the_heavy_libraries() -> None:
    program = """
import sys, trio
from tests.runner_kit import running
from trio_runner import cli

async def main():
    with trio.fail_after(60):
        async with running() as bench:
            assert (await bench.run("return 1"))["result"] is not None

trio.run(main)
heavy = ("prometheus_client", "opentelemetry", "sentry_sdk", "requests", "structlog", "rich")
print([name for name in heavy if name in sys.modules])
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert (ran.returncode, ran.stdout) == (0, "[]\n"), ran.stderr
