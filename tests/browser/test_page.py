"""The status page in a real browser: what people see, on which screens, and what the page may do."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from itertools import product
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from tests.browser.chromium import BINARY, Browser, Page, chromium, connected
from tests.shell.test_health import free_port
from tests.shell.test_status import BROKER, READY, World, a_task, over
from trio_runner.config import HealthConfig
from trio_runner.counters import Counters
from trio_runner.health import serve_health
from trio_runner.sandbox.records import Layer
from trio_runner.statuspage import StatusPage

pytestmark = [pytest.mark.browser, pytest.mark.skipif(BINARY is None, reason="there is no Chromium here")]

EVIL = "<img src=x onerror='window.evil=1'><script>window.evil=2</script>"


@pytest.fixture(scope="module")
def chromium_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One browser for all tests; each has tabs of its own."""
    with chromium(tmp_path_factory.mktemp("profile")) as url:
        yield url


class Shown:
    """A world, its page, and a browser that looks at it."""

    def __init__(self, world: World, browser: Browser, port: int, nursery: trio.Nursery) -> None:
        self.world = world
        self._browser = browser
        self._port = port
        self._nursery = nursery
        self._runner = trio.CancelScope()
        self.status = StatusPage(world.board.snapshot)

    async def serve(self) -> None:
        """The runner answers from now on."""

        async def run(task_status: trio.TaskStatus[None]) -> None:
            with trio.CancelScope() as self._runner:
                config = HealthConfig(host="127.0.0.1", port=self._port, status_page=True)
                await serve_health(config, lambda: READY, Counters(), self.status.answer, task_status=task_status)

        await self._nursery.start(run)

    def vanish(self) -> None:
        """The runner is gone."""
        self._runner.cancel()

    async def open(self, **look: Any) -> Page:
        """The page as soon as there is something on it."""
        page = await self._browser.open(f"http://localhost:{self._port}/", **look)
        await page.until("document.body.dataset.drawn")
        return page


@contextlib.asynccontextmanager
async def showing(world: World, chromium_url: str) -> AsyncIterator[Shown]:
    with trio.fail_after(60):
        async with connected(chromium_url) as browser, trio.open_nursery() as nursery:
            shown = Shown(world, browser, free_port(), nursery)
            await shown.serve()
            yield shown
            nursery.cancel_scope.cancel()


def in_trouble() -> World:
    """A world with something of everything."""
    world = World()
    lost = replace(BROKER, broker="worker-2:5679", connected=False, registered=False, last_error="Connection refused")
    slow = a_task(workflow="Slow one", accepted_at=940.0)
    slow.leased_at = 940.0
    world.running = [slow, a_task(workflow=EVIL, node=EVIL)]
    world.state = replace(READY, brokers=[BROKER, lost], tasks=3)
    world.layers = [Layer("seccomp", "active"), Layer("uid", "unavailable", "not running as root")]
    for number in range(12):
        world.ended(over(1001.0 + number / 10, "error", reason=f"{EVIL} {number}"))
    for number in range(7):
        world.ended(over(1003.0 + number))
    world.now = 1010.0
    return world


async def brightness(page: Page, name: str) -> int:
    """The sum of red, green and blue."""
    colour = await page.evaluate(f"getComputedStyle(document.body).{name}")
    return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(",")))


async def test_people_see_brokers_slots_tasks_failures_and_layers(chromium_url: str) -> None:
    async with showing(in_trouble(), chromium_url) as shown:
        page = await shown.open()
        everything = await page.text("body")
        for part in (
            *(
                "Ready",
                "1.2.3 on host, process 7",
                "3 of 5 taken",
                "worker-2:5679",
                "not connected",
                "Connection refused",
            ),
            *("Slow one › Code", "1 min 10 s", "runs, limit 1 min 0 s", "waits for a worker"),
            *("1 accepted, waiting for code and data from n8n", "1 of 2 layers", "uid: not running as root"),
        ):
            assert part in everything, everything
        assert await page.evaluate("document.title") == "Ready · trio_runner"
        assert await page.evaluate("document.querySelectorAll('#bar .on').length") == 3
        assert await page.evaluate("document.querySelectorAll('#rates .fails').length") == 2, (
            "two seconds with failures"
        )
        assert await page.evaluate("document.querySelector('#times .line:not(.thin)').getTotalLength()") > 5


async def test_the_failures_beyond_the_first_ten_are_there_when_they_are_asked_for(chromium_url: str) -> None:
    async with showing(in_trouble(), chromium_url) as shown:
        page = await shown.open()
        assert await page.evaluate("document.querySelectorAll('#failures tr').length") == 10
        assert await page.text("#failures-all") == "Show all 12"
        await page.evaluate("document.querySelector('#failures-all').click()")
        assert await page.evaluate("document.querySelectorAll('#failures tr').length") == 12
        assert await page.text("#failures-all") == "Show fewer"


