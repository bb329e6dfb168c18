"""What each kind of deployment consists of: files, and the steps that make them run."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from trio_runner import __version__
from trio_runner.config import (
    AUTH_TOKEN,
    BLOCK_ENV,
    BROKER_URI,
    BUILTINS_DENY,
    EXTERNAL_ALLOW,
    MIB,
    STDLIB_ALLOW,
    TASK_MEMORY,
    TRANSITIVE,
    Variable,
)
from trio_runner.deploy import installed
from trio_runner.deploy.render import (
    compose_text,
    docker_text,
    kubernetes_text,
    render,
    systemd_text,
    template,
    yaml_word,
)
from trio_runner.deploy.settings import DEFAULTS, Settings
from trio_runner.sandbox.policy import ALL

N8N_VERSION: Final = "2.41.1"
"""The n8n that this version is tested with."""

CACHE: Final = "/var/cache/trio-runner/packages"
"""Where packages are that the runner installs by itself: a folder of its own making in what the platform provides."""

PYTHON: Final = "3.13"
KUBERNETES_BROKERS: Final = "dns+http://n8n-task-brokers:5679"
IMAGE: Final = f"trio-runner:{__version__}"
PROGRAM: Final = 'return [{"json": {"hello": "world"}}]'

INTERNAL_DEFAULTS: Final[Mapping[Variable, str]] = {STDLIB_ALLOW: DEFAULTS[STDLIB_ALLOW]}
_PACKAGE_OF: Final = {
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "docx": "python-docx",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}
_FROM_N8N: Final = (STDLIB_ALLOW, EXTERNAL_ALLOW, BUILTINS_DENY, BLOCK_ENV, TRANSITIVE)
"""What n8n's internal mode passes on when it is set."""


class File(msgspec.Struct, frozen=True):
    """One file of a deployment, with its text or the file that it is a copy of."""

    name: str
    text: str = ""
    mode: int = 0o644
    copy_of: Path | None = None
    kept: bool = False
    """Never written over: it holds what cannot be made again."""


class Deployment(msgspec.Struct, frozen=True):
    """The first file is the one that is printed; ``steps`` make it run, after ``first`` if it was only printed."""

    files: tuple[File, ...]
    steps: tuple[str, ...]
    first: tuple[str, ...] = ()


def docker(settings: Settings, *, python: str, image: str) -> Deployment:
    """An image, and the folder that it is built from."""
    environment = settings.lines(lambda name, value: f"ENV {name}={docker_text(value)}")
    broker = "" if settings.broker else f" -e {BROKER_URI.name}=http://n8n:5679"
    run = f"docker run --init --read-only --tmpfs /tmp --cap-drop ALL --memory {settings.memory}m"
    steps = (
        *_wheel_step(),
        f"docker build -t {image} .",
        f"{run} --rm -e {AUTH_TOKEN.name}=...{broker} {image} doctor        (looks whether all of it works)",
        f"{run} -d --stop-timeout {settings.grace} -e {AUTH_TOKEN.name}=...{broker} {image}",
    )
    return Deployment(_image_files(settings, python, image, environment), steps)


def _image_files(settings: Settings, python: str, image: str, environment: str = "") -> tuple[File, ...]:
    values = {
        "environment": environment,
        "version": __version__,
        "python": python,
        "wheel": installed.WHEEL,
        "tag": image,
        "grace": str(settings.grace),
    }
    wheel = installed.wheel()
    return (
        File("Dockerfile", render("Dockerfile", values)),
        File("requirements.txt", render("requirements.txt", {"packages": _packages(settings)}), kept=True),
        File("constraints.txt", template("constraints.txt")),
        File(".dockerignore", template("dockerignore")),
        *([File(installed.WHEEL, copy_of=wheel)] if wheel else []),
    )


def _packages(settings: Settings) -> str:
    """What pip calls the modules that are allowed by name."""
    names = sorted(settings.config.policy.external_allow - {ALL})
    lines = ["# From the modules that were allowed: look whether their packages are called so."] if names else []
    lines += [_PACKAGE_OF.get(name, name) for name in names]
    if settings.installs:
        lines += ["# The runner installs what programs ask for with it (N8N_RUNNERS_INLINE_DEPENDENCIES).", "uv"]
    return "\n".join(lines)


def _wheel_step() -> tuple[str, ...]:
    if installed.wheel():
        return ()
    return (f"Put {installed.WHEEL} into this folder (`uv build --wheel` in a checkout makes it).",)


