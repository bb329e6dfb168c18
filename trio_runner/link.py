"""One broker: get a grant token, connect, serve the connection, and again with backoff.

Owns the WebSocket and the tasks of one connection: receiver, writer, emitter, keep-alive. With an auth token it goes on
for ever, with a fresh grant token each time; with a grant token, which works once, it ends so that whoever started us
starts a new process. Every broker message goes through the one writer, and no narrower cancel scope surrounds a write:
a write cut in the middle of a frame makes the peer close the connection.
"""

from __future__ import annotations

import math
import random
import secrets
import ssl
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import cast
from urllib.parse import quote

import h11
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream
from wsproto.utilities import ProtocolError

from trio_runner.auth import fetch_grant_token
from trio_runner.config import BrokerAddress, Config
from trio_runner.counters import Counters
from trio_runner.dispatch import Dispatcher, Outgoing
from trio_runner.errors import (
    AuthRefusedError,
    BrokerUnreachableError,
    ConnectionLostError,
    GrantRefusedError,
    RateLimitedError,
    RetryableError,
    SingleUseError,
)
from trio_runner.executor import Executor
from trio_runner.health import BrokerState
from trio_runner.http import open_stream, retry_after
from trio_runner.inlet import Inlet
from trio_runner.log import get_logger, naming
from trio_runner.outlet import Outlet, on_this_machine
from trio_runner.protocol.backoff import ReconnectTerms, around
from trio_runner.protocol.messages import Refused, decode_from_broker, encode
from trio_runner.protocol.session import OfferTerms, Session
from trio_runner.protocol.slots import Slots
from trio_runner.streams import UpgradeWatch
from trio_runner.taskrecord import TaskRecord

log = get_logger("link")

RUNNER_NAME = "Python Task Runner"
TASK_TYPE = "python"
CONNECT_LIMIT = 10.0
CLOSE_LIMIT = 2.0
_RECEIVE_BUFFER = 65_536
_LARGE = 65_536
"""Bytes within a heartbeat that are more than small talk: part of a large frame, on a link that is worth keeping."""
_FAILED = "Failed to connect to broker: %s - retrying in %.1fs..."
_GOING_AWAY = 1001
_NORMAL = 1000


