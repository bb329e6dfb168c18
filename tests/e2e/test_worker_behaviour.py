"""Programs that end, fake, flood or outlive their worker: each costs its own task only, and nothing of it is left."""

# ruff: noqa: E501 - tables of programs, one line each

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from msgspec import Raw

from tests.runner_kit import Bench, running
from trio_runner.executor import Executor
from trio_runner.pool import Pool
from trio_runner.protocol.messages import TaskDone, TaskError, TaskSettings
from trio_runner.sandbox.policy import ALL, Confinement, Policy

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]

SLOTS = 3
OPEN = {
    "N8N_RUNNERS_STDLIB_ALLOW": "*",
    "N8N_RUNNERS_EXTERNAL_ALLOW": "*",
    "N8N_RUNNERS_BUILTINS_DENY": "",
    "N8N_RUNNERS_MAX_CONCURRENCY": str(SLOTS),
    "N8N_RUNNERS_TASK_TIMEOUT": "30",
    "N8N_RUNNERS_SANDBOX": "strict",
}
UNCONFINED = {**OPEN, "N8N_RUNNERS_SANDBOX": "off"}


class Tag:
    """Marks every process of one runner.

    A zygote's command line holds ``sys.path``, and its workers share it; everybody may read it. What a worker executes
    has another one, but inherits TZ, the one variable that reaches all of them.
    """

    def __init__(self) -> None:
        self.mark = secrets.token_hex(8)
        self.environment = {"TZ": f"<{self.mark}>0"}
        sys.path.append(f"/{self.mark}")

    def processes(self) -> set[int]:
        """Whatever of this runner is alive: its zygote, its workers, and what they left behind."""
        return {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._is_on(entry)}

    def _is_on(self, entry: Path) -> bool:
        for file in ("cmdline", "environ"):
            with suppress(OSError):
                if self.mark.encode() in (entry / file).read_bytes():
                    return True
        return False

    def remove(self) -> None:
        """No more processes will bear it."""
        sys.path.remove(f"/{self.mark}")


async def until(condition: Callable[[], bool], within: float = 10.0) -> None:
    """Waits for processes to come and go."""
    with trio.fail_after(within):
        while not condition():  # noqa: ASYNC110 - /proc tells nobody
            await trio.sleep(0.01)


@asynccontextmanager
async def tagged(environ: dict[str, str], slots: int = SLOTS) -> AsyncIterator[tuple[Bench, Tag]]:
    """A runner whose processes can be found. At the end there are none, and before it just those that should be."""
    tag = Tag()
    async with running({**environ, "N8N_RUNNERS_MAX_CONCURRENCY": str(slots)}, environment=tag.environment) as bench:
        yield bench, tag
        await until(lambda: bench.runner.pool.idle == slots and len(tag.processes()) == slots + 1)
    await until(lambda: not tag.processes())
    tag.remove()


