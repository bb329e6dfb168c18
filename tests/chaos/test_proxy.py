"""The proxy does what each of its faults says, and nothing else: bytes arrive as they should, or as they should not."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.chaos.answers import refuse, say, say_nothing
from tests.chaos.certificates import Certificates
from tests.chaos.frame_ends import FrameEnds, text_frame
from tests.chaos.proxy import Proxy
from tests.chaos.weather import Kind, To, Weather
from tests.e2e.n8n_server import free_port
from tests.shell.shell_kit import read_all, read_head, tcp_server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

LOGIN = b"POST /runners/auth HTTP/1.1\r\n\r\n"
UPGRADE = b"GET /runners/_ws?id=1 HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"
REFUSED = b"HTTP/1.1 429 Refused\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


@pytest.fixture
def clock() -> MockClock:
    """Jumps when nothing has happened for a moment of real time: enough for bytes on a loopback socket."""
    return MockClock(autojump_threshold=0.03)


class Rig:
    """A proxy in front of a server that accepts every upgrade; both of its ends are in the test's hands."""

    def __init__(self, proxy: Proxy, accepted: trio.MemoryReceiveChannel[trio.SocketStream]) -> None:
        self.proxy = proxy
        self._accepted = accepted
        self.clients: list[trio.SocketStream] = []

    async def client(self, head: bytes = UPGRADE) -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", self.proxy.port)
        self.clients.append(stream)
        await stream.send_all(head)
        return stream

    async def upgraded(self) -> tuple[trio.SocketStream, trio.SocketStream]:
        """The runner's end and the broker's end of one WebSocket."""
        runner = await self.client()
        broker = await self._accepted.receive()
        assert await read_head(broker) == UPGRADE
        await broker.send_all(SWITCHING)
        assert await read_head(runner) == SWITCHING
        return runner, broker


@asynccontextmanager
async def rigged(tls: ssl.SSLContext | None = None) -> AsyncIterator[Rig]:
    accept, accepted = trio.open_memory_channel[trio.SocketStream](9)

    async def serve_one(stream: trio.SocketStream) -> None:
        await accept.send(stream)
        await trio.sleep_forever()

    # No limit by the clock, which jumps to it whenever the kernel takes its time; the test has one of real time.
    async with tcp_server(serve_one) as port, trio.open_nursery() as nursery:
        proxy = Proxy(free_port(), port, tls=tls)
        await nursery.start(proxy.serve)
        rig = Rig(proxy, accepted)
        try:
            yield rig
        finally:
            for client in rig.clients:
                client.socket.close()
        nursery.cancel_scope.cancel()


