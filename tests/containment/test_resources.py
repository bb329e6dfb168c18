"""Programs that take all they can get, through a real runner: each costs its own task, and the others hardly notice.

While a greedy program runs, somebody else's trivial tasks are timed; their median is compared with the median when
nothing else runs. The figures are recorded with the test (``pytest -rP``).
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from tests.containment.corpus import channel
from tests.runner_kit import Bench, running
from trio_runner.sandbox import landlock, seccomp

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.usefixtures("quiet"),
    pytest.mark.skipif(
        sys.platform != "linux" or landlock.abi() < 6 or not seccomp.supported(),
        reason="needs a kernel with all layers",
    ),
]

MEMORY = 64
TIMED_OUT = "Task execution timed out after 2 seconds"
OUT_OF_MEMORY = "Out of memory"
EVERYTHING = {
    "N8N_RUNNERS_STDLIB_ALLOW": "*",
    "N8N_RUNNERS_EXTERNAL_ALLOW": "*",
    "N8N_RUNNERS_BUILTINS_DENY": "",
    "N8N_RUNNERS_SANDBOX": "strict",
    "N8N_RUNNERS_MAX_CONCURRENCY": "3",
    "N8N_RUNNERS_TASK_TIMEOUT": "2",
    "N8N_RUNNERS_TASK_MEMORY": str(MEMORY),
    "N8N_RUNNERS_MAX_PAYLOAD": str(16 * 1024 * 1024),
}
SLACK = 0.25
"""Seconds by which a median may be worse than twice the quiet one: the machine has other things to do as well."""
ATTEMPTS = 3
"""How often a program is given the chance to leave the others alone: what it does to them it does each time."""

FRAMES = channel.PRELUDE.strip()
# name: (program, what it comes to: a result, or a part of the error)
GREEDY: dict[str, tuple[str, object]] = {
    "fork bomb": (
        """
import os
made = 0
for _ in range(1000):
    try:
        os.fork()
        made += 1
    except OSError:
        pass
return made
""",
        0,
    ),
    "10 GiB at once": ("return len(bytearray(10 * 2**30))", OUT_OF_MEMORY),
    "10 GiB bit by bit": ("kept = []\nwhile True: kept.append(bytearray(2**20))", OUT_OF_MEMORY),
    "a list of a list of a list": ("a = [0]\nwhile True: a = [*a, *a]", OUT_OF_MEMORY),
    "filling the disk": (
        """
import os
written = 0
for place in ("/tmp", "/var/tmp", "/dev/shm", "/run", os.getcwd(), "/usr/lib"):
    try:
        fd = os.open(place + "/greedy", os.O_WRONLY | os.O_CREAT)
        while True:
            written += os.write(fd, bytes(2**20))
    except OSError:
        pass
return written
""",
        0,
    ),
    "a gigabyte of prints": ('line = "x" * 2**20\nfor _ in range(1024): print(line)\nreturn 1', 1),
    "one print of a gigabyte": ('print("x" * 2**30)', OUT_OF_MEMORY),
    "endless recursion": ("def f(): return f()\nreturn f()", "recursion"),
    "recursion on the stack of C": (
        """
import sys
sys.setrecursionlimit(10**9)
class A:
    def __repr__(self): return repr([self])
return repr(A())
""",
        "",
    ),
    "many threads": (
        """
import threading, time
threading.stack_size(32768)
try:
    while True:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
except RuntimeError as error:
    return str(error)[:5]
""",
        "",
    ),
    "busy for ever": ("while True: pass", TIMED_OUT),
    "many descriptors": (
        """
import os, socket
kept = []
try:
    while True: kept.append(socket.socketpair())
except OSError as error:
    return error.errno
""",
        24,
    ),
    "endless frames of prints": (
        f'{FRAMES}\nwhile True: channel.sendall(b"\\x11\\x02\\x00\\x00\\x00[]" * 10000)',
        "no result",
    ),
    "endless empty verdicts": (
        f'{FRAMES}\nwhile True: channel.sendall(b"\\x10\\x00\\x00\\x00\\x00" * 10000)',
        "no result",
    ),
    "a result beyond the limit": ('return "x" * (17 * 2**20)', "too large"),
}
GREEDY_AND_SLOW: dict[str, tuple[str, object]] = {
    "busy in threads": (
        """
import threading
threading.stack_size(2**18)
def spin():
    while True: pass
