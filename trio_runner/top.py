"""`trio-runner top`: the status page of a running runner in the terminal.

Reads the page's events over HTTP and has a frame drawn for each. Owns the words for why there is nothing to show.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Final, Literal
from urllib.parse import urlsplit

import h11
import msgspec
import trio
from rich.console import Console
from rich.live import Live

from trio_runner.config import HEALTH_ENABLED, STATUS_PAGE, BrokerAddress
from trio_runner.errors import RunnerError
from trio_runner.http import open_stream
from trio_runner.log import one_line
from trio_runner.status import Snapshot
from trio_runner.topview import frame

SILENCE: Final = 10.0
"""Seconds without a snapshot after which the runner counts as gone."""
AGAIN: Final = 1.0
_CONNECT_LIMIT: Final = 5.0
_LARGEST: Final = 2_097_152


class NothingToShowError(RunnerError):
    """There is no status to be had from there. The text says why and what to do."""


class Source(msgspec.Struct, frozen=True):
    """Where a runner's health server listens."""

    address: BrokerAddress

    @classmethod
    def at(cls, url: str) -> Source:
        """``url`` as people write it: with or without a scheme. Raises ValueError."""
        complaint = f"{url!r} is no address of a runner. Write it like http://127.0.0.1:5681"
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port
        except ValueError:
            raise ValueError(complaint) from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(complaint)
        scheme: Literal["http", "https"] = "https" if parts.scheme == "https" else "http"
        port = port or (443 if scheme == "https" else 80)
        return cls(BrokerAddress(scheme=scheme, host=parts.hostname, port=port, base_path=parts.path.rstrip("/")))

    @property
    def url(self) -> str:
        """The address again, in full."""
        return self.address.http_url("")

    async def snapshot(self) -> Snapshot:
        """The status now. Raises `NothingToShowError`."""
        with self._failing():
            stream = await open_stream(self.address, limit=_CONNECT_LIMIT)
            async with stream, aclosing(self._read(stream, "/status.json")) as parts:
                body = b""
                with trio.fail_after(SILENCE):
                    async for part in parts:
                        body += part
                        if len(body) > _LARGEST:
                            raise self._stranger("its answer has no end")
        return self._decode(body)

    async def snapshots(self) -> AsyncGenerator[Snapshot, None]:
        """The status each second, until the connection ends. Raises `NothingToShowError` when there is none."""
        with self._failing():
            stream = await open_stream(self.address, limit=_CONNECT_LIMIT)
            async with stream, aclosing(self._read(stream, "/status/events")) as parts:
                waiting = b""
                while True:
                    with trio.fail_after(SILENCE):
                        part = await anext(parts, None)
                    if part is None:
                        return
                    *events, waiting = (waiting + part).split(b"\n\n")
                    if len(waiting) > _LARGEST:
                        raise self._stranger("its answer has no end")
                    if events:  # what is old already is not drawn
                        yield self._decode(events[-1].removeprefix(b"data: "))

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except trio.TooSlowError:
            raise NothingToShowError(f"{self.url} does not say anything any more.") from None
        except (trio.BrokenResourceError, h11.RemoteProtocolError):
            raise self._stranger("it does not speak HTTP, or broke off") from None
        except NothingToShowError:
            raise
        except RunnerError as error:
            raise NothingToShowError(
                f"Nothing answers at {self.url} ({error}). Is that where the runner's health server listens? It has "
                f"one with {HEALTH_ENABLED.name}=true, and a status with {STATUS_PAGE.name}=true."
            ) from error

    async def _read(self, stream: trio.abc.Stream, path: str) -> AsyncGenerator[bytes, None]:
        """The body of an answer, as it comes. Raises `NothingToShowError` for any but that of a status page."""
        connection = h11.Connection(h11.CLIENT)
        headers = [("Host", self.address.authority), ("Accept", "*/*"), ("Connection", "close")]
        target = self.address.base_path + path
        await stream.send_all(connection.send(h11.Request(method="GET", target=target, headers=headers)) or b"")
        connection.send(h11.EndOfMessage())
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(65_536)))
            elif isinstance(event, h11.Response):
                await self._check(event, connection, stream)
            elif isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                return

    async def _check(self, response: h11.Response, connection: h11.Connection, stream: trio.abc.Stream) -> None:
        kind = next((value for name, value in response.headers if name == b"content-type"), b"")
        if response.status_code == 200 and kind in (b"application/json", b"text/event-stream"):
            return
        if response.status_code == 200:  # a health server answers every path that it does not know with OK
            raise NothingToShowError(
                f"The runner at {self.url} shows no status. Start it with {STATUS_PAGE.name}=true "
                "(or this is another program's address)."
            )
        text = b""
        while response.status_code in (403, 503) and len(text) < 2000:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(4096)))
            elif isinstance(event, h11.Data):
                text += event.data
            else:
                break
        said = one_line(text.decode("utf-8", "replace").strip(), 500)
        raise NothingToShowError(f"{self.url} answers with HTTP {response.status_code}. {said}".strip())

    def _decode(self, data: bytes) -> Snapshot:
        try:
            return msgspec.json.decode(data, type=Snapshot)
        except msgspec.MsgspecError as error:
            raise self._stranger(f"it may have another version: {error}") from None

    def _stranger(self, why: str) -> NothingToShowError:
        return NothingToShowError(f"What answers at {self.url} is no status of this version of trio_runner: {why}.")


def show_once(source: Source, console: Console) -> None:
    """Prints one frame. Raises `NothingToShowError`."""
    console.print(frame(trio.run(source.snapshot), width=console.width))


def follow(source: Source, console: Console) -> None:
    """Draws until q or Ctrl-C. Raises `NothingToShowError` when there is nothing to show from the start."""
    try:
        trio.run(_follow, source, console)
    except* KeyboardInterrupt:
        pass


async def _follow(source: Source, console: Console) -> None:
    first = await source.snapshot()
    with (
        trio.open_signal_receiver(signal.SIGINT) as interrupts,
        _keys() as keys,
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_interrupted, interrupts, nursery.cancel_scope)
            if keys is not None:
                nursery.start_soon(_until_q, keys, nursery.cancel_scope)
            await _draw(source, live, first)


async def _until_interrupted(interrupts: AsyncIterator[int], scope: trio.CancelScope) -> None:
    """Ctrl-C as an event: an exception between any two instructions of the drawing may be lost in a finalizer."""
    await anext(interrupts)
    scope.cancel()


async def _draw(source: Source, live: Live, last: Snapshot) -> None:
    def show(notice: str = "") -> None:
        size = live.console.size
        live.update(frame(last, width=size.width, height=size.height, notice=notice), refresh=True)

    while True:
        show()
        with suppress(NothingToShowError):
            async with aclosing(source.snapshots()) as snapshots:
                async for snapshot in snapshots:
                    last = snapshot
                    show()
        show("The runner does not answer. What stands below is old. Trying again…")
        await trio.sleep(AGAIN)


async def _until_q(keys: int, scope: trio.CancelScope) -> None:
    while True:
        await trio.lowlevel.wait_readable(keys)
        typed = os.read(keys, 64)
        if not typed or set(typed) & set(b"qQ\x03\x04"):
            scope.cancel()
            return


@contextmanager
def _keys() -> Iterator[int | None]:
    """Standard input, told to give each key at once; None when it is no terminal."""
    if not sys.stdin.isatty():
        yield None
        return
    import termios
    import tty

    keys = sys.stdin.fileno()
    before = termios.tcgetattr(keys)
    tty.setcbreak(keys)
    try:
        yield keys
    finally:
        termios.tcsetattr(keys, termios.TCSADRAIN, before)