def problems(outcome: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What is wrong with an outcome. Expected are keys of the error, or ``result``; texts may be a beginning."""
    if expected is ANYTHING:
        return []
    if "result" in expected or "result" in outcome:
        return [] if outcome.get("result", ...) == expected.get("result", ...) else [f"{str(outcome)[:500]}"]
    error = outcome["error"]
    return [
        f"{key} is {str(error.get(key))[:500]!r}"
        for key, value in expected.items()
        if error.get(key) != value and not (isinstance(value, str) and str(error.get(key)).startswith(value))
    ]


ANYTHING: dict[str, Any] = {}
"""Whether such a program still gets its result is its own business."""


async def bystander(bench: Bench, found: list[str], name: str) -> None:
    """Tasks of other people, meanwhile."""
    for number in range(2):
        outcome = await bench.run(f"print({number})\nreturn [_items, {number}]", [{"json": {"who": name}}])
        if outcome != {"result": [[{"json": {"who": name}}], number], "logs": [[str(number)]]}:
            found.append(f"a bystander of {name} got {str(outcome)[:300]}")


def without_settings(expected: dict[str, Any]) -> dict[str, Any]:
    """The part that is about the outcome."""
    return {key: value for key, value in expected.items() if key != "settings"} if expected else expected


async def survive(bench: Bench, tag: Tag, programs: Mapping[str, tuple[str, dict[str, Any]]]) -> list[str]:
    """Runs each program next to harmless ones, and says what was not as it should be.

    After each the pool is full again and there is no process but the zygote and the workers that wait.
    """
    found: list[str] = []
    for name, (code, expected) in programs.items():
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bystander, bench, found, name)
                outcome = await bench.run(code, **expected.get("settings", {}))
        found += [f"{name}: {problem}" for problem in problems(outcome, without_settings(expected))]
        await until(lambda: bench.runner.pool.idle == SLOTS and len(tag.processes()) == SLOTS + 1)
    return found


# not os.closerange: where close_range is refused, the C library may abort instead
CLOSE = "import os\nfor fd in range(300):\n    try: os.close(fd)\n    except OSError: pass\n"
ENDED = "The program ended its own process instead of returning a result."
NO_RESULT = "Process completed but returned no result."

DEATHS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"exit code {code}": (
            f"import os\nos._exit({code})",
            {"message": f"Task subprocess exited with code {code}", "description": ENDED},
        )
        for code in (1, 3, 70, 255)
    },
    "exit code 0": ("import os\nos._exit(0)", {"message": "Failed to read result from child process", "description": ENDED}),
    **{
        f"signal {number}": (
            f"import os\nos.kill(os.getpid(), {number})\nreturn 1",
            {"message": f"Task subprocess exited with code -{number}"},
        )
        for number in (1, 6, 10, 14, 15, 40)
    },
    "SIGKILL": ("import os\nos.kill(os.getpid(), 9)", {"message": "Process was forcefully killed (SIGKILL)"}),
    "SIGINT": ("import os\nos.kill(os.getpid(), 2)\nreturn 1", {"message": "KeyboardInterrupt"}),
    "a crash of the interpreter": ("import ctypes\nctypes.string_at(0)", {"message": "Task subprocess exited with code -11"}),
    "abort": ("import os\nos.abort()", {"message": "Task subprocess exited with code -6"}),
    "sys.exit": ("import sys\nsys.exit('bye')", {"message": "Process exited with code bye"}),
    "sys.exit in a thread": ("import sys, threading\nt = threading.Thread(target=sys.exit)\nt.start(); t.join()\nreturn 1", {"result": 1}),
    "all files closed": (CLOSE + "return 1", {"message": "Task subprocess exited with code 70"}),
    "all files closed, then an error": (CLOSE + "1/0", {"message": "Task subprocess exited with code 70"}),
    "an error in __del__": ("class A:\n    def __del__(self): 1/0\nx = A()\nA()\nreturn 1", {"result": 1}),
    "an exit handler": ("import atexit, os\natexit.register(os._exit, 3)\nreturn 1", {"result": 1}),
    "threads that go on": (
        "import threading, time\ndef spin():\n    while True: len([*range(1000)])\n"
        "for _ in range(4): threading.Thread(target=spin).start()\nthreading.Thread(target=time.sleep, args=(1000,)).start()\nreturn 1",
        {"result": 1},
    ),
    "a trace function": ("import sys, os\nsys.settrace(lambda *a: os._exit(5))\ndef f(): pass\nf()", {"message": "Task subprocess exited with code 5"}),
    "a profile function": ("import sys\nsys.setprofile(lambda *a: 1/0)\nreturn 1", {"message": "division by zero"}),
    "no recursion left": ("import sys\nsys.setrecursionlimit(70)\nreturn [1]", {"result": [1]}),
    "no stack left": (
        "import sys, threading\nsys.setrecursionlimit(10**9)\n"
        "class A:\n    def __getattr__(self, n): return getattr(self, n + 'x')\nrepr(A().y)",
        ANYTHING,
    ),
    "modules taken apart": ("import sys, json, datetime\nsys.modules.clear()\njson.__dict__.clear()\nreturn {1, 2}", {"result": "{1, 2}"}),
    "the language taken apart": ("import builtins, os\nbuiltins.__dict__.pop('len')\nos.__dict__.clear()\nreturn {1}", {"message": "Task subprocess exited with code"}),
    "stdout replaced": ("import sys\nsys.stdout = sys.stderr = None\nprint('a')\nreturn 1", {"result": 1}),
    "stdout closed": ("import sys\nsys.stdout.close(); sys.stderr.close()\nprint('a')\nreturn 1", {"result": 1}),
}  # fmt: skip

TALK = """
import os, stat, struct
def own():
    for fd in range(3, 256):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode): return fd
        except OSError: pass
