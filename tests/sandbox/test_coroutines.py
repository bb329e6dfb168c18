"""Programs that await: which of them become coroutines, under what they run, and what comes of them."""

from __future__ import annotations

import ast
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests.sandbox.program_kit import OPEN, refusal, run
from trio_runner.sandbox import coroutines
from trio_runner.sandbox.compiling import examine, user_function
from trio_runner.sandbox.policy import Policy

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    "source",
    [
        "await f()",
        "return [await f() for _ in '12']",
        "return [x async for x in f()]",
        "if True:\n    async with f() as g:\n        pass",
        "async for x in f():\n    pass",
        "x = lambda y=1: y\nawait x",
        "@(await f())\ndef g(): pass",
    ],
)
def test_an_await_of_the_program_itself_makes_it_a_coroutine(source: str) -> None:
    assert coroutines.awaits(ast.parse(source).body)


@pytest.mark.parametrize(
    "source",
    [
        "return 1",
        "async def f():\n    await g()\nreturn 1",
        "def f():\n    async def g():\n        async with h():\n            await i()",
        "class A:\n    async def f(self):\n        await self.g()",
        "return [x for x in y]",
        "awaited = 'async'\nreturn awaited",
    ],
)
def test_awaits_inside_functions_do_not(source: str) -> None:
    assert not coroutines.awaits(ast.parse(source).body)


@pytest.mark.parametrize(
    ("source", "loop"),
    [
        ("return 1", ""),
        ("import trio\nreturn 'async'", ""),
        ("await f()", "none"),
        ("import json\nawait f()", "none"),
        ("async def f(): pass", "none"),
        ("return [x async for x in y]", "none"),
        ("import asyncio\nawait f()", "asyncio"),
        ("await f()\ndef g():\n    from asyncio.queues import Queue", "asyncio"),
        ("import httpx\nawait f()", "asyncio"),
        ("import trio\nawait f()", "trio"),
        ("from trio.lowlevel import checkpoint\nawait f()", "trio"),
        ("import trio, httpx\nawait f()", "trio"),
        ("import trio, asyncio\nawait f()", "asyncio"),
    ],
)
def test_the_loop_is_the_one_that_the_program_imports(source: str, loop: str) -> None:
    assert coroutines.loop_of(source, ast.parse(source)) == loop
    assert examine(source, False, OPEN).loop == loop


def test_a_program_that_awaits_nothing_is_the_plain_function_that_it_was() -> None:
    import marshal

    code = user_function(marshal.loads(examine("return _items", False, OPEN).code))
    assert not code.co_flags & 0x80


LOOPS = {"none": "", "asyncio": "import asyncio\n", "trio": "import trio\n"}


@pytest.mark.parametrize("imports", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize(
    ("source", "result"),
    [
        ("async def f(n):\n    return n + 1\nreturn await f(1)", 2),
        ("async def f():\n    return [{'json': {}}]\nreturn f()", [{"json": {}}]),
        ("async def f():\n    yield 1\n    yield 2\nreturn [n async for n in f()]", [1, 2]),
        ("async def f():\n    return 3\nyield await f()\nyield 4", [3, 4]),
        ("async def f(): pass\nreturn 5", 5),
    ],
)
def test_what_a_coroutine_returns_is_what_the_program_returns(imports: str, source: str, result: object) -> None:
    assert run(imports + source, items=[]) == result


def test_the_items_are_there_in_a_coroutine_and_one_may_be_assigned_to_their_name() -> None:
    source = "async def f(x):\n    return x\n_items = await f(_items + [2])\nreturn _items"
    assert run(source, items=[1]) == [1, 2]
    assert run("async def f(x):\n    return x\nreturn await f(_item)", item={"json": 1}) == {"json": 1}


def test_tasks_run_at_once_under_asyncio_and_trio() -> None:
    together = "import asyncio\nasync def f(n):\n    await asyncio.sleep(0)\n    return n\n"
    assert run(together + "return await asyncio.gather(f(1), f(2))") == [1, 2]
    nursery = "import trio\nfound = []\nasync def f(n):\n    await trio.sleep(0)\n    found.append(n)\n"
    nursery += "async with trio.open_nursery() as nursery:\n    nursery.start_soon(f, 1)\nreturn found"
    assert run(nursery) == [1]


@pytest.mark.parametrize("imports", LOOPS.values(), ids=LOOPS)
def test_an_exception_comes_out_as_it_was_raised(imports: str) -> None:
    with pytest.raises(KeyError, match="x"):
        run(imports + "async def f():\n    raise KeyError('x')\nawait f()")


def test_what_waits_for_more_than_answers_is_told_to_import_a_loop() -> None:
    source = "class W:\n    def __await__(self):\n        yield 7\n"
    with pytest.raises(RuntimeError, match="could wait for int: import asyncio"):
        run(source + "await W()")
    stubborn = source + "try:\n    await W()\nexcept RuntimeError:\n    await W()"
    with pytest.raises(RuntimeError, match="goes on waiting"):
        run(stubborn)
    assert run("class W:\n    def __await__(self):\n        yield\n        return 1\nreturn await W()") == 1


def test_an_await_in_a_function_that_is_none_of_a_coroutine_is_a_syntax_error() -> None:
    for source in ("def f(): await x", "x = lambda: await y", "class A:\n    await x"):
        failure = refusal(source, OPEN)
        assert failure is not None
        assert failure.kind == "syntax"


def test_a_program_without_a_loop_loads_none() -> None:
    program = (
        "import sys; from tests.sandbox.program_kit import run; "
        "before = set(sys.modules); "
        "run('async def f(): return 1\\nreturn await f()'); "
        "print({'asyncio', 'trio'} & (set(sys.modules) - before))"
    )
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.stdout == "set()\n", ran.stderr


def test_rules_hold_inside_coroutines() -> None:
    failure = refusal("async def f():\n    import os\nawait f()", Policy())
    assert failure is not None
    assert failure.kind == "violation"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run("async def f(): return '{}'.format(1)\nreturn await f()", Policy()) == "1"
