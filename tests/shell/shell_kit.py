"""What the shell's tests share: raw servers, a broker that follows a script, workers that need no process, log lines.

The clock of these tests jumps (`jump_clock` in conftest), so everything here talks over loopback sockets inside one
process and nothing waits for real time.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import Any

import msgspec
import trio
from msgspec import Raw
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from trio_runner.calls import Ask
from trio_runner.config import Config, load
from trio_runner.errors import FatalError
from trio_runner.executor import Emit
from trio_runner.http import Request, Response, serve
from trio_runner.protocol.messages import (
    ErrorBody,
    ResultData,
    Rpc,
    RpcResponse,
    TaskDone,
    TaskReply,
    TaskResult,
    TaskSettings,
)
from trio_runner.protocol.session import task_error
from trio_runner.streams import Replay, Wrapped
from trio_runner.supervisor import Runner
from trio_runner.taskrecord import TaskRecord

LIMIT = 120.0
"""Seconds of the jumping clock: far more than any of these tests needs, and over in a moment of real time."""


class Records(logging.Handler):
    """Log records of ours, as they were made."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    def having(self, part: str) -> list[str]:
        return [line for line in self.lines if part in line]


# Raw TCP


@contextlib.asynccontextmanager
async def tcp_server(serve_one: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[int]:
    """A server on loopback that handles each connection with ``serve_one``. Gives its port."""

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await serve_one(stream)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(trio.serve_listeners, handle, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def mute(stream: trio.SocketStream) -> None:
    """Serves a connection by saying nothing."""
    await trio.sleep_forever()


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Everything until the peer closes, also when it closes rudely."""
    data = b""
    with contextlib.suppress(trio.BrokenResourceError):
        async for part in stream:
            data += part
    return data


async def read_head(stream: trio.abc.ReceiveStream) -> bytes:
    """One HTTP request without a body, or the head of one."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = await stream.receive_some(65536)
        assert part, f"the client hung up after {data!r}"
        data += part
    return data


# Names


class Names(trio.abc.HostnameResolver):
    """A resolver that knows what the test says: addresses, an error, or None for a name server that hangs.

    What ``turns`` has for a name comes one after the other, over and over.
    """

    def __init__(self) -> None:
        self.found: dict[str, list[str] | OSError | None] = {}
        self.turns: dict[str, list[list[str]]] = {}
        self.asked: list[float] = []

    @contextlib.contextmanager
    def installed(self) -> Iterator[Names]:
        """Inside trio: every name is looked up here."""
        trio.socket.set_custom_hostname_resolver(self)
        try:
            yield self
        finally:
            trio.socket.set_custom_hostname_resolver(None)

    async def getaddrinfo(
        self, host: bytes | None, port: bytes | str | int | None, family: int = 0, kind: int = 0, *_: object
    ) -> Any:
        await trio.lowlevel.checkpoint()
        self.asked.append(trio.current_time())
        name = (host or b"").decode()
        if turns := self.turns.get(name):
            turns.append(turns.pop(0))
            found: list[str] | OSError | None = turns[-1]
        else:
            found = self.found.get(name, socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
        if found is None:
            await trio.sleep_forever()
        if isinstance(found, OSError):
            raise found
        return [
            (socket.AF_INET6, kind, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, kind, 6, "", (address, port))
            for address in found or []
        ]

    async def getnameinfo(self, sockaddr: object, flags: int) -> Any:
        raise NotImplementedError


# Workers without processes


class FakePool:
    """A pool that is always ready."""

    def __init__(self) -> None:
        self.alive = True
        self.changed: Callable[[], None] = lambda: None
        self.report = None
        self.idle = 3
        self.busy = self.starting = 0
        self.restarts = 0

    async def run(self) -> None:
        await trio.sleep_forever()

    def become(self, *, alive: bool) -> None:
        """The zygote is gone, or there is one again."""
        self.alive = alive
        self.changed()


class FakeExecutor:
    """Runs tasks whose code is one word and a number.

    ``return N``: done at once with N. ``sleep N``: done after N seconds. ``print N``: N prints, then done. ``fail``: an
    error. ``hang``: until it is cancelled. ``die N``: until it is cancelled, and then N seconds more, as a worker that
    does not want to go. ``result N``: done with N bytes. ``ask N``: a call with N bytes, done with its answer.
    """

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.asked: list[str] = []
        self.most = 0

    async def run(self, task_id: str, settings: TaskSettings, emit: Emit, record: TaskRecord, ask: Ask) -> TaskResult:
        self.running.add(task_id)
        record.leased_at = trio.current_time()
        self.started.append(task_id)
        self.most = max(self.most, len(self.running))
        try:
            if settings.code.startswith("ask "):
                return await self._ask(task_id, int(settings.code[4:]), record, ask)
            result = await self._run(task_id, settings.code, emit)
            record.end("done" if isinstance(result, TaskDone) else "error", trio.current_time())
            return result
        except trio.Cancelled:
            self.cancelled.append(task_id)
            raise
        finally:
            self.running.discard(task_id)

    async def _ask(self, task_id: str, size: int, record: TaskRecord, ask: Ask) -> TaskResult:
        answers, answered = trio.open_memory_channel[TaskReply](1)
        record.deliver = answers.send_nowait
        params = Raw(b'["' + b"x" * size + b'"]')
        await ask(Rpc(call_id=f"call of {task_id}", task_id=task_id, name="helpers.httpRequest", params=params))
        self.asked.append(task_id)
        answer = await answered.receive()
        assert isinstance(answer, RpcResponse)
        return TaskDone(task_id=task_id, data=ResultData(result=answer.data))

    async def _run(self, task_id: str, code: str, emit: Emit) -> TaskResult:
        word, _, argument = code.partition(" ")
        await trio.lowlevel.checkpoint()
        if word == "sleep":
            await trio.sleep(float(argument))
        elif word == "print":
            for number in range(int(argument)):
                emit(Rpc(call_id=str(number), task_id=task_id, name="logNodeOutput", params=Raw(b'["%d"]' % number)))
        elif word == "fail":
            return task_error(task_id, ErrorBody(message=argument or "failed"))
        elif word in ("hang", "die"):
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(float(argument or 0))
        result = b'"' + b"x" * int(argument) + b'"' if word == "result" else (argument or "null").encode()
        return TaskDone(task_id=task_id, data=ResultData(result=Raw(result)))


# A broker that does what the test says


class Gate(Wrapped):
    """A stream that can be made deaf: from then on nothing is read, and the sender's buffers fill up."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream)
        self.deaf = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await super().receive_some(max_bytes)
        if self.deaf:
            await trio.sleep_forever()
        return data


class Connection:
    """One runner's connection, seen from the broker. Reads only when it is told to."""

    def __init__(self, websocket: WebSocketConnection, request: Request, gate: Gate) -> None:
        self.websocket = websocket
        self.gate = gate
        self.request = request
        self.messages: list[dict[str, Any]] = []
        self.offers: list[str] = []
        """Every offer that was read, used or not."""
        self._offers: list[str] = []

    async def send(self, message_type: str, **fields: object) -> None:
        await self.websocket.send_message(json.dumps({"type": message_type, **fields}))

    async def raw(self, frame: str | bytes) -> None:
        await self.websocket.send_message(frame)

    async def next(self) -> dict[str, Any]:
        """The next message."""
        message: dict[str, Any] = json.loads(await self.websocket.get_message())
        self.messages.append(message)
        if message["type"] == "runner:taskoffer":
            self._offers.append(message["offerId"])
            self.offers.append(message["offerId"])
        return message

    async def until(self, message_type: str) -> dict[str, Any]:
        """Reads messages up to the next of this type."""
        while True:
            message = await self.next()
            if message["type"] == message_type:
                return message

    async def silence(self, seconds: float) -> list[dict[str, Any]]:
        """Everything that comes within this time."""
        before = len(self.messages)
        with trio.move_on_after(seconds):
            while True:
                await self.next()
        return self.messages[before:]

    async def closed(self) -> int | None:
        """Reads until the runner hangs up. Gives the close code."""
        with contextlib.suppress(json.JSONDecodeError):
            try:
                while True:
                    await self.next()
            except ConnectionClosed as end:
                return end.reason.code if end.reason is not None else None
        raise AssertionError("the runner sent something that is not JSON")

    async def close(self, code: int) -> None:
        await self.websocket.aclose(code)

    async def register(self) -> None:
        await self.send("broker:inforequest")
        info = await self.next()
        assert info == {"type": "runner:info", "name": "Python Task Runner", "types": ["python"]}
        await self.send("broker:runnerregistered")

    async def offer(self) -> str:
        """The id of the latest offer that was not asked for yet."""
        while not self._offers:
            await self.next()
        return self._offers.pop()

    async def take(self, task_id: str) -> None:
        """Takes an offer for a task, up to its acceptance."""
        await self.send("broker:taskofferaccept", taskId=task_id, offerId=await self.offer())
        accepted = await self.until("runner:taskaccepted")
        assert accepted["taskId"] == task_id

    async def start(self, task_id: str, code: str) -> None:
        """Takes an offer for a task, up to its settings."""
        await self.take(task_id)
        await self.settings(task_id, code)

    async def settings(self, task_id: str, code: str) -> None:
        settings = {"code": code, "nodeMode": "runOnceForAllItems", "items": [], "nodeName": "N", "nodeId": "n"}
        await self.send("broker:tasksettings", taskId=task_id, settings=settings)


Script = Callable[[Request, trio.abc.Stream], Awaitable[None]]
Answer = Response | bytes | Script | None
"""What happens to a request: a response, bytes as they are, what a function does, or None for the usual."""


class ScriptedBroker:
    """A broker that accepts everything until the test says otherwise.

    ``logins`` and ``upgrades`` hold one answer a request, the last one for all that follow. Connections come out of
    `connection`.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        self.port = port
        self.logins: list[Answer] = []
        self.upgrades: list[Answer] = []
        self.login_bodies: list[Any] = []
        self.upgrade_requests: list[Request] = []
        self.upgraded_at: list[float] = []
        self.issued: list[str] = []
        self.open = 0
        self.most_open = 0
        self._found, self._connections = trio.open_memory_channel[Connection](1000)

    async def connection(self) -> Connection:
        """The next connection that a runner opened."""
        return await self._connections.receive()

    def connected(self, connection: Connection) -> None:
        """For scripts that make connections of their own."""
        self._found.send_nowait(connection)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self.port = await nursery.start(
                lambda task_status: serve(
                    self._login, self.host, self.port, upgrade=self._upgrade, task_status=task_status
                )
            )
            task_status.started()

    async def _login(self, request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        self.login_bodies.append(json.loads(request.body))
        scripted = _next(self.logins)
        if isinstance(scripted, Response):
            return scripted
        self.issued.append(f"grant-{len(self.issued)}")
        return Response(200, msgspec.json.encode({"data": {"token": self.issued[-1]}}), "application/json")

    async def _upgrade(self, request: Request, stream: trio.abc.Stream) -> Response | None:
        self.upgrade_requests.append(request)
        self.upgraded_at.append(trio.current_time())
        scripted = _next(self.upgrades)
        if isinstance(scripted, bytes):
            await stream.send_all(scripted)
            return None
        if isinstance(scripted, Response):
            return scripted
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            if scripted is not None:
                await scripted(request, stream)
                return None
            async with trio.open_nursery() as nursery:
                gate = Gate(Replay(stream, request.raw))
                handshake = await wrap_server_stream(nursery, gate, max_message_size=1 << 30)
                websocket = await handshake.accept()
                self.connected(Connection(websocket, request, gate))
        finally:
            self.open -= 1
        return None


def _next(answers: list[Answer]) -> Answer:
    if len(answers) > 1:
        return answers.pop(0)
    return answers[0] if answers else None


@contextlib.asynccontextmanager
async def scripted_broker(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[ScriptedBroker]:
    async with trio.open_nursery() as nursery:
        broker = ScriptedBroker(host, port)
        await nursery.start(broker.serve)
        yield broker
        nursery.cancel_scope.cancel()


def config_for(*ports: int, grant_token: str | None = None, **variables: str) -> Config:
    """The configuration of a runner for the brokers at these ports. With an auth token, unless given a grant token."""
    uris = ",".join(f"http://127.0.0.1:{number}" for number in ports)
    token = {"N8N_RUNNERS_GRANT_TOKEN": grant_token} if grant_token else {"N8N_RUNNERS_AUTH_TOKEN": "auth-secret"}
    return load({**token, "N8N_RUNNERS_TASK_BROKER_URI": uris, **variables}).config


async def registered(broker: ScriptedBroker) -> Connection:
    connection = await broker.connection()
    await connection.register()
    return connection


# A whole runner


class Started:
    """A runner in the background, with workers without processes, and what became of it."""

    def __init__(self, runner: Runner, pool: FakePool, executor: FakeExecutor) -> None:
        self.runner = runner
        self.pool = pool
        self.executor = executor
        self.error: FatalError | None = None
        self.ended_at = 0.0
        self._ended = trio.Event()

    async def run(self, *, handle_signals: bool) -> None:
        try:
            await self.runner.run(handle_signals=handle_signals)
        except FatalError as error:
            self.error = error
        self.ended_at = trio.current_time()
        self._ended.set()

    async def end(self) -> FatalError | None:
        await self._ended.wait()
        return self.error


@contextlib.asynccontextmanager
async def started(
    *ports: int, grant_token: str | None = None, handle_signals: bool = False, **variables: str
) -> AsyncIterator[Started]:
    config = config_for(*ports, grant_token=grant_token, **variables)
    pool, executor = FakePool(), FakeExecutor()
    rig = Started(Runner(config, pool=pool, executor=executor), pool, executor)  # type: ignore[arg-type]
    with trio.fail_after(5_000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(rig.run, handle_signals=handle_signals))
            yield rig
            nursery.cancel_scope.cancel()
    assert rig.runner.slots.taken == 0


def types(messages: Iterable[dict[str, Any]]) -> list[str]:
    return [message["type"] for message in messages]


@contextlib.contextmanager
def our_records() -> Iterator[Records]:
    """Collects what our loggers say, whatever `log.configure` did before."""
    root = logging.getLogger("trio_runner")
    before = root.level, root.handlers[:]
    records = Records()
    root.handlers[:] = [records]
    root.setLevel(logging.DEBUG)
    try:
        yield records
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]


def switching_protocols(request: bytes | Request) -> bytes:
    """The answer that makes an upgrade request a WebSocket, for servers that write their frames by hand."""
    head = request if isinstance(request, bytes) else request.raw
    key = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:")).split(b":")[1]
    accept = base64.b64encode(hashlib.sha1(key.strip() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


def text_frame(message: object) -> bytes:
    """A server's text frame by hand."""
    payload = msgspec.json.encode(message)
    assert len(payload) < 126
    return bytes([0x81, len(payload)]) + payload


async def until(condition: Callable[[], object]) -> None:
    """Waits for something that tells nobody when it happens. Put a limit around it."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.01)