fd = own()
def raw(data):
    while data: data = data[os.write(fd, data):]
def frame(kind, data, length=None): raw(struct.pack('<BI', kind, len(data) if length is None else length) + data)
"""
"""Finds the worker's own socket and speaks for it."""

FORGED: dict[str, tuple[str, dict[str, Any]]] = {
    "an unknown kind": ("frame(99, b'x')\nreturn 1", {"message": NO_RESULT, "description": "The worker process sent"}),
    "a kind that the runner sends": ("frame(2, b'x')\nreturn 1", {"message": NO_RESULT}),
    "a length beyond the limit": ("frame(17, b'x', 2**32 - 1)\nreturn 1", {"message": NO_RESULT}),
    "noise": ("raw(bytes(range(256)) * 100)\nreturn 1", {"message": NO_RESULT}),
    "noise without end": ("while True: raw(os.urandom(65536))", {"message": NO_RESULT}),
    "half a frame": ("frame(18, b'12', 100)\nos._exit(0)", {"message": "Failed to read result from child process"}),
    "half a header": ("raw(b'\\x12\\0')\nos._exit(4)", {"message": "Task subprocess exited with code 4"}),
    "a verdict": ("frame(16, b'junk')\nreturn 1", {"message": NO_RESULT}),
    "a verdict that fits": ("frame(16, b'\\x82\\xa4code\\xc4\\0\\xa7failure\\xc0')\nreturn 1", {"message": NO_RESULT}),
    "many verdicts": ("for _ in range(5_000): frame(16, b'')\nreturn 1", ANYTHING),
    "a result of another shape": ("frame(18, b'{\"a\": [1, \"x\"]}')\nreturn 1", {"result": {"a": [1, "x"]}}),
    "a result without spaces": ("frame(18, b'7')\nos._exit(9)", {"result": 7}),
    "two results": ("frame(18, b'1')\nframe(18, b'2')\nreturn 3", {"result": 1}),
    "a result that closes the message": ("frame(18, b'[]},\"taskId\":\"x\"')\nreturn 1", {"message": NO_RESULT}),
    "a result and a message behind it": ("frame(18, b'1}}\\n{\"type\":\"x\"}')\nreturn 1", {"message": NO_RESULT}),
    "two values": ("frame(18, b'1 2')\nreturn 1", {"message": NO_RESULT}),
    "an empty result": ("frame(18, b'')\nreturn 1", {"message": NO_RESULT}),
    "NaN": ("frame(18, b'[NaN]')\nreturn 1", {"message": NO_RESULT}),
    "a result that is no UTF-8": ("frame(18, b'\"\\xff\"')\nreturn 1", {"message": NO_RESULT}),
    "a result that is nested deeply": ("frame(18, b'[' * 100_000 + b']' * 100_000)\nreturn 1", {"message": NO_RESULT}),
    "a result that is not closed": ("frame(18, b'[' * 100_000)\nreturn 1", {"message": NO_RESULT}),
    "a failure that is junk": ("frame(19, b'junk')\nreturn 1", {"message": NO_RESULT}),
    "a failure of other types": ("frame(19, b'\\x81\\xa7message\\x05')\nreturn 1", {"message": NO_RESULT}),
    "a failure without a message": ("frame(19, b'\\x80')\nreturn 1", {"message": NO_RESULT}),
    "a failure with a text that is no UTF-8": ("frame(19, b'\\x81\\xa7message\\xa1\\xff')\nreturn 1", {"message": NO_RESULT}),
    "a failure of an unknown kind": ("frame(19, b'\\x82\\xa7message\\xa1m\\xa4kind\\xa1x')\nreturn 1", {"message": NO_RESULT}),
    "a failure with a huge line": (
        "frame(19, b'\\x82\\xa7message\\xa1m\\xa4line\\xcf' + b'\\xff' * 8)\nreturn 1",
        {"message": "m", "lineNumber": 2**64 - 1},
    ),
    "a failure of eight million letters": (
        "frame(19, b'\\x81\\xa7message\\xdb' + struct.pack('>I', 8_000_000) + b'm' * 8_000_000)\nreturn 1",
        {"message": "m" * 10_000},
    ),
    "a failure with line ends": ("frame(19, b'\\x81\\xa7message\\xa3a\\nb')\nreturn 1", {"message": "a\nb"}),
    "a failure before the start": (
        "frame(19, b'\\x82\\xa7message\\xa1m\\xacbefore_start\\xc3')\nreturn 1",
        {"message": "m", "settings": {"continueOnFail": True}},
    ),
    "a print that is junk": ("frame(17, b'junk')\nreturn 1", {"message": NO_RESULT}),
    "a print of other types": ("frame(17, b'[1]')\nreturn 1", {"message": NO_RESULT}),
    "a print that is no array": ("frame(17, b'{}')\nreturn 1", {"message": NO_RESULT}),
    "a print with half a pair": ("frame(17, b'[\"\\\\ud800\"]')\nreturn 1", {"message": NO_RESULT}),
    "a print nested deeply": ("frame(17, b'[' * 100_000)\nreturn 1", {"message": NO_RESULT}),
    "a print of eight million letters": ("frame(17, b'[\"' + b'p' * 8_000_000 + b'\"]')\nreturn 1", ANYTHING),
    "more prints than there can be": ("for _ in range(10_000): frame(17, b'[]')\nreturn 1", ANYTHING),
    "a result beyond the limit": ("frame(18, b'[]' + b' ' * 20_000_000)\nreturn 1", {"message": NO_RESULT}),
    "half a frame, then the answer": ("frame(18, b'[\"', 100)\nprint('x' * 200)\nreturn 1", {"message": NO_RESULT}),
    "half a frame, then too little": ("frame(18, b'[\"', 100)\nreturn 1", {"message": "Failed to read result from child process"}),
}  # fmt: skip

