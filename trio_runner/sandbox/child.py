"""One task in one process: compile if asked, run the program, send what came of it, exit.

Everything here happens after the fork and most of it is on a task's path, so it allocates little and imports nothing.
The runner believes nothing that this process says beyond its own task.
"""

from __future__ import annotations

import _socket
import _thread
import gc
import marshal
import mmap
import os
import sys
from types import CodeType, FunctionType
from typing import Any, NoReturn

import msgspec

from trio_runner.sandbox import (
    channel,
    compiling,
    coroutines,
    formatguard,
    frames,
    hints,
    imports,
    mistakes,
    tracebacks,
    values,
)
from trio_runner.sandbox.frames import Failure, Run
from trio_runner.sandbox.friendly import UnsendableError
from trio_runner.sandbox.hardened import harden
from trio_runner.sandbox.items import Input
from trio_runner.sandbox.policy import Confinement, Policy
from trio_runner.sandbox.userapi import MAX_PRINT_BYTES, CapturedErrors, LineStream, Printer, held
from trio_runner.sandbox.workflow import Workflow

_GC_THRESHOLD = 50_000
REHEARSALS = 12
"""Enough for every interpreter from 3.11 on to have rewritten what it is going to (it starts after 2 to 8 runs)."""
_REHEARSED = (
    ("return [{'json': {'n': len(_items)}}]", False),
    ("return {'n': _item['json']['a']}", True),
    ("return [_input.first().json.a, _input.all(), _json, _helpers, _('A'), _ifEmpty('', 1)]", False),
)
_LESS_MEMORY = "Let the program hold less at a time, or the runner's operator raises N8N_RUNNERS_TASK_MEMORY. [TR402]"
_SMALLER_RESULT = (
    "Return less, or in several runs. To allow more, the operator raises N8N_RUNNERS_MAX_PAYLOAD for n8n and for the "
    "runner. [TR404]"
)
_INDESCRIBABLE = "The exception has a text or attributes of its own making that fail in turn. [TR425]"
_MIN_ROOM = 4096
"""Bytes of prints and errors that are sent however small the limit for results is."""


class Prepared:
    """What the zygote builds once and every child inherits by the fork."""

    def __init__(self, policy: Policy, max_payload: int, confinement: Confinement | None = None) -> None:
        self.policy = policy
        self.confinement = confinement or Confinement(mode="off")
        self.max_payload = max_payload
        self.printer = Printer(self._print, min(MAX_PRINT_BYTES, max(max_payload, _MIN_ROOM)))
        self.builtins = imports.make_builtins(policy, self.printer.print)
        self.guard = (
            harden(formatguard.make_format_guard(imports.SecurityViolationError), "format")
            if policy.source_checks and not policy.relaxed
            else None
        )
        self.stdout, self.stderr = LineStream(self.printer), CapturedErrors()
        self.hides_modules = imports.hides_modules(policy)
        self._sock: _socket.socket | None = None
        self._lock = _thread.RLock()
        self._sending = False
        self._channel: channel.Channel | None = None

    def attach(self, sock: _socket.socket) -> None:
        """The child's own socket: where prints go from now on."""
        self._sock = sock

    @property
    def channel(self) -> channel.Channel:
        """The way to n8n, made for the first one who asks: most programs never do."""
        if self._channel is None:
            with self._lock:  # the first ones may be several threads
                if self._channel is None:
                    assert self._sock is not None
                    self._channel = channel.Channel(self._sock, self.send, self._sends)
        return self._channel

    def send(self, kind: int, payload: bytes, *, last: bool = False) -> bool:
        """One whole frame, whichever threads of the program print meanwhile. Nothing follows the ``last``.

        Returns whether it was sent.
        """
        with self._lock:
            if self._sock is None or self._sending:
                # not attached yet, or over; or a signal handler prints in the middle of a frame of the same thread
                return False
            self._sending = True
            try:
                frames.send(self._sock, kind, payload)
                if last:  # a signal handler or a thread of the program may still print
                    self._sock = None
            finally:
                self._sending = False
            return True

    def _sends(self) -> bool:
        """Whether this thread is in the middle of a print or of a frame."""
        return held(self._lock) or self.printer.busy

    def _print(self, record: bytes) -> None:
        self.send(frames.PRINT, record)

    def globals(self) -> dict[str, Any]:
        """Fresh globals for one run of the program."""
        names: dict[str, Any] = {"__builtins__": self.builtins}
        if self.guard is not None:
            names[formatguard.GUARD_NAME] = self.guard
        return names


