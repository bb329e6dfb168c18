"""The little HTTP that a runner needs: serve a handful of short answers, send one small request. Parsing is h11's.

One request a connection, every wait bounded. Also hands over a connection that asked to become a WebSocket, with the
bytes that were already read.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import h11
import msgspec
import trio

from trio_runner.config import BrokerAddress
from trio_runner.errors import BrokerUnreachableError, StartError
from trio_runner.log import get_logger

log = get_logger("http")

REQUEST_LIMIT = 10.0
"""Seconds that one exchange may take."""
MAX_BODY = 65_536
MAX_CONNECTIONS = 128
"""Exchanges at the same time; who comes on top is turned away, for the workers need descriptors too."""
LONGEST_RETRY_AFTER = 300.0
"""Seconds that a server can make us wait at most: a clock that is wrong somewhere must not cost days."""
_READ = 4096
_UNKNOWN_AUTHORITY = (18, 19, 20, 21)
_OTHER_HOST = (62, 64)
"""OpenSSL's numbers for what is wrong with a certificate."""


class Request(msgspec.Struct, frozen=True):
    """One request; ``raw`` is what was read of it, for whoever takes the connection over."""

    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    raw: bytes
    peer: str = ""
    """The IP address that it comes from."""
    here: str = ""
    """The IP address of ours that it came to."""

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    def header(self, name: str) -> str | None:
        """The first header of this name (lower case)."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name.encode()), None)


class Response(msgspec.Struct, frozen=True):
    """An answer."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    retry_after: float = 0.0
    """Seconds that the server wants to be left alone for."""
    headers: tuple[tuple[str, str], ...] = ()
    """What else to say, as a server."""
    goes_on: Callable[[trio.abc.Stream], Awaitable[None]] | None = None
    """Writes the rest of the body, without a limit of time: the client reads until the connection ends."""


Handler = Callable[[Request], Awaitable[Response]]
Upgrade = Callable[[Request, trio.abc.Stream], Awaitable[Response | None]]