def compose(
    settings: Settings, *, queue: bool, workers: int, runners: int, n8n_version: str, image: str | None, token: str
) -> Deployment:
    """n8n with runners, and the folder of the image unless there is one already. ``token`` is n8n's, or empty."""
    values = {
        "version": __version__,
        "n8n_version": n8n_version,
        "task_timeout": str(settings.config.task_timeout),
        "max_payload": str(settings.config.max_payload),
        "image": f"image: {compose_text(image)}" if image else f"build: .\nimage: {IMAGE}",
        "environment": settings.lines(lambda name, value: f"{name}: {compose_text(value)}"),
        "network": f"{_leads_out(settings)}networks: [runners]",
        "cache": f"volumes:\n  - packages:{Path(CACHE).parent}" if settings.installs else "",
        "volumes": "packages:" if settings.installs else "",
        "internal": "internal: false" if _leads_out(settings) else "internal: true",
        "memory": str(settings.memory),
        "threads": str(settings.threads),
        "grace": str(settings.grace),
        "runners": str(runners),
    }
    if queue:
        values["workers"] = str(workers)
    database = f"# n8n logs in to its database with it\nPOSTGRES_PASSWORD={secrets.token_hex(16)}" if queue else ""
    environment = {
        "auth_token": token or secrets.token_hex(32),
        "encryption_key": secrets.token_hex(32),
        "database": database,
    }
    files = (
        File("compose.yaml", render("compose-queue.yaml" if queue else "compose.yaml", values)),
        File(".env", render("dotenv", environment), mode=0o600, kept=True),
        *(() if image else _image_files(settings, PYTHON, IMAGE)),
    )
    steps = (
        *(() if image else _wheel_step()),
        "docker compose up --build -d",
        "docker compose ps        (every service becomes healthy within a minute or two)",
        f"Open http://localhost:5678 and run a Code node in Python: {PROGRAM}",
        "docker compose exec runner trio-runner doctor        (when something is odd)",
    )
    return Deployment(files, steps)


def _leads_out(settings: Settings) -> str:
    """A comment that says why the runners' network must lead out, or nothing when it need not."""
    if settings.networked:
        return "# tasks may open connections (N8N_RUNNERS_SANDBOX), so this network leads out\n"
    return "# the runner fetches packages, so this network leads out\n" if settings.fetches else ""


def kubernetes(
    settings: Settings, *, namespace: str, image: str, n8n_label: str, runners: int, max_runners: int
) -> Deployment:
    """Runners as a pool of their own, with all that makes them grow and keeps them apart."""
    name, _, value = n8n_label.partition("=")
    label = f"{yaml_word(name)}: {yaml_word(value)}"
    egress = [_ports(broker.port for broker in settings.config.brokers)]
    if settings.broker == KUBERNETES_BROKERS:  # elsewhere it need not be pods beside us
        egress.append(f"  to: [{{podSelector: {{matchLabels: {{{label}}}}}}}]")
    if settings.networked:
        egress += [
            "# what tasks may connect to (N8N_RUNNERS_SANDBOX)",
            _ports(settings.config.confinement.connect_ports),
        ]
    if settings.fetches:
        egress += ["# where packages come from (N8N_RUNNERS_INLINE_DEPENDENCIES)", _ports([443])]
    values = {
        **_pod(settings, image, cache="cache"),
        "namespace": yaml_word(namespace),
        "task_timeout": str(settings.config.task_timeout),
        "n8n_label": label,
        "runners": str(runners),
        "max_runners": str(max_runners),
        "target": settings.target,
        "egress": "\n".join(egress),
    }
    text = render("kubernetes.yaml", values)
    steps = (
        f"Make the image ({IMAGE}: `trio-runner init docker -o image`) and push it to where the cluster finds {image}.",
        f"kubectl -n {namespace} create secret generic n8n-runners --from-literal=auth-token=THE_SAME_AS_ON_N8N",
        "Give n8n's containers the variables that the file begins with.",
        "kubectl apply -f trio-runner.yaml",
        f"kubectl -n {namespace} rollout status deployment trio-runner        (ready: registered with n8n)",
    )
    return Deployment((File("trio-runner.yaml", text),), steps)


def sidecar(settings: Settings, *, namespace: str, image: str, n8n: str, container: str) -> Deployment:
    """A patch that puts a runner into n8n's own pods."""
    values = {
        **_pod(settings, image, cache="trio-runner-cache"),
        "namespace": yaml_word(namespace),
        "n8n": yaml_word(n8n),
        "container": yaml_word(container),
        "task_timeout": str(settings.config.task_timeout),
        "max_payload": str(settings.config.max_payload),
        "pod_grace": str(30 + settings.grace),
    }
    del values["grace"]
    text = render("kubernetes-sidecar.yaml", values)
    steps = (
        f"Make the image ({IMAGE}: `trio-runner init docker -o image`) and push it to where the cluster finds {image}.",
        f'kubectl -n {namespace} create secret generic n8n-runners --from-literal=auth-token="$(openssl rand -hex 32)"',
        f"kubectl -n {namespace} patch deployment {n8n} --patch-file trio-runner-sidecar.yaml",
        f"kubectl -n {namespace} rollout status deployment {n8n}",
    )
    return Deployment((File("trio-runner-sidecar.yaml", text),), steps)


