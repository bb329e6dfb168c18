"""The little HTTP that a runner needs: serve a handful of short answers, send one small request. Parsing is h11's.

One request a connection, every wait bounded. Also hands over a connection that asked to become a WebSocket, with the
bytes that were already read.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Awaitable, Callable
from functools import partial

import h11
import msgspec
import trio

from trio_runner.errors import BrokerUnreachableError, StartError

REQUEST_LIMIT = 10.0
"""Seconds that one exchange may take."""
MAX_BODY = 65_536
_READ = 4096


class Request(msgspec.Struct, frozen=True):
    """One request; ``raw`` is what was read of it, for whoever takes the connection over."""

    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    raw: bytes

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    def header(self, name: str) -> str | None:
        """The first header of this name (lower case)."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name.encode()), None)


class Response(msgspec.Struct, frozen=True):
    """A short answer."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"


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
        reason = "already in use" if error.errno == errno.EADDRINUSE else f"not available: {error}"
        raise StartError(f"Port {port} is {reason}") from error
    task_status_port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_listeners, partial(_converse, handler, upgrade), listeners))
        task_status.started(task_status_port)


async def _converse(handler: Handler, upgrade: Upgrade | None, stream: trio.SocketStream) -> None:
    """One connection. Whatever a client does ends its own connection only."""
    try:
        async with stream:
            with trio.move_on_after(REQUEST_LIMIT):
                request = await _read_request(stream)
                if request is None:
                    return
                wants_upgrade = (request.header("upgrade") or "").lower() == "websocket"
                if not (wants_upgrade and upgrade is not None):
                    await _answer(stream, await handler(request))
                    return
            if request is not None and wants_upgrade and upgrade is not None:
                refusal = await upgrade(request, stream)
                if refusal is not None:
                    with trio.move_on_after(REQUEST_LIMIT):
                        await _answer(stream, refusal)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
    except h11.RemoteProtocolError:
        return


async def _read_request(stream: trio.abc.ReceiveStream) -> Request | None:
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
            return Request(head.method.decode(), head.target.decode("latin-1"), tuple(head.headers), body, raw)
        else:
            return None


async def _answer(stream: trio.abc.Stream, response: Response) -> None:
    connection = h11.Connection(h11.SERVER)
    headers = [
        ("Content-Type", response.content_type),
        ("Content-Length", str(len(response.body))),
        ("Connection", "close"),
    ]
    data = connection.send(h11.Response(status_code=response.status, headers=headers))
    await stream.send_all((data or b"") + response.body)


class Replay(trio.abc.Stream):
    """A stream whose first bytes were read already: they come again, then the rest."""

    def __init__(self, stream: trio.abc.Stream, first: bytes) -> None:
        self._stream = stream
        self._first = first

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """The bytes in front, then the stream's own."""
        if self._first:
            await trio.lowlevel.checkpoint()
            count = len(self._first) if max_bytes is None else max_bytes
            data, self._first = self._first[:count], self._first[count:]
            return data
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As the stream does."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream does."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """As the stream does."""
        await self._stream.aclose()


async def post_json(host: str, port: int, path: str, payload: bytes, *, secure: bool, limit: float = 10.0) -> Response:
    """One POST with a JSON body. Raises `BrokerUnreachableError` for anything but an HTTP answer within ``limit``."""
    where = f"{host}:{port}"
    try:
        with trio.fail_after(limit):
            stream: trio.abc.Stream = await trio.open_tcp_stream(host, port)
            if secure:
                stream = trio.SSLStream(
                    stream, ssl.create_default_context(), server_hostname=host, https_compatible=True
                )
            async with stream:
                return await _exchange(stream, where, path, payload)
    except trio.TooSlowError:
        raise BrokerUnreachableError(f"{where} did not answer within {limit:g}s") from None
    except (OSError, trio.BrokenResourceError, ssl.SSLError) as error:
        raise BrokerUnreachableError(_reason(error, where)) from error
    except h11.RemoteProtocolError as error:
        raise BrokerUnreachableError(f"{where} does not speak HTTP: {error}") from error


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
    status, body = 0, b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(_READ)))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BODY:
                raise h11.RemoteProtocolError("the answer is too large")
        elif isinstance(event, h11.EndOfMessage):
            return Response(status, body)
        elif isinstance(event, h11.ConnectionClosed):
            raise h11.RemoteProtocolError("the connection closed in the middle of the answer")


def _reason(error: BaseException, where: str) -> str:
    """A connect error in words; trio collects one error per address in a group."""
    cause = error.__cause__ if isinstance(error.__cause__, BaseExceptionGroup) else None
    texts = sorted({str(inner) for inner in cause.exceptions}) if cause is not None else [str(error)]
    text = "; ".join(texts) or type(error).__name__
    return text if where in text else f"{where}: {text}"
