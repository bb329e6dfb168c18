"""`trio-runner doctor`: does this installation do what its operator believes it does?

Shows the settings in force, which layers of the sandbox hold, whether each allowed module imports inside it, and
whether the broker answers. Every finding comes from trying, with the zygote, workers and token exchange of `start`.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
import trio

from trio_runner import __version__, log
from trio_runner.auth import fetch_grant_token
from trio_runner.config import (
    AUTH_TOKEN,
    MIB,
    VARIABLES,
    BrokerAddress,
    Config,
    ConfigError,
    Loaded,
    load,
    without_secrets,
)
from trio_runner.counters import Counters
from trio_runner.demands import absent
from trio_runner.errors import RunnerError, StartError
from trio_runner.executor import Executor
from trio_runner.http import trust
from trio_runner.pool import Pool
from trio_runner.protocol.messages import EMPTY_LIST, TaskDone, TaskError, TaskSettings
from trio_runner.resolve import look_up
from trio_runner.sandbox.records import ACTIVE, OFF
from trio_runner.supervisor import confinement_of

Mark = Literal["ok", "note", "bad"]
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class Finding(msgspec.Struct, frozen=True):
    """One line of the report. ``bad`` makes the command fail; ``note`` is worth a look."""

    section: str
    name: str
    mark: Mark
    text: str


def examine(environ: Mapping[str, str]) -> list[Finding]:
    """The whole report. Takes seconds, opens a connection to each broker and starts a zygote of its own."""
    log.configure("CRITICAL", stream=sys.stderr)
    findings = [
        Finding("runner", "trio-runner", "ok", __version__),
        Finding("runner", "python", "ok", f"{platform.python_version()} ({sys.executable})"),
        Finding("runner", "system", "ok", platform.platform()),
    ]
    broken: tuple[str, ...] = ()
    try:
        loaded = load(environ)
    except ConfigError as error:
        broken = error.problems
        loaded = _what_can_be_read(environ, broken)
    findings += [Finding("settings", "problem", "bad", problem) for problem in broken]
    findings += [Finding("settings", "ignored or odd", "note", warning) for warning in loaded.warnings]
    findings += _settings(environ)
    findings += _memory(loaded.config)
    findings += trio.run(_try, loaded.config, without_secrets(environ), bool(broken))
    return findings


def _what_can_be_read(environ: Mapping[str, str], broken: tuple[str, ...]) -> Loaded:
    """The rest of the settings: a report on it is still of use. The defaults, when a problem is one of none of them."""
    usable = {name: environ[name] for name in environ if not any(name in problem for problem in broken)}
    try:
        return load({**usable, AUTH_TOKEN.name: "-"})
    except ConfigError:
        return load({AUTH_TOKEN.name: "-"})


def _settings(environ: Mapping[str, str]) -> list[Finding]:
    """Each variable that is set, secrets masked."""
    found = []
    for variable in VARIABLES.values():
        for spelling in variable.spellings:
            if spelling in environ:
                secret = variable.secret and spelling == variable.name
                value = "***" if secret and environ[spelling] else environ[spelling]
                found.append(Finding("settings", spelling, "ok", value or "(empty)"))
    return found or [Finding("settings", "all", "ok", "at their defaults")]


def _memory(config: Config) -> list[Finding]:
    """Whether the tasks' limits fit into the machine or container: the kernel may end all of it at once."""
    available = _available_memory()
    wanted = config.confinement.memory * config.max_concurrency
    if not available or not wanted:
        return []
    text = (
        f"{config.max_concurrency} tasks of {config.confinement.memory // MIB} MiB each, "
        f"{available // MIB} MiB in this machine or container"
    )
    if wanted <= available:
        return [Finding("settings", "memory", "ok", text)]
    return [Finding("settings", "memory", "note", f"{text}: lower N8N_RUNNERS_TASK_MEMORY or the concurrency")]


def _available_memory() -> int:
    for path in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):
            limit = int(Path(path).read_text())
            if limit < 1 << 50:  # larger numbers are ways to say: none
                return limit
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0


async def _try(config: Config, environ: Mapping[str, str], broken: bool) -> list[Finding]:
    findings = await _try_sandbox(config, environ)
    try:
        brokers = [broker for named in config.brokers for broker in await _brokers_behind(named)]
        tls = trust(config.broker_ca) if any(broker.secure for broker in brokers) else None
    except RunnerError as error:
        return [*findings, Finding("broker", config.broker_uri, "bad", str(error))]
    for address in brokers:
        if config.auth_token is None or broken:
            text = "not tried: that takes N8N_RUNNERS_AUTH_TOKEN, a grant token works only once"
            findings.append(Finding("broker", address.label, "note", text))
            continue
        started = trio.current_time()
        try:
            await fetch_grant_token(address, config.auth_token, tls=tls)
        except RunnerError as error:
            # its name stands beside it anyway
            findings.append(Finding("broker", address.label, "bad", str(error).removeprefix(f"{address.label}: ")))
        else:
            took = (trio.current_time() - started) * 1000
            findings.append(Finding("broker", address.label, "ok", f"answers and takes our auth token ({took:.0f} ms)"))
    return findings


async def _brokers_behind(broker: BrokerAddress) -> list[BrokerAddress]:
    if not broker.every:
        return [broker]
    return [broker.at(address) for address in sorted(await look_up(broker.host, broker.port))]


