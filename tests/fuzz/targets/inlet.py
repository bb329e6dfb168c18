"""What comes on a WebSocket: large messages are taken out of the bytes, everything else passes as it is, in order."""

from __future__ import annotations

import trio
from trio.testing import MemoryReceiveStream, MemorySendStream

from tests.fuzz.reader import Reader
from trio_runner.inlet import LARGE, Inlet

HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
MAX = 3 * LARGE
FIRST = (0x81, 0x82, 0x01, 0x80, 0x88, 0x89, 0x8A, 0xC1, 0xF1)
SIZES = (0, 1, 125, 126, 65_535, 65_536, LARGE - 1, LARGE, LARGE + 1, MAX, MAX + 1, 1 << 40, (1 << 63) - 1)


def frames(data: bytes) -> None:
    """Frames of any kind, whole, cut short and with lengths that are not true, then anything at all."""
    read = Reader(data)
    stream = b"".join(_frame(read) for _ in range(read.below(4)))
    if read.flag():
        stream = stream[: len(stream) - 1 - read.byte()]
    if read.flag():
        stream += read.bytes()
    expected = HEAD + stream
    pieces = [expected] if len(stream) > LARGE else read.pieces(expected)
    inlet, passed = trio.run(_receive, pieces)
    # put back in its place, what was taken out gives the stream again, but for what is not whole at its end
    marks = passed.split(inlet.mark.encode())
    again = marks[0]
    for after in marks[1:]:
        whole = bytes(inlet.take())
        assert LARGE <= len(whole) <= MAX
        assert again.endswith(bytes((0x81, len(inlet.mark))))
        kind = expected[len(again) - 2 : len(again) - 1]
        assert kind in (b"\x81", b"\x82")
        again = again[:-2] + kind + b"\x7f" + len(whole).to_bytes(8, "big") + whole + after
    assert expected.startswith(again)
    missing = len(expected) - len(again)
    assert missing <= MAX + 14, "only a part of one message is held back"
    try:
        inlet.take()
    except IndexError:
        return
    raise AssertionError("a message without a mark")


def _frame(read: Reader) -> bytes:
    first, claimed = read.pick(FIRST), read.pick(SIZES)
    masked = 0x80 if read.flag() else 0
    if claimed < 126:
        header = bytes((first, masked | claimed))
    elif claimed < 65_536:
        header = bytes((first, masked | 126)) + claimed.to_bytes(2, "big")
    else:
        header = bytes((first, masked | 127)) + claimed.to_bytes(8, "big")
    there = min(claimed, MAX + 1) if not read.flag() else read.byte()
    return header + (b"mask" if masked else b"") + bytes(there)


async def _receive(pieces: list[bytes]) -> tuple[Inlet, bytes]:
    far, near = MemorySendStream(), MemoryReceiveStream()
    for piece in pieces:
        near.put_data(piece)
    near.put_eof()
    inlet = Inlet(trio.StapledStream(far, near), MAX)
    passed = b""
    while part := bytes(await inlet.receive_some(65_536)):
        passed += part
    return inlet, passed


TARGETS = {"inlet": frames}
