"""The load broker's frames against wsproto, which speaks the same protocol without knowing ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, Message, Ping, TextMessage

from bench import framing
from bench.framing import FrameReader, apply_mask, header

LENGTHS = (0, 1, 125, 126, 127, 65535, 65536, 300_000)


def read_all(pieces: list[bytes]) -> list[tuple[int, bytes]]:
    reader, found = FrameReader(), []
    for piece in pieces:
        reader.feed(piece)
        while (frame := reader.next()) is not None:
            found.append((frame.opcode, frame.payload()))
    return found


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize(("length", "size"), [(n, s) for n in LENGTHS for s in (1, 1000, 1 << 18) if s > 1 or n < 200])
def test_a_masked_message_is_read_however_it_is_cut(length: int, size: int) -> None:
    data = bytes(i % 251 for i in range(length))
    wire = Connection(ConnectionType.CLIENT).send(BytesMessage(data=data))
    assert read_all(cut(wire, size)) == [(framing.BINARY, data)]
    assert read_all(cut(wire[:-1], size)) == []


@pytest.mark.parametrize("length", LENGTHS)
def test_a_header_is_what_a_client_expects(length: int) -> None:
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(header(length) + b"x" * length)
    texts = [event.data for event in client.events() if isinstance(event, TextMessage)]
    assert "".join(map(str, texts)) == "x" * length


@given(st.lists(st.one_of(st.text(max_size=300), st.binary(max_size=20).map(Ping)), max_size=8), st.integers(1, 64))
def test_messages_come_out_in_the_order_in_which_they_were_sent(sent: list[str | Ping], size: int) -> None:
    client = Connection(ConnectionType.CLIENT)
    events = [one if isinstance(one, Ping) else TextMessage(data=one) for one in sent]
    wire = b"".join(client.send(event) for event in events)
    expected = [
        (framing.PING, bytes(one.payload)) if isinstance(one, Ping) else (framing.TEXT, one.encode()) for one in sent
    ]
    assert read_all(cut(wire, size)) == expected


def test_a_ping_between_two_fragments_is_seen_before_the_whole_message() -> None:
    client = Connection(ConnectionType.CLIENT)
    parts: list[Message | Ping] = [
        TextMessage(data="one ", message_finished=False),
        Ping(payload=b"?"),
        TextMessage(data="two", message_finished=True),
    ]
    wire = b"".join(client.send(part) for part in parts)
    assert read_all([wire]) == [(framing.PING, b"?"), (framing.TEXT, b"one two")]


def test_the_buffer_is_used_again_for_frames_of_any_size() -> None:
    client = Connection(ConnectionType.CLIENT)
    reader = FrameReader()
    for length in (10, 400_000, 3, 500_000, 400_000):
        for piece in cut(client.send(BytesMessage(data=b"y" * length)), 100_000):
            reader.feed(piece)
        frame = reader.next()
        assert frame is not None
        assert frame.payload() == b"y" * length
        assert reader.next() is None


@given(st.binary(max_size=100), st.binary(min_size=4, max_size=4))
def test_masking_twice_changes_nothing(data: bytes, mask: bytes) -> None:
    assert apply_mask(apply_mask(data, mask), mask) == data
    assert apply_mask(data, mask) == bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
