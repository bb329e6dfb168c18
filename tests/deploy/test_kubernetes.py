"""Kubernetes objects as far as they can be read without a cluster; their schemas are in test_platforms."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deploy.deploy_kit import made, refusal
from trio_runner import __version__
from trio_runner.config import load


def pool(*args: str, **environ: str) -> dict[str, Any]:
    """The objects of a pool of runners by kind."""
    documents = made("kubernetes", *args, **environ).documents
    by_kind = {document["kind"]: document for document in documents}
    assert len(by_kind) == len(documents)
    return by_kind


def pod_of(deployment: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return pod


def container_of(*args: str) -> dict[str, Any]:
    """The runner's container, of the pool or of the sidecar."""
    if "--sidecar" in args:
        (container,) = pod_of(made("kubernetes", *args).yaml)["initContainers"]
    else:
        (container,) = pod_of(pool(*args)["Deployment"])["containers"]
    found: dict[str, Any] = container
    return found


def environment_of(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one.get("value", "from a secret") for one in container["env"]}


BOTH = pytest.mark.parametrize("args", [(), ("--sidecar",)], ids=["pool", "sidecar"])


def test_a_pool_consists_of_all_that_lets_it_find_n8n_grow_and_stay_apart() -> None:
    assert set(pool()) == {
        *("Service", "Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"),
    }


@BOTH
def test_the_runner_s_environment_is_one_that_it_starts_with_without_a_warning(args: tuple[str, ...]) -> None:
    container = container_of(*args)
    names = [one["name"] for one in container["env"]]
    assert len(set(names)) == len(names)
    loaded = load(environment_of(container))
    assert loaded.warnings == ()
    assert loaded.config.health is not None
    assert loaded.config.health.port == container["ports"][0]["containerPort"]
    token = next(one for one in container["env"] if one["name"] == "N8N_RUNNERS_AUTH_TOKEN")
    assert token["valueFrom"] == {"secretKeyRef": {"name": "n8n-runners", "key": "auth-token"}}


@BOTH
def test_the_container_meets_the_restricted_pod_security_standard(args: tuple[str, ...]) -> None:
    container = container_of(*args)
    pod = {} if args else pod_of(pool()["Deployment"])
    context = {**pod.get("securityContext", {}), **container["securityContext"]}
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] != 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["readOnlyRootFilesystem"] is True
    volumes = (pod or pod_of(made("kubernetes", *args).yaml))["volumes"]
    assert all(set(volume) == {"name", "emptyDir"} for volume in volumes)
    assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in volumes}


@BOTH
def test_probes_ask_what_they_mean(args: tuple[str, ...]) -> None:
    container = container_of(*args)
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    ports = {port["name"] for port in container["ports"]}
    probes = [value for key, value in container.items() if key.endswith("Probe")]
    assert all(probe["httpGet"]["port"] in ports for probe in probes)
    if args:
        # n8n starts after it: a probe that waits for n8n would wait for ever
        assert container["startupProbe"]["httpGet"]["path"] == "/healthz"
        assert "readinessProbe" not in container
        assert container["restartPolicy"] == "Always"
    else:
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


@BOTH
def test_limits_and_times_follow_from_the_settings(args: tuple[str, ...]) -> None:
    options = ("-e", "N8N_RUNNERS_MAX_CONCURRENCY=10", "-e", "N8N_RUNNERS_TASK_MEMORY=100")
    container = container_of(*args, *options)
    assert container["resources"]["limits"] == {"memory": "1512Mi"}
    grace = int(environment_of(container)["N8N_RUNNERS_GRACEFUL_SHUTDOWN_TIMEOUT"])
    if args:
        pod = pod_of(made("kubernetes", *args).yaml)
        assert pod["terminationGracePeriodSeconds"] > grace + 30
    else:
        assert pod_of(pool()["Deployment"])["terminationGracePeriodSeconds"] > grace
        metric = pool(*options)["HorizontalPodAutoscaler"]["spec"]["metrics"][0]["pods"]
        assert metric["target"] == {"type": "AverageValue", "averageValue": "7000m"}


