"""A TCP proxy in front of one broker that does to connections what networks, proxies and overloaded servers do.

Owns the bytes between a runner and its broker, and nothing else: it knows where an HTTP head ends and where a server's
frames end, but no message, task or runner. A fault is a plain call (`Proxy.cut`, `Proxy.go_silent`) or a block that
lasts as long as the fault does (`Proxy.weather`, `Proxy.away`).
"""

from __future__ import annotations

import ssl
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

import trio

from tests.chaos.answers import Answer
from tests.chaos.connection import GONE, PIECE, Connection
from tests.chaos.weather import FINE, Kind, To, Weather, piece_of
from trio_runner.streams import Wrapped

HOST: Final = "127.0.0.1"
HEAD_LIMIT: Final = 30.0


class Proxy:
    """Listens on ``port`` and hands every connection on to the broker's port, through whatever weather there is.

    ``tls`` makes it speak TLS to the runner, as a proxy in front of n8n does (the broker itself has none).
    """

    def __init__(self, port: int, broker_port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.port = port
        self.handshake_grain = 0
        """Bytes of a TLS handshake that are sent at once; 0: as they come."""
        self.next_certificates: deque[ssl.SSLContext] = deque()
        """For the next handshakes, instead of the right one."""
        self._tls = tls
        self._broker_port = broker_port
        self._weather = dict.fromkeys(To, FINE)
        self._changed = trio.Event()
        self._answers: defaultdict[Kind, deque[Answer]] = defaultdict(deque)
        self._connections: set[Connection] = set()
        self._nursery: trio.Nursery | None = None
        self._listeners: list[trio.SocketListener] = []

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves until cancelled."""
        async with trio.open_nursery() as self._nursery:
            await self._listen()
            task_status.started()
            await trio.sleep_forever()

    async def _listen(self) -> None:
        assert self._nursery is not None
        self._listeners = await trio.open_tcp_listeners(self.port, host=HOST)
        self._nursery.start_soon(self._accept, self._listeners[0])

    async def _accept(self, listener: trio.SocketListener) -> None:
        assert self._nursery is not None
        try:
            await trio.serve_listeners(self._handle, [listener], handler_nursery=self._nursery)
        except* trio.ClosedResourceError:  # `away`
            pass

    # Faults

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Nobody listens: connections that exist go on, new ones are refused."""
        for listener in self._listeners:
            await listener.aclose()
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):  # it does not wait for anything
                await self._listen()

    @contextmanager
    def weather(self, weather: Weather, *directions: To) -> Iterator[None]:
        """This weather in these directions (none: both), on every connection."""
        self._set_weather(dict.fromkeys(directions or To, weather))
        try:
            yield
        finally:
            self._set_weather(dict.fromkeys(directions or To, FINE))

    def _set_weather(self, weather: dict[To, Weather]) -> None:
        self._weather |= weather
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def weather_for(self, direction: To) -> Weather:
        """The weather as soon as anything gets through."""
        while (weather := self._weather[direction]).stalled:
            await self._changed.wait()
        return weather

    def answer_next(self, kind: Kind, answer: Answer) -> None:
        """The next connection of this kind is answered here and never reaches the broker."""
        self._answers[kind].append(answer)

    async def all_answered(self) -> None:
        """Returns when every planned answer was begun, and every wrong certificate shown."""
        while self.next_certificates or any(self._answers.values()):
            await self._changed.wait()

    def _planned(self, kind: Kind) -> Answer | None:
        """The planned answer to this connection."""
        if not self._answers[kind]:
            return None
        self._tell()
        return self._answers[kind].popleft()

    def cut(self, *, rudely: bool) -> None:
        """Both ends of every connection are closed, with RST if ``rudely``, else as by a process that ends."""
        for connection in list(self._connections):
            connection.cut(rudely=rudely)

    def cut_inside(self, direction: To) -> None:
        """The next piece on every WebSocket is delivered by half, then the connection is reset."""
        for connection in self.websockets():
            connection.cut_inside.add(direction)

    def go_silent(self, *directions: To) -> None:
        """From now on the bytes of these directions (none: both) vanish, and nobody is told. For ever."""
        for connection in self.websockets():
            connection.swallowed |= set(directions or To)

    def stop_reading(self) -> None:
        """From now on nothing that the runner writes is taken; it is not lost either, its buffers fill. For ever."""
        for connection in self.websockets():
            connection.stalled = True

    async def inject(self, data: bytes, direction: To) -> None:
        """Puts bytes in between, wherever in a frame that may be. One end may just be leaving for what came before."""
        for connection in self.websockets():
            with suppress(*GONE):
                await connection.send(data, direction)

    async def inject_frames(self, data: bytes) -> None:
        """Puts whole frames between two frames of the broker."""
        for connection in self.websockets():
            await connection.send_between_frames(data)

    def websockets(self) -> list[Connection]:
        """The WebSockets that still carry bytes both ways."""
        return [one for one in self._connections if one.kind is Kind.UPGRADE and not (one.swallowed or one.stalled)]

    # Connections

    async def _handle(self, plain: trio.SocketStream) -> None:
        async with plain:
            with suppress(*GONE):
                if self._tls is not None and (answer := self._planned(Kind.HANDSHAKE)):
                    return await answer(plain)
                with trio.fail_after(HEAD_LIMIT):
                    stream = await self._secure(plain)
                    head = await _read_head(stream)
                kind = _kind(head)
                if answer := self._planned(kind):
                    return await answer(stream)
                async with await trio.open_tcp_stream(HOST, self._broker_port) as broker:
                    await broker.send_all(head)
                    await self._connect(
                        Connection(self.weather_for, kind, stream, broker, (plain.socket, broker.socket))
                    )
        return None

    async def _connect(self, connection: Connection) -> None:
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    async def _secure(self, plain: trio.SocketStream) -> trio.abc.Stream:
        if self._tls is None:
            return plain
        context = self._tls
        if self.next_certificates:
            context = self.next_certificates.popleft()
            self._tell()
        drip = _Drip(plain, self.handshake_grain)
        stream = trio.SSLStream(drip, context, server_side=True, https_compatible=True)
        await stream.do_handshake()
        drip.grain = 0
        return stream


class _Drip(Wrapped):
    """A stream that sends few bytes at a time."""

    def __init__(self, stream: trio.abc.Stream, grain: int) -> None:
        super().__init__(stream)
        self.grain = grain

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        weather, sent = Weather(grain=self.grain), 0
        while sent < len(data):
            size = piece_of(weather, sent, len(data))
            await super().send_all(data[sent : sent + size])
            sent += size


def _kind(head: bytes) -> Kind:
    if head.startswith(b"POST "):
        return Kind.LOGIN
    return Kind.UPGRADE if b"upgrade: websocket" in head.lower() else Kind.OTHER


async def _read_head(stream: trio.abc.Stream) -> bytes:
    """A request up to where its head ends, with what came behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = await stream.receive_some(PIECE)
        if not part:
            raise trio.BrokenResourceError("the client has hung up")
        data += part
    return data