FLOODS: dict[str, tuple[str, dict[str, Any]]] = {
    "prints": ("for n in range(100_000): print(n)\nreturn 1", {"result": 1}),
    "long prints": ("for n in range(20): print('x' * 2_000_000)\nreturn 1", {"result": 1}),
    "a long line in pieces": ("for n in range(50_000): print('x', end='')\nreturn 1", {"result": 1}),
    "stderr": ("import sys\nfor n in range(20_000): sys.stderr.write('x' * 1000)\nreturn 1", {"result": 1}),
    "a result beyond the limit": (
        "return 'x' * 50_000_000",
        {"message": "The result is too large: 50000002 bytes of JSON, and n8n takes at most"},
    ),
    "an error beyond the limit": ("raise ValueError('e' * 50_000_000)", {"message": "e" * 50_000}),
    "a violation of many lines": ("return [" + "1," * 100_000 + "]", {"result": [1] * 100_000}),
}


async def test_a_worker_that_dies_costs_its_own_task_only() -> None:
    async with tagged(OPEN) as (bench, tag):
        assert await survive(bench, tag, DEATHS) == []
        assert bench.runner.pool.restarts == 0


async def test_what_a_worker_forges_costs_its_own_task_only() -> None:
    programs = {name: (TALK + code, expected) for name, (code, expected) in FORGED.items()}
    async with tagged({**OPEN, "N8N_RUNNERS_MAX_PAYLOAD": "10000000"}) as (bench, tag):
        assert await survive(bench, tag, programs) == []
        assert bench.runner.pool.restarts == 0


async def test_floods_are_cut_and_cost_their_own_task_only() -> None:
    async with tagged({**OPEN, "N8N_RUNNERS_MAX_PAYLOAD": "10000000"}) as (bench, tag):
        assert await survive(bench, tag, FLOODS) == []
        outcome = await bench.run("for n in range(1_000): print(n)\nreturn 1")
        assert len(outcome["logs"]) == 101
        big = await bench.run("return 'x' * 5_000_000")
        assert len(big["result"]) == 5_000_000