def serve(sock: _socket.socket, prepared: Prepared) -> NoReturn:
    """The whole life of a child, from its first frame to its exit. Exits 0 when the runner hangs up before a task."""
    if (task := _receive(sock, prepared)) is not None:
        _run(sock, prepared, *task)
    os._exit(0)


def rehearse(policy: Policy) -> None:
    """Runs a small task in the zygote, a few times over.

    The interpreter rewrites code that is run often and notes which types it has met. Done here, once, that is shared
    memory; left to the children, each would copy the pages and do it again.
    """
    ours, theirs = _socket.socketpair()
    stdout, stderr = sys.stdout, sys.stderr
    try:
        for source, each_item in _REHEARSED * REHEARSALS:
            prepared = Prepared(policy, 65536)
            prepared.hides_modules = False
            verdict = compiling.examine(source, each_item, policy)
            run = Run(source, each_item, b"null", verdict.code, verdict.uses, verdict.nodes)
            frames.send(ours, frames.RUN, frames.encode(run))
            frames.send(ours, frames.ITEMS, b'[{"json":{"a":1}}]')
            task = _receive(theirs, prepared)
            assert task is not None
            _run(theirs, prepared, *task)
            ours.recv(65536)
    finally:
        sys.stdout, sys.stderr = stdout, stderr
        ours.close()
        theirs.close()


def _receive(sock: _socket.socket, prepared: Prepared) -> tuple[Run, CodeType, bytes | mmap.mmap] | None:
    """The task, its code and its items; None when the runner hangs up, or the source was refused."""
    reader = frames.FrameReader(sock)
    compiled: CodeType | None = None
    frame = reader.next()
    if frame is not None and frame[0] == frames.COMPILE:
        ask = frames.decode_compile(frame[1])
        verdict = compiling.examine(ask.source, ask.each_item, prepared.policy)
        frames.send(sock, frames.VERDICT, frames.encode(verdict))
        if verdict.failure is not None:
            return None
        compiled = marshal.loads(verdict.code)  # noqa: S302 - our own bytes of a moment ago
        frame = reader.next()
    if frame is None:
        return None
    run = frames.decode_run(frame[1])
    items = reader.next()
    if items is None:
        return None
    code = compiled if compiled is not None else marshal.loads(run.code)  # noqa: S302 - the runner's cache
    return run, code, items[1]


def _run(sock: _socket.socket, prepared: Prepared, run: Run, code: CodeType, items: bytes | mmap.mmap) -> None:
    sys.stdout, sys.stderr = prepared.stdout, prepared.stderr
    prepared.attach(sock)
    index: list[int] = []
    try:
        kind, payload = frames.RESULT, _result(prepared, run, code, items, index)
    except BaseException as error:
        gc.disable()
        if issubclass(type(error), MemoryError):
            tracebacks.let_go(error)  # or there is no room to say what happened
        kind, payload = frames.FAILURE, _failure_bytes(prepared, error, run.source, index)
    prepared.printer.finish()
    prepared.send(kind, payload, last=True)