class Link:
    """The connection to one broker, and its successors."""

    def __init__(
        self,
        address: BrokerAddress,
        config: Config,
        *,
        runner_id: str,
        slots: Slots,
        executor: Executor,
        activity: Callable[[], None],
        terms: OfferTerms | None = None,
        reconnect: ReconnectTerms | None = None,
        counters: Counters | None = None,
        tls: ssl.SSLContext | None = None,
        among_others: Callable[[], bool] = lambda: False,
        trouble: Callable[[], None] = lambda: None,
    ) -> None:
        """``among_others`` says whether another broker may be of use although this one refuses the auth token.

        ``trouble`` is called for each connection that could not be made or was lost.
        """
        self._address = address
        self._config = config
        self._runner_id = runner_id
        self._slots = slots
        self._executor = executor
        self._activity = activity
        self._terms = terms or OfferTerms()
        self._reconnect = reconnect or ReconnectTerms()
        self._counters = (counters or Counters()).broker(address.name)
        self._tls = tls
        self._among_others = among_others
        self._trouble = trouble
        self._label = address.label if config.several_brokers else ""
        self._log = naming(log, self._label)
        self._scope = trio.CancelScope()
        self._dispatcher: Dispatcher | None = None
        self.stopping = False
        """Whether `stop` was called."""
        self._connected_at = math.inf
        self._connections = 0
        self._last_error: str | None = None
        self.refused = False
        """Whether the broker refused the auth token when it was last asked."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._dispatcher is not None

    @property
    def registered(self) -> bool:
        """Whether this broker takes our offers now."""
        return self._dispatcher is not None and self._dispatcher.registered

    def state(self) -> BrokerState:
        """What `/readyz` says of this broker."""
        dispatcher = self._dispatcher
        return BrokerState(
            broker=self._address.label,
            connected=self.connected,
            registered=self.registered,
            auth_refused=self.refused,
            draining=dispatcher is not None and dispatcher.draining,
            reconnects=max(0, self._connections - 1),
            last_error=self._last_error,
        )

    @property
    def running(self) -> Collection[TaskRecord]:
        """The tasks that it has started and that are not over."""
        return self._dispatcher.running if self._dispatcher is not None else ()

    def stop(self) -> None:
        """Ends `run`: at once when there is no connection, else when the running tasks are done and told."""
        self.stopping = True
        if self._dispatcher is None:
            self._scope.cancel()
        else:
            self._dispatcher.leave()

    def cut_off(self, reason: str) -> int:
        """Stops the tasks that still run after `stop`, with word to n8n. Returns how many there were."""
        return self._dispatcher.cut_off(reason) if self._dispatcher is not None else 0

    async def run(self) -> None:
        """Serves the broker until `stop`. Raises `FatalError` when there is no point in going on."""
        waits = self._reconnect.waits(random.random)
        with self._scope:
            while True:
                try:
                    await self._connect_and_serve()
                    return
                except RetryableError as error:
                    self._last_error = str(error)
                    self._counters.failed(error.reason)
                    if self.stopping:
                        self._log.warning("%s; not connecting again, since it was being ended", error)
                        return
                    if self._config.auth_token is None:
                        self._end_with_the_grant(error)
                        return
                    lost = isinstance(error, ConnectionLostError)
                    if lost and trio.current_time() - self._connected_at >= self._reconnect.settled_after:
                        waits = self._reconnect.waits(random.random)
                    # jitter also on top of what the broker asks for, which it asks of all runners alike
                    wait = next(waits) + error.at_least
                    text = "%s - connecting again in %.1fs..." if lost else _FAILED
                    (log if self._address.label in str(error) else self._log).warning(text, error, wait)
                except AuthRefusedError as error:
                    self._last_error = str(error)
                    self._counters.failed("auth_refused")
                    self.refused = True
                    if not self._among_others():
                        raise
                    wait = around(random.random, self._reconnect.refused_wait, by=0.5)
                    log.error("%s The others are served; this one is asked again in %.0fs.", error, wait)
                self._trouble()
                await trio.sleep(wait)

    def _end_with_the_grant(self, error: RetryableError) -> None:
        """A grant token is used up with its connection. Raises `SingleUseError`, unless n8n has said goodbye."""
        if isinstance(error, ConnectionLostError) and error.code == _GOING_AWAY:
            self._log.info("The broker is stopping; this runner's grant token is used up, so it ends too")
            return
        raise SingleUseError(
            f"{error}. A grant token works for one connection, so this process ends; n8n or its launcher starts another"
        ) from error

    async def _connect_and_serve(self) -> None:
        """One connection. Returns when it was left on purpose, raises `RetryableError` for any other end."""
        address = self._address
        token = self._config.grant_token or ""
        if self._config.auth_token is not None:
            token = await fetch_grant_token(address, self._config.auth_token, tls=self._tls)
            self.refused = False
        if not (token.isascii() and token.isprintable()):
            raise GrantRefusedError("The grant token holds characters that cannot be sent")
        stream = await open_stream(address, tls=self._tls, limit=CONNECT_LIMIT)
        lost: RetryableError | None = None
        async with stream:
            try:
                # trio_websocket's reader runs here
                async with trio.open_nursery() as nursery:
                    outlet = Outlet(stream, masks=not on_this_machine(stream))
                    upgraded = await self._upgrade(nursery, outlet, token)
                    if isinstance(upgraded, RetryableError):
                        lost = upgraded
                    else:
                        with self._counters.counting(outlet.moved):
                            lost = await self._serve(*upgraded, outlet)
                    nursery.cancel_scope.cancel()
            except* (ProtocolError, h11.ProtocolError):
                lost = BrokerUnreachableError(f"{address.label} does not speak WebSocket")
        if lost is not None:
            raise lost

    async def _upgrade(
        self, nursery: trio.Nursery, stream: trio.abc.Stream, token: str
    ) -> tuple[WebSocketConnection, Inlet] | RetryableError:
        """The opening handshake, or why there was none."""
        address = self._address
        refusal: RetryableError | None = None

        def refused(reason: int | str, later: bytes) -> None:
            nonlocal refusal
            refusal = _refusal(reason, address, retry_after(later))
            limit.cancel()

        with trio.move_on_after(CONNECT_LIMIT) as limit:
            inlet = Inlet(UpgradeWatch(stream, refused), self._config.max_payload)
            websocket = await wrap_client_stream(
                nursery,
                cast("trio.SocketStream", inlet),  # any stream will do
                address.authority,
                f"{address.websocket_path}?id={quote(self._runner_id, safe='')}",
                extra_headers=[(b"Authorization", f"Bearer {token}".encode())],
                max_message_size=self._config.max_payload,
                receive_buffer_size=_RECEIVE_BUFFER,
            )
            self._log.info("Connected to broker")
            self._counters.connected(again=self._connections > 0)
            self._connections += 1
            self._connected_at = trio.current_time()
            return websocket, inlet
        return refusal or BrokerUnreachableError(
            f"{address.label} did not finish the WebSocket handshake within {CONNECT_LIMIT:g}s"
        )

    async def _serve(self, websocket: WebSocketConnection, inlet: Inlet, outlet: Outlet) -> RetryableError | None:
        """The session nursery. Returns why the connection ended, None when we left."""
        session = Session(
            name=RUNNER_NAME,
            task_type=TASK_TYPE,
            slots=self._slots,
            terms=self._terms,
            new_id=lambda: secrets.token_urlsafe(16),
            random=random.random,
        )
        # room for what every task may print at once and for a burst of answers; more means that nobody reads
        outbox, to_write = trio.open_memory_channel[Outgoing](1024 + 256 * self._slots.capacity)
        lost: RetryableError | None = None
        closed = trio.Event()
        async with trio.open_nursery() as nursery:
            self._dispatcher = dispatcher = Dispatcher(
                session,
                outbox,
                nursery,
                self._executor,
                self._activity,
                large_one_arrives=outlet.large_one_arrives,
                counters=self._counters,
                label=self._label,
            )
            try:
                nursery.start_soon(_write_messages, websocket, outlet, to_write, closed)
                nursery.start_soon(dispatcher.emit_offers)
                nursery.start_soon(self._keep_alive, websocket, outlet, dispatcher)
                lost = await self._receive_messages(websocket, inlet, outlet, dispatcher)
                if lost is None:
                    await closed.wait()
            finally:
                self._dispatcher = None
                dispatcher.lose()
            nursery.cancel_scope.cancel()
        return lost or dispatcher.failure

    async def _receive_messages(
        self, websocket: WebSocketConnection, inlet: Inlet, outlet: Outlet, dispatcher: Dispatcher
    ) -> RetryableError | None:
        """Takes frames as they come and waits for nothing else: unread messages would hold up the pongs."""
        while True:
            try:
                frame: str | bytes | memoryview = await websocket.get_message()
            except ConnectionClosed as closed:
                return _end(closed, heard=dispatcher.heard, left=dispatcher.left)
            outlet.note_message()
            if frame == inlet.mark:
                frame = inlet.take()
            try:
                message = decode_from_broker(frame)
            except Refused as refused:
                dispatcher.refuse(refused)
            else:
                dispatcher.receive(message)
                del message
            del frame  # not held until the next one comes: it may be large, and the task lets go of it when it is sent

    async def _keep_alive(self, websocket: WebSocketConnection, outlet: Outlet, dispatcher: Dispatcher) -> None:
        """Notices a half-open connection by our own pings, within two intervals, and a broker that only says pong."""
        interval = self._config.heartbeat_interval
        while True:
            await trio.sleep(interval)
            if dispatcher.unregistered:
                dispatcher.give_up(ConnectionLostError(f"The broker did not register this runner within {interval}s"))
            asked = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch_progress, outlet, interval, dispatcher)
                try:
                    await websocket.ping()
                except ConnectionClosed:
                    return
                nursery.cancel_scope.cancel()
            dispatcher.answered(trio.current_time() - asked)


async def _watch_progress(outlet: Outlet, interval: float, dispatcher: Dispatcher) -> None:
    """While a ping is out: gives the connection up when nothing of what would hold up the pong moves.

    A large frame may take longer than a heartbeat, in either direction. While one of ours is being written it must get
    on; else it is the broker's turn, and more must come than the small talk of one that sends but does not listen.
    """
    while True:
        received, sent = outlet.moved()
        await trio.sleep(interval)
        received_now, sent_now = outlet.moved()
        moves = sent_now > sent if outlet.sending else received_now - received >= _LARGE
        if not moves:
            dispatcher.give_up(ConnectionLostError(f"The broker did not answer our ping within {interval}s"))


async def _write_messages(
    websocket: WebSocketConnection,
    outlet: Outlet,
    to_write: trio.MemoryReceiveChannel[Outgoing],
    closed: trio.Event,
) -> None:
    """The only task that writes messages. When the outbox ends, everything is written and the connection is closed."""
    try:
        async with to_write:
            async for first in to_write:
                batch = [first, *_waiting(to_write)]
                if websocket.closed:
                    return
                await outlet.send_texts(encode(outgoing.message) for outgoing in batch)
                for outgoing in batch:
                    if outgoing.written is not None:
                        outgoing.written.set()
        # the broker's own close frame is awaited: an end of the socket before it was read can cost it our last words
        with trio.move_on_after(CLOSE_LIMIT):
            await websocket.aclose(_NORMAL)
    except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
        return  # the receiver sees it too and ends the session
    finally:
        closed.set()


def _waiting(to_write: trio.MemoryReceiveChannel[Outgoing]) -> Iterator[Outgoing]:
    """What is in the outbox now: it leaves with the message before it, in one write."""
    with suppress(trio.WouldBlock, trio.EndOfChannel):
        while True:
            yield to_write.receive_nowait()


def _end(closed: ConnectionClosed, *, heard: bool, left: bool) -> RetryableError | None:
    """What the end of a connection means."""
    if left:
        return None
    code = closed.reason.code if closed.reason is not None else None
    if not heard:
        # brokers before the newest accept every upgrade and close refused ones at once (protocol.md 3.1)
        return GrantRefusedError("The broker closed the connection before saying a word: it refused the grant token")
    text = {_GOING_AWAY: "The broker is stopping", _NORMAL: "The broker closed the connection"}
    detail = f" (close code {code})" if code is not None else ""
    return ConnectionLostError(text.get(code or 0, "The connection to the broker was lost") + detail, code=code)


def _refusal(reason: int | str, address: BrokerAddress, later: float) -> RetryableError:
    """What an answer other than 101 to the upgrade request means: an HTTP status, or words when there was none."""
    if isinstance(reason, str):
        return BrokerUnreachableError(f"{address.label} {reason}")
    if reason in (401, 403):
        return GrantRefusedError(f"{address.label} refused the grant token (HTTP {reason})")
    if reason == 429:
        return RateLimitedError(f"{address.label} takes no more connections now (HTTP 429)", at_least=max(1.0, later))
    if reason == 404:
        return BrokerUnreachableError(
            f"{address.label}{address.websocket_path} does not exist (HTTP 404). "
            "N8N_RUNNERS_PATH must be the same for n8n and for this runner"
        )
    return BrokerUnreachableError(f"{address.label} refused the connection (HTTP {reason})", at_least=later)