LINGER = "while True:\n    time.sleep(1000)\n"
IGNORE = "for n in (1, 2, 13, 14, 15): signal.signal(n, signal.SIG_IGN)\n"
PROCESSES = "import os, signal, subprocess, sys, time\n"

OUTLIVING: dict[str, tuple[str, dict[str, Any]]] = {
    "a child": ("if os.fork() == 0:\n    while True: time.sleep(1000)\nreturn 1", {"result": 1}),
    "a child that ignores signals": (
        "if os.fork() == 0:\n    for n in (1, 2, 13, 14, 15): signal.signal(n, signal.SIG_IGN)\n    while True: time.sleep(1000)\nreturn 1",
        {"result": 1},
    ),
    "a child that spins": ("if os.fork() == 0:\n    while True: pass\nreturn 1", {"result": 1}),
    "a child with a session of its own": ("if os.fork() == 0:\n    os.setsid()\n    while True: time.sleep(1000)\nreturn 1", {"result": 1}),
    "a child with a group of its own": ("if os.fork() == 0:\n    os.setpgid(0, 0)\n    while True: time.sleep(1000)\nreturn 1", {"result": 1}),
    "a daemon": (
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork(): os._exit(0)\n    while True: time.sleep(1000)\nos.wait()\nreturn 1",
        {"result": 1},
    ),
    "a family": (
        "if os.fork() == 0:\n"
        "    for _ in range(5):\n        if os.fork(): break\n        os.setsid()\n"
        "    while True: time.sleep(1000)\ntime.sleep(0.05)\nreturn 1",
        {"result": 1},
    ),
    "a program": ("subprocess.Popen(['sleep', '1000'], start_new_session=True)\nreturn 1", {"result": 1}),
    "a stopped child": ("pid = os.fork()\nif pid == 0:\n    while True: time.sleep(1000)\nos.kill(pid, signal.SIGSTOP)\nreturn 1", {"result": 1}),
    "a child, and an early end": ("if os.fork() == 0:\n    os.setsid()\n    while True: time.sleep(1000)\nos._exit(3)", {"message": "Task subprocess exited with code 3"}),
    "a child, and a crash": ("if os.fork() == 0:\n    os.setsid()\n    while True: time.sleep(1000)\nos.abort()", {"message": "Task subprocess exited with code -6"}),
    "a child, and an error": ("if os.fork() == 0:\n    os.setsid()\n    while True: time.sleep(1000)\n1/0", {"message": "division by zero"}),
    "a child that answers as well": ("os.fork()\nreturn 1", {"result": 1}),
    "a child that fails as well": ("if os.fork() == 0: time.sleep(0.05); 1/0\nos.wait()\nreturn 2", {"message": "division by zero"}),
    "a child that answers instead": ("if os.fork() == 0: return 5\ntime.sleep(1000)", {"result": 5}),
    "many children": ("for _ in range(20):\n    if os.fork() == 0:\n        os.setsid()\n        while True: time.sleep(1000)\nreturn 1", {"result": 1}),
}  # fmt: skip


async def test_whatever_a_program_starts_is_gone_with_it_even_without_confinement() -> None:
    async with tagged(UNCONFINED) as (bench, tag):
        programs = {name: (PROCESSES + code, expected) for name, (code, expected) in OUTLIVING.items()}
        assert await survive(bench, tag, programs) == []
        assert bench.runner.pool.restarts == 0


async def test_a_program_that_nothing_marks_is_gone_too() -> None:
    sleeper = "[sys.executable, '-c', 'import time; time.sleep(1000)']"
    async with tagged(UNCONFINED) as (bench, tag):
        outcome = await bench.run(
            PROCESSES + f"return subprocess.Popen({sleeper}, env={{}}, start_new_session=True).pid"
        )
        assert outcome["result"] not in tag.processes()
        await until(lambda: not Path(f"/proc/{outcome['result']}").exists())