async def _try_packages(config: Config, environ: Mapping[str, str], pool: Pool) -> list[Finding]:
    """Whether packages can be installed. Those of all programs are, so that their imports can be tried."""
    if config.packages is None:
        return []
    from trio_runner.outfitter import Outfitter

    outfitter = Outfitter(config, confinement_of(config), environ, Counters())
    try:
        text = await outfitter.open()
        findings = [Finding("packages", "uv", "ok", text)]
        installed = await outfitter.equip(pool)
    except StartError as error:
        return [Finding("packages", "uv" if "uv" in str(error) else "environments", "bad", str(error))]
    if installed:
        findings.append(Finding("packages", "for all programs", "ok", ", ".join(installed)))
    allowed = config.packages.inline
    if allowed is not None:
        findings.append(Finding("packages", "programs may ask for", "ok", ", ".join(allowed) or "anything"))
    return findings


async def _try_sandbox(config: Config, environ: Mapping[str, str]) -> list[Finding]:
    pool = Pool(
        config.policy,
        max_payload=config.max_payload,
        idle=1,
        confinement=confinement_of(config),
        preload=config.preload,
    )
    packages = await _try_packages(config, environ, pool)
    try:
        async with trio.open_nursery() as nursery:
            started = trio.current_time()
            await nursery.start(pool.run)
            findings = _layers(config, pool, (trio.current_time() - started) * 1000)
            findings += [*packages, *await _imports(config, pool)]
            nursery.cancel_scope.cancel()
    except* StartError as group:
        findings = [*packages, Finding("sandbox", config.confinement.mode, "bad", str(group.exceptions[0]))]
        if pool.report is not None:
            findings += _layers(config, pool, 0)
    return findings


def _layers(config: Config, pool: Pool, took: float) -> list[Finding]:
    assert pool.report is not None
    mode = config.confinement.mode
    sealed = ", sealed: no file can be opened" if pool.report.sealed else ""
    ready = f", ready in {took:.0f} ms" if took else ""
    findings = [Finding("sandbox", "mode", "note" if mode == "off" else "ok", f"{mode}{sealed}{ready}")]
    for layer in pool.report.layers:
        mark: Mark = "ok" if layer.status in (ACTIVE, OFF) else "note"
        if layer.name in config.confinement.require and layer.status != ACTIVE:
            mark = "bad"
        detail = f": {layer.detail}" if layer.detail else ""
        findings.append(Finding("sandbox", layer.name, mark, f"{layer.status}{detail}"))
    for path in absent(config.confinement):
        why = f"{path} does not exist, so no task can use it (N8N_RUNNERS_SANDBOX_READ or _WRITE)"
        findings.append(Finding("sandbox", "path", "note", why))
    return findings


async def _imports(config: Config, pool: Pool) -> list[Finding]:
    """Imports each module that is allowed by name, in a worker, as a task would."""
    assert pool.report is not None
    executor = Executor(pool, task_timeout=config.task_timeout, max_payload=config.max_payload)
    policy = config.policy
    names = sorted((policy.stdlib_allow | policy.external_allow) - {"*"})
    findings = []
    for name in names:
        code = f"import {name}\nreturn 1"
        settings = TaskSettings(code=code, node_mode="runOnceForAllItems", items=EMPTY_LIST)
        started = trio.current_time()
        result = await executor.run("doctor", settings, lambda _: None)
        took = (trio.current_time() - started) * 1000
        if isinstance(result, TaskDone):
            ahead = "imported ahead" if name not in pool.report.not_preloaded and config.preload is None else "imported"
            findings.append(Finding("imports", name, "ok", f"{ahead}, {took:.0f} ms in a task"))
        else:
            findings.append(Finding("imports", name, "bad", _message(result)))
    return findings


def _message(result: TaskError) -> str:
    error: Any = msgspec.json.decode(result.error)
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def show(findings: list[Finding]) -> None:
    """A table for people: sections, marks and texts."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    ok, bad_mark = ("✓", "✗") if console.encoding.startswith("utf") else ("+", "x")
    marks = {"ok": f"[green]{ok}[/]", "note": "[yellow]![/]", "bad": f"[red]{bad_mark}[/]"}
    for section in dict.fromkeys(finding.section for finding in findings):
        table = Table(
            title=section, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False
        )
        table.add_column(width=1)
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(overflow="fold")
        for finding in findings:
            if finding.section == section:
                table.add_row(marks[finding.mark], escape(finding.name), escape(finding.text))
        console.print(table)
        console.print()
    bad = sum(finding.mark == "bad" for finding in findings)
    notes = sum(finding.mark == "note" for finding in findings)
    verdict = f"{bad} broken" if bad else "nothing broken"
    console.print(f"{verdict}, {notes} to look at", style="bold red" if bad else "bold green")
    for step in next_steps(findings):
        console.print(f"Next: {escape(step)}", soft_wrap=True)


def next_steps(findings: list[Finding]) -> list[str]:
    """What to do after this report: remedies that stand in no finding, or the start."""
    bad = {finding.section for finding in findings if finding.mark == "bad"}
    brokers = [finding.text for finding in findings if finding.section == "broker" and finding.mark == "bad"]
    if not all("N8N_RUNNERS_" in text for text in brokers):  # those that say by themselves what to set need no more
        return [
            "have n8n running with N8N_RUNNERS_MODE=external and the same N8N_RUNNERS_AUTH_TOKEN",
            "set N8N_RUNNERS_TASK_BROKER_URI to its task broker: port 5679 of n8n, not its web server on 5678",
            "if that is another machine or container: N8N_RUNNERS_BROKER_LISTEN_ADDRESS=0.0.0.0 on n8n",
        ]
    if bad:
        return ["mend what is broken, and ask again"]
    return [
        "trio-runner start",
        "for good: `trio-runner init` makes the files for Compose, Kubernetes, systemd and others",
    ]
