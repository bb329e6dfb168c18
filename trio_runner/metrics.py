"""`/metrics`: the state and the numbers of the runner in Prometheus' text format, made anew for each scrape.

Reads what `/readyz` reads, so the two cannot disagree, and `counters`. The library is loaded with the first scrape:
nobody else pays. docs/operations.md explains every metric; a test keeps the two alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from trio_runner import __version__

if TYPE_CHECKING:
    from trio_runner.counters import Counters, Histogram
    from trio_runner.health import Readiness

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(state: Readiness, counters: Counters) -> bytes:
    """One scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(state, counters))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, state: Readiness, counters: Counters) -> None:
        self._state = state
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        yield from _runner(self._state)
        yield from _workers(self._state, self._counters)
        yield from _tasks(self._counters)
        yield from _packages(self._counters)
        yield from _brokers(self._state, self._counters)


def _runner(state: Readiness) -> Iterator[Metric]:
    yield _gauges("trio_runner_info", "The runner's version", "version", {__version__: 1})
    yield GaugeMetricFamily(
        "trio_runner_ready", "Whether it serves: a broker takes its offers, and it has workers", value=state.ready
    )
    yield GaugeMetricFamily("trio_runner_slots", "Tasks that may be in hand at once", value=state.slots)
    yield GaugeMetricFamily("trio_runner_tasks", "Tasks in hand", value=state.tasks)
    layers = GaugeMetricFamily(
        "trio_runner_sandbox_layer", "1 for each layer of the sandbox in its status", labels=["layer", "status"]
    )
    for layer, status in state.sandbox.items():
        layers.add_metric([layer, status], 1)
    yield layers


def _workers(state: Readiness, counters: Counters) -> Iterator[Metric]:
    yield GaugeMetricFamily("trio_runner_workers_idle", "Workers that wait for a task", value=state.workers_idle)
    states = {"idle": state.workers_idle, "busy": state.workers_busy, "starting": state.workers_starting}
    yield _gauges("trio_runner_workers", "Worker processes by what they do", "state", states)
    yield _counter("trio_runner_worker_forks", "Workers that were made", counters.forks)
    yield _counter(
        "trio_runner_worker_fork_failures",
        "Workers that could not be made: no memory, processes or descriptors",
        counters.fork_failures,
    )
    deaths = "Workers that ended by themselves: idle, when a task was given to them, or without a result"
    yield _counters("trio_runner_worker_deaths", deaths, "when", counters.worker_deaths)
    yield _counter(
        "trio_runner_zygote_restarts",
        "Times that the process which makes workers had to be replaced",
        state.zygote_restarts,
    )


def _tasks(counters: Counters) -> Iterator[Metric]:
    yield _histogram(
        "trio_runner_task_run_seconds", "Seconds from the moment a task has its worker to its end", counters.run
    )
    yield _histogram(
        "trio_runner_task_queue_seconds", "Seconds from the acceptance of a task to its worker", counters.queue
    )
    yield _counters(
        "trio_runner_limits_hit",
        "Tasks that met a limit of time, memory, processor time, size, prints or calls",
        "limit",
        counters.limits,
    )
    meaning = "Calls of programs to n8n that were answered, or refused here"
    calls = CounterMetricFamily("trio_runner_calls", meaning, labels=["method", "outcome"])
    for method, outcomes in counters.calls.items():
        for outcome, count in outcomes.items():
            calls.add_metric([method, outcome], count)
    yield calls
    yield _histogram("trio_runner_call_seconds", "Seconds from a call of a program to n8n's answer", counters.call)


def _packages(counters: Counters) -> Iterator[Metric]:
    live = "Environments of programs with packages of their own that have workers"
    yield GaugeMetricFamily("trio_runner_environments", live, value=counters.environments)
    yield _counters(
        "trio_runner_environment_builds",
        "Builds of environments for programs with packages of their own, by how they ended",
        "outcome",
        counters.builds,
    )
    yield _histogram(
        "trio_runner_environment_build_seconds",
        "How long builds of environments took that succeeded",
        counters.build_time,
    )


def _brokers(state: Readiness, counters: Counters) -> Iterator[Metric]:
    registered = {broker.broker: broker.registered for broker in state.brokers}
    yield _gauges("trio_runner_broker_registered", "Whether the broker takes offers", "broker", registered)
    brokers = counters.brokers
    for name, meaning, values in (
        (
            "connections",
            "Connections to the broker that were made",
            {name: one.connections for name, one in brokers.items()},
        ),
        (
            "reconnects",
            "Connections to the broker after the first",
            {name: one.reconnects for name, one in brokers.items()},
        ),
        (
            "received_bytes",
            "Bytes that came from the broker over connections",
            {name: one.moved()[0] for name, one in brokers.items()},
        ),
        (
            "sent_bytes",
            "Bytes that went to the broker over connections",
            {name: one.moved()[1] for name, one in brokers.items()},
        ),
    ):
        yield _counters(f"trio_runner_broker_{name}", meaning, "broker", values)
    offers = {name: one.offers for name, one in brokers.items()}
    yield _counters("trio_runner_offers", "Offers of a free slot that were made", "broker", offers)
    accepts = {name: one.accepts for name, one in brokers.items()}
    yield _counters("trio_runner_accepts", "Tasks that were taken", "broker", accepts)
    for family, meaning, label, tables in (
        (
            "trio_runner_rejections",
            "Tasks that were given back to n8n, which looks for another offer",
            "reason",
            {name: one.rejections for name, one in brokers.items()},
        ),
        (
            "trio_runner_tasks_ended",
            "Tasks that were taken and have ended",
            "outcome",
            {name: one.tasks for name, one in brokers.items()},
        ),
        (
            "trio_runner_broker_failures",
            "Connections that could not be made or were lost",
            "reason",
            {name: one.failures for name, one in brokers.items()},
        ),
    ):
        counted = CounterMetricFamily(family, meaning, labels=["broker", label])
        for name, table in tables.items():
            for value, count in table.items():
                counted.add_metric([name, value], count)
        yield counted


def _gauges(name: str, meaning: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def _counter(name: str, meaning: str, value: int) -> Metric:
    return CounterMetricFamily(name, meaning, value=value)


def _counters(name: str, meaning: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, meaning, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def _histogram(name: str, meaning: str, histogram: Histogram) -> Metric:
    cumulated = list(accumulate(histogram.counts))
    bounds = [*map(str, histogram.bounds), "+Inf"]
    return HistogramMetricFamily(
        name, meaning, buckets=list(zip(bounds, cumulated, strict=True)), sum_value=histogram.sum
    )
