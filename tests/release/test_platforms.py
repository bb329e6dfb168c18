"""What the tools of each platform say to the files of `trio-runner init`; no engine and no cluster is needed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tests.deploy.deploy_kit import invoke, made
from tests.release.wheel_kit import run

pytestmark = pytest.mark.release

ODD = (
    *("-e", "DEPLOYMENT_NAME=a 'b' \"c\" $d ${E} $(F) 100% \\"),
    *("--external", "requests", "-e", "N8N_RUNNERS_INLINE_DEPENDENCIES=allow"),
)


@pytest.mark.parametrize("args", [(), ("--queue",), ODD, ("--queue", "--image", "registry.local/r:1")])
def test_compose_reads_its_file_and_means_what_was_given(args: tuple[str, ...], tmp_path: Path) -> None:
    assert invoke("compose", "-o", str(tmp_path), *args).exit_code == 0
    config = yaml.safe_load(run("docker-compose", "config", cwd=tmp_path))
    runner = config["services"]["runner"]
    token = runner["environment"]["N8N_RUNNERS_AUTH_TOKEN"]
    assert len(token) == 64
    assert config["services"]["n8n"]["environment"]["N8N_RUNNERS_AUTH_TOKEN"] == token
    if args == ODD:  # `config` prints what a compose file would have to say
        assert runner["environment"]["DEPLOYMENT_NAME"].replace("$$", "$") == ODD[1].partition("=")[2]
    if "--queue" in args:
        assert config["services"]["n8n-worker"]["environment"]["EXECUTIONS_MODE"] == "queue"


# hadolint takes a backslash before the closing quote for an escape of it, which Docker does not
@pytest.mark.parametrize("args", [(), (ODD[0], ODD[1].removesuffix("\\"), *ODD[2:])])
def test_hadolint_finds_nothing_in_the_dockerfile(args: tuple[str, ...], tmp_path: Path) -> None:
    assert invoke("docker", "-o", str(tmp_path), *args).exit_code == 0
    assert run("hadolint", "--no-color", tmp_path / "Dockerfile") == ""


def validate(document: object) -> None:
    import kubernetes_validate

    kubernetes_validate.validate(document, "1.32", strict=True)


@pytest.mark.parametrize("args", [(), ("--broker", "https://n8n.example.com"), ODD])
def test_every_object_of_a_pool_keeps_kubernetes_schema(args: tuple[str, ...]) -> None:
    for document in made("kubernetes", *args).documents:
        validate(document)


def test_the_schema_can_say_no() -> None:
    from kubernetes_validate import ValidationError

    deployment = made("kubernetes").documents[1]
    deployment["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(ValidationError):
        validate(deployment)


N8N = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: n8n, namespace: n8n}
spec:
  selector: {matchLabels: {app: n8n}}
  template:
    metadata: {labels: {app: n8n}}
    spec:
      containers:
        - name: n8n
          image: n8nio/n8n
          env: [{name: DB_TYPE, value: sqlite}]
"""


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_the_sidecar_s_patch_fits_onto_an_n8n_and_takes_nothing_away(tmp_path: Path) -> None:
    base, patch = tmp_path / "n8n.yaml", tmp_path / "patch.yaml"
    base.write_text(N8N)
    patch.write_text(made("kubernetes", "--sidecar").text)
    (tmp_path / "kustomization.yaml").write_text("resources: [n8n.yaml]\npatches: [{path: patch.yaml}]\n")
    for patched in (
        run("kubectl", "patch", "--local", "-f", base, "--patch-file", patch, "-o", "yaml", cwd=tmp_path),
        run("kubectl", "kustomize", tmp_path, cwd=tmp_path),
    ):
        deployment = yaml.safe_load(patched)
        validate(deployment)
        pod = deployment["spec"]["template"]["spec"]
        (n8n,), (sidecar,) = pod["containers"], pod["initContainers"]
        assert n8n["image"] == "n8nio/n8n"
        assert {"DB_TYPE", "N8N_RUNNERS_MODE", "N8N_RUNNERS_AUTH_TOKEN"} <= {one["name"] for one in n8n["env"]}
        assert sidecar["restartPolicy"] == "Always"
