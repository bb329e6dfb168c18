"""OpenTelemetry: one span a task, made when the task is over, exported from the library's own thread.

Imported only where traces go somewhere (`start` says whether they do): the library takes longer to load than the rest
of the runner. Nothing here waits for the collector: what does not fit into the library's queue is dropped, and the end
of the process waits for the last spans a bounded time. Spans hold names, ids, times and sizes, never code or data.
"""

from __future__ import annotations

import os
import threading
import time
from urllib.parse import unquote

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from trio_runner import __version__
from trio_runner.config import TracingConfig
from trio_runner.taskrecord import TaskRecord

FLUSH_LIMIT = 3.0
"""Seconds that the end of the process waits for a collector to take the last spans."""
SPAN = "task.execute"
_SERVICE = "n8n-task-runner-python"


class Tracing:
    """Spans of tasks, on their way to a collector."""

    def __init__(self, config: TracingConfig, exporter: SpanExporter | None = None) -> None:
        """``exporter`` takes the place of the one that the configuration asks for."""
        sampler: Sampler | None = None  # the library's own variables decide
        if config.sample_rate is not None:
            sampler = ParentBased(TraceIdRatioBased(config.sample_rate))
        ours = Resource({"service.name": _SERVICE, "service.version": __version__, "process.pid": os.getpid()})
        self._provider = TracerProvider(
            sampler=sampler,
            resource=ours.merge(OTELResourceDetector().detect()),
            shutdown_on_exit=False,  # it would wait for as long as a collector that is gone lets it
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter or _exporter(config)))
        self._tracer = self._provider.get_tracer("trio_runner", __version__)

    def task_ended(self, record: TaskRecord) -> None:
        """The span of a task that has ended just now. Never waits and never raises for a full queue."""
        end = time.time_ns()  # spans have wall-clock times; how long things took is known from a better clock
        span = self._tracer.start_span(
            SPAN,
            kind=SpanKind.CONSUMER,
            start_time=end - _nanoseconds(record.ended_at - record.accepted_at),
            attributes=_attributes(record),
        )
        if record.leased_at is not None:
            span.add_event("worker", timestamp=end - _nanoseconds(record.ended_at - record.leased_at))
        if record.outcome != "done":
            span.set_status(Status(StatusCode.ERROR, record.outcome))
        span.end(end)

    def close(self, within: float = FLUSH_LIMIT) -> bool:
        """Sends what is left. Blocking, for at most ``within`` seconds; False when that was too short."""
        last = threading.Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(within)
        return not last.is_alive()


def _exporter(config: TracingConfig) -> OTLPSpanExporter:
    if config.endpoint is None:
        return OTLPSpanExporter()
    pairs = (pair.partition("=") for pair in config.headers.split(",") if "=" in pair)
    return OTLPSpanExporter(
        endpoint=config.endpoint, headers={name.strip().lower(): unquote(value.strip()) for name, _, value in pairs}
    )


def _attributes(record: TaskRecord) -> dict[str, AttributeValue]:
    settings = record.settings
    attributes: dict[str, AttributeValue] = {
        "n8n.workflow.id": settings.workflow_id or "",
        "n8n.workflow.name": settings.workflow_name or "",
        "n8n.node.id": settings.node_id or "",
        "n8n.node.name": settings.node_name or "",
        "n8n.task.id": record.task_id,
        "n8n.task.outcome": record.outcome or "",
        "n8n.task.queue_seconds": record.queued,
        "n8n.task.items.size": record.bytes_in,
        "n8n.task.result.size": record.bytes_out,
        "n8n.broker": record.broker,
    }
    if record.ran is not None:
        attributes["n8n.task.run_seconds"] = record.ran
    return attributes


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