STUCK: dict[str, str] = {
    "a loop": "while True: pass",
    "a sleep": "time.sleep(1000)",
    "a loop that catches everything": "while True:\n    try: time.sleep(1000)\n    except BaseException: pass",
    "a program that ignores signals": IGNORE + LINGER,
    "a stopped process": "os.kill(os.getpid(), signal.SIGSTOP)",
    "a lock held by C": "import re\nre.match('(a*)*$', 'a' * 40 + 'b')",
    "a result that takes for ever": "class A:\n    def __str__(self):\n        while True: pass\nreturn A()",
    "an error that takes for ever": "class A(Exception):\n    def __str__(self):\n        while True: pass\nraise A",
    "a print that takes for ever": "class A:\n    def __repr__(self):\n        while True: pass\nprint([A()])",
    "a result without end": "class A(dict):\n    def items(self):\n        while True: yield 'a', 1\nreturn A(a=1)",
    "files closed and on it goes": CLOSE + LINGER,
    "half a frame and no more": TALK + "raw(b'\\x12\\x64\\0\\0\\0abc')\n" + LINGER,
    "a child that spins as well": "os.fork()\nwhile True: pass",
    "children of their own": "for _ in range(3):\n    if os.fork() == 0: os.setsid()\n" + LINGER,
    "a thread that spins": "import threading\nt = threading.Thread(target=lambda: [0 for _ in iter(int, 1)])\nt.start(); t.join()",
}


async def test_a_program_that_does_not_end_is_ended_with_all_that_it_started() -> None:
    environ = {**UNCONFINED, "N8N_RUNNERS_TASK_TIMEOUT": "1"}
    outcomes: dict[str, Any] = {}
    async with tagged(environ, slots=len(STUCK) + 1) as (bench, tag):

        async def run(name: str, code: str) -> None:
            outcomes[name] = await bench.run(PROCESSES + code)

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for name, code in STUCK.items():
                    nursery.start_soon(run, name, code)
        wrong = {
            name: o
            for name, o in outcomes.items()
            if problems(o, {"message": "Task execution timed out after 1 second"})
        }
        assert wrong == {}
        await until(lambda: len(tag.processes()) == len(STUCK) + 2)
        assert (await bench.run("return 1"))["result"] == 1


async def test_a_cancelled_task_is_gone_with_all_that_it_started() -> None:
    async with tagged(UNCONFINED) as (bench, tag):
        with trio.move_on_after(0.3):
            await bench.run(PROCESSES + "os.fork()\nos.setsid() if os.getpid() != os.getsid(0) else 0\n" + LINGER)
        await until(lambda: len(tag.processes()) == SLOTS + 1)
        assert (await bench.run("return 1"))["result"] == 1


async def test_confined_programs_reach_neither_the_zygote_nor_each_other() -> None:
    refused = {"message": "[Errno 1] Operation not permitted"}
    programs = {
        "killing the zygote": ("import os\nos.kill(os.getppid(), 9)\nreturn 1", refused),
        "stopping the zygote": ("import os\nos.kill(os.getppid(), 19)\nreturn 1", refused),
        "killing everybody": ("import os\nos.kill(-1, 9)\nreturn 1", refused),
        "a process": ("import os\nos.fork()\nreturn 1", refused),
        "a program": ("import os\nos.execv('/bin/true', ['true'])\nreturn 1", {"message": "[Errno"}),
    }
    async with tagged(OPEN) as (bench, tag):
        assert await survive(bench, tag, programs) == []
        assert bench.runner.pool.restarts == 0


# The environment

SECRETS = {
    "N8N_RUNNERS_AUTH_TOKEN": "secret-1",
    "N8N_RUNNERS_GRANT_TOKEN": "secret-2",
    "N8N_RUNNERS_AUTH_TOKEN_FILE": "/run/secret-3",
    "N8N_SENTRY_DSN": "https://secret-4@sentry",
    "MINE": "to be seen",
}
LOOK = """
import os
def read(who):
    try:
        with open(f'/proc/{who}/environ', 'rb') as f: return f.read().decode('latin-1')
    except OSError as e: return ''
return [dict(os.environ), read('self'), read(os.getppid())]
"""


