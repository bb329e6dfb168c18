"""Streams around a stream, over memory: no socket, no clock."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MemoryReceiveStream, MemorySendStream, MockClock, memory_stream_pair

from trio_runner.streams import Replay, UpgradeWatch

Pair = trio.StapledStream[MemorySendStream, MemoryReceiveStream]


async def test_a_replayed_stream_gives_the_first_bytes_once_and_then_the_rest() -> None:
    near, far = memory_stream_pair()
    await far.send_all(b"rest")
    replay = Replay(near, b"first")
    assert [await replay.receive_some(3) for _ in range(3)] == [b"fir", b"st", b"res"]
    replay = Replay(near, b"all")
    assert await replay.receive_some() == b"all"
    await replay.wait_send_all_might_not_block()
    await replay.send_all(b"out")
    assert await far.receive_some() == b"out"
    await replay.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await near.send_all(b"x")


async def watched(*parts: bytes, end: bool = False) -> tuple[UpgradeWatch, Pair, list[int | str]]:
    near, far = memory_stream_pair()
    found: list[int | str] = []
    for part in parts:
        await far.send_all(part)
    if end:
        await far.send_eof()
    return (
        UpgradeWatch(near, lambda reason, later: found.extend([reason, later.decode()] if later else [reason])),
        far,
        found,
    )


async def test_an_upgraded_stream_gives_all_its_bytes_in_order() -> None:
    stream, far, refused = await watched(b"HTTP/1.1 101 Switching")
    async with trio.open_nursery() as nursery:
        received: list[bytes] = []

        async def read() -> None:
            with trio.fail_after(5):
                received.extend([bytes(await stream.receive_some()), bytes(await stream.receive_some())])

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        assert received == []
        await far.send_all(b" Protocols\r\nUpgr")
        await trio.testing.wait_all_tasks_blocked()
        await far.send_all(b"ade: websocket")
    assert received == [b"HTTP/1.1 101 Switching Protocols\r\nUpgr", b"ade: websocket"]
    assert refused == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", 403),
        (b"HTTP/1.1 100 Continue\r\n\r\n", 100),
        (b"HTTP/1.0 200 OK\r\n\r\n", 200),
        (b"HTTP/1.1 1011 Odd\r\n\r\n", 101),
        (b"HTTP/2 200\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 abc\r\n", "does not speak HTTP"),
        (b"SSH-2.0-x\r\n", "does not speak HTTP"),
        (b"x" * 5000, "does not speak HTTP"),
        (b"", "closed the connection instead of answering"),
        (b"HTTP/1.1 4", "closed the connection instead of answering"),
    ],
)
async def test_an_answer_other_than_101_is_reported_once_and_never_read(answer: bytes, reason: int | str) -> None:
    stream, _, refused = await watched(answer, end=True)
    with trio.move_on_after(0.05) as limit:
        received = await stream.receive_some()
    if reason == 101:  # three digits are a status; what follows is the parser's business
        assert received == answer
    else:
        assert limit.cancelled_caught
        assert refused == [reason]


@pytest.mark.parametrize(
    "parts",
    [
        [b"HTTP/1.1 429 Too Many Requests\r\nX: y\r\nRetry-After: 7\r\n\r\nbody"],
        [b"HTTP/1.1 429 Too Many Requests\r\n", b"retry-after: 7\r", b"\n\r\n"],
        [b"HTTP/1.1 429 Too Many Requests\r\nRETRY-AFTER: 7"],
    ],
)
async def test_a_refusal_is_reported_with_its_retry_after(parts: list[bytes]) -> None:
    stream, _, refused = await watched(*parts, end=True)
    with trio.move_on_after(0.05):
        await stream.receive_some()
    assert refused == [429, " 7"]


async def test_a_refusal_without_an_end_is_not_waited_for_long(autojump_clock: MockClock) -> None:
    stream, _, refused = await watched(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\n")
    with trio.move_on_after(60):
        await stream.receive_some()
    assert refused == [503, " 3"]


class Reset(trio.abc.ReceiveStream):
    """A connection that the peer has reset."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_a_stream_that_breaks_before_it_answers_counts_as_hung_up() -> None:
    refused: list[int | str] = []
    stream = UpgradeWatch(trio.StapledStream(MemorySendStream(), Reset()), lambda reason, _: refused.append(reason))
    with trio.move_on_after(0.05):
        await stream.receive_some()
    assert refused == ["closed the connection instead of answering"]
