"""Spans: what is in them, and that nobody waits for a collector."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeAlias

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from tests.shell.test_counters import a_task
from trio_runner.config import TracingConfig
from trio_runner.tracing import Tracing

Collector: TypeAlias = tuple[str, list[tuple[str, Message, bytes]]]
"""A collector's address and what it was sent: path, headers, body."""


def spans_of(outcome: str, *, leased_at: float | None = 11.0, sample_rate: float | None = None) -> list[ReadableSpan]:
    exporter = InMemorySpanExporter()
    tracing = Tracing(TracingConfig(sample_rate=sample_rate), exporter)
    record = a_task(leased_at=leased_at)
    record.bytes_out = 3
    record.end(outcome, 12.5)  # type: ignore[arg-type]
    tracing.task_ended(record)
    assert tracing.close(10)
    return list(exporter.get_finished_spans())


def test_a_task_is_one_span_with_its_ids_its_outcome_and_its_times() -> None:
    (span,) = spans_of("done")
    assert dict(span.attributes or {}) == {
        "n8n.workflow.id": "w",
        "n8n.workflow.name": "Flow",
        "n8n.node.id": "n",
        "n8n.node.name": "Code",
        "n8n.task.id": "t",
        "n8n.task.outcome": "done",
        "n8n.task.queue_seconds": 1.0,
        "n8n.task.run_seconds": 1.5,
        "n8n.task.items.size": 5,
        "n8n.task.result.size": 3,
        "n8n.broker": "n8n:5679",
    }
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time - span.start_time == 2_500_000_000
    assert [(event.name, span.end_time - event.timestamp) for event in span.events] == [("worker", 1_500_000_000)]
    assert span.status.status_code is StatusCode.UNSET
    assert span.resource.attributes["service.name"] == "n8n-task-runner-python"


def test_any_other_outcome_is_an_error() -> None:
    (span,) = spans_of("violation")
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "violation")


def test_a_task_without_a_worker_has_no_run_time() -> None:
    (span,) = spans_of("worker", leased_at=None)
    assert "n8n.task.run_seconds" not in (span.attributes or {})
    assert span.events == ()


def test_the_service_s_name_can_be_given_as_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    (span,) = spans_of("done")
    assert span.resource.attributes["service.name"] == "mine"


def test_a_sample_rate_of_nothing_sends_nothing() -> None:
    assert spans_of("done", sample_rate=0.0) == []


@contextmanager
def collecting() -> Iterator[Collector]:
    """A server that takes whatever it is sent."""
    taken: list[tuple[str, Message, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append((self.path, self.headers, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", taken
        server.shutdown()
        thread.join(10)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as opened:
        yield opened


@pytest.mark.e2e
def test_spans_go_where_n8n_s_own_configuration_says_with_its_headers(collector: Collector) -> None:
    address, taken = collector
    config = TracingConfig(
        endpoint=f"{address}/otlp", headers="Authorization=Bearer%20x, tenant=a=b,junk", sample_rate=1.0
    )
    send_one(Tracing(config))
    ((path, headers, body),) = taken
    assert (path, headers["Authorization"], headers["Tenant"]) == ("/otlp", "Bearer x", "a=b")
    assert b"task.execute" in body


@pytest.mark.e2e
def test_spans_go_where_the_standard_variables_say(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    address, taken = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "tenant=c")
    send_one(Tracing(TracingConfig()))
    ((path, headers, _),) = taken
    assert (path, headers["Tenant"]) == ("/v1/traces", "c")


def send_one(tracing: Tracing) -> None:
    record = a_task()
    record.end("done", 12.0)
    tracing.task_ended(record)
    assert tracing.close(20)


class _Stuck(SpanExporter):
    """A collector that takes nothing and does not answer."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.release = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.asked.set()
        self.release.wait(60)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


def test_a_collector_that_hangs_holds_up_neither_tasks_nor_the_end() -> None:
    stuck = _Stuck()
    tracing = Tracing(TracingConfig(), stuck)
    for _ in range(5000):  # more than the library's queue holds
        record = a_task()
        record.end("done", 12.0)
        tracing.task_ended(record)
    assert stuck.asked.wait(20)
    started = time.monotonic()
    assert not tracing.close(0.1)
    assert time.monotonic() - started < 10
    stuck.release.set()
