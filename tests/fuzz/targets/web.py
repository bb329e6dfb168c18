"""HTTP requests, HTTP answers and answers to upgrades, byte by byte from somebody who may be anybody."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import h11
import trio
from trio.testing import MockClock

from tests.fuzz.reader import Reader
from trio_runner import http
from trio_runner.http import MAX_BODY, Request, Response
from trio_runner.streams import UpgradeWatch

Serve = Callable[[trio.abc.Stream], Awaitable[None]]
PEER_LIMIT = 120.0
"""Seconds of a clock that jumps: many times the limit of one exchange."""
REQUESTS = (
    b"",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\n",
    b"POST /runners/auth HTTP/1.1\r\nHost: x\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70_000,
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"ff\r\n%b\r\n" % (b"x" * 255) * 300,
    b"GET /runners/_ws?id=1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n",
)
ANSWERS = (
    b"",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
    b"HTTP/1.1 403 Forbidden\r\n\r\n",
    b"HTTP/1.1 503\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70_000,
    b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 70_000,
    b"HTTP/1.1 2000 OK\r\n",
)
PHRASES = (
    b"GET /healthz HTTP/1.1\r\n", b"POST /runners/auth HTTP/1.1\r\n", b"Host: x\r\n", b"Content-Length: 5\r\n",
    b"\r\n", b"Content-Length: 99999999999\r\n", b"Transfer-Encoding: chunked\r\n", b"Upgrade: websocket\r\n",
    b"5\r\nhello\r\n", b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"hello", b"Connection: close\r\n",
    b"Expect: 100-continue\r\n", b" folded\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 101 Switching Protocols\r\n",
    b"HTTP/1.1 403 Forbidden\r\n", b"HTTP/1.0 200\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/2 200\r\n",
    b"HTTP/1.1 \xb2\xb2\xb2\r\n", b"x" * 3000, b"\x00", b"\r", b"\n",
)  # fmt: skip


def request(data: bytes) -> None:
    """A client that says this, in these pieces, and then hangs up or waits."""
    read = Reader(data)
    asked: list[Request] = []
    said = _run(partial(_serve, asked), read, REQUESTS)
    for one in asked:
        assert len(one.body) <= MAX_BODY
        assert one.path.isprintable()
    if said:
        _check_answer(said)


async def _serve(asked: list[Request], stream: trio.abc.Stream) -> None:
    async def handle(one: Request) -> Response:
        await trio.lowlevel.checkpoint()
        asked.append(one)
        return Response(200, b"OK")

    async def upgrade(one: Request, _: trio.abc.Stream) -> Response | None:
        asked.append(one)
        await trio.lowlevel.checkpoint()
        return Response(404)

    stream.socket = _Gone()  # type: ignore[attr-defined]
    await http._converse(handle, upgrade, trio.Semaphore(1), stream)  # type: ignore[arg-type]


class _Gone:
    """The socket of a client that has left: it has no address any more."""

    def getpeername(self) -> tuple[str, int]:
        raise OSError


def _check_answer(said: bytes) -> None:
    """It is one whole HTTP answer, also to a request that was none."""
    for method in ("POST", "HEAD"):
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        client.receive_data(said)
        client.receive_data(b"")
        try:
            events = [client.next_event() for _ in range(4)]
        except h11.RemoteProtocolError:
            continue
        assert isinstance(events[0], h11.Response)
        return
    raise AssertionError(f"no HTTP answer: {said!r}")


def answer(data: bytes) -> None:
    """A server that answers a login with this."""
    answers: list[Response] = []
    _run(partial(_ask, answers), Reader(data), ANSWERS)
    for one in answers:
        assert 200 <= one.status < 600
        assert len(one.body) <= MAX_BODY


async def _ask(answers: list[Response], stream: trio.abc.Stream) -> None:
    try:
        with trio.fail_after(http.REQUEST_LIMIT):
            answers.append(await http._exchange(stream, "x", "/runners/auth", b"{}"))
    except (h11.RemoteProtocolError, trio.BrokenResourceError, trio.TooSlowError):
        pass  # what `post_json` puts into words


def upgrade(data: bytes) -> None:
    """A server that answers an upgrade with this: all of it comes through, or there is one reason why not."""
    seen: list[bytes] = []
    reasons: list[int | str] = []
    _run(partial(_upgraded, seen, reasons), Reader(data), ANSWERS)
    assert len(reasons) <= 1
    assert not (seen and reasons), "bytes and a refusal"
    if seen:
        line = b"".join(seen).partition(b"\r\n")[0]
        assert line.startswith(b"HTTP/1.")
        assert line.partition(b" ")[2].startswith(b"101")
    assert all(reason != 101 for reason in reasons)


async def _upgraded(seen: list[bytes], reasons: list[int | str], stream: trio.abc.Stream) -> None:
    with trio.CancelScope() as scope:

        def refused(reason: int | str, retry_after: bytes) -> None:
            assert type(retry_after) is bytes
            reasons.append(reason)
            scope.cancel()

        watch = UpgradeWatch(stream, refused)
        with trio.move_on_after(PEER_LIMIT / 2):
            while part := await watch.receive_some(4096):
                seen.append(bytes(part))


def _run(serve: Serve, read: Reader, beginnings: Sequence[bytes]) -> bytes:
    """Talks to ``serve`` as the input says. Gives what was answered. Fails when there is no end."""
    hangs_up = not read.flag()
    beginning = read.pick(beginnings)
    said = beginning + b"".join(read.pick(PHRASES) if read.below(4) else read.bytes() for _ in range(read.below(24)))
    pieces = read.pieces(said + read.bytes()) if read.flag() else [said + read.rest()]
    logger = logging.getLogger("trio_runner.http")
    before, logger.disabled = logger.disabled, True  # every handler that fails says so
    try:
        return trio.run(
            _talk, serve, [piece for piece in pieces if piece], hangs_up, clock=MockClock(autojump_threshold=0)
        )
    finally:
        logger.disabled = before


async def _talk(serve: Serve, pieces: list[bytes], hangs_up: bool) -> bytes:
    theirs, ours = trio.testing.memory_stream_pair()
    heard = bytearray()

    async def speak() -> None:
        with suppress(trio.BrokenResourceError):  # nobody listens any more
            for piece in pieces:
                await theirs.send_all(piece)
            if hangs_up:
                await theirs.send_eof()

    async def listen() -> None:
        async for part in theirs:
            heard.extend(part)

    with trio.fail_after(PEER_LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(speak)
            nursery.start_soon(listen)
            await serve(ours)
            await ours.aclose()
            nursery.cancel_scope.cancel()
    return bytes(heard)


TARGETS: dict[str, Any] = {"http_request": request, "http_answer": answer, "upgrade_answer": upgrade}