@pytest.mark.parametrize("sandbox", ["strict", "off"])
async def test_the_environment_is_empty_by_default_also_for_those_who_look_into_proc(sandbox: str) -> None:
    async with running({**OPEN, "N8N_RUNNERS_SANDBOX": sandbox}, environment=SECRETS) as bench:
        environment, own, parent = (await bench.run(LOOK))["result"]
    assert environment == {}
    for text in (own, parent):
        assert "secret" not in text
        assert "MINE" not in text
    assert bool(own) is (sandbox == "off")


@pytest.mark.parametrize("sandbox", ["strict", "off"])
async def test_an_environment_that_may_be_seen_is_without_secrets(sandbox: str) -> None:
    environ = {**OPEN, "N8N_RUNNERS_SANDBOX": sandbox, "N8N_BLOCK_RUNNER_ENV_ACCESS": "false"}
    async with running(environ, environment=SECRETS) as bench:
        environment, own, parent = (await bench.run(LOOK))["result"]
    assert environment["MINE"] == "to be seen"
    assert not {name for name in environment if name.startswith("N8N_RUNNERS_") or "SENTRY" in name}
    for text in (own, parent):
        assert "secret" not in text
        assert ("MINE=to be seen" in text) is (sandbox == "off")


# The zygote


@pytest.mark.parametrize("environ", [OPEN, UNCONFINED], ids=["strict", "off"])
async def test_a_zygote_that_is_killed_costs_the_tasks_of_its_workers_and_is_replaced(environ: dict[str, str]) -> None:
    async with tagged(environ) as (bench, tag):
        outcomes: list[dict[str, Any]] = []

        programs = ("import time\ntime.sleep(_items[0])", "while _items[0]: pass")

        async def run(code: str) -> None:
            outcomes.append(await bench.run(code, [1000]))

        for code in programs:  # so that the kill does not come while they are still being checked
            assert (await bench.run(code, [0]))["result"] is None
        await until(lambda: bench.runner.pool.idle == SLOTS)
        before = bench.runner.pool.zygote_pid
        with trio.fail_after(15):
            async with trio.open_nursery() as nursery:
                for code in programs:
                    nursery.start_soon(run, code)
                await until(lambda: bench.runner.pool.idle == SLOTS - 2)
                assert before is not None
                os.kill(before, signal.SIGKILL)
        for outcome in outcomes:
            error = outcome["error"]
            assert error["message"] == "Task subprocess exited with code -1"
            assert "runner replaces its workers" in error["description"]
        with trio.fail_after(15):
            assert (await bench.run("return 1"))["result"] == 1
        assert bench.runner.pool.restarts == 1
        assert bench.runner.pool.zygote_pid not in (None, before)
        await until(lambda: before not in tag.processes())


async def test_a_zygote_that_is_asked_to_end_by_someone_else_goes_on() -> None:
    async with tagged(OPEN) as (bench, _):
        pid = bench.runner.pool.zygote_pid
        assert pid is not None
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            os.kill(pid, number)
        assert (await bench.run("return 1"))["result"] == 1
        assert (bench.runner.pool.zygote_pid, bench.runner.pool.restarts) == (pid, 0)


# Systems that have nothing but POSIX


class Portable:
    """A pool in portable mode and what runs tasks on it."""

    def __init__(self, pool: Pool, executor: Executor, tag: Tag) -> None:
        self.pool = pool
        self.executor = executor
        self.tag = tag

    async def run(self, code: str) -> dict[str, Any]:
        """Runs a program and returns ``{"result": …}`` or ``{"error": …}``."""
        settings = TaskSettings(code=code, node_mode="runOnceForAllItems", items=Raw(b"[1]"))
        message = await self.executor.run("t", settings, lambda _: None)
        if isinstance(message, TaskDone):
            assert isinstance(message.data, msgspec.Struct)
            return {"result": msgspec.json.decode(message.data.result)}  # type: ignore[arg-type]
        assert isinstance(message, TaskError)
        return {"error": msgspec.json.decode(message.error)}