def _result(prepared: Prepared, run: Run, code: CodeType, items: bytes | mmap.mmap, index: list[int]) -> bytes:
    """Runs the program and returns the JSON of what it returned. ``index`` is told which item is under way."""
    query = frames.parse(run.query)
    names = prepared.globals()
    workflow: Workflow | None = None
    if run.uses:
        workflow = Workflow(
            run.uses, run.nodes, Input(items), lambda: prepared.channel, timezone=prepared.policy.timezone
        )
        names |= workflow.names()
        parsed = workflow.items(whole=run.each_item)
        query = workflow.query(query)
    else:
        parsed = frames.parse(items)
    if prepared.hides_modules:
        imports.hide_modules(prepared.policy)
    gc.freeze()  # the items stay: the first collection would look at each of them, 11 ms for 10 MB
    gc.set_threshold(_GC_THRESHOLD, 20, 100)
    gc.enable()
    body = compiling.user_function(code)
    if run.each_item:
        value: Any = _each(names, body, parsed, index, workflow, loop=run.loop)
    else:
        if workflow is not None:
            names |= workflow.of_item(0)
        value = _call(names, body, {"_items": parsed, "_query": query}, run.loop)
    gc.disable()
    index.clear()
    payload = _encode(value, run, index, friendly=prepared.policy.friendly, items=query is None)
    if len(payload) > prepared.max_payload:
        raise values.TooLargeError(
            f"The result is too large: {len(payload)} bytes of JSON, and n8n takes at most {prepared.max_payload}"
        )
    if workflow is not None and (metadata := workflow.metadata()) is not None:
        prepared.send(frames.METADATA, metadata)
    return payload


def _encode(value: Any, run: Run, index: list[int], *, friendly: bool, items: bool) -> bytes:
    """The result as JSON. What cannot be sent puts the number of its item into ``index``, as a program's error does."""
    trail: list[str] = []
    try:
        return values.encode(value, friendly=friendly, items=items, trail=trail)
    except BaseException as error:  # or what the author's own code raises on the way, in a __str__ or a generator
        number, _ = values.split_path("".join(reversed(trail)))
        if type(error) is UnsendableError and error.path:
            number, error.path = values.split_path(error.path)
        if number is not None:
            index.append(value[number]["pairedItem"]["item"] if run.each_item else number)
        raise


def _each(
    names: dict[str, Any],
    body: CodeType,
    items: list[Any],
    index: list[int],
    workflow: Workflow | None,
    *,
    loop: frames.Loop,
) -> list[dict[str, object]]:
    shaped: list[dict[str, object]] = []
    index.append(0)
    for number, item in enumerate(items):
        index[0] = number
        fresh = names.copy() if workflow is None else names | workflow.of_item(number)
        output = values.shape_item(_call(fresh, body, {"_item": item}, loop), number)
        if output is not None:
            shaped.append(output)
    return shaped


def _call(names: dict[str, Any], body: CodeType, inputs: dict[str, Any], loop: frames.Loop = "") -> object:
    """Runs the program once in globals of its own; nothing leaks from one item to the next."""
    names |= inputs
    names[compiling.USER_FUNCTION] = function = FunctionType(body, names)
    value = function(*inputs.values()) if body.co_argcount else function()
    return coroutines.finished(value, loop) if loop else value