async def serve(
    handler: Handler,
    host: str,
    port: int,
    *,
    upgrade: Upgrade | None = None,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until cancelled; starts with the port in use. Raises `StartError` when the port cannot be had.

    ``upgrade`` takes a request to become a WebSocket together with its connection, and either serves it to its end
    (returns None) or refuses it with a `Response`.
    """
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        reason = "already in use" if error.errno == errno.EADDRINUSE else f"not available on {host}: {_words(error)}"
        raise StartError(f"Port {port} is {reason}") from error
    places = trio.Semaphore(MAX_CONNECTIONS)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_listeners, partial(_converse, handler, upgrade, places), listeners))
        task_status.started(listeners[0].socket.getsockname()[1])


async def _converse(
    handler: Handler, upgrade: Upgrade | None, places: trio.Semaphore, stream: trio.SocketStream
) -> None:
    """One connection. Whatever a client does ends its own connection only."""
    async with stream:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            left = await _exchange_one(handler, places, stream, may_upgrade=upgrade is not None)
            if isinstance(left, Response):
                if left.goes_on is not None:
                    await left.goes_on(stream)
            elif left is not None and upgrade is not None:
                refusal = await upgrade(left, stream)
                if refusal is not None:
                    with trio.move_on_after(REQUEST_LIMIT):
                        await _answer(stream, refusal)


async def _exchange_one(
    handler: Handler, places: trio.Semaphore, stream: trio.SocketStream, *, may_upgrade: bool
) -> Request | Response | None:
    """Reads one request and answers it. One that asks to become a WebSocket is returned instead, if it may.

    An answer that was begun and goes on is returned, too: it takes no place, its handler must have a bound of its own.
    """
    try:
        places.acquire_nowait()
    except trio.WouldBlock:
        return None
    try:
        with trio.move_on_after(REQUEST_LIMIT):
            try:
                request = await _read_request(stream)
            except h11.RemoteProtocolError as error:
                await _answer(stream, Response(error.error_status_hint))
                return None
            if request is not None:
                if may_upgrade and (request.header("upgrade") or "").lower() == "websocket":
                    return request
                try:
                    response = await handler(request)
                except Exception:
                    # a defect of ours costs this answer, not the process
                    log.exception("%s %s could not be answered", request.method, request.path)
                    response = Response(500)
                await _answer(stream, response, with_body=request.method != "HEAD")
                return response if response.goes_on is not None and request.method != "HEAD" else None
        return None
    finally:
        places.release()


async def _read_request(stream: trio.SocketStream) -> Request | None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=16_384)
    raw = b""
    head: h11.Request | None = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            data = bytes(await stream.receive_some(_READ))
            raw += data
            connection.receive_data(data)
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BODY:
                raise h11.RemoteProtocolError("the body is too large", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return Request(
                *(head.method.decode(), head.target.decode("latin-1"), tuple(head.headers), body, raw), *_ends(stream)
            )
        else:
            return None


def _ends(stream: trio.SocketStream) -> tuple[str, str]:
    """The addresses of the peer and of us; a client that is gone already has none."""
    try:
        return str(stream.socket.getpeername()[0]), str(stream.socket.getsockname()[0])
    except OSError:
        return "", ""


async def _answer(stream: trio.abc.Stream, response: Response, *, with_body: bool = True) -> None:
    connection = h11.Connection(h11.SERVER)
    length = [("Content-Length", str(len(response.body)))] if response.goes_on is None else []
    headers = [("Content-Type", response.content_type), *length, ("Connection", "close"), *response.headers]
    data = connection.send(h11.Response(status_code=response.status, headers=headers))
    await stream.send_all((data or b"") + (response.body if with_body else b""))


def trust(authorities: str = "") -> ssl.SSLContext:
    """How servers are verified: by the system's authorities and these, given as PEM or as the path of a PEM file.

    Raises `StartError` when they cannot be used. Blocking: reads files.
    """
    context = ssl.create_default_context()
    if authorities:
        pem = authorities if authorities.startswith("-----BEGIN") else None
        try:
            context.load_verify_locations(None if pem else authorities, cadata=pem)
        except (OSError, ValueError, TypeError) as error:  # TypeError for what is not ASCII
            what = "no certificate in PEM form" if isinstance(error, ssl.SSLError) or pem else _words(error)
            raise StartError(f"N8N_RUNNERS_TASK_BROKER_CA cannot be used: {what}") from error
    return context


async def open_stream(
    broker: BrokerAddress, *, tls: ssl.SSLContext | None = None, limit: float = 10.0
) -> trio.abc.Stream:
    """A connection, with TLS if the broker is ``secure``. Raises `BrokerUnreachableError` with the reason in words."""
    try:
        with trio.fail_after(limit):
            plain = await trio.open_tcp_stream(broker.address or broker.host, broker.port)
            if not broker.secure:
                return plain
            stream = trio.SSLStream(plain, tls or trust(), server_hostname=broker.host, https_compatible=True)
            try:
                await stream.do_handshake()
            except BaseException:
                await trio.aclose_forcefully(plain)
                raise
            return stream
    except trio.TooSlowError:
        raise BrokerUnreachableError(f"{broker.label} did not answer within {limit:g}s") from None
    except (OSError, trio.BrokenResourceError, UnicodeError) as error:
        raise BrokerUnreachableError(_reason(error, broker.label)) from error


async def post_json(
    broker: BrokerAddress, path: str, payload: bytes, *, tls: ssl.SSLContext | None = None, limit: float = 10.0
) -> Response:
    """One POST with a JSON body. Raises `BrokerUnreachableError` for anything but an HTTP answer within ``limit``."""
    try:
        with trio.fail_after(limit):
            async with await open_stream(broker, tls=tls, limit=limit) as stream:
                return await _exchange(stream, broker.authority, path, payload)
    except trio.TooSlowError:
        raise BrokerUnreachableError(f"{broker.label} did not answer within {limit:g}s") from None
    except trio.BrokenResourceError as error:
        raise BrokerUnreachableError(_reason(error, broker.label)) from error
    except h11.RemoteProtocolError as error:
        raise BrokerUnreachableError(f"{broker.label} does not speak HTTP: {error}") from error


def retry_after(value: bytes) -> float:
    """The seconds that a Retry-After header asks for, as a number or as a date; 0 when it says nothing of use."""
    text = value.decode("latin-1").strip()
    if text.isdecimal():
        return min(float(text[:9]), LONGEST_RETRY_AFTER)
    from email.utils import parsedate_to_datetime  # 9 ms, for what hardly any server sends

    try:
        seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


async def _exchange(stream: trio.abc.Stream, host: str, path: str, payload: bytes) -> Response:
    connection = h11.Connection(h11.CLIENT)
    headers = [
        ("Host", host),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(payload))),
        ("Connection", "close"),
    ]
    data = connection.send(h11.Request(method="POST", target=path, headers=headers)) or b""
    await stream.send_all(data + payload)
    connection.send(h11.Data(data=payload))
    connection.send(h11.EndOfMessage())
    status, body, later = 0, b"", 0.0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(_READ)))
        elif isinstance(event, h11.Response):
            status = event.status_code
            later = max((retry_after(value) for name, value in event.headers if name == b"retry-after"), default=0.0)
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BODY:
                raise h11.RemoteProtocolError("the answer is too large")
        elif isinstance(event, h11.EndOfMessage):
            return Response(status, body, retry_after=later)
        elif isinstance(event, h11.ConnectionClosed):
            raise h11.RemoteProtocolError("the connection closed in the middle of the answer")


def _reason(error: Exception, where: str) -> str:
    """A connect error in words. The reason stands in the cause: trio collects one error per address in a group."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLError):
        if isinstance(cause, ssl.SSLCertVerificationError):
            wrong = cause.verify_message.rstrip(".")
            if cause.verify_code in _UNKNOWN_AUTHORITY:
                return f"{where}: TLS failed: {wrong}. N8N_RUNNERS_TASK_BROKER_CA can name the authority to trust"
            if cause.verify_code in _OTHER_HOST:
                return (
                    f"{where}: TLS failed: {wrong}. N8N_RUNNERS_TASK_BROKER_URI must name what the certificate is for"
                )
            return f"{where}: TLS failed: {wrong}"
        return f"{where}: TLS failed: {cause.reason or cause}. n8n's broker itself has no TLS; a proxy in front may"
    if isinstance(error, UnicodeError):
        return f"{where}: that is no host name"
    causes = cause.exceptions if isinstance(cause, BaseExceptionGroup) else (cause or error,)
    text = "; ".join(sorted({_words(one) for one in causes} - {""})) or "the connection broke off"
    return text if where in text else f"{where}: {text}"


def _words(error: BaseException) -> str:
    """What the system says, without numbers and addresses."""
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