def test_autoscaling_asks_for_a_metric_that_we_have_and_scales_what_is_there() -> None:
    from pathlib import Path

    objects = pool("--runners", "3", "--max-runners", "3")
    spec = objects["HorizontalPodAutoscaler"]["spec"]
    metric = spec["metrics"][0]["pods"]["metric"]["name"]
    assert f"`{metric}`" in (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    assert spec["scaleTargetRef"]["name"] == objects["Deployment"]["metadata"]["name"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 3)
    assert "replicas" not in objects["Deployment"]["spec"]


def test_labels_names_and_namespaces_fit_together() -> None:
    objects = pool("--namespace", "flows", "--n8n-label", "app=1")
    assert {document["metadata"]["namespace"] for document in objects.values()} == {"flows"}
    assert objects["Service"]["spec"]["selector"] == {"app": "1"}
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        objects["Deployment"]["spec"]["selector"],
        objects["PodDisruptionBudget"]["spec"]["selector"],
        objects["NetworkPolicy"]["spec"]["podSelector"],
    ):
        assert selector["matchLabels"].items() <= labels.items()
    broker = environment_of(container_of())["N8N_RUNNERS_TASK_BROKER_URI"]
    assert (
        broker
        == f"dns+http://{objects['Service']['metadata']['name']}:{objects['Service']['spec']['ports'][0]['port']}"
    )
    assert objects["Service"]["spec"]["clusterIP"] == "None"


def test_the_network_policy_lets_out_to_brokers_and_names_and_to_what_tasks_may_connect_to() -> None:
    def egress(*args: str) -> list[Any]:
        rules: list[Any] = pool(*args)["NetworkPolicy"]["spec"]["egress"]
        return rules

    names, brokers = egress()
    assert {port["protocol"] for port in names["ports"]} == {"UDP", "TCP"}
    assert brokers == {
        "ports": [{"port": 5679}],
        "to": [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "n8n"}}}],
    }
    assert egress("--external", "requests")[2] == {"ports": [{"port": 53}, {"port": 443}]}
    assert egress("--broker", "https://n8n.example.com,http://other:99")[1] == {"ports": [{"port": 443}, {"port": 99}]}


def test_the_sidecar_lets_the_runner_into_the_n8n_that_is_named() -> None:
    patch = made("kubernetes", "--sidecar", "--n8n", "flows", "--container", "main", "--namespace", "on").yaml
    assert patch["metadata"] == {"name": "flows", "namespace": "on"}
    (n8n,) = pod_of(patch)["containers"]
    assert n8n["name"] == "main"
    environment = environment_of(n8n)
    assert environment["N8N_RUNNERS_MODE"] == "external"
    runner = environment_of(container_of("--sidecar"))
    assert environment["N8N_RUNNERS_TASK_TIMEOUT"] == runner["N8N_RUNNERS_TASK_TIMEOUT"]
    assert "N8N_RUNNERS_TASK_BROKER_URI" not in runner  # the default, loopback: they share a pod


def test_versions_and_images_are_what_was_asked_for() -> None:
    assert container_of()["image"] == f"trio-runner:{__version__}"
    assert container_of("--image", "registry.local/r:1")["image"] == "registry.local/r:1"
    labels = pool()["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/version"] == __version__


def test_a_value_that_kubernetes_would_expand_is_not_expanded() -> None:
    container = container_of("-e", "DEPLOYMENT_NAME=$(HOME) $x")
    assert environment_of(container)["DEPLOYMENT_NAME"] == "$$(HOME) $x"


@pytest.mark.parametrize(
    "option",
    [("--namespace", "N8N"), ("--n8n", "a b"), ("--container", "-"), ("--n8n-label", "app"), ("--image", "a b")],
)
def test_names_that_kubernetes_would_refuse_are_refused(option: tuple[str, str]) -> None:
    assert "is not" in refusal("kubernetes", *option)


@BOTH
def test_a_runner_that_installs_packages_has_a_place_for_them_and_a_way_to_their_index(args: tuple[str, ...]) -> None:
    inline = ("-e", "N8N_RUNNERS_INLINE_DEPENDENCIES=allow", "-e", "N8N_RUNNERS_INLINE_CACHE_SIZE=1000")
    container = container_of(*args, *inline)
    folders = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    folder, _, _ = environment_of(container)["N8N_RUNNERS_INLINE_CACHE"].rpartition("/")
    pod = pod_of(made("kubernetes", *args, *inline).yaml if args else pool(*inline)["Deployment"])
    volumes = {volume["name"]: volume["emptyDir"] for volume in pod["volumes"]}
    assert volumes[folders[folder]] == {"sizeLimit": "1512Mi"}
    if not args:
        assert pool(*inline)["NetworkPolicy"]["spec"]["egress"][-1] == {"ports": [{"port": 443}]}
