"""One task: look at its code (cached), lease a worker, pump frames, make the message that goes back to n8n.

Owns the task's time limit and every text that n8n shows when a worker, not the program, is at fault. Must not know
offers or connections: what is to be sent goes through ``emit``, what it returns is the task's one result.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import trio
from msgspec import Raw, UnsetType

from trio_runner.calls import Ask, Calls
from trio_runner.counters import Counters
from trio_runner.errors import PackagesError, WorkerError
from trio_runner.inline import MARK
from trio_runner.log import get_logger
from trio_runner.pool import Pool, Worker
from trio_runner.protocol.messages import (
    EACH_ITEM,
    EMPTY_LIST,
    ErrorBody,
    ErrorContext,
    ResultData,
    Rpc,
    RunnerMessage,
    TaskDone,
    TaskResult,
    TaskSettings,
)
from trio_runner.protocol.raw import one_value
from trio_runner.protocol.requests import CallRules, metadata
from trio_runner.protocol.session import task_error
from trio_runner.sandbox import frames
from trio_runner.sandbox.frames import Failure, FrameError, FrameParser
from trio_runner.sandbox.userapi import MAX_PRINTS, PRINTS_CUT
from trio_runner.taskrecord import Outcome, TaskRecord
from trio_runner.workerio import DeadOnArrivalError, receive, send

if TYPE_CHECKING:
    from trio_runner.environments import Environments

log = get_logger("executor")

Emit = Callable[[RunnerMessage], None]

_ATTEMPTS = 3
_MAX_ERROR_TEXT = 131_072
_PRINTS_CUT = b'["' + PRINTS_CUT.encode()
"""How the record of a child begins that says so; what a program prints stands in quotes of its own."""
_MAX_PRINT_BYTES = 4_194_304  # what a child keeps to is a quarter of it; a hostile one is cut off here


class CodeCache:
    """Verdicts by source: what was analysed and compiled once is not looked at again.

    Holds marshalled code that a child made before it ran anything of the user's, so one task cannot change another's.
    """

    def __init__(self, entries: int = 500, max_bytes: int = 33_554_432) -> None:
        self._entries = entries
        self._max_bytes = max_bytes
        self._bytes = 0
        self._verdicts: OrderedDict[bytes, frames.Verdict] = OrderedDict()

    @staticmethod
    def key(source: str, *, each_item: bool) -> bytes:
        """A digest: sources can be large, and the table must not be."""
        return hashlib.sha256(b"%d" % each_item + source.encode(errors="surrogatepass")).digest()

    def get(self, key: bytes) -> frames.Verdict | None:
        """The verdict, most recently used from now on."""
        verdict = self._verdicts.get(key)
        if verdict is not None:
            self._verdicts.move_to_end(key)
        return verdict

    def put(self, key: bytes, verdict: frames.Verdict) -> None:
        """Keeps a verdict and drops the least recently used ones beyond the limits."""
        self._verdicts[key] = verdict
        self._bytes += len(verdict.code)
        while len(self._verdicts) > self._entries or self._bytes > self._max_bytes:
            _, dropped = self._verdicts.popitem(last=False)
            self._bytes -= len(dropped.code)


class Executor:
    """Runs tasks on a pool of workers."""

    def __init__(
        self,
        pool: Pool,
        *,
        task_timeout: float,
        max_payload: int,
        cpu_limit: int = 0,
        rules: CallRules | None = None,
        counters: Counters | None = None,
        environments: Environments | None = None,
    ) -> None:
        """``rules`` say what programs may ask n8n for; ``environments`` serve those with packages of their own."""
        self._pool = pool
        self._environments = environments
        self._task_timeout = task_timeout
        self._cpu_limit = cpu_limit
        self._counters = counters or Counters()
        self._max_payload = max_payload
        self._rules = rules or CallRules()
        self._frame_limits = frames.limits_from_child(max_payload)
        self._cache = CodeCache()
        self._call_ids = map(str, itertools.count(1))

    async def run(
        self,
        task_id: str,
        settings: TaskSettings,
        emit: Emit,
        record: TaskRecord | None = None,
        ask: Ask | None = None,
    ) -> TaskResult:
        """Runs one task to its end and returns what to tell n8n. Never raises for anything the program does.

        What it asks n8n for goes through ``ask``; the answers come back through the record.

        Cancellation kills the worker and propagates. The time limit counts from the moment a worker is there.
        """
        started = trio.current_time()
        record = record or TaskRecord(task_id, settings, broker="", accepted_at=started)
        try:
            outcome = await self._placed(record, emit, ask)
        except WorkerError as error:
            outcome = Failure(message=error.message, description=error.description, kind="worker")
        except PackagesError as error:
            outcome = Failure(
                message=error.message,
                description=error.description or None,
                line=error.line,
                before_start=error.before_start,
                kind=error.kind,
            )
        except Exception as error:
            # a defect of ours must cost this task only
            log.exception("Task %s met an internal error", task_id)
            outcome = Failure(message=_INTERNAL, description=f"{type(error).__name__}: {error} [TR411]", kind="worker")
        now = trio.current_time()
        if isinstance(outcome, Failure):
            outcome = self._with_advice(outcome, settings.code)
            extra = record.end(_OUTCOMES[outcome.kind], now)
            record.reason = _reason(outcome)
            log.log(30 if outcome.kind == "syntax" else 40, "%s", _failed(record, outcome), extra=extra)
            return self._failure_message(task_id, settings, outcome)
        record.bytes_out = size = memoryview(outcome.result).nbytes if isinstance(outcome.result, Raw) else 0
        extra = record.end("done", now)
        text = "Completed task %s in %s (%s) %s"
        log.info(text, task_id, _duration(now - started), _size(size), record.place, extra=extra)
        return TaskDone(task_id=task_id, data=outcome)

    async def _placed(self, record: TaskRecord, emit: Emit, ask: Ask | None) -> ResultData | Failure:
        """Runs the task where its packages are. Waiting for them is no part of the time that the task may take."""
        environments = self._environments
        if environments is None or MARK not in record.settings.code:
            return await self._attempt(self._pool, record, emit, ask)

        def say(text: str) -> None:
            log.info("Task %s: %s", record.task_id, text, extra={"task_id": record.task_id})
            params = Raw(msgspec.json.encode([f"'{text}'"]))
            emit(Rpc(call_id=next(self._call_ids), task_id=record.task_id, name="logNodeOutput", params=params))

        async with environments.use(record.settings.code, say) as pool:
            return await self._attempt(pool or self._pool, record, emit, ask)

    def _with_advice(self, failure: Failure, source: str) -> Failure:
        """A refused import, in a program that names its dependencies, may be about them."""
        description = failure.description or ""
        if "Import of external" not in description or MARK not in source:
            return failure
        advice = _UNDECLARED if self._environments is not None else _NOT_OPEN
        return msgspec.structs.replace(failure, description=f"{description}\n\n{advice}")

    async def _attempt(self, pool: Pool, record: TaskRecord, emit: Emit, ask: Ask | None) -> ResultData | Failure:
        """Leases a worker and runs the task. A worker that was dead has seen nothing of it: another one is leased."""
        for _ in range(_ATTEMPTS):
            with suppress(DeadOnArrivalError):
                async with pool.lease() as worker:
                    record.leased_at = trio.current_time()
                    with trio.move_on_after(self._task_timeout) as limit:
                        outcome = await self._converse(_Talk(worker, record, emit, ask, self._frame_limits))
                    return self._timed_out() if limit.cancelled_caught else outcome
            self._counters.worker_deaths["lease"] += 1
        raise WorkerError(
            "Task subprocess exited with code -1", f"{_ATTEMPTS} worker processes in a row were dead. [TR408]"
        )

    async def _converse(self, talk: _Talk) -> ResultData | Failure:
        try:
            return await self._exchange(talk)
        except _BROKEN as error:
            return _nonsense(error)

    async def _exchange(self, talk: _Talk) -> ResultData | Failure:
        settings, sock = talk.record.settings, talk.worker.sock
        each_item = settings.node_mode == EACH_ITEM
        key = self._cache.key(settings.code, each_item=each_item)
        verdict = self._cache.get(key)
        code = b""
        if verdict is not None:
            code = verdict.code
        else:
            compile_ = frames.encode(frames.Compile(settings.code, each_item))
            await send(sock, frames.header(frames.COMPILE, len(compile_)), compile_)
            verdict = await self._verdict(talk)
            self._cache.put(key, verdict)
        if verdict.failure is not None:
            return verdict.failure
        query = bytes(memoryview(settings.query))
        run = frames.encode(
            frames.Run(settings.code, each_item, query, code, verdict.uses, verdict.nodes, verdict.loop)
        )
        items = memoryview(settings.items)
        head = frames.header(frames.ITEMS, len(items))
        # a worker that fails while it is still being fed says why, or its exit status does
        with suppress(BrokenPipeError, ConnectionResetError):  # but not DeadOnArrivalError
            await send(sock, frames.header(frames.RUN, len(run)), run, head, items)
        # the child has them: what comes back may be as large, and is held twice for a moment
        msgspec.structs.force_setattr(settings, "items", EMPTY_LIST)
        del items
        return await self._outcome(talk, ())

    async def _verdict(self, talk: _Talk) -> frames.Verdict:
        """The child's word on the source, taken only here: no user code has run in it yet."""
        while (complete := await receive(talk.worker.sock, talk.parser)) is not None:
            for kind, payload in complete:
                if kind == frames.VERDICT:
                    return frames.decode_verdict(payload)
        raise WorkerError(
            "The code could not be checked: the worker process ended",
            f"{(await self._without_result(talk.worker)).message}. "
            "The source may be too large or too deeply nested. [TR407]",
        )

    async def _outcome(
        self, talk: _Talk, complete: Iterable[tuple[int, bytes | memoryview]] | None
    ) -> ResultData | Failure:
        """Takes what the child says, ``complete`` first, until it says how it ended."""
        while complete is not None:
            for kind, payload in complete:
                if kind == frames.RESULT:
                    return self._result(talk, payload)
                if kind == frames.FAILURE:
                    return self._reported(frames.decode_failure(payload))
                if kind == frames.PRINT:
                    self._print(talk, payload)
                elif kind == frames.CALL and talk.ask is not None:
                    if talk.calls is None:
                        return await self._outcome_with_calls(talk, talk.ask, payload, complete)
                    await talk.calls.forward(payload)
                elif kind == frames.METADATA and talk.metadata is None:
                    talk.metadata = metadata(payload)
                else:
                    raise FrameError("something that a worker never sends")
            complete = await receive(talk.worker.sock, talk.parser)
        return await self._without_result(talk.worker)

    async def _outcome_with_calls(
        self, talk: _Talk, ask: Ask, first: bytes | memoryview, rest: Iterable[tuple[int, bytes | memoryview]]
    ) -> ResultData | Failure:
        """As `_outcome`, from the task's first call on: answers are written while the child is listened to."""
        outcome: ResultData | Failure | None = None
        async with trio.open_nursery() as nursery:
            talk.calls = calls = Calls(
                talk.record.task_id,
                ask,
                rules=self._rules,
                new_id=self._call_ids.__next__,
                max_unread=self._max_payload,
                scope=nursery.cancel_scope,
                counters=self._counters,
            )
            talk.record.deliver = calls.deliver
            nursery.start_soon(calls.write_answers, talk.worker.sock)
            try:
                await calls.forward(first)
                outcome = await self._outcome(talk, rest)
            except _BROKEN as error:
                outcome = _nonsense(error)
            finally:
                talk.record.deliver = None
            nursery.cancel_scope.cancel()
        outcome = calls.failure or outcome
        assert outcome is not None
        return outcome

    def _result(self, talk: _Talk, payload: bytes | memoryview) -> ResultData | Failure:
        result = one_value(payload)
        if talk.metadata is None:
            return ResultData(result=result)
        custom, static, size = talk.metadata
        if len(payload) + size > self._max_payload:
            self._counters.limits["result_size"] += 1
            message = f"The result and the data to be stored are too large: n8n takes at most {self._max_payload} bytes"
            return Failure(message=message, kind="limit")
        return ResultData(result=result, custom_data=custom, static_data=static)

    def _reported(self, failure: Failure) -> Failure:
        """A failure in the child's own words, which may be about a limit that it keeps to by itself."""
        if failure.limit is not None:
            self._counters.limits[failure.limit] += 1
        return failure

    def _print(self, talk: _Talk, payload: bytes | memoryview) -> None:
        talk.prints += 1
        talk.printed += len(payload)
        if talk.prints > MAX_PRINTS + 1 or talk.printed > _MAX_PRINT_BYTES:
            # our own child keeps to its limits: this is a program that writes to the socket itself
            raise FrameError("more than a worker ever sends")
        texts = msgspec.json.decode(payload, type=list[str])
        task_id = talk.record.task_id
        log.info("[user code] %s", " ".join(unquote(text) for text in texts), extra={"task_id": task_id})
        self._counters.limits["prints"] += payload[: len(_PRINTS_CUT)] == _PRINTS_CUT
        params = Raw(msgspec.json.encode(texts))
        talk.emit(Rpc(call_id=next(self._call_ids), task_id=task_id, name="logNodeOutput", params=params))

    async def _without_result(self, worker: Worker) -> Failure:
        status = await worker.wait_exit()
        self._counters.worker_deaths["task"] += 1
        if status is None:
            return Failure(message="Task subprocess exited with code -1", description=_VANISHED, kind="worker")
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            return Failure(message="Failed to read result from child process", description=_EXITED, kind="worker")
        if code == -signal.SIGXCPU and self._cpu_limit:
            self._counters.limits["cpu"] += 1
            return Failure(
                message=f"The task used more than {self._cpu_limit} s of processor time",
                description="The program was stopped. Let it do less at a time, or raise N8N_RUNNERS_TASK_CPU. [TR403]",
                kind="limit",
            )
        if code == -signal.SIGKILL:
            return Failure(message="Process was forcefully killed (SIGKILL)", description=_KILLED, kind="worker")
        return Failure(message=f"Task subprocess exited with code {code}", description=_EXITED, kind="worker")

    def _timed_out(self) -> Failure:
        seconds = self._task_timeout
        self._counters.limits["timeout"] += 1
        return Failure(
            message=f"Task execution timed out after {seconds:g} second{'' if seconds == 1 else 's'}",
            description="The program was stopped. Let it do less at a time, or raise N8N_RUNNERS_TASK_TIMEOUT for the "
            "runner (n8n has a limit of its own under the same name; the shorter one counts). [TR401]",
            kind="limit",
        )

    def _failure_message(self, task_id: str, settings: TaskSettings, failure: Failure) -> TaskResult:
        if settings.continue_on_fail and not failure.before_start:
            result = msgspec.json.encode([{"json": {"error": failure.message}}])
            return TaskDone(task_id=task_id, data=ResultData(result=Raw(result)))
        context = ErrorContext(item_index=failure.item_index) if failure.item_index is not None else None
        body = ErrorBody(
            message=failure.message[:_MAX_ERROR_TEXT],
            description=failure.description[:_MAX_ERROR_TEXT] if failure.description is not None else None,
            line_number=failure.line,
            context=context,
        )
        return task_error(task_id, body)