async def exactly(stream: trio.SocketStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = bytes(await stream.receive_some(count - len(data)))
        assert part, f"the end after {data!r}"
        data += part
    return data


async def silence(stream: trio.SocketStream, seconds: float) -> bool:
    with trio.move_on_after(seconds):
        await stream.receive_some(1)
        return False
    return True


async def ended_rudely(stream: trio.SocketStream) -> bool:
    try:
        while await stream.receive_some():
            pass
    except trio.BrokenResourceError:
        return True
    return False


# No fault


async def test_bytes_pass_both_ways_and_an_end_of_one_side_is_one_of_the_other(clock: MockClock) -> None:
    async with rigged() as rig:
        runner, broker = await rig.upgraded()
        await runner.send_all(b"up")
        await broker.send_all(b"down" * 100_000)
        assert await exactly(broker, 2) == b"up"
        assert await exactly(runner, 400_000) == b"down" * 100_000
        await broker.aclose()
        assert await read_all(runner) == b""


async def test_it_speaks_tls_to_those_who_know_its_authority_and_can_show_a_wrong_certificate(
    clock: MockClock, tmp_path: Path
) -> None:
    certificates = Certificates.make(tmp_path)
    trusting = ssl.create_default_context(cafile=certificates.ca)

    async def secured(rig: Rig) -> trio.SSLStream[trio.SocketStream]:
        plain = await rig.client(b"")
        stream = trio.SSLStream(plain, trusting, server_hostname="127.0.0.1", https_compatible=True)
        await stream.do_handshake()
        return stream

    async with rigged(certificates.right) as rig:
        rig.proxy.handshake_grain = 7
        rig.proxy.answer_next(Kind.OTHER, say(b"hello"))
        stream = await secured(rig)
        await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
        assert await read_all(stream) == b"hello"
        rig.proxy.next_certificates.append(certificates.wrong)
        with pytest.raises(trio.BrokenResourceError) as raised:
            await secured(rig)
        assert isinstance(raised.value.__cause__, ssl.SSLCertVerificationError)
        await rig.proxy.all_answered()
        await secured(rig)


# Weather


async def test_delay_holds_bytes_back_and_delivers_what_came_meanwhile_with_them(clock: MockClock) -> None:
    async with rigged() as rig:
        runner, broker = await rig.upgraded()
        started = trio.current_time()
        with rig.proxy.weather(Weather(delay=5), To.RUNNER):
            for word in (b"one ", b"two ", b"three"):
                await broker.send_all(word)
                await trio.sleep(0.5)
            assert await exactly(runner, 4) == b"one "
            assert trio.current_time() - started >= 5
            assert await runner.receive_some() == b"two three"


async def test_throttled_bytes_take_their_time(clock: MockClock) -> None:
    async with rigged() as rig:
        runner, broker = await rig.upgraded()
        with rig.proxy.weather(Weather(rate=1000), To.BROKER):
            started = trio.current_time()
            await runner.send_all(b"x" * 500)
            await exactly(broker, 500)
            assert trio.current_time() - started >= 0.45
            await broker.send_all(b"y" * 500)
            await exactly(runner, 500)
            assert trio.current_time() - started < 0.7, "the other direction is fine"


async def test_a_stall_holds_everything_until_it_is_over_and_loses_nothing(clock: MockClock) -> None:
    async with rigged() as rig:
        runner, broker = await rig.upgraded()
        with rig.proxy.weather(Weather(stalled=True)):
            await runner.send_all(b"later")
            assert await silence(broker, 10)
        assert await exactly(broker, 5) == b"later"


async def test_grains_arrive_one_by_one_and_in_order(clock: MockClock) -> None:
    async with rigged() as rig:
        runner, broker = await rig.upgraded()
        data = bytes(range(200)) * 3
        with rig.proxy.weather(Weather(grain=1), To.RUNNER):
            await broker.send_all(data)
            assert await exactly(runner, len(data)) == data


# Losses


@pytest.mark.parametrize("rudely", [True, False])
async def test_a_cut_ends_both_sides(clock: MockClock, rudely: bool) -> None:
    async with rigged() as rig:
        runner, broker = await rig.upgraded()
        rig.proxy.cut(rudely=rudely)
        assert [await ended_rudely(runner), await ended_rudely(broker)] == [rudely, rudely]
        await rig.upgraded()


@pytest.mark.parametrize("direction", list(To))
async def test_a_cut_inside_delivers_half_of_the_next_piece(clock: MockClock, direction: To) -> None:
    async with rigged() as rig:
        runner, broker = await rig.upgraded()
        sender, receiver = (runner, broker) if direction is To.BROKER else (broker, runner)
        rig.proxy.cut_inside(direction)
        await sender.send_all(b"12345678")
        assert (await receiver.receive_some(), await ended_rudely(sender)) == (b"1234", True)


async def test_a_half_open_connection_takes_everything_and_says_nothing_not_even_that_the_other_has_left(
    clock: MockClock,
) -> None:
    async with rigged() as rig:
        runner, broker = await rig.upgraded()
        rig.proxy.go_silent()
        await runner.send_all(b"anybody?")
        await broker.send_all(b"hello?")
        assert await silence(runner, 20)
        assert await silence(broker, 20)
        await runner.aclose()
        assert await silence(broker, 2)
        assert await read_all(broker) == b"", "it is forgotten some time after the runner has gone"
        await rig.upgraded()


async def test_a_broker_that_stops_reading_is_heard_and_fills_the_runner_s_buffers(clock: MockClock) -> None:
    async with rigged() as rig:
        runner, broker = await rig.upgraded()
        rig.proxy.stop_reading()
        await broker.send_all(b"hello")
        assert await exactly(runner, 5) == b"hello"
        with trio.move_on_after(10) as limit:
            await runner.send_all(bytes(50_000_000))
        assert limit.cancelled_caught
        assert rig.proxy.websockets() == []


async def test_while_it_is_away_connections_are_refused_and_old_ones_go_on(clock: MockClock) -> None:
    async with rigged() as rig:
        runner, broker = await rig.upgraded()
        async with rig.proxy.away():
            with pytest.raises(OSError, match="all attempts to connect"):
                await rig.client()
            await runner.send_all(b"up")
            assert await exactly(broker, 2) == b"up"
        await rig.upgraded()


# Words in the broker's place


async def test_frames_are_injected_between_frames_and_bytes_anywhere(clock: MockClock) -> None:
    async with rigged() as rig:
        runner, broker = await rig.upgraded()
        whole, mine = text_frame(b"a long message of the broker"), text_frame(b"not from the broker")
        await broker.send_all(whole[:9])
        assert await exactly(runner, 9) == whole[:9]
        await rig.proxy.inject_frames(mine)
        assert await silence(runner, 1)
        await broker.send_all(whole[9:])
        assert await exactly(runner, len(whole) - 9 + len(mine)) == whole[9:] + mine
        await rig.proxy.inject(b"\xff\xff", To.BROKER)
        assert await exactly(broker, 2) == b"\xff\xff"


async def test_bytes_for_a_runner_that_has_just_left_are_nobody_s_trouble(clock: MockClock) -> None:
    async with rigged() as rig:
        runner, _ = await rig.upgraded()
        await rig.proxy.inject(b"\xff", To.RUNNER)
        await runner.aclose()  # with something unread: a reset
        for _ in range(3):
            await rig.proxy.inject(b"\xff" * 64, To.RUNNER)
        await rig.upgraded()


@pytest.mark.parametrize(
    ("kind", "head", "make", "heard"),
    [
        (Kind.LOGIN, LOGIN, lambda: refuse(429, b"no"), REFUSED + b"no"),
        (Kind.UPGRADE, UPGRADE, lambda: refuse(503), b"HTTP/1.1 503 Refused\r\n\r\n"),
        (Kind.UPGRADE, UPGRADE, lambda: say(b"\xffnoise"), b"\xffnoise"),
        (Kind.LOGIN, LOGIN, lambda: say_nothing(3), b""),
    ],
)  # fmt: skip
async def test_a_planned_answer_is_given_once_to_its_kind_of_connection(
    clock: MockClock, kind: Kind, head: bytes, make: Callable[[], object], heard: bytes
) -> None:
    async with rigged() as rig:
        rig.proxy.answer_next(kind, make())  # type: ignore[arg-type]
        other = await rig.client(LOGIN if kind is Kind.UPGRADE else UPGRADE)
        assert await silence(other, 1)
        assert await read_all(await rig.client(head)) == heard
        await rig.proxy.all_answered()
        assert await silence(await rig.client(head), 1), "this one has reached the broker"


# Frames


frames = st.lists(
    st.sampled_from([0, 1, 125, 126, 127, 300, 65_535, 65_536]).map(lambda size: text_frame(b"x" * size)), max_size=6
)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(sent=frames, places=st.lists(st.integers(0, 300_000), max_size=10))
def test_between_two_frames_is_where_one_has_ended_however_the_bytes_are_cut(
    sent: list[bytes], places: list[int]
) -> None:
    data = SWITCHING + b"".join(sent)
    ends = {len(SWITCHING) + sum(map(len, sent[:count])) for count in range(len(sent) + 1)}
    scanner = FrameEnds()
    for start, stop in pairwise([0, *sorted({place % len(data) for place in places} - {0}), len(data)]):
        scanner.feed(data[start:stop])
        assert scanner.between == (stop in ends)
