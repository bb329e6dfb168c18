"""What we write on a WebSocket: whatever the sizes, and whatever is sent in between, the peer reads those messages."""

from __future__ import annotations

import trio
from trio.testing import MemorySendStream
from wsproto.frame_protocol import FrameProtocol, Opcode

from tests.fuzz.reader import Reader
from trio_runner.outlet import PIECE, Outlet

SIZES = (0, 1, 2, 7, 125, 126, 127, 1023, 1024, 1025, 65_535, 65_536, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE)
PING = b"\x89\x80\x00\x00\x00\x00"


def texts(data: bytes) -> None:
    """Messages of any sizes in any company, with pings at the same time."""
    read = Reader(data)
    batches = [[_text(read) for _ in range(read.below(5))] for _ in range(read.below(5))]
    pings = read.below(4)
    written = trio.run(_write, batches, pings, read.flag())
    peer = FrameProtocol(client=False, extensions=[])
    for piece in read.pieces(written) if len(written) < 100_000 else [written]:
        peer.receive_bytes(piece)
    heard: list[str] = []
    whole, pinged = "", 0
    for frame in peer.received_frames():
        if frame.opcode is Opcode.PING:
            pinged += 1
            continue
        whole += str(frame.payload)
        if frame.message_finished:
            heard.append(whole)
            whole = ""
    assert whole == ""
    assert pinged == pings
    assert heard == [text.decode() for batch in batches for text in batch]


def _text(read: Reader) -> bytes:
    if read.flag():
        return read.text().encode(errors="replace")
    letters = read.pick(["x", "é", "\U0001f600"]).encode()
    size = read.pick(SIZES)
    return letters * (size // len(letters)) + b"y" * (size % len(letters))


async def _write(batches: list[list[bytes]], pings: int, masks: bool) -> bytes:
    stream = MemorySendStream()
    outlet = Outlet(trio.StapledStream(stream, trio.testing.MemoryReceiveStream()), masks=masks)

    async def ping() -> None:
        for _ in range(pings):
            await outlet.send_all(PING)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ping)
        for batch in batches:
            await outlet.send_texts(batch)
    return bytes(stream.get_data_nowait()) if pings or any(batches) else b""


TARGETS = {"outlet": texts}
