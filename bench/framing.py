"""WebSocket frames of the server's side, as cheap as Python allows: headers out, masked messages in.

Sans-IO: owns the receive buffer and the parsing, never a socket. Not for production: it trusts its peer.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
_READ: Final = 1 << 18


def header(length: int, opcode: int = TEXT) -> bytes:
    """The header of an unmasked, unfragmented frame."""
    first = 0x80 | opcode
    if length < 126:
        return bytes((first, length))
    if length < 1 << 16:
        return struct.pack("!BBH", first, 126, length)
    return struct.pack("!BBQ", first, 127, length)


def apply_mask(data: bytes | memoryview, mask: bytes) -> bytes:
    """Masks or unmasks, as one operation on one large number: three passes, whatever the length."""
    length = len(data)
    key = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(length, "little")


class Frame(NamedTuple):
    """One whole message or control frame, still masked: unmasking is left to after the clock was read.

    A key of zeros is no work, as for n8n's own server.
    """

    opcode: int
    mask: bytes
    masked: bytes

    def payload(self) -> bytes:
        """The bytes as the peer meant them."""
        return apply_mask(self.masked, self.mask) if any(self.mask) else self.masked


class FrameReader:
    """A buffer that grows to the largest frame and is used again, so that a large message costs no fresh pages."""

    def __init__(self) -> None:
        self._buffer = bytearray(_READ)
        self._start = 0
        self._end = 0
        self._missing = 0
        self._fragments: list[bytes] = []
        self._fragments_opcode = TEXT

    def room(self) -> memoryview:
        """Where the next bytes go; the caller says through `filled` how many there were. Release it before `next`."""
        needed = max(_READ, self._missing)
        if self._start == self._end:
            self._start = self._end = 0
        elif len(self._buffer) - self._end < needed and self._start:
            rest = self._buffer[self._start : self._end]
            self._buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        if len(self._buffer) - self._end < needed:
            self._buffer.extend(bytes(needed - (len(self._buffer) - self._end)))
        return memoryview(self._buffer)[self._end :]

    def filled(self, count: int) -> None:
        """So many bytes were written to `room`."""
        self._end += count
        self._missing -= count

    def feed(self, data: bytes) -> None:
        """The same for bytes that exist already."""
        with self.room() as room:
            assert len(room) >= len(data), "feed takes small pieces"
            room[: len(data)] = data
        self.filled(len(data))

    def next(self) -> Frame | None:
        """The next message or control frame, or None when more bytes are needed."""
        while (frame := self._one_frame()) is not None:
            final, opcode, mask, masked = frame
            if opcode >= CLOSE or (final and opcode != CONTINUATION):
                return Frame(opcode, mask, masked)
            if opcode != CONTINUATION:
                self._fragments_opcode = opcode
            self._fragments.append(Frame(opcode, mask, masked).payload())
            if final:
                whole = b"".join(self._fragments)
                self._fragments.clear()
                return Frame(self._fragments_opcode, b"", whole)
        return None

    def _one_frame(self) -> tuple[bool, int, bytes, bytes] | None:
        buffer, start = self._buffer, self._start
        have = self._end - start
        if have < 2:
            return None
        first, second = buffer[start], buffer[start + 1]
        length, offset = second & 0x7F, 2
        if length == 126:
            if have < 4:
                return None
            length, offset = int.from_bytes(buffer[start + 2 : start + 4], "big"), 4
        elif length == 127:
            if have < 10:
                return None
            length, offset = int.from_bytes(buffer[start + 2 : start + 10], "big"), 10
        masked = second >> 7
        whole = offset + 4 * masked + length
        if have < whole:
            self._missing = whole - have
            return None
        body = start + whole - length
        self._start = start + whole
        self._missing = 0
        with memoryview(buffer) as view:
            return bool(first >> 7), first & 0xF, bytes(view[body - 4 * masked : body]), bytes(view[body : self._start])
