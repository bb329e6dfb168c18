"""Receives large WebSocket messages into memory of their own, without a copy; all the rest is trio-websocket's to read.

Through wsproto a message of 10 MB is joined, decoded to text and encoded again, in pieces of 64 KiB: 25 ms, where the
system needs 5 to hand it over. So the frames that come are told apart below trio-websocket, by their headers alone.
A large one that is a whole text message is received here, and trio-websocket sees a short message in its place, an
`Inlet.mark`, which keeps the order and the number of messages that can wait.

Owns the reading of frame headers (RFC 6455, 5.2). What is wrong with a frame is found by wsproto, which gets it as it
is; a payload is not looked at. Must not know what messages say.
"""

from __future__ import annotations

import mmap
import secrets
from collections import deque

import trio

from trio_runner.sandbox.frames import memory_for
from trio_runner.streams import Chunk, Wrapped

LARGE = 131_072
"""Bytes from which on a message is received here."""
_TEXT_OR_BINARY = (0x81, 0x82)
"""First bytes of a frame that is a whole message, without extensions."""
_SHORT, _MEDIUM = 126, 127


class Inlet(Wrapped):
    """The stream that a WebSocket client reads, from the end of the server's handshake on."""

    def __init__(self, stream: trio.abc.Stream, max_payload: int) -> None:
        """``max_payload``: bytes; larger messages are left to trio-websocket, which refuses them."""
        super().__init__(stream)
        self._max_payload = max_payload
        self.mark = secrets.token_hex(16)
        """The text that stands for a large message: nobody else can know it."""
        self._large: deque[memoryview] = deque()
        self._head: bytes | None = b""
        self._data: Chunk = b""
        self._passing = 0

    def take(self) -> memoryview:
        """The large message whose `mark` was read: its bytes, not checked to be text. Raises IndexError for none."""
        return self._large.popleft()

    async def receive_some(self, max_bytes: int | None = None) -> Chunk:
        """The next bytes of the stream, with a mark for each large message."""
        if self._head is not None:
            return await self._handshake(max_bytes)
        while True:
            if not self._data:
                self._data = await self._stream.receive_some(max_bytes)
                if not self._data:
                    return b""
            if passed := self._pass():
                return passed
            header = _header(self._data)
            if header is None:  # in the middle of a header
                more = await self._stream.receive_some(max_bytes)
                if not more:
                    return b""
                self._data = bytes(self._data) + more
                continue
            size, length = header
            try:
                memory = memory_for(length)
            except (OSError, OverflowError):  # more than this machine has
                self._passing = size + length  # as it comes, then, and as far as it comes
                continue
            if not await self._receive(size, memory):
                return b""
            return bytes((_TEXT_OR_BINARY[0], len(self.mark))) + self.mark.encode()

    async def _handshake(self, max_bytes: int | None) -> Chunk:
        """Bytes up to the end of the server's headers; what follows in the same piece comes next."""
        assert self._head is not None
        data = await self._stream.receive_some(max_bytes)
        known = len(self._head)
        seen = self._head + data
        end = seen.find(b"\r\n\r\n")
        if end < 0:
            self._head = bytes(seen[-3:])
            return data
        self._head = None
        self._data = data[end + 4 - known :]
        return data[: end + 4 - known]

    def _pass(self) -> Chunk:
        """The bytes at the front that are trio-websocket's, as far as they are here."""
        data, at = self._data, self._passing
        while at < len(data):
            header = _header(data, at)
            if header is None:
                break
            size, length = header
            if length >= LARGE and data[at] in _TEXT_OR_BINARY and data[at + 1] < 0x80 and length <= self._max_payload:
                break
            at += size + length
        here = min(at, len(data))
        self._passing = at - here
        self._data = data[here:]
        return data[:here] if here < len(data) else data

    async def _receive(self, size: int, memory: mmap.mmap) -> bool:
        """Receives the large message whose header is at the front. False when the stream ends in the middle."""
        length = len(memory)
        first, self._data = self._data[size : size + length], self._data[size + length :]
        memory[: len(first)] = bytes(first)
        view = memoryview(memory)
        have = len(first)
        while have < length:
            count = await self.receive_into(view[have:])
            if count == 0:
                return False
            have += count
        self._large.append(view)
        return True


def _header(data: Chunk, at: int = 0) -> tuple[int, int] | None:
    """The sizes of an unmasked frame's header and of its payload; None as long as the header is not whole."""
    if len(data) < at + 2:
        return None
    size, length = 2, data[at + 1] & 0x7F
    if length == _SHORT:
        size = 4
    elif length == _MEDIUM:
        size = 10
    if data[at + 1] & 0x80:
        size += 4  # masked, which a server must not do: wsproto says so
    if len(data) < at + size:
        return None
    if length >= _SHORT:
        length = int.from_bytes(data[at + 2 : at + (4 if length == _SHORT else 10)], "big")
    return size, length
