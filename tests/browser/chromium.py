"""A headless Chromium, spoken to over its DevTools protocol: what a page shows, complains about and asks for."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --disable-extensions --disable-dev-shm-usage --hide-scrollbars
    --remote-debugging-port=0""".split()
_MAX_MESSAGE = 50_000_000


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.complaints: list[str] = []
        """What the browser said about the page: errors, and what its policy forbade."""
        self.requested: list[str] = []
        """The addresses that it asked for."""

    async def call(self, method: str, **params: object) -> dict[str, Any]:
        """One command of the protocol."""
        return await self._browser.call(method, self._session, **params)

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def text(self, selector: str) -> str:
        """What a reader sees of an element."""
        found = await self.evaluate(f"document.querySelector({selector!r}).innerText")
        assert isinstance(found, str)
        return found

    async def until(self, expression: str) -> None:
        """Waits until an expression is true in the page, once there is one."""
        while not await self.evaluate(f"Boolean(document.body && ({expression}))"):  # noqa: ASYNC110
            await trio.sleep(0.02)

    async def look(self, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """How large the window is, and whether its owner likes it dark."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def screenshot(self) -> bytes:
        """The whole page as PNG."""
        answer = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def note(self, method: str, params: dict[str, Any]) -> None:
        """An event of this tab."""
        if method == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif method == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))


class Browser:
    """The connection to the process."""

    def __init__(self, websocket: WebSocketConnection) -> None:
        self._websocket = websocket
        self._serial = 0
        self._waiting: dict[int, Callable[[dict[str, Any]], None]] = {}
        self._pages: dict[str, Page] = {}
        self._tabs: list[str] = []

    async def call(self, method: str, session: str | None = None, **params: object) -> dict[str, Any]:
        """One command and its answer."""
        self._serial += 1
        message = {"id": self._serial, "method": method, "params": params}
        send, receive = trio.open_memory_channel[dict[str, Any]](1)
        self._waiting[self._serial] = send.send_nowait
        await self._websocket.send_message(
            msgspec.json.encode(message | ({"sessionId": session} if session else {})).decode()
        )
        answer = await receive.receive()
        assert "error" not in answer, (method, answer)
        result: dict[str, Any] = answer["result"]
        return result

    async def open(self, url: str, **look: Any) -> Page:
        """A new tab on an address, as wide, high and dark as `Page.look` is told."""
        target = await self.call("Target.createTarget", url="about:blank")
        self._tabs.append(target["targetId"])
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = self._pages[attached["sessionId"]] = Page(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            await page.call(f"{domain}.enable")
        await page.look(**look)
        await page.call("Page.navigate", url=url)
        return page

    async def close_tabs(self) -> None:
        """Closes what was opened."""
        for tab in self._tabs:
            await self.call("Target.closeTarget", targetId=tab)

    async def listen(self) -> None:
        """Takes what the process says, until it ends."""
        with suppress(ConnectionClosed):
            while True:
                message = msgspec.json.decode(await self._websocket.get_message())
                if (tell := self._waiting.pop(message.get("id"), None)) is not None:
                    tell(message)
                elif (page := self._pages.get(message.get("sessionId", ""))) is not None:
                    page.note(message["method"], message["params"])


@contextmanager
def chromium(profile: Path, limit: float = 30.0) -> Iterator[str]:
    """A process of its own with this profile folder; gone, with all its children, when the block ends.

    Gives the address at which it is spoken to.
    """
    assert BINARY is not None
    process = subprocess.Popen(
        [BINARY, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port_file, deadline = profile / "DevToolsActivePort", time.monotonic() + limit
        while not (port_file.exists() and len(port_file.read_text().splitlines()) == 2):
            assert time.monotonic() < deadline, "Chromium does not start"
            assert process.poll() is None, "Chromium ended"
            time.sleep(0.02)
        port, path = port_file.read_text().splitlines()
        yield f"ws://127.0.0.1:{port}{path}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Browser]:
    """A connection to a browser; the tabs that are opened through it are closed with it."""
    async with open_websocket_url(url, max_message_size=_MAX_MESSAGE) as websocket, trio.open_nursery() as nursery:
        browser = Browser(websocket)
        nursery.start_soon(browser.listen)
        yield browser
        await browser.close_tabs()
        nursery.cancel_scope.cancel()