async def test_texts_of_workflows_are_texts_and_nothing_comes_from_elsewhere(chromium_url: str) -> None:
    async with showing(in_trouble(), chromium_url) as shown:
        page = await shown.open()
        assert EVIL[:70] in await page.text("#running")
        assert f"{EVIL} 11" in await page.text("#failures")
        assert await page.evaluate("document.querySelectorAll('main img, main script').length") == 0
        assert await page.evaluate("typeof window.evil") == "undefined"
        assert page.complaints == []
        origin = await page.evaluate("location.origin")
        assert [url.removeprefix(origin) for url in page.requested] == ["/", "/status/events"]


async def test_the_policy_would_stop_markup_that_got_in_all_the_same(chromium_url: str) -> None:
    async with showing(World(), chromium_url) as shown:
        page = await shown.open()
        await page.call("Runtime.evaluate", expression=f"document.body.innerHTML = `{EVIL}`")
        await page.call("Runtime.evaluate", expression="document.body.setAttribute('onclick', 'window.evil=3')")
        await page.call("Runtime.evaluate", expression="document.body.click()")
        assert await page.evaluate("typeof window.evil") == "undefined"
        assert ["TrustedHTML" in page.complaints[0], "TrustedScript" in page.complaints[1]] == [True, True]
        await page.call("Runtime.evaluate", expression="fetch('http://192.0.2.1/').catch(() => 0)")
        await page.call("Runtime.evaluate", expression="Object.assign(new Image(), {src: 'http://192.0.2.1/x'})")
        while sum("Content Security Policy" in said for said in page.complaints) < 2:  # noqa: ASYNC110
            await trio.sleep(0.02)  # they come as events


async def test_it_fits_the_screen_and_follows_its_owner_s_taste(chromium_url: str) -> None:
    async with showing(in_trouble(), chromium_url) as shown:
        page = await shown.open()
        for width, dark in product((320, 400, 800, 1400), (False, True)):
            await page.look(width=width, dark=dark)
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
            assert await page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") is dark
            text, back = await brightness(page, "color"), await brightness(page, "backgroundColor")
            assert (text > back) is dark
            assert abs(text - back) > 400, "readable"
            assert (await page.screenshot()).startswith(b"\x89PNG")


async def test_an_idle_runner_without_a_sandbox_says_so(chromium_url: str) -> None:
    world = World(mode="off")
    world.state = replace(READY, ready=False, brokers=[])
    async with showing(world, chromium_url) as shown:
        page = await shown.open()
        everything = await page.text("body")
        for part in ("Not ready: no broker is connected", "0 of 5 taken", "0 tasks/s", "None.", "Off"):
            assert part in everything
        assert "port 5679 in reach?" in await page.text("#advice")
        assert page.complaints == []


async def test_it_follows_the_runner_says_when_that_is_gone_and_comes_back_with_it(chromium_url: str) -> None:
    world = World()
    async with showing(world, chromium_url) as shown:
        page = await shown.open()
        world.state = replace(READY, tasks=4)
        await page.until("document.querySelector('#tasks').textContent === '4'")
        assert not await page.evaluate("document.querySelector('#lost').checkVisibility()")
        shown.vanish()
        await page.until("document.body.classList.contains('stale')")
        assert await page.evaluate("document.querySelector('#lost').checkVisibility()")
        assert "does not answer" in await page.text("#lost")
        assert await page.evaluate("document.title") == "No answer · trio_runner"
        assert await page.evaluate("getComputedStyle(document.querySelector('#state')).opacity") < "1"
        world.state = replace(READY, tasks=2)
        await shown.serve()
        await page.until("!document.body.classList.contains('stale')")
        assert await page.text("#tasks") == "2"


async def test_a_page_that_is_closed_asks_for_nothing_more(chromium_url: str) -> None:
    async with showing(World(), chromium_url) as shown:
        page = await shown.open()
        assert shown.status.listeners == 1
        await page.call("Page.navigate", url="about:blank")
        while shown.status.listeners:  # noqa: ASYNC110 - the end of a connection is what is waited for
            await trio.sleep(0.02)


async def test_a_tab_in_the_background_asks_for_nothing_until_it_is_looked_at(chromium_url: str) -> None:
    world = World()
    async with showing(world, chromium_url) as shown:
        page = await shown.open()
        for hidden in ("true", "false"):
            script = f"Object.defineProperty(document, 'hidden', {{get: () => {hidden}, configurable: true}})"
            await page.evaluate(f"{script} && document.dispatchEvent(new Event('visibilitychange'))")
            while shown.status.listeners != (hidden == "false"):  # noqa: ASYNC110
                await trio.sleep(0.02)
            world.state = replace(READY, tasks=3)
        await page.until("document.querySelector('#tasks').textContent === '3'")
        assert not await page.evaluate("document.querySelector('#lost').checkVisibility()")
