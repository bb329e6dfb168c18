"""One broker's link against brokers that follow a script: real WebSockets on loopback, workers without processes.

The clock jumps, so time-outs and backoff cost nothing and are asserted on the clock.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock
from trio_websocket import wrap_server_stream

from tests.shell.shell_kit import (
    Connection,
    FakeExecutor,
    Gate,
    Records,
    ScriptedBroker,
    config_for,
    scripted_broker,
    switching_protocols,
    tcp_server,
    text_frame,
    types,
)
from trio_runner.errors import AuthRefusedError, FatalError, SingleUseError
from trio_runner.http import Request, Response
from trio_runner.link import CLOSE_LIMIT, CONNECT_LIMIT, Link
from trio_runner.protocol.backoff import ReconnectTerms
from trio_runner.protocol.session import OfferTerms
from trio_runner.protocol.slots import Slots
from trio_runner.streams import Replay, Wrapped

pytestmark = pytest.mark.e2e

HEARTBEAT = 30


class Linked:
    """A link in the background and what became of it."""

    def __init__(self, link: Link, slots: Slots, executor: FakeExecutor, scope: trio.CancelScope) -> None:
        self.link = link
        self.slots = slots
        self.executor = executor
        self.scope = scope
        self.ended = trio.Event()
        self.error: FatalError | None = None

    async def run(self) -> None:
        with self.scope:
            try:
                await self.link.run()
            except FatalError as error:
                self.error = error
            self.ended.set()

    async def end(self) -> FatalError | None:
        """Waits for the link to end by itself. Gives its error, None for a clean end."""
        await self.ended.wait()
        return self.error


@contextlib.asynccontextmanager
async def linked(
    port: int,
    *,
    capacity: int = 2,
    grant_token: str | None = None,
    runner_id: str = "runner-1",
    reconnect: ReconnectTerms | None = None,
    **variables: str,
) -> AsyncIterator[Linked]:
    config = config_for(port, grant_token=grant_token, **variables)
    slots, executor = Slots(capacity), FakeExecutor()
    link = Link(
        config.brokers[0],
        config,
        runner_id=runner_id,
        slots=slots,
        executor=executor,  # type: ignore[arg-type]
        activity=lambda: None,
        terms=OfferTerms(jitter=0.0),
        reconnect=reconnect,
    )
    with trio.fail_after(5_000):
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            rig = Linked(link, slots, executor, scope)
            nursery.start_soon(rig.run)
            yield rig
            scope.cancel()
    assert slots.taken == 0, "whatever happened, no slot may be lost"


async def registered(broker: ScriptedBroker) -> Connection:
    connection = await broker.connection()
    await connection.register()
    return connection


# Connecting


async def test_a_runner_logs_in_connects_registers_and_offers_its_capacity(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, linked(broker.port, capacity=3) as rig:
        connection = await registered(broker)
        offers = await connection.silence(0.2)
        assert types(offers) == ["runner:taskoffer"] * 3
        assert {offer["taskType"] for offer in offers} == {"python"}
        assert {offer["validFor"] for offer in offers} == {5000}
        assert len({offer["offerId"] for offer in offers}) == 3
        assert broker.login_bodies == [{"token": "auth-secret"}]
        assert rig.link.registered


async def test_the_upgrade_asks_for_nothing_but_what_n8n_has(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, linked(broker.port, runner_id="a b/c&d=ü?#"):
        connection = await broker.connection()
        request = connection.request
        assert request.target == "/runners/_ws?id=a%20b%2Fc%26d%3D%C3%BC%3F%23"
        assert request.header("authorization") == "Bearer grant-0"
        assert request.header("host") == f"127.0.0.1:{broker.port}"
        assert request.header("sec-websocket-protocol") is None
        assert request.header("sec-websocket-extensions") is None


async def test_a_grant_token_is_used_without_a_login(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, linked(broker.port, grant_token="granted"):
        connection = await broker.connection()
        assert connection.request.header("authorization") == "Bearer granted"
        assert broker.login_bodies == []


async def test_a_path_in_front_of_the_broker_is_kept(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, linked(broker.port, N8N_RUNNERS_PATH="/n8n/runners"):
        assert (await broker.connection()).request.path == "/n8n/runners/_ws"


async def test_a_wrong_auth_token_is_fatal_with_exit_code_3(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker:
        broker.logins = [Response(403, b'{"code":403,"message":"Forbidden"}')]
        async with linked(broker.port) as rig:
            error = await rig.end()
            assert isinstance(error, AuthRefusedError)
            assert error.exit_code == 3
            assert broker.upgrade_requests == []


REFUSALS: dict[str, tuple[bytes | Response, str]] = {
    "401": (b"HTTP/1.1 401 Unauthorized\r\n\r\n", "refused the grant token (HTTP 401)"),
    "403": (b"HTTP/1.1 403 Forbidden\r\n\r\n", "refused the grant token (HTTP 403)"),
    "403 with length": (Response(403), "refused the grant token (HTTP 403)"),
    "404": (b"HTTP/1.1 404 Not Found\r\n\r\n", "N8N_RUNNERS_PATH must be the same"),
    "429": (b"HTTP/1.1 429 Too Many Requests\r\n\r\n", "takes no more connections now (HTTP 429)"),
    "500": (b"HTTP/1.1 500 Internal Server Error\r\n\r\n", "refused the connection (HTTP 500)"),
    "503": (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "refused the connection (HTTP 503)"),
    "200": (b"HTTP/1.1 200 OK\r\n\r\nhello", "refused the connection (HTTP 200)"),
    "100": (b"HTTP/1.1 100 Continue\r\n\r\n", "refused the connection (HTTP 100)"),
    "no answer": (b"", "closed the connection instead of answering"),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n", "does not speak HTTP"),
    "bad accept": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: wrong\r\n\r\n",
        "does not speak WebSocket",
    ),
    "bad headers": (b"HTTP/1.1 101 Switching Protocols\r\nno header\r\n\r\n", "does not speak WebSocket"),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refused_upgrade_is_tried_again_at_once_with_a_fresh_token(
    jump_clock: MockClock, records: Records, name: str
) -> None:
    answer, words = REFUSALS[name]
    async with scripted_broker() as broker:
        broker.upgrades = [answer, None]
        async with linked(broker.port) as rig:
            await registered(broker)
            assert broker.issued == ["grant-0", "grant-1"]
            assert [request.header("authorization") for request in broker.upgrade_requests] == [
                "Bearer grant-0",
                "Bearer grant-1",
            ]
            first, second = broker.upgraded_at
            assert second - first < 2, "an answer must not be waited for until a time-out"
            (line,) = records.having("Failed to connect to broker: ")
            assert words in line
            assert " - retrying in " in line
            assert words in str(rig.link.state().last_error)


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refused_upgrade_ends_a_runner_with_a_grant_token(jump_clock: MockClock, name: str) -> None:
    answer, words = REFUSALS[name]
    async with scripted_broker() as broker:
        broker.upgrades = [answer]
        async with linked(broker.port, grant_token="granted") as rig:
            error = await rig.end()
            assert isinstance(error, SingleUseError)
            assert error.exit_code == 4
            assert words in str(error)
            assert "A grant token works for one connection, so this process ends" in str(error)
            assert trio.current_time() < 2


async def test_a_429_is_not_tried_again_within_a_second(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker:
        broker.upgrades = [b"HTTP/1.1 429 Too Many Requests\r\n\r\n", None]
        broker.logins = [None, Response(429), None]
        async with linked(broker.port):
            await registered(broker)
            assert broker.upgraded_at[1] - broker.upgraded_at[0] >= 2, "one for the upgrade, one for the login"


async def test_a_429_is_not_tried_again_before_it_says_and_not_at_the_same_moment_by_all(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker:
        broker.upgrades = [b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 20\r\n\r\n"] * 20 + [None]
        async with linked(broker.port):
            await registered(broker)
            waits = [after - before for before, after in zip(broker.upgraded_at, broker.upgraded_at[1:], strict=False)]
            assert len(waits) == 20
            assert min(waits) >= 20
            assert max(waits) <= 31
            assert max(waits) - min(waits) > 2


async def test_a_broker_that_opens_and_closes_has_refused_the_token(jump_clock: MockClock, records: Records) -> None:
    async with scripted_broker() as broker, linked(broker.port) as rig:
        await (await broker.connection()).close(1000)
        connection = await registered(broker)
        assert connection.request.header("authorization") == "Bearer grant-1"
        (line,) = records.having("Failed to connect to broker: ")
        assert "it refused the grant token" in line
        assert rig.error is None


async def test_a_broker_that_opens_and_closes_ends_a_runner_with_a_grant_token(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, linked(broker.port, grant_token="granted") as rig:
        await (await broker.connection()).close(1000)
        error = await rig.end()
        assert isinstance(error, SingleUseError)
        assert "it refused the grant token" in str(error)


async def test_a_server_that_never_answers_the_upgrade_is_left_after_the_limit(jump_clock: MockClock) -> None:
    async def sit(request: Request, stream: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    async with scripted_broker() as broker:
        broker.upgrades = [sit, None]
        async with linked(broker.port) as rig:
            await registered(broker)
            first, second = broker.upgraded_at
            assert CONNECT_LIMIT <= second - first <= CONNECT_LIMIT + 1
            assert "did not finish the WebSocket handshake within 10s" in str(rig.link.state().last_error)


async def test_a_broker_that_is_not_there_is_looked_for_with_growing_waits(
    jump_clock: MockClock, records: Records
) -> None:
    async with scripted_broker() as broker:
        pass
    async with linked(broker.port):
        await trio.sleep(200)
    waits = [float(line.rpartition(" in ")[2].removesuffix("s...")) for line in records.having("Failed to connect")]
    assert len(waits) > 20
    for wait, bound in zip(waits, [0.5, 1, 2, 4] + [5] * 1000, strict=False):
        assert wait <= bound
    assert max(waits) > 4
    assert all(str(broker.port) in line for line in records.having("Failed to connect"))


@pytest.mark.parametrize("token", ["a\r\nX-Injected: yes", "a\nb", "schlüssel", "a\x00b"])
async def test_a_token_that_cannot_be_sent_is_neither_sent_nor_shown(
    jump_clock: MockClock, records: Records, token: str
) -> None:
    async with scripted_broker() as broker:
        broker.logins = [Response(200, json.dumps({"data": {"token": token}}).encode()), None]
        async with linked(broker.port):
            await registered(broker)
            assert len(broker.upgrade_requests) == 1
            assert not any(token in line for line in records.lines)
            assert records.having("The grant token holds characters that cannot be sent")


@pytest.mark.parametrize("token", ["a\nb", "schlüssel"])
async def test_a_grant_token_that_cannot_be_sent_ends_the_runner(jump_clock: MockClock, token: str) -> None:
    async with scripted_broker() as broker, linked(broker.port, grant_token=token) as rig:
        error = await rig.end()
        assert isinstance(error, SingleUseError)
        assert str(error).startswith("The grant token holds characters that cannot be sent")
        assert token not in str(error)


# Lost connections


async def test_a_lost_connection_is_replaced_with_a_fresh_token_and_new_offers(
    jump_clock: MockClock, records: Records
) -> None:
    async with scripted_broker() as broker, linked(broker.port) as rig:
        for number in range(4):
            connection = await registered(broker)
            assert connection.request.header("authorization") == f"Bearer grant-{number}"
            assert types(await connection.silence(0.2)) == ["runner:taskoffer"] * 2
            assert rig.link.state().reconnects == number
            await connection.silence(20)
            await connection.close(1001)
        assert broker.most_open == 1, "never two connections at once"
        assert len(records.having("The broker is stopping (close code 1001) - connecting again in ")) >= 3


async def test_the_backoff_starts_anew_after_a_connection_that_lasted(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, linked(broker.port):
        left = []
        for _ in range(12):
            connection = await registered(broker)
            await connection.silence(15)
            await connection.close(1000)
            left.append(trio.current_time())
        await registered(broker)
        waits = [back - gone for gone, back in zip(left, broker.upgraded_at[1:], strict=True)]
        assert max(waits) < 0.7


async def test_runners_that_throw_each_other_out_do_so_ever_more_slowly(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, linked(broker.port):
        started = trio.current_time()
        for _ in range(40):
            connection = await registered(broker)
            await connection.close(1000)
        assert trio.current_time() - started > 60, "some five seconds each on average, not some hundredths"


async def test_other_terms_bound_the_waits_of_a_link_that_is_lost_again_and_again(jump_clock: MockClock) -> None:
    terms = ReconnectTerms(base=0.1, cap=0.2)
    async with scripted_broker() as broker, linked(broker.port, reconnect=terms):
        started = trio.current_time()
        for _ in range(40):
            connection = await registered(broker)
            await connection.close(1000)
        assert trio.current_time() - started < 40 * 0.25


async def lose_by_close(connection: Connection) -> None:
    await connection.close(1001)


async def lose_by_hanging_up(connection: Connection) -> None:
    await trio.aclose_forcefully(connection.websocket._stream)


@pytest.mark.parametrize("lose", [lose_by_close, lose_by_hanging_up])
async def test_tasks_of_a_lost_connection_are_stopped_and_never_spoken_of_again(
    jump_clock: MockClock, lose: Callable[[Connection], Awaitable[None]]
) -> None:
    async with scripted_broker() as broker, linked(broker.port, capacity=3) as rig:
        connection = await registered(broker)
        await connection.start("running", "sleep 1")
        await connection.start("stubborn", "die 1.5")
        await connection.take("waiting")
        assert rig.slots.taken == 3
        await lose(connection)
        successor = await registered(broker)
        said = await successor.silence(30)
        assert set(types(said)) == {"runner:taskoffer"}
        assert sorted(rig.executor.cancelled) == ["running", "stubborn"]
        assert rig.slots.taken == 0
        assert broker.most_open == 1
        await successor.start("fresh", "return 5")
        assert (await successor.until("runner:taskdone"))["taskId"] == "fresh"


async def test_all_workers_are_gone_before_the_next_connection_is_made(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, linked(broker.port, capacity=1) as rig:
        connection = await registered(broker)
        await connection.start("stubborn", "die 7")
        await connection.close(1001)
        left = trio.current_time()
        connection = await registered(broker)
        assert trio.current_time() - left >= 7
        assert types(await connection.silence(0.2)) == ["runner:taskoffer"]
        assert rig.executor.running == set()


@pytest.mark.parametrize("code", [1000, 1002, 1006, 1009, 1011, 4000])
async def test_a_grant_token_runner_whose_connection_ends_has_exit_code_4(jump_clock: MockClock, code: int) -> None:
    async with scripted_broker() as broker, linked(broker.port, grant_token="granted") as rig:
        connection = await registered(broker)
        await connection.offer()
        await (lose_by_hanging_up(connection) if code == 1006 else connection.close(code))
        error = await rig.end()
        assert isinstance(error, SingleUseError)
        assert error.exit_code == 4
        assert str(code) in str(error)


async def test_a_grant_token_runner_ends_cleanly_when_n8n_stops(jump_clock: MockClock, records: Records) -> None:
    async with scripted_broker() as broker, linked(broker.port, grant_token="granted") as rig:
        connection = await registered(broker)
        await connection.send("broker:drain")
        await connection.silence(1)
        await connection.close(1001)
        assert await rig.end() is None
        assert records.having("The broker is stopping")


# Half-open connections and brokers that hang


async def test_a_half_open_connection_ends_within_two_heartbeats_and_frees_its_tasks(
    jump_clock: MockClock, records: Records
) -> None:
    async def vanish(request: Request, stream: trio.abc.Stream) -> None:
        """Lets the runner register, then neither reads nor writes."""
        await stream.send_all(switching_protocols(request))
        await stream.send_all(text_frame({"type": "broker:inforequest"}))
        await stream.send_all(text_frame({"type": "broker:runnerregistered"}))
        await trio.sleep_forever()

    async with scripted_broker() as broker:
        broker.upgrades = [vanish, None]
        async with linked(broker.port, N8N_RUNNERS_HEARTBEAT_INTERVAL=str(HEARTBEAT)):
            await registered(broker)
            first, second = broker.upgraded_at
            assert HEARTBEAT <= second - first <= 2 * HEARTBEAT + 1
            assert records.having("The broker did not answer our ping within 30s - connecting again")


async def test_a_connection_whose_broker_answers_pings_is_kept(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, linked(broker.port, N8N_RUNNERS_HEARTBEAT_INTERVAL=str(HEARTBEAT)):
        connection = await registered(broker)
        await connection.silence(8 * HEARTBEAT)
        assert len(broker.upgrade_requests) == 1


async def test_pings_of_the_broker_are_answered_while_tasks_run(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, linked(broker.port, capacity=1):
        connection = await registered(broker)
        await connection.start("t", "hang")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.silence, 100)
            for _ in range(20):
                with trio.fail_after(1):
                    await connection.websocket.ping()
                await trio.sleep(1)
            nursery.cancel_scope.cancel()


async def test_a_broker_that_never_registers_the_runner_is_left_after_a_heartbeat(
    jump_clock: MockClock, records: Records
) -> None:
    async with scripted_broker() as broker, linked(broker.port, N8N_RUNNERS_HEARTBEAT_INTERVAL=str(HEARTBEAT)):
        connection = await broker.connection()
        await connection.send("broker:inforequest")
        assert await connection.closed() == 1006
        assert trio.current_time() == pytest.approx(HEARTBEAT, abs=1)
        await registered(broker)
        assert records.having("The broker did not register this runner within 30s")


async def test_a_broker_that_reads_nothing_is_left_within_two_heartbeats_and_frees_its_tasks(
    jump_clock: MockClock, records: Records
) -> None:
    async with scripted_broker() as broker, linked(broker.port, capacity=3, N8N_RUNNERS_HEARTBEAT_INTERVAL="30") as rig:
        connection = await registered(broker)
        await connection.start("stuck", "hang")
        await connection.take("large")
        await connection.take("next")
        connection.gate.deaf = True
        await connection.settings("large", "result 30000000")
        await connection.settings("next", "result 10")
        since = trio.current_time()
        await trio.sleep(1)
        assert rig.executor.running == {"stuck"}
        assert rig.slots.taken == 2, "one result is being written, the other keeps its slot"
        connection = await registered(broker)
        assert trio.current_time() - since <= 2 * HEARTBEAT + 1
        assert rig.slots.taken == 0
        assert rig.executor.cancelled == ["stuck"]
        assert records.having("The broker did not answer our ping")
        await connection.start("after", "return 1")
        assert (await connection.until("runner:taskdone"))["taskId"] == "after"


async def test_a_broker_that_says_goodbye_and_reads_nothing_is_left_within_two_heartbeats(
    jump_clock: MockClock,
) -> None:
    """Our answer to its goodbye waits behind a result that nobody reads, and no message says that it is over."""
    async with scripted_broker() as broker, linked(broker.port, capacity=2, N8N_RUNNERS_HEARTBEAT_INTERVAL="30") as rig:
        connection = await registered(broker)
        await connection.start("stuck", "hang")
        await connection.take("large")
        connection.gate.deaf = True
        await connection.settings("large", "result 30000000")
        await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.close, 1000)
            since = trio.current_time()
            await registered(broker)
            assert trio.current_time() - since <= 2 * HEARTBEAT + 1
            assert rig.slots.taken == 0
            nursery.cancel_scope.cancel()


class Throttled(Wrapped):
    """A server's end of a slow link: so many bytes a second, in each direction."""

    def __init__(self, stream: trio.abc.Stream, rate: int) -> None:
        super().__init__(stream)
        self._rate = rate

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        await trio.sleep(1)
        return await super().receive_some(self._rate)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        for start in range(0, len(data), self._rate):
            await trio.sleep(1)
            await super().send_all(data[start : start + self._rate])


