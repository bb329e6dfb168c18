"""What counting, the fields of the log and a span cost one trivial task: `python -m bench.counting`.

Runs what the runner runs for a task that is offered, accepted and done, beside its log line that is written anyway.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable

from msgspec import Raw

from trio_runner import log
from trio_runner.counters import Counters
from trio_runner.protocol.messages import ResultData, TaskAccepted, TaskDone, TaskOffer, TaskSettings
from trio_runner.taskrecord import TaskRecord

_TASKS = 20_000
_SETTINGS = TaskSettings(code="return 1", node_mode="runOnceForAllItems", items=Raw(b"[]"))
_OFFER = TaskOffer(offer_id="o", task_type="python", valid_for=5000)
_ACCEPTED = TaskAccepted(task_id="t")
_DONE = TaskDone(task_id="t", data=ResultData(result=Raw(b"1")))


def _one_task(counters: Counters) -> None:
    """Everything but the log line."""
    broker = counters.brokers["b"]
    broker.said(_OFFER)
    broker.said(_ACCEPTED)
    record = TaskRecord("t", _SETTINGS, broker=broker.name, accepted_at=10.0)
    record.leased_at = 10.001
    record.bytes_out = 1
    record.end("done", 10.002)
    broker.said(_DONE)
    counters.forks += 1
    broker.ended(record)


def _microseconds(task: Callable[[], object]) -> float:
    """The best of five, for one task."""
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(_TASKS):
            task()
        best = min(best, time.perf_counter() - started)
    return best / _TASKS * 1e6


def _log_line(extra: dict[str, object] | None) -> Callable[[], None]:
    logger = logging.getLogger("trio_runner.bench")
    return lambda: logger.info("Completed task %s in %s (%s) %s", "t", "2ms", "1 bytes", "for node", extra=extra)


def main() -> None:
    """Prints one line a figure."""
    counters = Counters()
    counters.broker("b")
    record = TaskRecord("t", _SETTINGS, broker="b", accepted_at=10.0)
    extra = record.end("done", 10.002)
    counting = _microseconds(lambda: _one_task(counters))
    log.configure(stream=io.StringIO())
    plain, with_fields = _microseconds(_log_line(None)), _microseconds(_log_line(extra))
    log.configure(as_json=True, stream=io.StringIO())
    as_json = _microseconds(_log_line(extra))
    print(f"counting                    {counting:6.2f} µs a task")
    print(f"fields of its log line      {with_fields - plain:6.2f} µs more than the {plain:.2f} µs of the line")
    print(f"the line as JSON            {as_json:6.2f} µs")
    try:
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        from trio_runner.config import TracingConfig
        from trio_runner.tracing import Tracing
    except ImportError:
        return
    tracing = Tracing(TracingConfig(), InMemorySpanExporter())
    print(f"its span                    {_microseconds(lambda: tracing.task_ended(record)):6.2f} µs")
    tracing.close()


if __name__ == "__main__":
    main()
