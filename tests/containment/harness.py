"""Runs the corpus through real runners and says what went wrong.

Also a program of its own (`python -m tests.containment.harness`): the same for another user or another Python.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import trio

from tests.containment.canaries import Canaries, new_secret
from tests.containment.corpus import ITEMS, Program, load
from tests.runner_kit import Bench, running
from trio_runner.sandbox import frames

SETTINGS: dict[str, dict[str, str]] = {
    "compat": {},
    "relaxed": {"N8N_RUNNERS_POLICY": "relaxed"},
    "unchecked": {
        "N8N_RUNNERS_STDLIB_ALLOW": "*",
        "N8N_RUNNERS_EXTERNAL_ALLOW": "*",
        "N8N_RUNNERS_BUILTINS_DENY": "",
    },
}
SETTINGS["network"] = {**SETTINGS["unchecked"], "N8N_RUNNERS_SANDBOX": "network", "N8N_RUNNERS_SANDBOX_CONNECT": "9"}
"""By name, what makes up a setting; each is an attribute of `Program` with what is expected of it."""
_ALWAYS = {
    "N8N_RUNNERS_SANDBOX": "strict",
    "N8N_RUNNERS_MAX_CONCURRENCY": "2",
    "N8N_RUNNERS_TASK_TIMEOUT": "20",
    "N8N_RUNNERS_TASK_MEMORY": "256",
}
_TRIVIAL = "return [1 + 1]"


class Report(msgspec.Struct):
    """What a run of the corpus under one setting found."""

    setting: str
    uid: int
    programs: int
    problems: list[str]


def groups(setting: str) -> list[tuple[dict[str, str], list[Program]]]:
    """The runner configurations of a setting and the programs that each of them gets."""
    found: dict[str, tuple[dict[str, str], list[Program]]] = {}
    for program in load():
        if program.machine and program.machine != platform.machine():
            continue
        everything = SETTINGS[setting].get("N8N_RUNNERS_STDLIB_ALLOW") == "*"
        environ = SETTINGS[setting] if everything else {**SETTINGS[setting], **program.allow}
        found.setdefault(json.dumps(environ, sort_keys=True), (environ, []))[1].append(program)
    return list(found.values())


async def run(setting: str) -> Report:
    """All programs under one setting."""
    report = Report(setting, -1, 0, [])
    for environ, programs in groups(setting):
        await _run_group(setting, environ, programs, report)
    return report


async def run_unconfined(names: Collection[str]) -> Report:
    """Some programs without a sandbox; those that end their runner then are better left out."""
    (environ, programs), *_ = groups("unchecked")
    report = Report("unchecked", -1, 0, [])
    chosen = [program for program in programs if program.name in names]
    await _run_group("unchecked", {**environ, "N8N_RUNNERS_SANDBOX": "off"}, chosen, report)
    return report


async def _run_group(setting: str, environ: dict[str, str], programs: list[Program], report: Report) -> None:
    secrets = {"environment": os.environ.setdefault("CANARY_SECRET", new_secret("env")), "sibling": new_secret("other")}
    async with running({**_ALWAYS, **environ}, environment=dict(os.environ)) as bench:
        report.uid = await _uid_of_tasks(bench)
        with Canaries(report.uid, secrets) as canaries:
            async with _sibling(bench, secrets["sibling"]) as sibling_pid:
                zygote = bench.runner.pool.zygote_pid
                targets = {**canaries.targets(), "zygote_pid": zygote, "sibling_pid": sibling_pid}
                for program in programs:
                    found = await _run_one(bench, program, setting, targets, canaries)
                    if bench.runner.pool.zygote_pid != zygote or bench.runner.pool.restarts:
                        found.append("the zygote was replaced")
                    if not _lives(sibling_pid):
                        found.append("the sibling is gone")
                    report.programs += 1
                    report.problems += [f"{setting}, {program.technique}, {program.name}: {text}" for text in found]
            outcome = await bench.run(_TRIVIAL)
            if outcome.get("result") != [2]:
                report.problems.append(f"{setting}: the runner does not serve any more: {outcome!r}")


async def _run_one(
    bench: Bench, program: Program, setting: str, targets: dict[str, object], canaries: Canaries
) -> list[str]:
    items = [{"json": targets}] if program.hostile else ITEMS
    mode = "runOnceForEachItem" if program.each_item else "runOnceForAllItems"
    try:
        with trio.fail_after(30):
            outcome = await bench.run(program.code, items, nodeMode=mode)
            strangers = await _strangers(bench)
    except trio.TooSlowError:
        return ["no answer within 30 seconds"]
    problem = program.expectation(setting).problem(outcome)
    return [*([problem] if problem else []), *canaries.problems(outcome), *strangers]


async def _strangers(bench: Bench) -> list[str]:
    """Processes of the zygote's that the pool does not know: what a program started would end up there."""
    pool = bench.runner.pool
    children: set[int] = set()
    for _ in range(1000):
        children = _children(pool.zygote_pid)
        if children == set(pool._children):
            return []
        await trio.sleep(0.001)
    return [f"processes {sorted(children - set(pool._children))} were started"]


async def _uid_of_tasks(bench: Bench) -> int:
    report = bench.runner.pool.report
    if report is None or not any(layer.name == "seccomp" and layer.status == "active" for layer in report.layers):
        return os.geteuid()
    async with bench.runner.pool.lease() as worker:
        for _ in range(1000):  # it confines itself while nobody waits for it
            status = _status(worker.pid)
            if status["Seccomp"] == "2":
                return int(status["Uid"].split()[1])
            await trio.sleep(0.002)
    raise AssertionError("the worker does not confine itself")


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _children(pid: int | None) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


@asynccontextmanager
async def _sibling(bench: Bench, secret: str) -> AsyncIterator[int]:
    """A task of somebody else's in the middle of receiving its items: it holds a secret in its memory."""
    async with bench.runner.pool.lease() as worker:
        task = frames.encode(frames.Run("return 1", False, b"null"))
        part = f'[{{"json": "{secret}'.encode()
        data = frames.header(frames.RUN, len(task)) + task + frames.header(frames.ITEMS, 100_000) + part
        worker.sock.send(data)
        yield worker.pid


def main() -> None:
    """Prints the reports of the settings named on the command line (all of them by default) as JSON."""
    names = sys.argv[1:] or list(SETTINGS)
    reports = [trio.run(run, name) for name in names]
    print(msgspec.json.encode(reports).decode())


if __name__ == "__main__":
    main()