def slow_upgrade(broker: ScriptedBroker, rate: int) -> Callable[[Request, trio.abc.Stream], Awaitable[None]]:
    async def serve(request: Request, stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SocketStream)
        # it is the link that is slow, not the reader: megabytes that wait on his side would count as arrived
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 262_144)
        async with trio.open_nursery() as nursery:
            slow = Throttled(Replay(stream, request.raw), rate)
            gate = Gate(slow)
            handshake = await wrap_server_stream(nursery, gate, max_message_size=1 << 30)
            broker.connected(Connection(await handshake.accept(), request, gate))

    return serve


async def test_large_messages_on_a_slow_link_may_take_longer_than_our_heartbeat_in_both_directions(
    jump_clock: MockClock,
) -> None:
    """Pongs go between the pieces of what we send; what the broker sends is one frame, and its pong comes after it."""
    async with scripted_broker() as broker:
        broker.upgrades = [slow_upgrade(broker, 131_072)]
        async with linked(broker.port, capacity=1, N8N_RUNNERS_HEARTBEAT_INTERVAL="10") as rig:
            connection = await registered(broker)
            since = trio.current_time()
            await connection.take("t")
            await connection.settings("t", "result 15000000" + " " * 6_000_000)
            assert trio.current_time() - since > 40, "four heartbeats"
            await connection.until("runner:taskdone")
            assert trio.current_time() - since > 140
            assert len(broker.upgrade_requests) == 1
            assert rig.link.state().last_error is None


