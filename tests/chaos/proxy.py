"""A TCP proxy in front of one broker that does to connections what networks, proxies and overloaded servers do.

Owns the bytes between a runner and its broker, and nothing else: it knows where an HTTP head ends and where a server's
frames end, but no message, task or runner. A fault is a plain call (`Proxy.cut`, `Proxy.go_silent`) or a block that
lasts as long as the fault does (`Proxy.weather`, `Proxy.away`).
"""

from __future__ import annotations

import enum
import math
import socket
import ssl
import struct
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

import trio

from tests.chaos.frame_ends import FrameEnds
from trio_runner.streams import Wrapped

HOST = "127.0.0.1"
FORGET_AFTER = 3.0
"""Seconds for which the broker's end of a silenced connection stays open after the runner has given up on it."""
HEAD_LIMIT = 30.0
_PIECE = 65_536
_GRAINS = 300
"""Bytes of a piece that are sent grain by grain; all of a large one would take minutes and show nothing more."""
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, ssl.SSLError, trio.TooSlowError)


class To(enum.Enum):
    """Which way bytes go."""

    BROKER = enum.auto()
    RUNNER = enum.auto()


class Kind(enum.Enum):
    """What a connection is opened for; HANDSHAKE is each of them on a proxy with TLS, before anything else."""

    HANDSHAKE = enum.auto()
    LOGIN = enum.auto()
    UPGRADE = enum.auto()
    OTHER = enum.auto()


@dataclass(frozen=True)
class Weather:
    """What becomes of the bytes of one direction for as long as it lasts; none of it loses one."""

    delay: float = 0.0
    """Seconds between the arrival of bytes and their delivery; what arrives meanwhile is delivered with them."""
    rate: float = math.inf
    """Bytes a second."""
    grain: int = 0
    """So many bytes at a time, for the first few hundred of each piece; 0: as they came."""
    stalled: bool = False
    """Nothing is read: the sender's buffers fill."""


FINE = Weather()
Answer = Callable[[trio.abc.Stream], Awaitable[None]]
"""What a connection gets instead of the broker. It is closed afterwards."""


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
        """Puts bytes in between, wherever in a frame that may be."""
        for connection in self.websockets():
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
            with suppress(*_GONE):
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
                    await self._connect(Connection(self, kind, stream, broker, (plain.socket, broker.socket)))
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


class Connection:
    """One connection: a stream to the runner, one to the broker, and what has been done to it."""

    def __init__(
        self,
        proxy: Proxy,
        kind: Kind,
        runner: trio.abc.Stream,
        broker: trio.abc.Stream,
        sockets: tuple[trio.socket.SocketType, trio.socket.SocketType],
    ) -> None:
        self.kind = kind
        self.swallowed: set[To] = set()
        self.cut_inside: set[To] = set()
        self.stalled = False
        self._proxy = proxy
        self._ends = {To.BROKER: broker, To.RUNNER: runner}
        self._sockets = sockets
        self._locks = {direction: trio.Lock() for direction in To}
        self._frames = FrameEnds()
        self._waiting = b""
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Carries bytes until one end hangs up, or until it is cut."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                for direction in To:
                    nursery.start_soon(self._pump, direction)

    def cut(self, *, rudely: bool) -> None:
        """Ends it now."""
        if rudely:
            for sock in self._sockets:
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._scope.cancel()

    async def _pump(self, direction: To) -> None:
        source = self._ends[To.RUNNER if direction is To.BROKER else To.BROKER]
        with suppress(*_GONE):
            while data := bytes(await source.receive_some(_PIECE)):
                weather = await self._proxy.weather_for(direction)
                await trio.sleep(weather.delay)
                if self.stalled and direction is To.BROKER:
                    await trio.sleep_forever()
                if direction in self.swallowed:
                    continue
                if direction in self.cut_inside:
                    await self.send(data[: len(data) // 2], direction)
                    self.cut(rudely=True)
                await self.send(data, direction, weathered=True)
        if direction in self.swallowed:
            # the end of a connection is silent, too; a runner that has left is forgotten some time later
            await trio.sleep(FORGET_AFTER if direction is To.BROKER else math.inf)
        self._scope.cancel()

    async def send(self, data: bytes, direction: To, *, weathered: bool = False) -> None:
        """Delivers bytes in the weather of the moment. What else is delivered comes before or after, not between."""
        async with self._locks[direction]:
            sent = 0
            while sent < len(data):
                weather = await self._proxy.weather_for(direction) if weathered else FINE
                size = _piece(weather, sent, len(data))
                await self._ends[direction].send_all(data[sent : sent + size])
                sent += size
                await trio.sleep(size / weather.rate)
            if direction is To.RUNNER:
                self._frames.feed(data)
                await self._send_waiting()

    async def send_between_frames(self, data: bytes) -> None:
        """Delivers frames to the runner as soon as no frame of the broker is on its way."""
        self._waiting += data
        with suppress(*_GONE):
            async with self._locks[To.RUNNER]:
                await self._send_waiting()

    async def _send_waiting(self) -> None:
        if self._waiting and self._frames.between:
            data, self._waiting = self._waiting, b""
            await self._ends[To.RUNNER].send_all(data)


class _Drip(Wrapped):
    """A stream that sends few bytes at a time."""

    def __init__(self, stream: trio.abc.Stream, grain: int) -> None:
        super().__init__(stream)
        self.grain = grain

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        weather, sent = Weather(grain=self.grain), 0
        while sent < len(data):
            size = _piece(weather, sent, len(data))
            await super().send_all(data[sent : sent + size])
            sent += size


# Answers in the broker's place


def refuse(status: int, body: bytes = b"") -> Answer:
    """An HTTP error. Without a body it is as n8n refuses an upgrade: no length, and the connection stays open."""

    async def answer(stream: trio.abc.Stream) -> None:
        length = b"Content-Length: %d\r\nConnection: close\r\n" % len(body) if body else b""
        await stream.send_all(b"HTTP/1.1 %d Refused\r\n%s\r\n%s" % (status, length, body))
        if not body:
            with trio.move_on_after(FORGET_AFTER):
                while await stream.receive_some():
                    pass

    return answer


def say(data: bytes) -> Answer:
    """These bytes, then the end of the connection."""

    async def answer(stream: trio.abc.Stream) -> None:
        await stream.send_all(data)

    return answer


def say_nothing(seconds: float) -> Answer:
    """No answer for so long, then the end of the connection."""

    async def answer(_: trio.abc.Stream) -> None:
        await trio.sleep(seconds)

    return answer


def _piece(weather: Weather, sent: int, total: int) -> int:
    """How many bytes are sent next, at once."""
    if weather.grain and sent < _GRAINS:
        return min(weather.grain, total - sent)
    return total - sent if math.isinf(weather.rate) else min(total - sent, max(1, int(weather.rate / 50)))


def _kind(head: bytes) -> Kind:
    if head.startswith(b"POST "):
        return Kind.LOGIN
    return Kind.UPGRADE if b"upgrade: websocket" in head.lower() else Kind.OTHER


async def _read_head(stream: trio.abc.Stream) -> bytes:
    """A request up to where its head ends, with what came behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = await stream.receive_some(_PIECE)
        if not part:
            raise trio.BrokenResourceError("the client has hung up")
        data += part
    return data
