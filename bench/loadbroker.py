"""A task broker that does nothing but load: one runner at a time, a closed loop, as little work of its own as possible.

Owns the clock of every latency: from sending ``broker:taskofferaccept`` to having read the last byte of
``runner:taskdone``. Plain non-blocking sockets in the calling thread; what it spends itself is measured and reported.
Matches offers as n8n does: first in, first out, dropped when their validity has passed (protocol.md 11).
"""

from __future__ import annotations

import base64
import hashlib
import math
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

import msgspec
from msgspec import UNSET, Raw, UnsetType

from bench import framing
from bench.tasks import Task

STALL_LIMIT: Final = 60.0
"""Seconds without a single byte from the runner while tasks are out, after which it counts as stuck."""
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class RunnerError(Exception):
    """The runner failed a task, left or got stuck: there is no figure then."""


class Incoming(msgspec.Struct, rename="camel"):
    """Any message of a runner; what a type does not have keeps its default."""

    type: str
    task_id: str = ""
    offer_id: str = ""
    valid_for: float = -1
    data: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class _Data(msgspec.Struct):
    result: Raw


_incoming = msgspec.json.Decoder(Incoming)
_data = msgspec.json.Decoder(_Data)


class Batch(msgspec.Struct):
    """What one `Session.run` measured. Times in seconds."""

    latencies: list[float] = []
    wall: float = 0.0
    """From the first task to the end of the last one that counts."""
    broker_cpu: float = 0.0
    """What this broker spent meanwhile."""
    rejected: int = 0
    finished: int = 0
    """All tasks, also those that do not count: of the lead, and those that were still out at the end."""

    @property
    def milliseconds(self) -> list[float]:
        """The latencies."""
        return [one * 1000 for one in self.latencies]

    @property
    def rate(self) -> float:
        """Tasks per second."""
        return len(self.latencies) / self.wall


