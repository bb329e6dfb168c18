"""Programs that await, and that call from threads, inside the strict sandbox: real children, real HTTP requests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.runner_kit import Bench, running
from tests.shell.shell_kit import read_head, tcp_server

pytestmark = pytest.mark.e2e

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n42"


@asynccontextmanager
async def together(count: int) -> AsyncIterator[str]:
    """A server that answers nobody before ``count`` requests are there at once. Gives its address."""
    waiting = 0
    all_there = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal waiting
        await read_head(stream)
        waiting += 1
        if waiting >= count:
            all_there.set()
        await all_there.wait()
        await stream.send_all(OK)

    async with tcp_server(serve) as port:
        yield f"http://127.0.0.1:{port}/"


@asynccontextmanager
async def bench(*stdlib: str, external: str = "", **environ: str) -> AsyncIterator[Bench]:
    allowed = {"N8N_RUNNERS_STDLIB_ALLOW": ",".join(stdlib), "N8N_RUNNERS_EXTERNAL_ALLOW": external}
    with trio.fail_after(60):
        async with running({**allowed, "N8N_RUNNERS_SANDBOX": "strict", **environ}) as found:
            yield found


def result(done: dict[str, Any]) -> Any:
    assert "error" not in done, done
    return done["result"]


ALL_AT_ONCE = {
    "asyncio": lambda url: (
        "import asyncio\n"
        f"answers = await asyncio.gather(*[_helpers.http_request_async('{url}') for _ in range(10)])\n"
        "return [{'json': {'sum': sum(answers)}}]"
    ),
    "trio": lambda url: (
        "import trio\n"
        "answers = []\n"
        "async def ask():\n"
        f"    answers.append(await _helpers.http_request_async('{url}'))\n"
        "async with trio.open_nursery() as nursery:\n"
        "    for _ in range(10):\n"
        "        nursery.start_soon(ask)\n"
        "return [{'json': {'sum': sum(answers)}}]"
    ),
    "threads": lambda url: (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(10) as pool:\n"
        f"    answers = list(pool.map(_helpers.http_request, ['{url}'] * 10))\n"
        "return [{'json': {'sum': sum(answers)}}]"
    ),
    "asyncio and its threads": lambda url: (
        "import asyncio\n"
        f"waiting = [asyncio.to_thread(_helpers.http_request, '{url}') for _ in range(3)]\n"
        f"waiting += [_helpers.http_request_async('{url}') for _ in range(7)]\n"
        "answers = await asyncio.gather(*waiting)\n"
        "return [{'json': {'sum': sum(answers)}}]"
    ),
}


@pytest.mark.parametrize("program", ALL_AT_ONCE.values(), ids=ALL_AT_ONCE)
async def test_many_calls_are_out_at_once(program: Callable[[str], str]) -> None:
    # a first window of calls grows with each answer: those that open it are let through at once
    async with together(4) as url, bench("asyncio", "concurrent", external="trio") as rig:
        assert result(await rig.run(program(url))) == [{"json": {"sum": 420}}]


async def test_top_level_await_of_a_helper_works_without_any_import() -> None:
    async with together(1) as url, bench() as rig:
        done = await rig.run(f"return [{{'json': {{'n': await _helpers.http_request_async('{url}')}}}}]")
        assert result(done) == [{"json": {"n": 42}}]
        each = f"return {{'n': _item['json']['n'] + await _helpers.http_request_async('{url}')}}"
        done = await rig.run(each, [{"json": {"n": 1}}, {"json": {"n": 2}}], nodeMode="runOnceForEachItem")
        assert [item["json"] for item in result(done)] == [{"n": 43}, {"n": 44}]


async def test_the_loop_goes_on_while_an_answer_is_waited_for() -> None:
    ticking = (
        "import asyncio\nticks = []\n"
        "async def tick():\n"
        "    while True:\n        ticks.append(1)\n        await asyncio.sleep(0.001)\n"
        "ticker = asyncio.create_task(tick())\n"
        "{call}\n"
        "return [{{'json': {{'many': len(ticks) > 20}}}}]"
    )

    async def slow(stream: trio.SocketStream) -> None:
        await read_head(stream)
        await trio.sleep(0.3)
        await stream.send_all(OK)

    async with tcp_server(slow) as port, bench("asyncio") as rig:
        call = f"_helpers.http_request_async('http://127.0.0.1:{port}/')"
        assert result(await rig.run(ticking.format(call=f"await {call}"))) == [{"json": {"many": True}}]


async def test_a_call_that_blocks_does_not_stop_those_that_are_awaited_around_it() -> None:
    program = (
        "import asyncio\n"
        "waiting = asyncio.create_task(_helpers.http_request_async('{url}'))\n"
        "await asyncio.sleep(0)\n"
        "first = _helpers.http_request('{url}')\n"
        "return [{{'json': {{'sum': first + await waiting}}}}]"
    )
    async with together(2) as url, bench("asyncio") as rig:
        assert result(await rig.run(program.format(url=url))) == [{"json": {"sum": 84}}]


@pytest.mark.parametrize(
    "program",
    [
        "import asyncio\ntry:\n    async with asyncio.timeout(0.05):\n        await {slow}\n"
        "except TimeoutError:\n    return [{{'json': {{'then': await {quick}}}}}]",
        "import trio\nwith trio.move_on_after(0.05):\n    await {slow}\nreturn [{{'json': {{'then': await {quick}}}}}]",
    ],
    ids=["asyncio", "trio"],
)
async def test_a_call_can_be_given_up_and_the_next_one_has_its_own_answer(program: str) -> None:
    async with together(99) as never, together(1) as url, bench("asyncio", external="trio") as rig:
        slow, quick = (f"_helpers.http_request_async('{at}')" for at in (never, url))
        assert result(await rig.run(program.format(slow=slow, quick=quick))) == [{"json": {"then": 42}}]


async def test_a_loop_of_the_programs_own_works_in_the_sandbox() -> None:
    async with bench("asyncio") as rig:
        own = "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 7\n"
        assert result(await rig.run(f"{own}return [{{'json': {{'n': asyncio.run(f())}}}}]")) == [{"json": {"n": 7}}]
