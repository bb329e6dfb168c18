"""The command line of `trio-runner init`: options, and where the files go.

Printed files go to standard output and what is said about them to standard error, so that ``> file`` works.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from trio_runner.config import AUTH_TOKEN, BROKER_URI, EXTERNAL_ALLOW, STDLIB_ALLOW, VARIABLES, ConfigError, Variable
from trio_runner.deploy import installed, kinds, launcher
from trio_runner.deploy.kinds import Deployment, File
from trio_runner.deploy.settings import DEFAULTS, Settings, settle

_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_IMAGE: Final = re.compile(r"[a-z0-9][a-zA-Z0-9._:/@-]*")
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SELECTOR: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*=[A-Za-z0-9][A-Za-z0-9._-]*")


def _matching(rule: re.Pattern[str], what: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    def check(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
        if value is not None and not rule.fullmatch(value):
            raise click.BadParameter(f"{value!r} is not {what}.")
        return value

    return check


def _assignments(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise click.BadParameter(f"{wrong[0]!r} has no value. Write it NAME=VALUE.")
    return {name: value for name, _, value in pairs}


class Given(msgspec.Struct, frozen=True):
    """What every kind is given."""

    environ: Mapping[str, str]
    flags: Mapping[str, str]
    output: Path | None
    force: bool

    def settle(
        self, defaults: Mapping[Variable, str], *, without: tuple[Variable, ...] = (), cache: str = kinds.CACHE
    ) -> Settings:
        """The settings; ``without`` are those that the environment has no say in. Exits with every problem."""
        ignored = {variable.name for variable in without}
        environ = {name: value for name, value in self.environ.items() if name not in ignored}
        try:
            settings = settle(environ, self.flags, defaults, cache=cache)
        except ConfigError as error:
            raise click.ClickException(str(error)) from None
        for warning in settings.warnings:
            click.echo(f"Warning: {warning}", err=True)
        return settings

    def deliver(self, deployment: Deployment, *, folder: bool = False) -> None:
        """Prints the first file, or writes all of them; then says what comes next."""
        if self.output is None:
            click.echo(deployment.files[0].text, nl=False)
            others = [file.name for file in deployment.files[1:]]
            if others:
                click.echo(f"\nIt needs {', '.join(others)} beside it: write all of them with -o FOLDER.", err=True)
            _next((*deployment.first, *deployment.steps), err=True)
            return
        output = self.output
        if not folder and output.is_dir():
            output /= deployment.files[0].name
        targets = {file: output / file.name if folder else output for file in deployment.files}
        there = [str(path) for file, path in targets.items() if path.exists() and not file.kept]
        if there and not self.force:
            raise click.ClickException(f"Already there: {', '.join(there)}. Write over with --force.")
        for file, path in targets.items():
            try:
                _write(file, path)
            except OSError as error:
                raise click.ClickException(f"Cannot write {error.filename or path}: {error.strerror}") from None
        inside = (f"cd {shlex.quote(str(output))}",) if folder and str(output) != "." else ()
        _next((*inside, *deployment.steps), err=False)


def common(function: Callable[..., None]) -> Callable[..., None]:
    """The options that every kind has, handed to it as one `Given`."""

    @functools.wraps(function)
    def wrapper(
        environ: Mapping[str, str],
        /,
        *,
        output: Path | None,
        force: bool,
        env: dict[str, str],
        stdlib: str | None,
        external: str | None,
        broker: str | None = None,
        **more: object,
    ) -> None:
        named = {STDLIB_ALLOW: stdlib, EXTERNAL_ALLOW: external, BROKER_URI: broker}
        flags = env | {variable.name: value for variable, value in named.items() if value is not None}
        function(Given(environ, flags, output, force), **more)

    command = click.pass_obj(wrapper)
    for option in reversed(_COMMON):
        command = option(command)
    return command


_COMMON: Final = (
    click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write to, instead of printing."),
    click.option("--force", is_flag=True, help="Write over files that exist."),
    click.option("--stdlib", metavar="NAMES", help="Standard modules for Code nodes: a,b,c, @safe or *."),
    click.option("--external", metavar="NAMES", help="Packages for Code nodes: a,b,c or *."),
    click.option(
        "-e",
        "--env",
        metavar="NAME=VALUE",
        multiple=True,
        callback=_assignments,
        help="A variable of the runner; may be given again and again.",
    ),
)
_command = click.option(
    "--command", metavar="PATH", default=installed.own_command, help="The trio-runner to start  [default: this one]"
)
_broker = click.option("--broker", metavar="URI", help="Where n8n's task broker is, for example http://n8n:5679.")


def _image(**more: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option("--image", metavar="NAME", callback=_matching(_IMAGE, "the name of an image"), **more)


@click.command(short_help="The configuration of n8n's launcher.")
@_command
@click.option(
    "--base",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The launcher's present file: its other runners are kept.",
)
@click.option("--port", type=click.IntRange(1, 65535), help="Port of our health checks  [default: 5682]")
@common
def launcher_command(
    given: Given,
    *,
    command: str,
    base: Path | None,
    port: int | None,
) -> None:
    """The configuration of n8n's launcher, with which it starts this runner for Python.

    Settings come from the launcher's own environment, the allowlists included; what is given here as an option is
    written into the file and wins over it.
    """
    given.settle({}, without=tuple(VARIABLES.values()))
    try:
        text = launcher.configuration(command, given.flags, base=base, port=str(port) if port else None)
    except launcher.LauncherError as error:
        raise click.UsageError(str(error)) from None
    types = "javascript python" if base else "python"
    steps = (
        f"It starts {command}, which must be there where the launcher runs (in its container; or give --command).",
        "Save it as /etc/n8n-task-runners.json where the launcher runs, or name it in N8N_RUNNERS_CONFIG_PATH.",
        "Set for the launcher, beside N8N_RUNNERS_AUTH_TOKEN and N8N_RUNNERS_TASK_BROKER_URI:",
        f"    {STDLIB_ALLOW.name}={DEFAULTS[STDLIB_ALLOW]}        (or the modules that Code nodes may import)",
        "    N8N_RUNNERS_TASK_TIMEOUT=300        (as on n8n; the launcher's own default is 60)",
        "    N8N_RUNNERS_AUTO_SHUTDOWN_TIMEOUT=0        (the runner stays: no cold start; the default is 15)",
        f"task-runner-launcher {types}",
        f"Run a Code node in Python: {kinds.PROGRAM}",
    )
    given.deliver(Deployment((File("n8n-task-runners.json", text),), steps))


@click.command(short_help="n8n and runners with Docker Compose.")
@click.option("--queue", is_flag=True, help="n8n in queue mode: several workers, one pool of runners for all.")
@click.option("--workers", type=click.IntRange(1), help="Workers of n8n, with --queue.  [default: 2]")
@click.option("--runners", type=click.IntRange(1), help="Runners  [default: 1; 2 with --queue]")
@click.option(
    "--n8n-version",
    default=kinds.N8N_VERSION,
    show_default=True,
    metavar="TAG",
    callback=_matching(_VERSION, "the tag of an image"),
    help="n8n's version.",
)
@_image(help="An image that exists, instead of building one from the folder.")
@common
def compose_command(
    given: Given,
    *,
    queue: bool,
    workers: int | None,
    runners: int | None,
    n8n_version: str,
    image: str | None,
) -> None:
    """n8n and runners with Docker Compose: no launcher, a shared secret.

    With -o FOLDER also everything that the image is built from, and an .env with new secrets (or with the
    N8N_RUNNERS_AUTH_TOKEN of the environment).
    """
    if workers is not None and not queue:
        raise click.UsageError("--workers: only queue mode has workers. Give --queue, too.")
    brokers = {BROKER_URI: "dns+http://n8n-worker:5679" if queue else "http://n8n:5679"}
    settings = given.settle({**DEFAULTS, **brokers}, without=(BROKER_URI,))  # n8n is in this very file
    deployment = kinds.compose(
        settings,
        queue=queue,
        workers=workers or 2,
        runners=runners or (2 if queue else 1),
        n8n_version=n8n_version,
        image=image,
        token=given.environ.get(AUTH_TOKEN.name, ""),
    )
    given.deliver(deployment, folder=True)


@click.command(short_help="An image: Dockerfile and what it is built from.")
@_broker
@click.option("--python", type=click.Choice(["3.11", "3.12", "3.13", "3.14"]), default=kinds.PYTHON, show_default=True)
@_image(default=kinds.IMAGE, show_default=True, help="What the image is called.")
@common
def docker_command(
    given: Given,
    *,
    python: str,
    image: str,
) -> None:
    """An image on Debian slim (glibc) that is easy to extend: name packages in requirements.txt, build again."""
    settings = given.settle(DEFAULTS)
    given.deliver(kinds.docker(settings, python=python, image=image), folder=True)


@click.command(short_help="Objects for Kubernetes, or a sidecar for n8n.")
@_broker
@click.option("--sidecar", is_flag=True, help="A patch that puts a runner into n8n's own pods (Kubernetes 1.29).")
@click.option("--namespace", default="n8n", show_default=True, callback=_matching(_LABEL, "the name of a namespace"))
@_image(default=kinds.IMAGE, show_default=True, help="The image, as the cluster finds it.")
@click.option(
    "--n8n-label",
    default="app.kubernetes.io/name=n8n",
    show_default=True,
    metavar="NAME=VALUE",
    callback=_matching(_SELECTOR, "a label, NAME=VALUE"),
    help="What n8n's pods are labelled with.",
)
@click.option(
    "--n8n",
    default="n8n",
    show_default=True,
    metavar="NAME",
    callback=_matching(_LABEL, "a name"),
    help="The Deployment of n8n, for --sidecar.",
)
@click.option(
    "--container",
    default="n8n",
    show_default=True,
    metavar="NAME",
    callback=_matching(_LABEL, "a name"),
    help="Its container, for --sidecar.",
)
@click.option("--runners", type=click.IntRange(1), default=2, show_default=True, help="Runners, at least.")
@click.option("--max-runners", type=click.IntRange(1), help="Runners, at most.  [default: 10]")
@common
def kubernetes_command(
    given: Given,
    *,
    sidecar: bool,
    namespace: str,
    image: str,
    n8n_label: str,
    n8n: str,
    container: str,
    runners: int,
    max_runners: int | None,
) -> None:
    """Runners in Kubernetes: Deployment, autoscaling on our metrics, network policy; or a patch for n8n's own pods."""
    if max_runners is not None and max_runners < runners:
        raise click.UsageError(f"--max-runners: {max_runners} is less than the {runners} that there are at least.")
    if sidecar:  # which finds its broker on loopback
        settings = given.settle(DEFAULTS, without=(BROKER_URI,))
        deployment = kinds.sidecar(settings, namespace=namespace, image=image, n8n=n8n, container=container)
    else:
        settings = given.settle({BROKER_URI: kinds.KUBERNETES_BROKERS, **DEFAULTS})
        deployment = kinds.kubernetes(
            settings,
            namespace=namespace,
            image=image,
            n8n_label=n8n_label,
            runners=runners,
            max_runners=max_runners or max(runners, 10),
        )
    given.deliver(deployment)