_NEW_LINE = "\n"


class _Talk:
    """One task's conversation with its worker: who takes part, and what was said so far."""

    __slots__ = ("ask", "calls", "emit", "metadata", "parser", "printed", "prints", "record", "worker")

    def __init__(
        self, worker: Worker, record: TaskRecord, emit: Emit, ask: Ask | None, limits: Mapping[int, int]
    ) -> None:
        self.worker = worker
        self.record = record
        self.emit = emit
        self.ask = ask
        self.parser = FrameParser(limits)
        self.prints = self.printed = 0
        self.calls: Calls | None = None
        self.metadata: tuple[Raw | UnsetType, Raw | UnsetType, int] | None = None


_BROKEN = (FrameError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoders raise for bytes that our own child would not send."""


def _nonsense(error: BaseException) -> Failure:
    return Failure(
        message="Process completed but returned no result. This is likely an internal error.",
        description=f"The worker process sent something that is no result: {error} [TR410]",
        kind="worker",
    )


_UNDECLARED = "Or the program names the package that the module belongs to in its own dependencies."
_NOT_OPEN = (
    "The dependencies that the program names have no effect: for that, the runner's operator sets "
    "N8N_RUNNERS_INLINE_DEPENDENCIES."
)
_INTERNAL = "The runner failed to run this task. This is likely an internal error."
_VANISHED = (
    "The worker process is gone and nobody knows why; the runner replaces its workers. Run the node again. [TR409]"
)
_EXITED = "The program ended its own process instead of returning a result. [TR406]"
_KILLED = "Most often this means that the machine or the container ran out of memory. [TR405]"


def unquote(text: str) -> str:
    """A recorded print argument as ``print`` would show it: texts are recorded in quotes, nothing escaped."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == "'" else text


_OUTCOMES: dict[str, Outcome] = {
    "error": "error",
    "syntax": "syntax",
    "violation": "violation",
    "result": "error",
    "limit": "limit",
    "worker": "worker",
}


def _failed(record: TaskRecord, failure: Failure) -> str:
    if failure.kind == "syntax":
        return f"Task {record.task_id} failed syntax validation {record.place}: {failure.message[:2000]}"
    return f"Task {record.task_id} failed {record.place}: {failure.message[:2000]}"


def _reason(failure: Failure) -> str:
    if failure.kind == "violation" and failure.description:  # its message is always the same
        return f"{failure.message}: {failure.description.partition(_NEW_LINE)[0]}"
    return failure.message if failure.line is None else f"{failure.message} (line {failure.line})"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{int(seconds * 1000)}ms"
    return f"{int(seconds)}s" if seconds < 60 else f"{int(seconds // 60)}m"


def _size(count: int) -> str:
    if count < 1024:
        return f"{count} bytes"
    return f"{count / 1024:.1f} KB" if count < 1024 * 1024 else f"{count / 1024 / 1024:.1f} MB"
