"""The calls of one task to n8n: from the child's frame to the message, and from n8n's answer to the child's frame.

Made with the first call of a task, gone with the task. Owns the bounds (calls at once and in all, bytes of answers that
the child does not read) and the texts of refusals. Must not know connections: what is asked goes through ``ask``.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
import trio

from trio_runner.counters import Counters
from trio_runner.protocol.messages import NULL, Rpc, RpcResponse, TaskDataRequest, TaskDataResponse, TaskReply
from trio_runner.protocol.requests import HELPERS, PREFIX, CallRules, call_params, data_request
from trio_runner.sandbox import frames
from trio_runner.sandbox.frames import Failure, FrameError
from trio_runner.workerio import DeadOnArrivalError, send

Question = Rpc | TaskDataRequest
Ask = Callable[[Question], Awaitable[None]]
"""Sends a call to n8n. A large one is awaited until it has left the process."""

MAX_CALLS = 20_000
"""Calls of one task in all. A call costs the runner some 100 µs, and all tasks share them."""
DATA_CALL = "data"
_OTHER = "other"


class Calls:
    """What one task has asked for and not got yet."""

    def __init__(
        self,
        task_id: str,
        ask: Ask,
        *,
        rules: CallRules,
        new_id: Callable[[], str],
        max_unread: int,
        scope: trio.CancelScope,
        counters: Counters,
    ) -> None:
        """``scope`` is cancelled when `failure` has become the task's outcome."""
        self._task_id = task_id
        self._ask = ask
        self._rules = rules
        self._new_id = new_id
        self._max_unread = max_unread
        self._scope = scope
        self._counters = counters
        self._pending: dict[str, tuple[int, str, float]] = {}
        self._answers, self._to_write = trio.open_memory_channel[_Answer](frames.MAX_CALLS_IN_FLIGHT)
        self._unwritten = 0
        self._unread = 0
        self._made = 0
        self.failure: Failure | None = None

    async def forward(self, payload: bytes | memoryview) -> None:
        """One CALL of the child. Raises what `FrameParser` and decoders raise when it is none that a channel makes."""
        number, name, params = frames.split_call(payload)
        self._made += 1
        if len(self._pending) + self._unwritten >= frames.MAX_CALLS_IN_FLIGHT:
            # our own channel waits before that: this is a program that writes to the socket itself
            raise FrameError("more calls at once than a worker ever makes")
        if self._made > MAX_CALLS:
            message = f"A task can make at most {MAX_CALLS} calls to n8n"
            self._fail(message, "Let it ask for more with each of them. [TR432]")
            return
        call_id = self._new_id()
        method = name.removeprefix(PREFIX) if name else DATA_CALL
        question: Question | None = None
        if name:
            if (refusal := self._refusal(name)) is None:
                question = Rpc(call_id=call_id, task_id=self._task_id, name=name, params=call_params(params))
        else:
            request, ours = data_request(params)
            refusal = next((_DATA_REFUSED.format(kind) for kind in request.kinds() if kind not in self._allowed), None)
            if refusal is None:
                question = TaskDataRequest(request_id=call_id, task_id=self._task_id, request_params=ours)
        if question is None:
            self._counters.called(method if method in HELPERS or not name else _OTHER, "refused")
            self._put(_Answer(number, frames.ERROR, msgspec.json.encode({"message": refusal})))
            return
        self._pending[call_id] = number, method, trio.current_time()
        await self._ask(question)

    @property
    def _allowed(self) -> frozenset[str]:
        data = self._rules.data
        return data | {"workflow"} if data else data

    def _refusal(self, name: str) -> str | None:
        method = name.removeprefix(PREFIX)
        if not name.startswith(PREFIX) or method not in HELPERS:
            return f"n8n has no method for code that is called {name}"
        return None if method in self._rules.helpers else _HELPER_REFUSED.format(method)

    def deliver(self, reply: TaskReply) -> None:
        """An answer of n8n."""
        status, data = frames.SUCCESS, NULL
        match reply:
            case RpcResponse(call_id=call_id, data=data):
                status = frames.SUCCESS if reply.status == "success" else frames.ERROR
            case TaskDataResponse(request_id=call_id, data=data):
                pass
            case _:
                return  # node types are never asked for
        pending = self._pending.pop(call_id, None)
        if pending is None:
            return
        number, method, asked_at = pending
        outcome = "success" if status == frames.SUCCESS else "error"
        self._counters.called(method, outcome, trio.current_time() - asked_at)
        self._put(_Answer(number, status, memoryview(data)))

    def _put(self, answer: _Answer) -> None:
        self._unread += len(answer.body)
        self._unwritten += 1
        if self._unread > self._max_unread and self._unwritten > 1:
            self._fail(
                f"The program asked for more than {self._max_unread} bytes and did not read them",
                "Let it ask for less at a time. [TR432]",
            )
        if self.failure is None:
            with suppress(trio.BrokenResourceError):  # the child is gone, and its task is about to end
                self._answers.send_nowait(answer)

    def _fail(self, message: str, description: str) -> None:
        self._counters.limits["calls"] += 1
        self.failure = Failure(message=message, description=description, kind="limit")
        self._pending.clear()
        self._scope.cancel()

    async def write_answers(self, sock: socket.socket) -> None:
        """Writes answers as the child reads them, until cancelled or the child is gone."""
        with self._to_write, suppress(DeadOnArrivalError, BrokenPipeError, ConnectionResetError):
            async for answer in self._to_write:
                size = len(answer.body)
                await send(sock, frames.answer_head(answer.number, answer.status, size), answer.body)
                self._unread -= size
                self._unwritten -= 1
                del answer  # not held until the next one comes: it may be large


class _Answer(msgspec.Struct, frozen=True):
    """What goes to the child."""

    number: int
    status: int
    body: bytes | memoryview


_HELPER_REFUSED = (
    "The helper {0} is not allowed here. "
    "To allow it, the runner's operator adds {0} to N8N_RUNNERS_HELPERS_ALLOW. [TR433]"
)
_DATA_REFUSED = (
    "The program asked n8n for data ({0}) that it is not allowed to see. "
    "To allow it, the runner's operator adds {0} to N8N_RUNNERS_DATA_ALLOW. [TR433]"
)
