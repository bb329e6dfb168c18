"""Streams around a stream: what was read already comes again, and an answer to an upgrade request is looked at.

Must not know brokers or errors of ours: what is found is handed to whoever asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import trio

Chunk: TypeAlias = "bytes | bytearray"

_HEAD_LIMIT = 1.0
"""Seconds to wait for the rest of the headers of a refusal: they may hold a Retry-After, and nothing else of use."""
_HEAD_SIZE = 16_384
_RECEIVE = 1_048_576


class Wrapped(trio.abc.Stream):
    """Does all that its stream does."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> Chunk:
        """As the stream does."""
        return await self._stream.receive_some(max_bytes)

    async def receive_into(self, room: memoryview) -> int:
        """Receives into ``room`` and gives the number of bytes, 0 at the end; directly where a socket is below."""
        if isinstance(self._stream, Wrapped):
            return await self._stream.receive_into(room)
        if isinstance(self._stream, trio.SocketStream):
            try:
                return await self._stream.socket.recv_into(room)
            except OSError as error:
                raise trio.BrokenResourceError("the socket is broken") from error
        data = await self._stream.receive_some(min(len(room), _RECEIVE))
        room[: len(data)] = data
        return len(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As the stream does."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream does."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """As the stream does."""
        await self._stream.aclose()


class Replay(Wrapped):
    """A stream whose first bytes were read already: they come again, then the rest."""

    def __init__(self, stream: trio.abc.Stream, first: bytes) -> None:
        super().__init__(stream)
        self._first = first

    async def receive_some(self, max_bytes: int | None = None) -> Chunk:
        """The bytes in front, then the stream's own."""
        if self._first:
            await trio.lowlevel.checkpoint()
            count = len(self._first) if max_bytes is None else max_bytes
            data, self._first = self._first[:count], self._first[count:]
            return data
        return await self._stream.receive_some(max_bytes)


class UpgradeWatch(Wrapped):
    """The stream under a WebSocket client, which looks at the status line that answers the upgrade request.

    trio-websocket waits for the end of an error's body, which n8n's answers do not have (no Content-Length, protocol.md
    3.1), and it does not notice a peer that hangs up instead of answering: both would look like a handshake that takes
    too long. ``refused`` is called once, with the HTTP status or else with words, and with what Retry-After says; the
    reader gets nothing of it and waits to be cancelled.
    """

    def __init__(self, stream: trio.abc.Stream, refused: Callable[[int | str, bytes], None]) -> None:
        super().__init__(stream)
        self._refused = refused
        self._held = b""
        self._upgraded = False

    async def receive_some(self, max_bytes: int | None = None) -> Chunk:
        """What the stream has, once the first line says 101."""
        while not self._upgraded:
            try:
                data = await self._stream.receive_some(max_bytes)
            except trio.BrokenResourceError:
                data = b""
            self._held += data
            line, complete, _ = self._held.partition(b"\r\n")
            version, _, status = line.partition(b" ")
            if not data:
                return await self._refuse("closed the connection instead of answering")
            if not complete and len(line) < 1000:
                continue
            if not (version.startswith(b"HTTP/1.") and status[:3].isdigit()):
                return await self._refuse("does not speak HTTP")
            if int(status[:3]) != 101:
                with trio.move_on_after(_HEAD_LIMIT):
                    await self._read_head()
                return await self._refuse(int(status[:3]))
            self._upgraded = True
            held, self._held = self._held, b""
            return held
        return await self._stream.receive_some(max_bytes)

    async def _read_head(self) -> None:
        """Reads on to the end of the headers, if there is one."""
        while b"\r\n\r\n" not in self._held and len(self._held) < _HEAD_SIZE:
            try:
                data = await self._stream.receive_some(_HEAD_SIZE)
            except trio.BrokenResourceError:
                return
            if not data:
                return
            self._held += data

    async def _refuse(self, reason: int | str) -> Chunk:
        fields = (line.partition(b":") for line in self._held.partition(b"\r\n\r\n")[0].split(b"\r\n"))
        self._refused(reason, next((value for name, _, value in fields if name.lower() == b"retry-after"), b""))
        await trio.sleep_forever()
        raise AssertionError