def _failure_bytes(prepared: Prepared, error: BaseException, source: str, index: list[int]) -> bytes:
    """The frame that tells of a failure. Never raises: an error that cannot be described is still an error."""
    try:
        failure = _failure(prepared, error, source, prepared.stderr.text, index)
        payload = frames.encode(failure)
        room = max(prepared.max_payload, _MIN_ROOM)
        if len(payload) <= room:
            return payload
        # a character can take six bytes in the message to n8n
        short = tracebacks.clip(failure.message, room // 8)
        return frames.encode(msgspec.structs.replace(failure, message=short, description=None))
    except BaseException as second:
        if issubclass(type(error), MemoryError):
            return frames.encode(Failure(message=_out_of_memory(prepared.confinement), kind="limit", limit="memory"))
        text = f"The program failed, and its error could not be described ({tracebacks.type_name(second)})"
        return frames.encode(Failure(message=text, description=_INDESCRIBABLE))


def _failure(prepared: Prepared, error: BaseException, source: str, stderr: str, index: list[int]) -> Failure:
    """The failure in the words of runner-behaviour 11, with the line, the type and the user's own frames."""
    frames_of_user = tracebacks.user_frames(error)
    line = frames_of_user[-1][0] if frames_of_user else None
    item_index = index[0] if index else None
    where = _where(line, item_index)
    kind = type(error)  # the real one: what an exception says in __class__ is its author's business
    if kind is imports.SecurityViolationError:
        return Failure(
            message=imports.VIOLATION,
            description=_with_hint(_own_description(error), where),
            line=line,
            item_index=item_index,
            kind="violation",
        )
    if issubclass(kind, MemoryError):
        return Failure(
            message=_out_of_memory(prepared.confinement),
            description=_description(error, source, stderr, f"{where}{_LESS_MEMORY}"),
            line=line,
            item_index=item_index,
            kind="limit",
            limit="memory",
        )
    if kind is values.TooLargeError:
        return Failure(
            message=tracebacks.text_of(error), description=_SMALLER_RESULT, kind="limit", limit="result_size"
        )
    if kind is UnsendableError:
        text, path = tracebacks.text_of(error), tracebacks.clip(getattr(error, "path", ""), 300)
        place = getattr(error, "place", "") if item_index is None else f"item {item_index} of the result"
        stands = f"The value stands at {path} in {place}." if path else f"The value is {place}."
        advice = f"{stands} {mistakes.for_result(text)}"
        return Failure(message=text, description=advice, item_index=item_index, kind="result")
    if issubclass(kind, SystemExit):
        message = tracebacks.clip(f"Process exited with code {_exit_code(error)}")
    else:
        message = tracebacks.text_of(error) or tracebacks.type_name(error)
    advice = _advice(prepared, error, source, each_item=item_index is not None)
    description = _description(error, source, stderr, f"{where}{advice}" if advice else "")
    return Failure(message=message, description=description, line=line, item_index=item_index)


def _advice(prepared: Prepared, error: BaseException, source: str, *, each_item: bool) -> str:
    """What the operator or else the author can do, if it is one of the usual cases."""
    try:
        operators = hints.for_error(error, prepared.policy, prepared.confinement)
        return operators or mistakes.for_error(error, source, each_item=each_item)
    except BaseException:
        return ""  # they ask the exception for its attributes and its text, and those may be hostile


def _where(line: int | None, item_index: int | None) -> str:
    """The beginning of an advice."""
    if line is None:
        return ""
    return f"Line {line}: " if item_index is None else f"Line {line}, item {item_index}: "


def _with_hint(description: str | None, where: str) -> str | None:
    return None if description is None else description + hints.for_refusals([description], where)


def _out_of_memory(confinement: Confinement) -> str:
    if confinement.mode == "off" or not confinement.memory:
        return "Out of memory"
    return f"Out of memory: a task may use {confinement.memory >> 20} MiB (N8N_RUNNERS_TASK_MEMORY)"


def _exit_code(error: BaseException) -> str:
    try:
        return str(_code_of_exit(error))
    except BaseException:
        return "?"


_code_of_exit = SystemExit.__dict__["code"].__get__


def _own_description(error: BaseException) -> str | None:
    """The ``description`` attribute that an author can give an exception, as n8n's own errors have it."""
    try:
        own = getattr(error, "description", None)
        return tracebacks.clip(str(own)) if own else None
    except BaseException:
        return None  # a hostile attribute or __str__: the traceback will do


def _description(error: BaseException, source: str, stderr: str, advice: str = "") -> str:
    """The author's own ``description`` as it is, else the advice, the traceback, and what went to stderr."""
    if (own := _own_description(error)) is not None:
        return own
    text = tracebacks.summary(error, source)
    if advice:
        text = f"{advice}\n\n{text}"
    return f"{text}\n\nstderr:\n{tracebacks.clip(stderr)}" if stderr else text
