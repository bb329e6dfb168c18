"""What a worker or a zygote may send: whatever the bytes, one task gets one message that n8n can read."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import trio
from msgspec import Raw
from trio.testing import MockClock

from tests.fuzz.reader import Reader
from trio_runner import zygoterecords
from trio_runner.calls import Question
from trio_runner.executor import Executor
from trio_runner.protocol.messages import (
    EACH_ITEM,
    NULL,
    Rpc,
    RpcResponse,
    RunnerMessage,
    TaskDataResponse,
    TaskResult,
    TaskSettings,
    decode_from_runner,
    encode,
)
from trio_runner.sandbox import frames, records
from trio_runner.sandbox.frames import Failure, FrameError, FrameParser, Verdict
from trio_runner.taskrecord import TaskRecord

LIMIT = 400_000
LIMITS = frames.limits_from_child(LIMIT)
ROOM = max(LIMITS.values())
TASK = "the-task"
STATUSES = (0, 1 << 8, 70 << 8, signal.SIGKILL, signal.SIGSEGV, signal.SIGXCPU, None)
KINDS = ("error", "syntax", "violation", "result", "limit", "worker")
LARGE = b'"' + b"x" * (frames.BIG + 1000) + b'"'
PARAMS = (
    *(b"[]", b'[{"url":"x"}]', b"{}", b"[", b"", b'[]},"taskId":"x"', b"[" * 900, b'["\xff"]'),
    *(LARGE, b"[" + LARGE + b"]"),
    b'{"dataOfNodes":"all","prevNode":true,"input":{"include":true,"chunk":{"startIndex":0,"count":1}},"env":true}',
    b'{"dataOfNodes":["\\u0000"],"prevNode":false,"input":{"include":false},"env":false}',
)
ANSWERS: list[tuple[Literal["success", "error"], Raw]] = [
    ("success", NULL),
    ("error", Raw(b'{"message":"no"}')),
    ("success", Raw(b'"' + b"x" * 500_000 + b'"')),
]
METADATA = (
    *(b"{}", b'{"customData":{"a":"b"}}', b'{"staticData":{"global":{"n":[1]}}}', b'{"customData":{"a":1}}'),
    *(b"[]", b""),
    b'{"staticData":{"global":{}},"customData":{},"taskId":"x"}',
    b'{"customData":{"a":"' + b"x" * 399_000 + b'"}}',
)
TEXTS = ("", "no", "x" * 300_000, "a\nb\x00\u2028", '","taskId":"other', "\U0001f600" * 50)


def parse(data: bytes) -> None:
    """The bytes of a child in pieces: the same frames as in one piece, none of them larger than its kind may be."""
    read = Reader(data)
    stream = read.bytes() if read.flag() else b"".join(_frames(read))
    together, broken = _parsed([stream])
    step = 1 + len(stream) // 2000
    crumbs = [stream[at : at + step] for at in range(0, len(stream), step)]
    apart, broken_apart = _parsed(read.pieces(stream) if read.flag() else crumbs)
    assert (apart, broken_apart) == (together, broken)
    assert _received(stream, 1 + 100 * read.byte()) == (together, broken)
    assert all(len(payload) <= LIMITS[kind] for kind, payload in together)


def _parsed(pieces: Sequence[bytes]) -> tuple[list[tuple[int, bytes]], bool]:
    parser = FrameParser(LIMITS)
    found: list[tuple[int, bytes]] = []
    try:
        for piece in pieces:
            for kind, payload in parser.feed(piece):
                found.append((kind, bytes(payload)))
    except FrameError:
        return found, True
    return found, False


def _received(stream: bytes, most: int) -> tuple[list[tuple[int, bytes]], bool]:
    """As the executor does it: straight into the room that the parser has made, as soon as there is some."""
    parser, at = FrameParser(LIMITS), 0
    found: list[tuple[int, bytes]] = []
    try:
        while at < len(stream):
            room = parser.room
            size = min(
                most if len(stream) < 50_000 else 20_000, len(stream) - at, len(room) if room is not None else most
            )
            if room is not None:
                room[:size] = stream[at : at + size]
                complete = parser.fill(size)
            else:
                complete = parser.feed(stream[at : at + size])
            at += size
            for kind, payload in complete:
                found.append((kind, bytes(payload)))
    except FrameError:
        return found, True
    return found, False


def converse(data: bytes) -> None:
    """A task whose worker answers with these bytes, in these pieces, and then ends in this way."""
    read = Reader(data)
    worker = _Worker(read)
    messages: list[RunnerMessage] = []
    executor = Executor(_Pool(worker), task_timeout=5, max_payload=LIMIT)  # type: ignore[arg-type]
    task = TaskSettings(
        code="return 1",
        node_mode=read.pick(["runOnceForAllItems", "runOnceForEachItem"]),
        items=Raw(b"[{}]" + b" " * 1000),
        continue_on_fail=read.flag(),
        query=Raw(b'"q"'),
    )
    if read.below(4):  # the source has been seen before: what comes is the program's
        key = executor._cache.key(task.code, each_item=task.node_mode == EACH_ITEM)
        executor._cache.put(key, Verdict(code=b"code"))
    record = TaskRecord(TASK, task, broker="", accepted_at=0.0)
    answers = [read.pick(ANSWERS) for _ in range(read.below(4))]

    async def ask(question: Question) -> None:
        """n8n, which answers some calls, at once or never."""
        messages.append(question)
        await trio.lowlevel.checkpoint()
        if answers and record.deliver is not None:
            status, data = answers.pop()
            if isinstance(question, Rpc):
                record.deliver(RpcResponse(task_id=TASK, call_id=question.call_id, status=status, data=data))
            else:
                record.deliver(TaskDataResponse(task_id=TASK, request_id=question.request_id, data=data))

    run = partial(executor.run, TASK, task, messages.append, record, ask)
    with _silence(), worker.sock:
        result = trio.run(_run, worker, run, clock=MockClock(autojump_threshold=0))
    assert record.deliver is None
    for message in (*messages, result):
        frame = encode(message)
        decoded = decode_from_runner(frame)
        assert json.loads(frame)["taskId"] == decoded.task_id == TASK  # type: ignore[union-attr]
        assert b"The runner failed to run this task" not in frame, frame
        assert len(frame) < 4 * ROOM
    assert worker.leases <= 3


async def _run(worker: _Worker, run: Callable[[], Awaitable[TaskResult]]) -> TaskResult:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.live)
        result = await run()
        nursery.cancel_scope.cancel()
    return result


@contextmanager
def _silence() -> Iterator[None]:
    """Every one of these tasks fails, and says so."""
    logger = logging.getLogger("trio_runner.executor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


class _Worker:
    """The runner's end of a worker that was made up, and the worker itself at the other end of a socket."""

    def __init__(self, read: Reader) -> None:
        self.leases = 0
        self.sock, self._theirs = socket.socketpair()
        for sock in (self.sock, self._theirs):
            sock.setblocking(False)
        self._status = read.pick(STATUSES)
        self._dead = read.below(16) == 15
        self._hangs = read.flag()
        self._reads = not read.flag()
        stream = b"".join(_frames(read))
        self._pieces = read.pieces(stream) or ([stream] if stream else [])

    async def live(self) -> None:
        """Says its part. One that has not read what it was told resets the connection when it ends."""
        with self._theirs, suppress(BrokenPipeError):
            if self._dead:
                return
            for piece in self._pieces:
                await self._say(piece)
            if self._hangs:
                await trio.sleep(math.inf)

    async def _say(self, piece: bytes) -> None:
        while piece:
            if self._reads:
                with suppress(BlockingIOError):
                    self._theirs.recv(65536)
            try:
                piece = piece[self._theirs.send(piece) :]
                await trio.lowlevel.checkpoint()
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._theirs)

    async def wait_exit(self) -> int | None:
        await trio.lowlevel.checkpoint()
        return self._status


