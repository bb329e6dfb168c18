"""No test waits forever, and none ends all of them: each ends within its limit, and says what it waited for.

pytest-timeout measures the time and ends the test; here is how long a test of each kind may take, and what it shows of
trio's tasks, whose stacks are not those of threads. `.ci/run` limits whole stages, for what no signal ends.

What ends a worker's process may run in this one, too: here it shows who called it, and is never taken for a success.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Generator
from types import FrameType
from typing import NoReturn, TextIO

import pytest
import trio
import trio.lowlevel

ORDINARY = 180
"""Seconds. The slowest ordinary test takes 10 on a quiet machine; only one that hangs should ever meet this."""

ENDED = 70
"""The exit code of a process of tests that one of them ends."""

KINDS = {"long": 900, "packages": 600, "release": 600, "browser": 300, "fuzz": 0, "n8n": 1200, "chaos": 0}
"""Seconds by mark. Installing n8n is part of its first test. 0: the user says how long it shall last."""


def pytest_configure(config: pytest.Config) -> None:
    ours, really = os.getpid(), os._exit

    def exit_(code: int) -> NoReturn:
        if os.getpid() == ours:  # and not a child's that was forked from here
            with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
                print(f"\nThe process of the tests was to end with code {code}", file=sys.stderr)
                traceback.print_stack(file=sys.stderr)
                sys.stderr.flush()
            code = code or ENDED
        really(code)

    os._exit = exit_  # type: ignore[assignment]
    config.add_cleanup(lambda: setattr(os, "_exit", really))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("timeout") is not None:  # the user has a limit of their own
        return
    for item in items:
        limits = [seconds for kind, seconds in KINDS.items() if item.get_closest_marker(kind)]
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(0 if 0 in limits else max(limits, default=ORDINARY)))


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item) -> Generator[None, object, object]:
    """Before the test is ended, its tasks are shown: afterwards they are gone."""
    armed = yield
    ends = signal.getsignal(signal.SIGALRM)
    if not callable(ends):
        return armed

    def show(number: int, frame: FrameType | None) -> None:
        capture = item.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            print(f"\n{item.nodeid} takes too long", file=sys.stderr)
            print_tasks(sys.stderr)
        ends(number, frame)

    signal.signal(signal.SIGALRM, show)
    return armed


def print_tasks(file: TextIO) -> None:
    """Prints the tasks of the trio run of this thread, if there is one, and where each of them waits."""
    if not trio.lowlevel.in_trio_run():
        return
    root = trio.lowlevel.current_root_task()
    waiting = [] if root is None else [root]
    while waiting:
        task = waiting.pop()
        print(f"task {task.name}", file=file)
        for frame, line in task.iter_await_frames():
            code = frame.f_code
            print(f'  File "{code.co_filename}", line {line}, in {code.co_name}', file=file)
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