@click.command(short_help="A unit with hardening of its own.")
@_broker
@_command
@common
def systemd_command(
    given: Given,
    *,
    command: str,
) -> None:
    """A systemd unit with hardening of its own. The auth token stays in a file of root's."""
    if not command.startswith("/"):  # systemd takes nothing else
        found = shutil.which(command, path=given.environ.get("PATH"))
        if found is None:
            raise click.UsageError(f"--command: {command!r} is not on the PATH. Give its whole path.")
        command = str(Path(found).absolute())
    settings = given.settle({BROKER_URI: BROKER_URI.default, **DEFAULTS})
    given.deliver(kinds.systemd(settings, command=command))


@click.command(short_help="The script with which n8n's internal mode starts us.")
@_command
@click.option(
    "--n8n",
    metavar="PATH",
    type=click.Path(exists=True, path_type=Path),
    help="n8n's command, package or folder  [default: the one on PATH]",
)
@common
def internal_command(
    given: Given,
    *,
    command: str,
    n8n: Path | None,
) -> None:
    """The script with which n8n's internal mode starts us, and where n8n looks for it.

    For trying things out and for small installations: n8n recommends its external mode.
    """
    settings = given.settle(kinds.INTERNAL_DEFAULTS, without=(BROKER_URI,), cache="")  # n8n passes its own
    package = installed.n8n_package(n8n) if n8n else _n8n_on_path(given.environ)
    if n8n is not None and package is None:
        raise click.UsageError(f"--n8n: there is no n8n in {n8n}. Give its command, its package or its folder.")
    given.deliver(kinds.internal(settings, command=command, package=package))


