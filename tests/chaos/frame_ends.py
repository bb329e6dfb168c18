"""Where the frames of a WebSocket server begin and end in its bytes, so that something can be put between two of them.

Looks at lengths only. Made for servers: their frames are not masked.
"""

from __future__ import annotations

_LENGTH_16, _LENGTH_64 = 126, 127


class FrameEnds:
    """Fed with all that a server says, from its answer to the upgrade request on."""

    def __init__(self) -> None:
        self._partial = bytearray()
        self._upgraded = False
        self._left = 0

    @property
    def between(self) -> bool:
        """Whether the next byte is the first one of a frame."""
        return self._upgraded and not self._left and not self._partial

    def feed(self, data: bytes) -> None:
        """Takes what the server said next."""
        at = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            self._partial.append(data[at])
            at += 1
            if not self._upgraded:
                if self._partial.endswith(b"\r\n\r\n"):
                    self._upgraded = True
                    self._partial.clear()
            elif (length := _payload_length(self._partial)) is not None:
                self._left = length
                self._partial.clear()


def _payload_length(header: bytearray) -> int | None:
    """What a header says, or None while it is not complete."""
    if len(header) < 2:
        return None
    short = header[1] & 127
    size = {_LENGTH_16: 2, _LENGTH_64: 8}.get(short, 0)
    if len(header) < 2 + size:
        return None
    return int.from_bytes(header[2:], "big") if size else short


def text_frame(payload: bytes) -> bytes:
    """One whole text frame of a server."""
    if len(payload) < _LENGTH_16:
        return bytes((0x81, len(payload))) + payload
    if len(payload) < 1 << 16:
        return bytes((0x81, _LENGTH_16)) + len(payload).to_bytes(2, "big") + payload
    return bytes((0x81, _LENGTH_64)) + len(payload).to_bytes(8, "big") + payload