for _ in range(20): threading.Thread(target=spin).start()
""",
        TIMED_OUT,
    ),
    "busy and deaf": (
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))\nwhile True: pass",
        TIMED_OUT,
    ),
    "a regular expression that never ends": ('import re\nreturn re.match(r"(a+)+$", "a" * 60 + "b")', TIMED_OUT),
    "an integer that never ends": ("return 3 ** (10 ** 8) % 7 + (7 ** 7 ** 8) % 3", TIMED_OUT),
    "sleeping for ever": ("import time\ntime.sleep(10**6)", TIMED_OUT),
    "waiting for itself": ("import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()", TIMED_OUT),
    "one endless result": (
        f'{FRAMES}\nchannel.sendall(b"\\x12" + (15 * 2**20).to_bytes(4, "little"))\n'
        'while True: channel.sendall(b"x" * 2**20)',
        "no result",
    ),
    "a gigabyte of errors": ('import sys\nwhile True: sys.stderr.write("x" * 2**20)', TIMED_OUT),
}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running(EVERYTHING) as bench:
        yield bench


async def trivial(bench: Bench, times: list[float]) -> None:
    """Somebody else's task, timed."""
    started = trio.current_time()
    outcome = await bench.run("return len(_items)", [{"json": {}}] * 3)
    assert outcome.get("result") == 3, outcome
    times.append(trio.current_time() - started)


async def quiet_median(bench: Bench) -> float:
    times: list[float] = []
    for _ in range(30):
        await trivial(bench, times)
    return statistics.median(times[5:])


async def beside(bench: Bench, program: str) -> tuple[dict[str, Any], list[float]]:
    """What a program came to, and how long trivial tasks took while it ran; one that never ended counts as well."""
    times: list[float] = []
    outcomes: list[dict[str, Any]] = []
    started = 0.0

    async def run() -> None:
        outcomes.append(await bench.run(program, [{"json": {}}]))
        nursery.cancel_scope.cancel()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            while True:
                started = trio.current_time()
                await trivial(bench, times)
                await trio.sleep(0.01)
    left = trio.current_time() - started
    return outcomes[0], [*times, left] if left > max(times, default=0.0) else times


async def check(bench: Bench, programs: dict[str, tuple[str, object]], figures: Any) -> None:
    zygote = bench.runner.pool.zygote_pid
    quiet = await quiet_median(bench)
    figures("quiet", f"{quiet * 1000:.1f} ms")
    for name, (program, expected) in programs.items():
        for _ in range(ATTEMPTS):
            outcome, times = await beside(bench, program)
            median = statistics.median(times) if times else 0.0
            if median <= 2 * quiet + SLACK:
                break
        figures(name, f"{median * 1000:.1f} ms, longest {max(times, default=0) * 1000:.0f} ms, of {len(times)}")
        if isinstance(expected, str):
            said = f"{outcome.get('error')}{outcome.get('result')}"
            # on a busy machine the time can be over before the memory is full
            assert expected in said or TIMED_OUT in said, (name, said[:500])
        else:
            assert outcome.get("result", outcome) == expected, name
        assert median <= 2 * quiet + SLACK, (name, median, quiet)
        assert bench.runner.pool.zygote_pid == zygote, name
    assert bench.runner.pool.restarts == 0
    again = await quiet_median(bench)
    figures("quiet again", f"{again * 1000:.1f} ms")
    assert again <= 2 * quiet + SLACK


async def test_greedy_programs_cost_their_own_task(bench: Bench, record_property: Any) -> None:
    await check(bench, GREEDY, _recorder(record_property))


@pytest.mark.long
async def test_slow_and_greedy_programs_cost_their_own_task(bench: Bench, record_property: Any) -> None:
    await check(bench, GREEDY_AND_SLOW, _recorder(record_property))


@pytest.mark.long
async def test_processor_time_has_a_limit_of_its_own() -> None:
    async with running({**EVERYTHING, "N8N_RUNNERS_TASK_TIMEOUT": "30", "N8N_RUNNERS_TASK_CPU": "1"}) as bench:
        outcome = await bench.run("while True: pass")
        assert outcome["error"]["message"] == "The task used more than 1 s of processor time"
        outcome = await bench.run(
            "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        )
        assert "SIGKILL" in outcome["error"]["message"]
        await trivial(bench, [])


def _recorder(record_property: Any) -> Any:
    def note(name: str, figure: str) -> None:
        record_property(name, figure)
        print(f"{name:>40}: {figure}")

    return note