@asynccontextmanager
async def portable(seconds: float = 20.0) -> AsyncIterator[Portable]:
    """Everything but pidfds, prctl, subreapers and confinement. At the end no process is left."""
    tag = Tag()
    policy = Policy(stdlib_allow=frozenset({ALL}), external_allow=frozenset({ALL}), builtins_deny=frozenset())
    pool = Pool(
        policy,
        max_payload=1 << 24,
        idle=SLOTS,
        environment=tag.environment,
        confinement=Confinement(mode="off"),
        portable=True,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        yield Portable(pool, Executor(pool, task_timeout=seconds, max_payload=1 << 24), tag)
        await until(lambda: pool.idle == SLOTS and len(tag.processes()) == SLOTS + 1)
        nursery.cancel_scope.cancel()
    await until(lambda: not tag.processes())
    tag.remove()


class Lines(logging.Handler):
    """What the pool logs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def pool_log() -> Iterator[list[str]]:
    """The pool's log lines, whatever other tests have configured."""
    logger, handler = logging.getLogger("trio_runner"), Lines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel("INFO")
    yield handler.lines
    logger.setLevel(level)
    logger.removeHandler(handler)


async def test_portable_mode_runs_programs_and_says_what_it_lacks() -> None:
    with pool_log() as lines:
        async with portable() as runner:
            assert await runner.run("return [_items, 1]") == {"result": [[1], 1]}
            report = runner.pool.report
            assert report is not None
            assert not report.pidfds
            active = {layer.name for layer in report.layers if layer.status == "active"}
            lacking = {layer.name for layer in report.layers if layer.status == "unavailable"}
    assert {"session", "closed-files", "empty-environment"} <= active
    assert {"parent-death-signal", "no-new-privileges", "seccomp", "landlock-files"} <= lacking
    assert "portable mode" in next(line for line in lines if "parent-death-signal" in line)


async def test_portable_mode_tells_how_a_worker_died() -> None:
    async with portable() as runner:
        for code, message in (
            ("import os\nos._exit(3)", "Task subprocess exited with code 3"),
            ("import os\nos._exit(0)", "Failed to read result from child process"),
            ("import os\nos.kill(os.getpid(), 9)", "Process was forcefully killed (SIGKILL)"),
            ("import os\nos.abort()", "Task subprocess exited with code -6"),
            ("1/0", "division by zero"),
        ):
            assert (await runner.run(code))["error"]["message"] == message


async def test_portable_mode_ends_programs_and_their_groups_when_the_time_is_over() -> None:
    async with portable(seconds=0.7) as runner:
        found: list[str] = []

        async def run(code: str) -> None:
            found.append((await runner.run(PROCESSES + code))["error"]["message"])

        async with trio.open_nursery() as nursery:
            for code in ("while True: pass", IGNORE + "os.fork()\n" + LINGER, "os.kill(os.getpid(), signal.SIGSTOP)"):
                nursery.start_soon(run, code)
        assert found == ["Task execution timed out after 0.7 seconds"] * 3
        await until(lambda: len(runner.tag.processes()) == SLOTS + 1)


async def test_portable_mode_ends_what_a_program_left_in_its_group() -> None:
    async with portable() as runner:
        for end in ("return 1", "os._exit(0)", "1/0"):
            await runner.run(PROCESSES + "for _ in range(3):\n    if os.fork() == 0:\n        while True: pass\n" + end)
        await until(lambda: len(runner.tag.processes()) == SLOTS + 1)


async def test_portable_mode_survives_its_zygote_and_leaves_no_looping_program_behind() -> None:
    async with portable(seconds=1.2) as runner:
        outcomes: dict[str, Any] = {}

        async def run(name: str, code: str) -> None:
            outcomes[name] = await runner.run(code)

        await until(lambda: runner.pool.idle == SLOTS)
        before = runner.pool.zygote_pid
        assert before is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, "short", "import time\ntime.sleep(0.5)\nreturn 1")
            nursery.start_soon(run, "loop", "while True: pass")
            await until(lambda: runner.pool.idle == SLOTS - 2)
            os.kill(before, signal.SIGKILL)
        assert outcomes["short"] == {"result": 1}, "a worker needs its zygote only to be reaped"
        assert outcomes["loop"]["error"]["message"] == "Task execution timed out after 1.2 seconds"
        assert await runner.run("return 2") == {"result": 2}
        assert runner.pool.restarts == 1