async def test_small_talk_does_not_make_up_for_a_pong(jump_clock: MockClock) -> None:
    async def chat(request: Request, stream: trio.abc.Stream) -> None:
        """Sends now and then and reads nothing."""
        await stream.send_all(switching_protocols(request))
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(text_frame({"type": "broker:inforequest"}))
                await stream.send_all(text_frame({"type": "broker:runnerregistered"}))
                await trio.sleep(1)

    async with scripted_broker() as broker:
        broker.upgrades = [chat, None]
        async with linked(broker.port, N8N_RUNNERS_HEARTBEAT_INTERVAL=str(HEARTBEAT)) as rig:
            await registered(broker)
            first, second = broker.upgraded_at
            assert HEARTBEAT <= second - first <= 2 * HEARTBEAT + 1
            assert "did not answer our ping" in str(rig.link.state().last_error)


async def test_pings_of_the_broker_are_answered_while_a_large_result_is_on_its_way(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker:
        broker.upgrades = [slow_upgrade(broker, 131_072)]
        async with linked(broker.port, capacity=1):
            connection = await registered(broker)
            await connection.start("t", "result 20000000")
            answered: list[float] = []

            async def ping() -> None:
                while True:
                    asked = trio.current_time()
                    await connection.websocket.ping()
                    answered.append(trio.current_time() - asked)
                    await trio.sleep(5)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ping)
                await connection.until("runner:taskdone")
                nursery.cancel_scope.cancel()
            assert len(answered) > 3
            assert max(answered) < 20, "what is in the system's buffers is before it, the rest of the result is not"