def _n8n_on_path(environ: Mapping[str, str]) -> Path | None:
    found = shutil.which("n8n", path=environ.get("PATH"))
    return installed.n8n_package(Path(found)) if found else None


COMMANDS: Final[Mapping[str, click.Command]] = {
    "compose": compose_command,
    "docker": docker_command,
    "internal": internal_command,
    "kubernetes": kubernetes_command,
    "launcher": launcher_command,
    "systemd": systemd_command,
}


def _write(file: File, path: Path) -> None:
    if file.kept and path.exists():
        click.echo(f"Kept  {path}")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    try:
        if file.copy_of is not None:
            shutil.copyfile(file.copy_of, path)
        else:
            # secrets must never be readable by others, not even before a chmod
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, file.mode)
            with open(descriptor, "w", encoding="utf-8") as opened:  # noqa: PTH123 - a Path cannot open a descriptor
                opened.write(file.text)
                os.fchmod(descriptor, file.mode)
    except OSError:
        if new:  # half a file would be in the way of the next attempt
            path.unlink(missing_ok=True)
        raise
    click.echo(f"Wrote {path}")


def _next(steps: tuple[str, ...], *, err: bool) -> None:
    click.echo("\nNext:", err=err)
    for step in steps:
        click.echo(f"  {step}", err=err)
