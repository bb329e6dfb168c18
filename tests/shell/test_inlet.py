"""Large messages that are received beside trio-websocket: in order, whole, and only when they are what they seem."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import memory_stream_pair
from wsproto.frame_protocol import FrameProtocol, Opcode

from bench.framing import BINARY, TEXT, header
from trio_runner.inlet import LARGE, Inlet
from trio_runner.outlet import on_this_machine

HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
MAX = 4 * LARGE
PING = b"\x89\x02hi"
SIZES = (0, 1, 125, 126, 65_535, 65_536, LARGE - 1, LARGE, LARGE + 1, MAX, MAX + 1)


def message(size: int, fill: bytes = b"x", opcode: int = TEXT) -> bytes:
    return header(size, opcode) + fill * size


async def read_all(pieces: Sequence[bytes], max_bytes: int = 65_536) -> tuple[Inlet, bytes]:
    """What trio-websocket would have read of these bytes after the handshake, up to the end of the stream."""
    near, far = memory_stream_pair()
    inlet = Inlet(near, MAX)
    read = bytearray()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for piece in pieces:
                    await far.send_all(piece)
                await far.send_eof()

            nursery.start_soon(send)
            while data := await inlet.receive_some(max_bytes):
                read += data
    assert read[: len(HEAD)] == HEAD
    return inlet, bytes(read[len(HEAD) :])


def mark(inlet: Inlet) -> bytes:
    return header(len(inlet.mark)) + inlet.mark.encode()


async def test_a_large_message_is_received_beside_and_its_mark_stands_between_its_neighbours() -> None:
    inlet, read = await read_all([HEAD, message(5, b"a") + message(LARGE, b"b") + message(7, b"c")])
    assert read == message(5, b"a") + mark(inlet) + message(7, b"c")
    assert bytes(inlet.take()) == b"b" * LARGE
    with pytest.raises(IndexError):
        inlet.take()


async def test_a_large_message_may_come_right_behind_the_handshake_and_be_binary() -> None:
    inlet, read = await read_all([HEAD + message(LARGE + 3, b"b", BINARY)])
    assert read == mark(inlet)
    assert bytes(inlet.take()) == b"b" * (LARGE + 3)


@pytest.mark.parametrize(
    "frame",
    [
        message(LARGE - 1),
        message(MAX + 1),
        bytes((0x01,)) + message(LARGE)[1:],  # the first part of a fragmented message
        bytes((0xC1,)) + message(LARGE)[1:],  # compressed, which nobody agreed on
        bytes((0x89,)) + message(LARGE)[1:],  # a ping, which must not be that long
        header(LARGE)[:1] + bytes((header(LARGE)[1] | 0x80,)) + header(LARGE)[2:] + bytes(4 + LARGE),  # masked
    ],
    ids=["not large", "too large", "fragment", "compressed", "ping", "masked"],
)
async def test_everything_else_is_left_to_trio_websocket_as_it_is(frame: bytes) -> None:
    inlet, read = await read_all([HEAD, frame + PING])
    assert read == frame + PING
    with pytest.raises(IndexError):
        inlet.take()


async def test_a_stream_that_ends_in_a_large_message_ends_and_gives_nothing_of_it() -> None:
    inlet, read = await read_all([HEAD, PING + message(LARGE)[:-1]])
    assert read == PING
    with pytest.raises(IndexError):
        inlet.take()


async def test_a_stream_that_ends_in_a_header_ends() -> None:
    _, read = await read_all([HEAD, PING + message(LARGE)[:5]])
    assert read == PING


@pytest.mark.parametrize("announced", [1 << 50, 1 << 61])
async def test_what_there_is_no_memory_for_is_passed_on_as_it_comes(announced: int) -> None:
    near, far = memory_stream_pair()
    inlet = Inlet(near, 1 << 62)
    frame = header(announced) + b"x" * 100
    with trio.fail_after(5):
        for sent in (HEAD, frame, b"y" * 100):
            await far.send_all(sent)
            assert await inlet.receive_some() == sent


async def test_marks_of_two_connections_differ() -> None:
    near, _ = memory_stream_pair()
    assert Inlet(near, MAX).mark != Inlet(near, MAX).mark


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(SIZES), st.sampled_from([TEXT, BINARY])), max_size=4),
    st.lists(st.integers(1, 70_000), min_size=1, max_size=12),
    st.sampled_from([7, 4096, 65_536]),
)
def test_whatever_the_pieces_the_messages_come_whole_and_in_order(
    sent: list[tuple[int, int]], cuts: list[int], max_bytes: int
) -> None:
    frames = [message(size, bytes((65 + at,)), opcode) for at, (size, opcode) in enumerate(sent)]
    stream = HEAD + PING.join(frames)
    pieces, at, turn = [], 0, 0
    while at < len(stream):
        size = cuts[turn % len(cuts)] if turn < (400 if max_bytes > 7 else 50) else 1 << 30
        pieces.append(stream[at : at + size])
        at, turn = at + size, turn + 1
    inlet, read = trio.run(read_all, pieces, max(max_bytes, 4096) if len(stream) > 1000 else max_bytes)
    peer = FrameProtocol(client=True, extensions=[])
    peer.receive_bytes(read)
    heard: list[bytes] = []
    whole = b""
    for frame in peer.received_frames():
        if frame.opcode is Opcode.PING:
            continue
        whole += frame.payload.encode() if isinstance(frame.payload, str) else bytes(frame.payload)
        if frame.message_finished:
            heard.append(bytes(inlet.take()) if whole == inlet.mark.encode() else whole)
            whole = b""
    assert heard == [bytes((65 + at,)) * size for at, (size, _) in enumerate(sent)]


async def test_only_a_loopback_address_is_on_this_machine() -> None:
    near, _ = memory_stream_pair()
    assert not on_this_machine(near)
    async with trio.open_nursery() as nursery:
        for host in ("127.0.0.1", "::1"):
            listeners = await trio.open_tcp_listeners(0, host=host)
            port = listeners[0].socket.getsockname()[1]
            async with await trio.open_tcp_stream(host, port) as stream, listeners[0]:
                assert on_this_machine(stream)
            assert not on_this_machine(stream), "an address that cannot be told is not"
        nursery.cancel_scope.cancel()
