"""One task in one process: compile if asked, run the program, send what came of it, exit.

Everything here happens after the fork and most of it is on a task's path, so it allocates little and imports nothing.
The runner believes nothing that this process says beyond its own task.
"""

from __future__ import annotations

import gc
import marshal
import os
import socket
import sys
from types import CodeType
from typing import Any, NoReturn

import msgspec

from trio_runner.sandbox import compiling, formatguard, frames, imports, tracebacks, values
from trio_runner.sandbox.frames import Failure, Run
from trio_runner.sandbox.hardened import harden
from trio_runner.sandbox.policy import Policy
from trio_runner.sandbox.userapi import CapturedErrors, LineStream, Printer

_GC_THRESHOLD = 50_000


class Prepared:
    """What the zygote builds once and every child inherits by the fork."""

    def __init__(self, policy: Policy, max_payload: int) -> None:
        self.policy = policy
        self.max_payload = max_payload
        self.printer = Printer(self._print)
        self.builtins = imports.make_builtins(policy, self.printer.print)
        self.guard = (
            harden(formatguard.make_format_guard(imports.SecurityViolationError), "format")
            if policy.source_checks
            else None
        )
        self._sock: socket.socket | None = None

    def attach(self, sock: socket.socket) -> None:
        """The child's own socket: where prints go from now on."""
        self._sock = sock

    def _print(self, texts: list[str]) -> None:
        if self._sock is not None:
            frames.send(self._sock, frames.PRINT, msgspec.json.encode(texts))

    def globals(self) -> dict[str, Any]:
        """Fresh globals for one run of the program."""
        names: dict[str, Any] = {"__builtins__": self.builtins}
        if self.guard is not None:
            names[formatguard.GUARD_NAME] = self.guard
        return names


def serve(sock: socket.socket, prepared: Prepared) -> NoReturn:
    """The whole life of a child, from its first frame to its exit. Exits 0 when the runner hangs up before a task."""
    reader = frames.FrameReader(sock)
    compiled: CodeType | None = None
    frame = reader.next()
    if frame is not None and frame[0] == frames.COMPILE:
        ask = frames.decode_compile(frame[1])
        verdict = compiling.examine(ask.source, ask.each_item, prepared.policy)
        frames.send(sock, frames.VERDICT, frames.encode(verdict))
        if verdict.failure is not None:
            os._exit(0)
        compiled = marshal.loads(verdict.code)  # noqa: S302 - our own bytes of a moment ago
        frame = reader.next()
    if frame is None:
        os._exit(0)
    run = frames.decode_run(frame[1])
    items = reader.next()
    if items is None:
        os._exit(0)
    code = compiled if compiled is not None else marshal.loads(run.code)  # noqa: S302 - the runner's cache
    _run(sock, prepared, run, code, items[1])
    os._exit(0)


def _run(sock: socket.socket, prepared: Prepared, run: Run, code: CodeType, items: bytes | bytearray) -> None:
    errors = CapturedErrors()
    sys.stdout, sys.stderr = LineStream(prepared.printer), errors
    prepared.attach(sock)
    index: list[int] = []
    try:
        parsed = _parse(items)
        query = _parse(run.query)
        imports.hide_modules(prepared.policy)
        gc.set_threshold(_GC_THRESHOLD, 20, 100)
        gc.enable()
        if run.each_item:
            value: object = _each(prepared, code, parsed, index)
        else:
            value = _call(prepared, code, {"_items": parsed, "_query": query})
        gc.disable()
        index.clear()
        payload = values.encode(value)
        if len(payload) > prepared.max_payload:
            raise values.UnsendableError(
                f"The result is too large: {len(payload)} bytes of JSON, and n8n takes at most {prepared.max_payload}"
            )
        kind = frames.RESULT
    except BaseException as error:
        gc.disable()
        kind, payload = frames.FAILURE, frames.encode(_failure(error, run.source, errors.text, index))
    prepared.printer.finish()
    frames.send(sock, kind, payload)


def _each(prepared: Prepared, code: CodeType, items: list[Any], index: list[int]) -> list[dict[str, object]]:
    shaped: list[dict[str, object]] = []
    index.append(0)
    for number, item in enumerate(items):
        index[0] = number
        output = values.shape_item(_call(prepared, code, {"_item": item}), number)
        if output is not None:
            shaped.append(output)
    return shaped


def _call(prepared: Prepared, code: CodeType, inputs: dict[str, Any]) -> object:
    """Runs the program once in globals of its own; nothing leaks from one item to the next."""
    names = prepared.globals()
    names.update(inputs)
    exec(code, names)  # noqa: S102 - this is what we are for
    function = names[compiling.USER_FUNCTION]
    return function(*inputs.values()) if function.__code__.co_argcount else function()


def _parse(data: bytes | bytearray) -> Any:
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        import json  # numbers beyond a double, and whatever else only the standard library reads

        return json.loads(data)


def _failure(error: BaseException, source: str, stderr: str, index: list[int]) -> Failure:
    """The failure in the words of runner-behaviour 11, with the line, the type and the user's own frames."""
    frames_of_user = tracebacks.user_frames(error.__traceback__)
    line = frames_of_user[-1][0] if frames_of_user else None
    item_index = index[0] if index else None
    if type(error) is imports.SecurityViolationError:
        return Failure(
            message=str(error), description=error.description, line=line, item_index=item_index, kind="violation"
        )
    if isinstance(error, values.UnsendableError):
        where = f"The value stands at {tracebacks.clip(error.path, 300)} of the result." if error.path else None
        return Failure(message=tracebacks.text_of(error), description=where, kind="result")
    if isinstance(error, SystemExit):
        message = tracebacks.clip(f"Process exited with code {_exit_code(error)}")
    else:
        message = tracebacks.text_of(error) or type(error).__name__
    return Failure(message=message, description=_description(error, source, stderr), line=line, item_index=item_index)


def _exit_code(error: SystemExit) -> str:
    try:
        return str(error.code)
    except BaseException:
        return "?"


def _description(error: BaseException, source: str, stderr: str) -> str:
    """The author's own ``description`` attribute as it is, else the traceback, and what went to stderr."""
    try:
        own = getattr(error, "description", None)
        if own:
            return tracebacks.clip(str(own))
    except BaseException:  # noqa: S110 - a hostile attribute or __str__: the traceback will do
        pass
    text = tracebacks.summary(error, source)
    return f"{text}\n\nstderr:\n{tracebacks.clip(stderr)}" if stderr else text