async def test_a_broker_that_talks_and_does_not_listen_is_left_when_answers_pile_up(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, linked(broker.port, capacity=1) as rig:
        connection = await registered(broker)
        await connection.take("large")
        connection.gate.deaf = True
        await connection.settings("large", "result 30000000")
        since = trio.current_time()
        with contextlib.suppress(Exception):
            for _ in range(5000):
                await connection.send("broker:inforequest")
        await registered(broker)
        assert trio.current_time() - since < 5
        assert "does not read" in str(rig.link.state().last_error)


async def test_a_message_beyond_the_payload_limit_ends_the_connection_and_nothing_else(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, linked(broker.port, N8N_RUNNERS_MAX_PAYLOAD="100000"):
        connection = await registered(broker)
        await connection.raw(json.dumps({"type": "broker:taskcancel", "taskId": "x" * 200_000, "reason": ""}))
        assert await connection.closed() == 1009
        await registered(broker)
        assert broker.most_open == 1


async def test_a_large_message_within_the_limit_is_taken(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, linked(broker.port, capacity=1):
        connection = await registered(broker)
        await connection.start("t", "return 1" + " " * 3_000_000)
        assert (await connection.until("runner:taskdone"))["data"] == {"result": 1}


# Frames that make no sense


NONSENSE: list[str | bytes] = [
    "",
    "null",
    "[]",
    "{}",
    "{",
    "not json",
    '{"type":null}',
    '{"type":"broker:taskofferaccept"}',
    '{"type":"broker:taskofferaccept","taskId":5,"offerId":[]}',
    '{"type":"broker:tasksettings","taskId":"x","settings":{}}',
    '{"type":"broker:taskcancel"}',
    '{"type":"broker:runnerregistered","type":"broker:drainage"}',
    '{"type":"broker:unheard of"}',
    '{"type":"broker:rpcresponse","taskId":"x","callId":"y","status":"maybe"}',
    b"\xff\xfe\x00",
    b"\x00" * 100,
    "[" * 100_000,
    '{"type":"broker:taskcancel","taskId":"\\ud800","reason":"\\udc00"}',
    '{"type":"broker:taskcancel","taskId":"' + "x" * 70_000 + '","reason":"\\r\\n\\u001b[2J"}',
]


async def test_no_message_whatsoever_closes_the_connection(jump_clock: MockClock, records: Records) -> None:
    async with scripted_broker() as broker, linked(broker.port, capacity=1):
        connection = await registered(broker)
        for _ in range(2):
            for frame in NONSENSE:
                await connection.raw(frame)
        await connection.send("broker:inforequest")
        await connection.send("broker:runnerregistered")
        await connection.start("t", "return 7")
        assert (await connection.until("runner:taskdone"))["data"] == {"result": 7}
        assert len(broker.upgrade_requests) == 1
        assert len(records.having("Unknown message type: broker:unheard of")) == 1


async def test_a_binary_frame_that_holds_a_message_is_that_message(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, linked(broker.port):
        connection = await broker.connection()
        await connection.raw(b'{"type":"broker:inforequest"}')
        assert (await connection.next())["type"] == "runner:info"


def hostile_bytes(seed: int) -> bytes:
    """Something like WebSocket frames: noise, odd opcodes, wrong lengths, broken text, bad close frames."""
    dice = random.Random(seed)
    kind = dice.randrange(6)
    if kind == 0:
        return dice.randbytes(dice.randrange(1, 400))
    if kind == 1:  # reserved bits and opcodes
        return bytes([dice.randrange(256), dice.randrange(126)]) + dice.randbytes(200)
    if kind == 2:  # a length that is never delivered
        return bytes([0x81, 127]) + struct.pack("!Q", dice.getrandbits(63)) + b"x" * 100
    if kind == 3:  # no UTF-8
        return bytes([0x81, 4]) + dice.choice([b"\xff\xff\xff\xff", b"\xed\xa0\x80\x00", b"\xc0\xaf\x00\x00"])
    if kind == 4:  # close frames of all sorts
        payload = dice.choice([b"", b"\x00", struct.pack("!H", dice.randrange(65536)) + b"\xff" * dice.randrange(3)])
        return bytes([0x88, len(payload)]) + payload
    return bytes([0x89, 126, 0xFF, 0xFF]) + b"y" * 65535  # a ping that is too large


async def test_no_bytes_whatsoever_end_the_runner(jump_clock: MockClock) -> None:
    count = 60

    def noise(seed: int) -> Callable[[Request, trio.abc.Stream], Awaitable[None]]:
        async def speak(request: Request, stream: trio.abc.Stream) -> None:
            await stream.send_all(switching_protocols(request))
            if seed % 2:
                await stream.send_all(text_frame({"type": "broker:inforequest"}))
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(hostile_bytes(seed))
                with trio.move_on_after(2):
                    while await stream.receive_some():
                        pass

        return speak

    async with scripted_broker() as broker:
        broker.upgrades = [*(noise(seed) for seed in range(count)), None]
        async with linked(broker.port, N8N_RUNNERS_HEARTBEAT_INTERVAL="1") as rig:
            connection = await registered(broker)
            assert len(broker.upgrade_requests) == count + 1
            assert rig.error is None
            await connection.start("t", "return 1")
            await connection.until("runner:taskdone")


# Leaving


async def test_a_link_that_is_stopped_while_idle_closes_with_1000_and_ends(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, linked(broker.port) as rig:
        connection = await registered(broker)
        await connection.offer()
        rig.link.stop()
        assert await connection.closed() == 1000
        assert await rig.end() is None
        assert len(broker.upgrade_requests) == 1


async def test_a_link_that_is_stopped_lets_its_tasks_finish_and_tells_of_them(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, linked(broker.port) as rig:
        connection = await registered(broker)
        await connection.start("t", "sleep 12")
        spare = await connection.offer()
        rig.link.stop()
        await connection.send("broker:taskofferaccept", taskId="late", offerId=spare)
        rejected = await connection.next()
        assert rejected == {
            "type": "runner:taskrejected",
            "taskId": "late",
            "reason": "Runner is shutting down",
        }
        assert await connection.closed() == 1000
        assert types(connection.messages[-1:]) == ["runner:taskdone"]
        assert await rig.end() is None


async def test_our_last_words_arrive_though_the_broker_is_still_talking(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, linked(broker.port, capacity=1) as rig:
        connection = await registered(broker)
        await connection.start("t", "sleep 1")
        rig.link.stop()

        async def talk() -> None:
            with contextlib.suppress(Exception):
                while True:
                    await connection.send("broker:rpcresponse", taskId="t", callId="1", status="success")
                    await trio.sleep(0.1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk)
            assert await connection.closed() == 1000
            assert types(connection.messages[-1:]) == ["runner:taskdone"]
            nursery.cancel_scope.cancel()


async def test_our_side_stays_open_until_the_broker_s_own_close_has_come(jump_clock: MockClock) -> None:
    stayed: list[bool] = []
    connected = trio.Event()

    async def slow_to_close(request: Request, stream: trio.abc.Stream) -> None:
        await stream.send_all(switching_protocols(request))
        await stream.send_all(text_frame({"type": "broker:inforequest"}))
        connected.set()
        while b"\x88\x82" not in await stream.receive_some():  # a client's close frame with a code
            pass
        with trio.move_on_after(1) as limit:
            await stream.receive_some()
        stayed.append(limit.cancelled_caught)
        await stream.send_all(b"\x88\x02\x03\xe8")
        stayed.append(await stream.receive_some() == b"")

    async with scripted_broker() as broker:
        broker.upgrades = [slow_to_close]
        async with linked(broker.port) as rig:
            await connected.wait()
            await trio.sleep(0.5)
            rig.link.stop()
            assert await rig.end() is None
            await trio.sleep(0.5)
            assert stayed == [True, True]


async def test_a_broker_that_does_not_answer_our_close_is_not_waited_for_long(jump_clock: MockClock) -> None:
    async def deaf(request: Request, stream: trio.abc.Stream) -> None:
        await stream.send_all(switching_protocols(request))
        await stream.send_all(text_frame({"type": "broker:inforequest"}))
        await stream.send_all(text_frame({"type": "broker:runnerregistered"}))
        connected.set()
        await trio.sleep_forever()

    connected = trio.Event()
    async with scripted_broker() as broker:
        broker.upgrades = [deaf]
        async with linked(broker.port) as rig:
            await connected.wait()
            await trio.sleep(1)
            rig.link.stop()
            stopped = trio.current_time()
            assert await rig.end() is None
            assert trio.current_time() - stopped <= CLOSE_LIMIT + 0.5
            assert len(broker.upgrade_requests) == 1


async def test_a_link_that_is_stopped_does_not_come_back_when_its_connection_breaks(
    jump_clock: MockClock, records: Records
) -> None:
    async with scripted_broker() as broker, linked(broker.port) as rig:
        connection = await registered(broker)
        await connection.start("t", "sleep 100")
        rig.link.stop()
        await connection.silence(1)
        await lose_by_hanging_up(connection)
        assert await rig.end() is None
        assert rig.executor.cancelled == ["t"]
        assert len(broker.upgrade_requests) == 1
        assert records.having("not connecting again, since it was being ended")


async def test_a_link_that_is_stopped_between_two_connections_ends_at_once(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker:
        broker.upgrades = [Response(503)]
        async with linked(broker.port) as rig:
            await trio.sleep(60)
            rig.link.stop()
            stopped = trio.current_time()
            assert await rig.end() is None
            assert trio.current_time() == stopped


async def test_a_link_that_is_stopped_in_the_middle_of_a_login_ends_at_once(jump_clock: MockClock) -> None:
    async def sit(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with tcp_server(sit) as port, linked(port) as rig:
        await trio.sleep(3)
        rig.link.stop()
        stopped = trio.current_time()
        assert await rig.end() is None
        assert trio.current_time() == stopped


async def test_a_drained_link_stays_connected_until_the_broker_closes(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, linked(broker.port, capacity=2) as rig:
        connection = await registered(broker)
        await connection.start("t", "sleep 3")
        spare = await connection.offer()
        await connection.send("broker:drain")
        await connection.send("broker:taskofferaccept", taskId="late", offerId=spare)
        said = await connection.silence(40)
        assert types(said) == ["runner:taskrejected", "runner:taskdone"]
        state = rig.link.state()
        assert (state.connected, state.registered, state.draining) == (True, False, True)
        await connection.close(1001)
        successor = await registered(broker)
        assert types(await successor.silence(0.2)) == ["runner:taskoffer"] * 2
        assert not rig.link.state().draining
