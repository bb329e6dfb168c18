"""`/metrics`: the state of the runner in Prometheus' text format, made anew for each scrape.

Reads what `/readyz` reads, so the two cannot disagree. The library is loaded with the first scrape: nobody else pays.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from trio_runner import __version__

if TYPE_CHECKING:
    from trio_runner.health import Readiness

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(state: Readiness) -> bytes:
    """One scrape."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(state))
    return generate_latest(registry)


class _Collector:
    """Prometheus asks this for its families; the base class of the library adds nothing to it."""

    def __init__(self, state: Readiness) -> None:
        self._state = state

    def collect(self) -> Iterable[Any]:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        state = self._state
        version = GaugeMetricFamily("trio_runner_info", "The runner's version", labels=["version"])
        version.add_metric([__version__], 1)
        yield version
        yield GaugeMetricFamily("trio_runner_ready", "Whether a task would be taken now", value=state.ready)
        yield GaugeMetricFamily("trio_runner_slots", "Tasks that may be in hand at once", value=state.slots)
        yield GaugeMetricFamily("trio_runner_tasks", "Tasks in hand", value=state.tasks)
        yield GaugeMetricFamily("trio_runner_workers_idle", "Workers that wait for a task", value=state.workers_idle)
        yield CounterMetricFamily(
            "trio_runner_zygote_restarts", "Zygotes that had to be replaced", value=state.zygote_restarts
        )
        registered = GaugeMetricFamily(
            "trio_runner_broker_registered", "Whether the broker takes offers", labels=["broker"]
        )
        reconnects = CounterMetricFamily(
            "trio_runner_broker_reconnects", "Connections after the first", labels=["broker"]
        )
        for broker in state.brokers:
            registered.add_metric([broker.broker], broker.registered)
            reconnects.add_metric([broker.broker], broker.reconnects)
        yield registered
        yield reconnects
        layers = GaugeMetricFamily(
            "trio_runner_sandbox_layer", "1 for each layer of the sandbox in its status", labels=["layer", "status"]
        )
        for layer, status in state.sandbox.items():
            layers.add_metric([layer, status], 1)
        yield layers