class _Pool:
    """Leases the same worker as often as it is asked for."""

    def __init__(self, worker: _Worker) -> None:
        self._worker = worker

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[_Worker]:
        self._worker.leases += 1
        yield self._worker


def _frames(read: Reader) -> list[bytes]:
    """Some frames: right ones, hostile payloads under right headers, headers that lie, and noise."""
    made: list[bytes] = []
    for _ in range(read.below(8)):
        kind = read.pick([frames.VERDICT, frames.PRINT, frames.RESULT, frames.FAILURE, frames.CALL, frames.METADATA])
        payload = _payload(kind, read)
        header = frames.header(kind, len(payload))
        match read.below(12):
            case 9:
                header = frames.header(read.byte(), len(payload))
            case 10:
                header = frames.header(kind, int.from_bytes(bytes(read.byte() for _ in range(4)), "little"))
            case 11:
                header = read.bytes()
        made.append(header + payload)
    return made


def _payload(kind: int, read: Reader) -> bytes:
    if read.below(3) == 2:
        return read.bytes()
    if kind == frames.VERDICT:
        return frames.encode(Verdict(code=read.bytes(), failure=_failure(read) if read.flag() else None))
    if kind == frames.FAILURE:
        return frames.encode(_failure(read))
    if kind == frames.CALL:
        name = read.pick(["", "helpers.httpRequest", "logNodeOutput", _text(read)[:60]])
        return frames.call(read.byte(), name, read.pick(PARAMS))
    if kind == frames.METADATA:
        return read.pick(METADATA)
    if kind == frames.PRINT:
        return msgspec.json.encode([_text(read) for _ in range(read.below(4))])
    return read.pick(
        [b"[]", b"1", b"null", b'{"a":[1.5,"x"]}', b"1e999", b"[" * 900, b'"\\ud800"', b'[]},"taskId":"x"', b" " * 5000]
    )


def _failure(read: Reader) -> Failure:
    return Failure(
        message=_text(read),
        description=_text(read) if read.flag() else None,
        line=read.pick([None, 0, -1, 2**63, 2**64 - 1]),
        item_index=read.pick([None, 0, -(2**63)]),
        before_start=read.flag(),
        kind=read.pick(KINDS),  # type: ignore[arg-type]
    )


def _text(read: Reader) -> str:
    return read.pick([*TEXTS, read.bytes().decode("utf-8", "replace")])


def zygote_records(data: bytes) -> None:
    """Records of a zygote as they come out of a socket, with and without descriptors, until it is gone."""
    read = Reader(data)
    before = _open_descriptors()
    trio.run(_read_records, read)
    assert _open_descriptors() == before, "a descriptor is lost"
    for kind in (records.Report, records.Setup):
        try:
            msgspec.msgpack.decode(data, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue


async def _read_records(read: Reader) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        with ours:
            for _ in range(read.below(5)):
                fields = (read.byte(), read.byte() - 3, read.byte(), read.byte())
                record = records.RECORD.pack(*fields)[: 13 if read.below(8) else read.below(14)]
                if record:
                    socket.send_fds(theirs, [record], [theirs.fileno()] * read.below(4))
            theirs.shutdown(socket.SHUT_WR)
            stream = zygoterecords.Records(ours)
            while (found := await stream.next()) is not None:
                for fd in found[4]:
                    os.close(fd)


def _open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


TARGETS: dict[str, Any] = {"frames": parse, "worker": converse, "zygote_records": zygote_records}
