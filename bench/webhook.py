"""Webhooks through a real n8n: with our Python node, with a JavaScript node, and with no code, in alternation.

Owns an n8n of the test kit, our runner and n8n's JavaScript runner beside each other for the time of the measurement.
n8n is installed into a cache folder on first use (minutes, 2.4 GB). Each call of one workflow is followed by one of
the next, so that whatever slows n8n down slows all three.
"""

from __future__ import annotations

import http.client
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import click

from bench import lines, machine, processes, results
from bench.results import JAVASCRIPT, MACHINE, NO_CODE, OURS, Run, Subject
from bench.run import show
from bench.runners import RUNNERS
from tests.e2e.n8n_server import N8n, install

WORKFLOWS: Final = {
    "py-all": Subject(name=OURS, kind="runner", command=RUNNERS[0].command, note=RUNNERS[0].note),
    "js-all": Subject(name=JAVASCRIPT, kind="workflow", note="runs the program inside the runner, without isolation"),
    "no-code": Subject(name=NO_CODE, kind="workflow", note="a Set node in place of the Code node: n8n itself"),
}
_BODY: Final = b'{"hello": "world"}'
_CALL_LIMIT: Final = 60.0


@click.command()
@click.option("--rounds", type=click.IntRange(1, 100), default=8, show_default=True)
@click.option(
    "--calls", type=click.IntRange(1, 1000), default=25, show_default=True, help="Of each workflow per round."
)
@click.option("--into", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A run's JSON to add to.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Where to write a run.")
def main(rounds: int, calls: int, into: Path | None, json_file: Path | None) -> None:
    """Measures webhooks through a real n8n; adds them to a run of the benchmark, or makes one of their own.

    Exit code 1 when our runner is more than 1.15 times as slow as the JavaScript runner.
    """
    run = machine.new_run("full") if into is None else results.load(into)
    measure(run, rounds=rounds, calls=calls)
    run.lines = lines.judge(run)
    for file in (into, json_file):
        if file is not None:
            results.save(run, file)
    show(run)
    sys.exit(any(line.verdict == "missed" for line in lines.webhook(run)))


def measure(run: Run, *, rounds: int, calls: int, warm_up: int = 40) -> None:
    """Adds the figure "webhook". What the run held of it before is replaced."""
    run.series = [one for one in run.series if one.figure != "webhook"]
    run.subjects += [one for one in WORKFLOWS.values() if all(one.name != known.name for known in run.subjects)]
    fresh = run.find("unit", MACHINE) is None
    ticks = processes.steal_and_total()
    with _n8n() as n8n:
        connection = http.client.HTTPConnection("127.0.0.1", n8n.port, timeout=_CALL_LIMIT)
        for _ in range(warm_up):  # n8n compiles and caches, and a new runner registers within the first call
            for path in WORKFLOWS:
                call(connection, path)
        for turn in range(rounds):
            if fresh:
                run.record("unit", MACHINE, machine.interpreter_starts(5), turn=turn)
            for path, samples in one_round(connection, turn, calls).items():
                run.record("webhook", WORKFLOWS[path].name, samples, turn=turn, workflow=path)
            print(f"webhooks, round {turn + 1}/{rounds}", file=sys.stderr, flush=True)
        connection.close()
    if fresh:
        run.noise = machine.judge_noise(run, ticks, processes.steal_and_total())


def one_round(connection: http.client.HTTPConnection, turn: int, calls: int) -> dict[str, list[float]]:
    """Milliseconds of each workflow."""
    paths = list(WORKFLOWS)
    samples: dict[str, list[float]] = {path: [] for path in paths}
    for number in range(calls):
        first = (turn + number) % len(paths)
        for path in (*paths[first:], *paths[:first]):
            samples[path].append(call(connection, path))
    return samples


def call(connection: http.client.HTTPConnection, path: str) -> float:
    """Milliseconds of one call. Raises RuntimeError when the workflow fails."""
    begun = time.perf_counter()
    connection.request("POST", f"/webhook/{path}", _BODY, {"Content-Type": "application/json"})
    response = connection.getresponse()
    body = response.read()
    took = (time.perf_counter() - begun) * 1000
    if response.status != 200:
        raise RuntimeError(f"the webhook {path} answered {response.status}: {body[:200]!r}")
    return took


@contextmanager
def _n8n() -> Iterator[N8n]:
    """n8n with both runners connected."""
    folder = install()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        n8n = N8n(folder, Path(scratch))
        stack.callback(n8n.close)
        n8n.ensure(LOG_LEVEL="warn")
        ours = n8n.runner(Path(scratch) / "python.log")
        stack.callback(ours.end)
        javascript = n8n.javascript_runner(Path(scratch) / "javascript.log")
        stack.callback(javascript.end)
        yield n8n


if __name__ == "__main__":
    main(prog_name="python -m bench.webhook")
