"""Compose files as far as they can be read without Docker: services, secrets, networks, limits, times."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.deploy.deploy_kit import Made, made
from trio_runner import __version__
from trio_runner.config import load
from trio_runner.deploy.kinds import N8N_VERSION

KINDS = [("compose",), ("compose", "--queue")]


def runner_of(file: Made) -> dict[str, Any]:
    runner: dict[str, Any] = file.yaml["services"]["runner"]
    return runner


@pytest.mark.parametrize("args", KINDS, ids=" ".join)
def test_n8n_and_runners_share_a_secret_that_is_not_in_the_file(args: tuple[str, ...]) -> None:
    services = made(*args).yaml["services"]
    secret = "${N8N_RUNNERS_AUTH_TOKEN:?is missing in .env}"
    ours = [service for name, service in services.items() if name.startswith("n8n") or name == "runner"]
    assert len(ours) >= 2
    assert all(service["environment"]["N8N_RUNNERS_AUTH_TOKEN"] == secret for service in ours)
    n8n = services["n8n"]["environment"]
    assert n8n["N8N_RUNNERS_MODE"] == "external"
    assert n8n["N8N_RUNNERS_BROKER_LISTEN_ADDRESS"] == "0.0.0.0"


@pytest.mark.parametrize("args", KINDS, ids=" ".join)
def test_the_runner_s_environment_is_one_that_it_starts_with_without_a_warning(args: tuple[str, ...]) -> None:
    environment = runner_of(made(*args))["environment"]
    assert all(isinstance(value, str) for value in environment.values())
    loaded = load({name: value.replace("$$", "$") for name, value in environment.items()})
    assert loaded.warnings == ()
    assert loaded.config.health is not None
    assert loaded.config.health.host == "0.0.0.0"


def test_brokers_are_n8n_itself_or_every_worker_of_the_queue() -> None:
    alone, queue = made("compose"), made("compose", "--queue", "--workers", "4", "--runners", "3")
    assert runner_of(alone)["environment"]["N8N_RUNNERS_TASK_BROKER_URI"] == "http://n8n:5679"
    assert runner_of(queue)["environment"]["N8N_RUNNERS_TASK_BROKER_URI"] == "dns+http://n8n-worker:5679"
    services = queue.yaml["services"]
    assert services["n8n-worker"]["deploy"] == {"replicas": 4}
    assert services["runner"]["deploy"] == {"replicas": 3}
    assert services["n8n"]["environment"]["OFFLOAD_MANUAL_EXECUTIONS_TO_WORKERS"] == "true"
    assert services["n8n-worker"]["environment"]["EXECUTIONS_MODE"] == "queue"
    assert services["n8n-worker"]["command"][0] == "worker"


@pytest.mark.parametrize("args", KINDS, ids=" ".join)
def test_n8n_and_runner_agree_on_how_long_a_task_may_take_and_how_large_it_may_be(args: tuple[str, ...]) -> None:
    services = made(*args, "-e", "N8N_RUNNERS_TASK_TIMEOUT=77", "-e", "N8N_RUNNERS_MAX_PAYLOAD=1000").yaml["services"]
    for name in ("n8n", "runner"):
        assert services[name]["environment"]["N8N_RUNNERS_TASK_TIMEOUT"] == "77"
        assert services[name]["environment"]["N8N_RUNNERS_MAX_PAYLOAD"] == "1000"


@pytest.mark.parametrize("args", KINDS, ids=" ".join)
def test_runners_are_kept_apart_unless_tasks_may_open_connections(args: tuple[str, ...]) -> None:
    closed, opened = made(*args).yaml, made(*args, "--external", "requests").yaml
    assert closed["networks"]["runners"] == {"internal": True}
    assert opened["networks"]["runners"] == {"internal": False}
    for file in (closed, opened):
        assert file["services"]["runner"]["networks"] == ["runners"]
        serving = file["services"]["n8n-worker" if "--queue" in args else "n8n"]
        assert serving["networks"] == ["default", "runners"]


@pytest.mark.parametrize("args", KINDS, ids=" ".join)
def test_the_runner_s_container_can_change_nothing_and_has_room_for_all_its_tasks(args: tuple[str, ...]) -> None:
    runner = runner_of(made(*args, "-e", "N8N_RUNNERS_MAX_CONCURRENCY=2", "-e", "N8N_RUNNERS_TASK_MEMORY=100"))
    assert runner["read_only"] is True
    assert runner["cap_drop"] == ["ALL"]
    assert runner["security_opt"] == ["no-new-privileges:true"]
    assert runner["mem_limit"] == "712m"
    grace = int(runner["environment"]["N8N_RUNNERS_GRACEFUL_SHUTDOWN_TIMEOUT"])
    assert int(runner["stop_grace_period"].removesuffix("s")) > grace


@pytest.mark.parametrize("args", KINDS, ids=" ".join)
def test_only_the_editor_is_published_and_only_on_loopback(args: tuple[str, ...]) -> None:
    services = made(*args).yaml["services"]
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:5678:5678"]


@pytest.mark.parametrize("args", KINDS, ids=" ".join)
def test_whatever_the_file_refers_to_is_in_it_or_in_the_file_of_secrets(args: tuple[str, ...], tmp_path) -> None:
    file = made(*args)
    whole = file.yaml
    made(*args, "-o", str(tmp_path))
    secrets = set(re.findall(r"^(\w+)=", (tmp_path / ".env").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?<!\$)\$\{(\w+)", file.text)) == secrets
    for service in whole["services"].values():
        assert set(service.get("networks", ())) <= {"default", *whole["networks"]}
        assert {volume.partition(":")[0] for volume in service.get("volumes", ())} <= set(whole["volumes"])
        assert set(service.get("depends_on", ())) <= set(whole["services"])


def test_versions_and_images_are_what_was_asked_for() -> None:
    services = made("compose").yaml["services"]
    assert services["n8n"]["image"] == f"n8nio/n8n:{N8N_VERSION}"
    assert services["runner"]["image"] == f"trio-runner:{__version__}"
    assert services["runner"]["build"] == "."
    services = made("compose", "--n8n-version", "2.42.0", "--image", "registry.local/runner@sha256:ab").yaml["services"]
    assert services["n8n"]["image"] == "n8nio/n8n:2.42.0"
    assert services["runner"]["image"] == "registry.local/runner@sha256:ab"
    assert "build" not in services["runner"]


def test_a_dollar_in_a_setting_is_not_a_variable_of_compose() -> None:
    runner = runner_of(made("compose", "-e", "DEPLOYMENT_NAME=a$b${C}"))
    assert runner["environment"]["DEPLOYMENT_NAME"] == "a$$b$${C}"


INLINE = ("-e", "N8N_RUNNERS_INLINE_DEPENDENCIES=allow")


@pytest.mark.parametrize("args", KINDS, ids=" ".join)
def test_a_runner_that_installs_packages_has_a_place_for_them_and_a_way_to_their_index(args: tuple[str, ...]) -> None:
    whole = made(*args, *INLINE).yaml
    runner = whole["services"]["runner"]
    (volume,) = runner["volumes"]
    name, _, folder = volume.partition(":")
    assert name in whole["volumes"]
    assert runner["environment"]["N8N_RUNNERS_INLINE_CACHE"].startswith(f"{folder}/")
    assert whole["networks"]["runners"] == {"internal": False}
    wheels = made(*args, *INLINE, "-e", "N8N_RUNNERS_INLINE_WHEELS=/wheels").yaml
    assert wheels["networks"]["runners"] == {"internal": True}
    assert "N8N_RUNNERS_INLINE_CACHE" not in made(*args).text
