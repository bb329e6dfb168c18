"""Two runners, two real n8n: every task finds a runner while one n8n is stopped and the other one killed and restarted.

The queue mode of n8n in small: each n8n process has a broker, each runner serves both. Needs minutes, and on first use
an installation of n8n (2.4 GB); therefore marked `n8n` and not part of the default run:  pytest -m n8n
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.n8n_server import AUTH_TOKEN, Answer, N8n, Runner, eventually, tail

pytestmark = pytest.mark.n8n

SLOTS = 2
PAUSE = 0.05
"""Seconds between two calls of a caller."""
GOOD = (200, [{"ok": True, "count": 1, "body": {"hello": "world"}}])


@pytest.fixture(scope="module")
def pair(server: N8n, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[N8n, N8n]]:
    """Two n8n with data of their own, started at the same time."""
    other = N8n(server.folder, tmp_path_factory.mktemp("other"))
    try:
        with ThreadPoolExecutor(2) as starting:
            for started in [starting.submit(n8n.ensure) for n8n in (server, other)]:
                started.result()
        yield server, other
    finally:
        other.close()


@pytest.fixture
def runners(pair: tuple[N8n, N8n], tmp_path: Path) -> Iterator[list[Runner]]:
    """Two runners, each registered with both brokers; they must stop cleanly."""
    settings = {
        "N8N_RUNNERS_TASK_BROKER_URI": ",".join(n8n.broker_uri for n8n in pair),
        "N8N_RUNNERS_AUTH_TOKEN": AUTH_TOKEN,
        "N8N_RUNNERS_MAX_CONCURRENCY": str(SLOTS),
        "N8N_RUNNERS_STDLIB_ALLOW": "time",
    }
    started: list[Runner] = []
    try:
        started.extend(Runner(tmp_path / f"runner-{number}.log", settings) for number in range(2))
        for runner in started:
            runner.wait_for("Registered with broker", times=2)
        yield started
        assert not any(runner.stop() for runner in started if runner.running)
    finally:
        for runner in started:
            runner.end()
            print(f"--- {runner.log.name}\n{tail(runner.log, 60)}")


class Load:
    """Callers of one n8n, one call after the other, until told to stop."""

    def __init__(self, n8n: N8n, callers: int) -> None:
        self._n8n = n8n
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(callers)]
        self.answers: list[Answer] = []

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(90)

    def _call(self) -> None:
        while not self._stop.is_set():
            answer = self._n8n.call("py-all")
            self.answers.append(answer)
            # the processors are for the n8n that starts, and one that is down needs not be asked a thousand times
            self._stop.wait(PAUSE if answer.status else 4 * PAUSE)

    def more(self, count: int = 20) -> None:
        """Waits for so many more calls that were answered well."""
        wanted = len(self.answers) + count
        eventually(
            lambda: sum(well(answer) for answer in self.answers[wanted - count :]) >= count,
            f"{count} more calls to be answered, got {self.answers[wanted - count :][:5]}",
            timeout=60,
        )


def well(answer: Answer) -> bool:
    return (answer.status, answer.body) == GOOD


def took(runner: Runner, n8n: N8n) -> int:
    """How many tasks of this n8n the runner has taken."""
    return runner.text().count(f"127.0.0.1:{n8n.broker_port}: Accepted task")


def took_more(runner: Runner, n8n: N8n, than: int) -> bool:
    return took(runner, n8n) > than


def restart(n8n: N8n, *, killed: bool) -> None:
    if killed:
        n8n.kill()
    else:
        n8n.stop()
    n8n.start()


def test_both_runners_serve_both_brokers_while_each_is_restarted_in_turn(
    pair: tuple[N8n, N8n], runners: list[Runner]
) -> None:
    one, other = pair
    with Load(one, 3) as at_one, Load(other, 3) as at_other:
        at_one.more()
        at_other.more()
        for n8n, load, unharmed, killed in ((one, at_one, at_other, False), (other, at_other, at_one, True)):
            before = [took(runner, n8n) for runner in runners]
            seen, registered = len(unharmed.answers), [r.text().count("Registered with broker") for r in runners]
            restart(n8n, killed=killed)
            back = time.monotonic()
            for runner, times in zip(runners, registered, strict=True):
                runner.wait_for("Registered with broker", times=times + 1, timeout=15)
            print(f"registered again {time.monotonic() - back:.1f} s after n8n was up")
            load.more()
            unharmed.more()
            assert all(map(well, unharmed.answers[seen:])), "the other n8n must not notice anything"
            for runner, count in zip(runners, before, strict=True):
                eventually(partial(took_more, runner, n8n, count), "each runner to get tasks again")
    for runner in runners:
        assert runner.running
        assert min(took(runner, one), took(runner, other)) > 0
        share = took(runner, one) / (took(runner, one) + took(runner, other))
        print(f"{runner.log.name}: {took(runner, one)} and {took(runner, other)} tasks, share {share:.2f}")
    good = [sum(map(well, load.answers)) for load in (at_one, at_other)]
    print(f"answered well: {good} of {[len(load.answers) for load in (at_one, at_other)]}")


def test_a_runner_that_stops_takes_nothing_along_and_the_other_serves_on(
    pair: tuple[N8n, N8n], runners: list[Runner]
) -> None:
    one, other = pair
    with Load(one, 3) as at_one, Load(other, 3) as at_other:
        at_one.more()
        at_other.more()
        assert runners[0].stop() == 0
        at_one.more()
        at_other.more()
    assert all(map(well, at_one.answers + at_other.answers))
