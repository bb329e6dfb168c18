"""The alerts of docs/operations.md: Prometheus takes them, and they fire for what they are about."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.shell.test_metrics import OPERATIONS, STATE, counted, families
from trio_runner.metrics import render

_FOUND = re.search(r"```yaml rules\n(.*?)```", OPERATIONS.read_text(encoding="utf-8"), re.DOTALL)
RULES = _FOUND[1] if _FOUND else ""


def test_alerts_of_the_documentation_name_metrics_that_exist() -> None:
    exist = {sample.name for family in families().values() for sample in family.samples}
    used = {name for rule in alerts() for name in re.findall(r"\b(?:trio_runner|process)_\w+", rule["expr"])}
    assert len(used) > 5
    assert used <= exist
    assert all(rule["labels"]["severity"] and rule["annotations"]["summary"].endswith(".") for rule in alerts())


def alerts() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = yaml.safe_load(RULES)["groups"][0]["rules"]
    return rules


def fires(name: str, labels: str, series: dict[str, str], *, at: str = "20m") -> dict[str, object]:
    """A case of promtool's: these series, a value a minute, and whom the alert then names, if anybody."""
    (rule,) = [rule for rule in alerts() if rule["alert"] == name]
    summary = rule["annotations"]["summary"]
    expected = []
    for one in yaml.safe_load(labels):
        text = summary
        for label, value in one.items():
            text = text.replace(f"{{{{ $labels.{label} }}}}", value)
        expected.append({"exp_labels": {**one, **rule["labels"]}, "exp_annotations": {"summary": text}})
    return {
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "alert_rule_test": [{"eval_time": at, "alertname": name, "exp_alerts": expected}],
    }


def cases() -> list[dict[str, object]]:
    a, b = '{instance="a",job="r"}', '{instance="b",job="r"}'
    failures = 'trio_runner_broker_failures_total{instance="a",broker="n8n:5679",reason="%s"}'
    return [
        fires("TrioRunnerNobodyServes", "[{}]", {f"trio_runner_ready{a}": "0x30", f"trio_runner_ready{b}": "0x30"}),
        fires("TrioRunnerNobodyServes", "[{}]", {"up": "1x30"}),
        fires("TrioRunnerNobodyServes", "[]", {f"trio_runner_ready{a}": "0x30", f"trio_runner_ready{b}": "1x30"}),
        fires("TrioRunnerNobodyServes", "[]", {f"trio_runner_ready{a}": "1x10 0 0 1x30"}),
        fires(
            "TrioRunnerNotReady",
            "[{instance: a, job: r}]",
            {f"trio_runner_ready{a}": "0x30", f"trio_runner_ready{b}": "1x30"},
        ),
        fires(
            "TrioRunnerConnectionsFail",
            "[{instance: a, broker: 'n8n:5679', reason: unreachable}]",
            {failures % "unreachable": "0+2x30", failures % "lost": "0 1x30"},
        ),
        fires(
            "TrioRunnerFull",
            "[{instance: a, job: r}]",
            {
                f"trio_runner_tasks{a}": "5x40",
                f"trio_runner_slots{a}": "5x40",
                f"trio_runner_tasks{b}": "3x40",
                f"trio_runner_slots{b}": "5x40",
            },
            at="35m",
        ),
        fires(
            "TrioRunnerTasksWaitForWorkers",
            "[{}]",
            {
                'trio_runner_task_queue_seconds_bucket{le="1.0"}': "0+1x30",
                'trio_runner_task_queue_seconds_bucket{le="5.0"}': "0+9x30",
                'trio_runner_task_queue_seconds_bucket{le="+Inf"}': "0+9x30",
            },
        ),
        fires(
            "TrioRunnerWorkersDie",
            "[{instance: a, broker: n, outcome: worker}, {instance: b}]",
            {
                'trio_runner_tasks_ended_total{instance="a",broker="n",outcome="worker"}': "0x15 1x9",
                'trio_runner_tasks_ended_total{instance="a",broker="n",outcome="error"}': "0+9x30",
                'trio_runner_worker_fork_failures_total{instance="b"}': "0x15 1x9",
                'trio_runner_zygote_restarts_total{instance="c"}': "0x15 1x9",
            },
        ),
        fires(
            "TrioRunnerProgramsMeetLimits",
            "[{limit: memory}]",
            {
                'trio_runner_limits_hit_total{limit="memory"}': "0x15 1x9",
                'trio_runner_limits_hit_total{limit="cpu"}': "0x30",
            },
        ),
        fires(
            "TrioRunnerGrows",
            "[{instance: a, job: r}]",
            {
                f"process_resident_memory_bytes{a}": "2e9x30",
                f"trio_runner_info{a}": "1x30",
                'process_resident_memory_bytes{instance="a",job="database"}': "2e9x30",
                f"process_resident_memory_bytes{b}": "5e8x30",
                f"trio_runner_info{b}": "1x30",
            },
        ),
    ]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")
def test_prometheus_takes_the_rules_and_they_fire_for_what_they_are_about_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(RULES, encoding="utf-8")
    (tmp_path / "cases.yaml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": cases()}), encoding="utf-8"
    )
    for arguments in (("check", "rules", "rules.yaml"), ("test", "rules", "cases.yaml")):
        done = subprocess.run(
            ["promtool", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")
def test_prometheus_finds_nothing_to_say_about_a_scrape() -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=render(STATE, counted()), capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