class LoadBroker:
    """A listening port on loopback. The runners come to it one after the other."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=8)
        self.uri = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    def accept(self, alive: Callable[[], bool], limit: float = 60.0) -> Session:
        """Takes the next runner and registers it. Raises `RunnerError` when it ends or does not come in time."""
        deadline = time.monotonic() + limit
        while not select.select([self._listener], [], [], 0.05)[0]:
            if not alive():
                raise RunnerError("the runner ended before it had connected")
            if time.monotonic() > deadline:
                raise RunnerError(f"the runner did not connect within {limit:.0f} s")
        connection, _ = self._listener.accept()
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(10)
            _upgrade(connection)
            session = Session(connection)
            session.register()
        except OSError as error:
            connection.close()
            raise RunnerError(f"the connection failed while registering: {error}") from error
        except BaseException:
            connection.close()
            raise
        return session


class Session:
    """One registered runner."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._poll_in, self._poll_both = select.poll(), select.poll()
        self._poll_in.register(connection, select.POLLIN)
        self._poll_both.register(connection, select.POLLIN | select.POLLOUT)
        self._reader = framing.FrameReader()
        self._arrived = 0.0
        self._offers: deque[tuple[str, float]] = deque()
        self._running: dict[str, tuple[Task, float]] = {}
        self._accepted = 0
        self._serial = 0
        self.result: bytes = b""
        """The JSON of the last result."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def register(self) -> None:
        """The first three messages (protocol.md 4)."""
        self._send(b'{"type":"broker:inforequest"}')
        while self._demand(10.0).type != "runner:info":
            pass
        self._send(b'{"type":"broker:runnerregistered"}')

    def run(
        self,
        task: Task,
        *,
        concurrency: int = 1,
        count: int = 1,
        seconds: float = math.inf,
        least: int = 1,
        lead: int = 0,
    ) -> Batch:
        """Keeps ``concurrency`` tasks out until ``count`` are done or the time is over and ``least`` are done.

        The clock starts when ``lead`` tasks are done: until then a closed loop is still filling. Tasks that are out at
        the end are waited for and do not count. The first result is checked, after the clock. Raises `RunnerError`.
        """
        batch = Batch()
        first_result = b""
        cpu, begun = time.thread_time(), time.perf_counter()
        while True:
            while len(self._running) < concurrency and (offer := self._take_offer()) is not None:
                self._start(task, offer)
            latency = self._handle(self._demand(), batch)
            if latency is None:
                continue
            if batch.finished < lead:
                batch.finished += 1
                cpu, begun = time.thread_time(), self._arrived
                continue
            batch.latencies.append(latency)
            first_result = first_result or self.result
            done = len(batch.latencies)
            if done >= count or (done >= least and self._arrived >= begun + seconds):
                break
        batch.wall = self._arrived - begun
        batch.broker_cpu = time.thread_time() - cpu
        batch.finished += len(batch.latencies) + self.settle()
        task.check(first_result)
        return batch

    def hold(self, task: Task, count: int, limit: float = 10.0) -> int:
        """Starts ``count`` tasks without waiting for any; returns how many have got their settings within ``limit``."""
        deadline = time.monotonic() + limit
        self._accepted = 0
        while self._accepted < count and (left := deadline - time.monotonic()) > 0:
            while len(self._running) < count and (offer := self._take_offer()) is not None:
                self._start(task, offer)
            if (message := self._receive(left)) is not None:
                self._handle(message, Batch())
        return self._accepted

    def settle(self) -> int:
        """Waits for every task that is out; returns how many there were."""
        out = len(self._running)
        while self._running:
            self._handle(self._demand(), Batch())
        return out

    def sit(self, seconds: float) -> None:
        """Gives the runner nothing to do and reads what it says meanwhile."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if (message := self._receive(left)) is not None:
                self._note_offer(message)

    def part(self, limit: float) -> None:
        """Answers the runner's goodbye, and ends the connection: some wait ten seconds for that answer."""
        with suppress(RunnerError):
            while self._receive(limit) is not None:
                pass
        self._connection.close()

    def _start(self, task: Task, offer_id: str) -> None:
        self._serial += 1
        task_id = f"t{self._serial:07d}"
        message = f'{{"type":"broker:taskofferaccept","taskId":"{task_id}","offerId":"{offer_id}"}}'.encode()
        self._running[task_id] = task, time.perf_counter()
        self._send(message)

    def _handle(self, message: Incoming, batch: Batch) -> float | None:
        """Answers one message. Returns the latency when it ended a task."""
        if message.task_id not in self._running:
            self._note_offer(message)
            return None
        task, begun = self._running[message.task_id]
        match message.type:
            case "runner:taskaccepted":
                self._accepted += 1
                self._send(task.settings_head(message.task_id), task.settings_tail)
            case "runner:taskdone":
                del self._running[message.task_id]
                self.result = b"" if message.data is UNSET else bytes(_data.decode(message.data).result)
                return self._arrived - begun
            case "runner:taskerror":
                del self._running[message.task_id]
                detail = b"" if message.error is UNSET else bytes(message.error)
                raise RunnerError(f"{task.name}: {detail[:400].decode(errors='replace')}")
            case "runner:taskrejected":
                del self._running[message.task_id]
                batch.rejected += 1
        return None

    def _note_offer(self, message: Incoming) -> None:
        if message.type == "runner:taskoffer":
            lapses = math.inf if message.valid_for == -1 else self._arrived + message.valid_for / 1000
            self._offers.append((message.offer_id, lapses))

    def _take_offer(self) -> str | None:
        now = time.perf_counter()
        while self._offers:
            offer_id, lapses = self._offers.popleft()
            if lapses > now:
                return offer_id
        return None

    def _demand(self, limit: float = STALL_LIMIT) -> Incoming:
        message = self._receive(limit)
        if message is None:
            raise RunnerError(f"nothing came from the runner for {limit:.0f} s")
        return message

    def _receive(self, limit: float) -> Incoming | None:
        """The next message, or None when the socket is quiet for ``limit`` seconds. Answers pings."""
        while True:
            while (frame := self._reader.next()) is None:
                if not self._poll_in.poll(limit * 1000):
                    return None
                self._read()
            if frame.opcode == framing.PING:
                payload = frame.payload()
                self._flush(framing.header(len(payload), framing.PONG), payload)
            elif frame.opcode == framing.CLOSE:
                payload = frame.payload()
                self._flush(framing.header(len(payload), framing.CLOSE), payload)
                raise RunnerError(
                    f"the runner closed the connection ({int.from_bytes(payload[:2], 'big') or 'no code'})"
                )
            elif frame.opcode != framing.PONG:
                return _decode(frame.payload())

    def _read(self) -> None:
        with self._reader.room() as room:
            try:
                count = self._connection.recv_into(room)
            except BlockingIOError:
                return
            except OSError as error:
                raise RunnerError(f"the connection is lost: {error}") from error
        self._arrived = time.perf_counter()
        if count == 0:
            raise RunnerError("the runner closed the connection without a word")
        self._reader.filled(count)

    def _send(self, *parts: bytes) -> None:
        self._flush(framing.header(sum(map(len, parts))), *parts)

    def _flush(self, *parts: bytes) -> None:
        """Sends everything, and reads while the runner does not: two sides that only write would wait for ever."""
        left = [memoryview(part) for part in parts]
        while left:
            try:
                sent = self._connection.sendmsg(left)
            except BlockingIOError:
                ready = self._poll_both.poll(STALL_LIMIT * 1000)
                if not ready:
                    raise RunnerError("the runner does not read what it is sent") from None
                if ready[0][1] & select.POLLIN:
                    self._read()
                continue
            except OSError as error:
                raise RunnerError(f"the connection is lost: {error}") from error
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if sent:
                left[0] = left[0][sent:]


def _decode(text: bytes) -> Incoming:
    try:
        return _incoming.decode(text)
    except msgspec.DecodeError as error:
        raise RunnerError(f"the runner sent what is no message: {error}: {text[:200]!r}") from error


def _upgrade(connection: socket.socket) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        more = connection.recv(4096)
        if not more:
            raise RunnerError("the runner hung up in the middle of its request")
        request += more
    head, _, rest = request.partition(b"\r\n\r\n")
    assert not rest, "a client must wait for the answer to its upgrade"
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    key = next((value for name, value in fields.items() if name.lower() == b"sec-websocket-key"), None)
    if key is None:
        connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        raise RunnerError(f"not an upgrade to a WebSocket: {head[:80].decode(errors='replace')}")
    answer = base64.b64encode(hashlib.sha1(key.strip() + _GUID, usedforsecurity=False).digest())
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + answer + b"\r\n\r\n"
    )
