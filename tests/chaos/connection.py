"""One connection through the proxy: two streams, the bytes between them, and what has been done to it.

Owns the pumps and both sockets. Must not know where it comes from; the weather is asked for.
"""

from __future__ import annotations

import math
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import trio

from tests.chaos.frame_ends import FrameEnds
from tests.chaos.weather import FINE, Kind, To, Weather, piece_of

GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, ssl.SSLError, trio.TooSlowError)
FORGET_AFTER: Final = 3.0
"""Seconds for which the broker's end of a silenced connection stays open after the runner has given up on it."""
PIECE: Final = 65_536


class Connection:
    """One connection: a stream to the runner, one to the broker, and what has been done to it."""

    def __init__(
        self,
        weather_for: Callable[[To], Awaitable[Weather]],
        kind: Kind,
        runner: trio.abc.Stream,
        broker: trio.abc.Stream,
        sockets: tuple[trio.socket.SocketType, trio.socket.SocketType],
    ) -> None:
        self.kind = kind
        self.swallowed: set[To] = set()
        self.cut_inside: set[To] = set()
        self.stalled = False
        self._weather_for = weather_for
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
        with suppress(*GONE):
            while data := bytes(await source.receive_some(PIECE)):
                weather = await self._weather_for(direction)
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
                weather = await self._weather_for(direction) if weathered else FINE
                size = piece_of(weather, sent, len(data))
                await self._ends[direction].send_all(data[sent : sent + size])
                sent += size
                await trio.sleep(size / weather.rate)
            if direction is To.RUNNER:
                self._frames.feed(data)
                await self._send_waiting()

    async def send_between_frames(self, data: bytes) -> None:
        """Delivers frames to the runner as soon as no frame of the broker is on its way."""
        self._waiting += data
        with suppress(*GONE):
            async with self._locks[To.RUNNER]:
                await self._send_waiting()

    async def _send_waiting(self) -> None:
        if self._waiting and self._frames.between:
            data, self._waiting = self._waiting, b""
            await self._ends[To.RUNNER].send_all(data)
