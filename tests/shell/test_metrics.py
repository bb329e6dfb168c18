"""What a scrape shows."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from trio_runner import metrics
from trio_runner.health import BrokerState, Readiness


def scrape() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    state = Readiness(
        ready=True,
        brokers=[
            BrokerState(
                broker="n8n:5679", connected=True, registered=True, draining=False, reconnects=3, last_error=None
            )
        ],
        workers_idle=4,
        workers_alive=True,
        zygote_restarts=2,
        slots=5,
        tasks=1,
        sandbox={"seccomp": "active", "uid": "unavailable"},
    )
    text = metrics.render(state).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_shows_slots_workers_brokers_and_sandbox_layers() -> None:
    samples = scrape()
    assert samples[("trio_runner_ready", ())] == 1
    assert samples[("trio_runner_slots", ())] == 5
    assert samples[("trio_runner_tasks", ())] == 1
    assert samples[("trio_runner_workers_idle", ())] == 4
    assert samples[("trio_runner_zygote_restarts_total", ())] == 2
    assert samples[("trio_runner_broker_registered", (("broker", "n8n:5679"),))] == 1
    assert samples[("trio_runner_broker_reconnects_total", (("broker", "n8n:5679"),))] == 3
    assert samples[("trio_runner_sandbox_layer", (("layer", "seccomp"), ("status", "active")))] == 1
    assert samples[("trio_runner_sandbox_layer", (("layer", "uid"), ("status", "unavailable")))] == 1