def _ports(numbers: Iterable[int]) -> str:
    return "- ports: [" + ", ".join(f"{{port: {number}}}" for number in dict.fromkeys(numbers)) + "]"


def _pod(settings: Settings, image: str, *, cache: str) -> dict[str, str]:
    size = settings.config.packages.cache_size // MIB if settings.config.packages is not None else 0
    return {
        "cache_mount": f"- name: {cache}\n  mountPath: {Path(CACHE).parent}" if settings.installs else "",
        "cache_volume": f"- name: {cache}\n  emptyDir: {{sizeLimit: {size + 512}Mi}}" if settings.installs else "",
        "version": __version__,
        "image": yaml_word(image),
        "environment": settings.lines(lambda name, value: f"- name: {name}\n  value: {kubernetes_text(value)}"),
        "memory": str(settings.memory),
        "request": str(min(512, settings.memory)),
        "cpu": "500m",
        "grace": str(settings.grace),
    }


def systemd(settings: Settings, *, command: str) -> Deployment:
    """A unit."""
    at_home = installed.below_a_home(command)
    values = {
        "version": __version__,
        "command": _systemd_word(command),
        "environment": settings.lines(lambda name, value: f"Environment={systemd_text(f'{name}={value}')}"),
        "memory": str(settings.memory),
        "threads": str(settings.threads),
        "grace": str(settings.grace),
        "cache": f"# packages that the runner installs\nCacheDirectory={Path(CACHE).parent.name}"
        if settings.installs
        else "",
        "protect_home": "read-only" if at_home else "yes",
    }
    unit = "trio-runner.service"
    steps = (
        *(
            [f"{at_home} is in a home folder, which the unit's user may not enter: better install into /opt."]
            if at_home
            else []
        ),
        f"systemd-analyze verify {unit}",
        "install -D -m 0600 /dev/stdin /etc/trio-runner/auth-token        (paste n8n's N8N_RUNNERS_AUTH_TOKEN, Ctrl-D)",
        f"cp {unit} /etc/systemd/system/ && systemctl daemon-reload && systemctl enable --now trio-runner",
        "curl -s http://127.0.0.1:5681/readyz        (or: journalctl -u trio-runner -f)",
    )
    return Deployment((File(unit, render("systemd.service", values)),), steps)


def _systemd_word(text: str) -> str:
    """A path as the first word of ExecStart, where dollars are variables and percent signs specifiers."""
    escaped = text.replace("%", "%%").replace("$", "$$")
    return systemd_text(escaped.replace("%%", "%")) if " " in text else escaped


def internal(settings: Settings, *, command: str, package: Path | None) -> Deployment:
    """The script that n8n takes for a Python."""
    passed_on = {variable.name for variable in _FROM_N8N}
    values = {
        "version": __version__,
        "command": shlex.quote(command),
        "passed_on": _shell(settings, only=passed_on, fallback=True),
        "own": _shell(settings, only=set(settings.values) - passed_on, fallback=False)
        or f"# For example: export {TASK_MEMORY.name}=512",
    }
    place = (
        installed.python_of(package)
        if package
        else Path("<folder with n8n>/node_modules/@n8n/task-runner-python/.venv/bin/python")
    )
    first = (f"The same again with -o {shlex.quote(str(place))}        (writes it to where n8n looks for it)",)
    steps = (
        "python3 must be on the PATH of n8n, which asks it for its version before anything else.",
        "Start n8n without N8N_RUNNERS_MODE (or with `internal`); its log says: [runner:py] Registered with broker",
        f"Run a Code node in Python: {PROGRAM}",
    )
    return Deployment((File("python", render("internal.sh", values), mode=0o755),), steps, first)


def _shell(settings: Settings, *, only: set[str], fallback: bool) -> str:
    def line(name: str, value: str) -> str:
        assignment = f"export {name}={shlex.quote(value)}"
        return f'[ -n "${{{name}+set}}" ] || {assignment}' if fallback else assignment

    chosen = {name: value for name, value in settings.values.items() if name in only}
    return msgspec.structs.replace(settings, values=chosen).lines(line)
