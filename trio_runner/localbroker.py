"""The embedded broker: n8n's side of the protocol over a real socket, without n8n.

For one-shot runs, tests and benchmarks. Owns the sockets and the waiting callers; who gets which task is decided by
`protocol.broker`. Prints come out through a callback as they happen.
"""

from __future__ import annotations

import itertools
import math
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Literal
from urllib.parse import parse_qs

import msgspec
import trio
from msgspec import UNSET, Raw, UnsetType
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream
from wsproto.utilities import ProtocolError

from trio_runner.http import Request, Response, serve
from trio_runner.localhelpers import HelperFailed, carry_out
from trio_runner.localworkflow import LocalWorkflow
from trio_runner.log import get_logger
from trio_runner.protocol.broker import Broker, BrokerAction, BrokerTerms, CloseRunner, ToRequester, ToRunner
from trio_runner.protocol.messages import (
    ForwardedDataRequest,
    ForwardedDone,
    ForwardedError,
    ForwardedRpc,
    Refused,
    RequesterCancel,
    RequesterMessage,
    RequesterRpcResponse,
    RequesterSettings,
    RequesterTaskData,
    RequestExpired,
    ResultData,
    TaskReady,
    TaskRequest,
    decode_from_runner,
    encode,
)
from trio_runner.protocol.requests import HELPERS, PREFIX
from trio_runner.streams import Replay

log = get_logger("localbroker")

PATH = "/runners"
_QUEUE = 100_000
_HANDSHAKE_LIMIT = 10.0
_CLOSE_LIMIT = 2.0
OnPrint = Callable[[list[object]], None]


class TaskFailed(Exception):  # noqa: N818 - it reports an outcome
    """The task ended with an error; ``error`` is what n8n would have been told."""

    def __init__(self, error: dict[str, object]) -> None:
        super().__init__(str(error.get("message", error)))
        self.error = error


class _Call(msgspec.Struct):
    """One caller of `run_task`."""

    settings: Raw
    on_print: OnPrint | None
    workflow: LocalWorkflow
    done: trio.Event
    outcome: ResultData | dict[str, object] | None = None
    task_id: str | None = None


class LocalBroker:
    """A broker on a loopback port. ``machine`` decides; it is there to be given by who wants to watch its decisions."""

    def __init__(
        self,
        *,
        auth_token: str,
        terms: BrokerTerms | None = None,
        max_payload: int = 1 << 30,
        machine: Broker | None = None,
        workflow: LocalWorkflow | None = None,
    ) -> None:
        """``workflow`` is what tasks find themselves in that are run without one of their own."""
        self._workflow = workflow or LocalWorkflow()
        self._to_help, self._helping = trio.open_memory_channel[tuple[ForwardedRpc, LocalWorkflow]](_QUEUE)
        self._auth_token = auth_token
        self._max_payload = max_payload
        self._grants: set[str] = set()
        self._broker = machine or Broker(new_task_id=lambda: secrets.token_urlsafe(6), terms=terms)
        self._calls: dict[str, _Call] = {}
        self._by_task: dict[str, str] = {}
        self._outboxes: dict[str, trio.MemorySendChannel[bytes | int]] = {}
        self._sockets: dict[str, WebSocketConnection] = {}
        self._left = trio.Event()
        self._ids = map(str, itertools.count(1))
        self._wake, self._woken = trio.open_memory_channel[None](1)
        self.machine = self._broker

    async def serve(
        self, port: int = 0, host: str = "127.0.0.1", *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serves until cancelled; starts with the port."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_time)
            nursery.start_soon(self._help)
            port = await nursery.start(partial(serve, self._answer, host, port, upgrade=self._serve_runner))
            task_status.started(port)

    async def run_task(
        self, settings: bytes, on_print: OnPrint | None = None, workflow: LocalWorkflow | None = None
    ) -> ResultData:
        """Runs one task on whichever runner takes it. ``settings`` is the JSON of a settings object.

        What the program asks for besides its items comes from ``workflow``.

        Raises `TaskFailed`, or `trio.TooSlowError` when no runner takes the task in time. Cancellation cancels the
        task.
        """
        request_id = next(self._ids)
        call = self._calls[request_id] = _Call(Raw(settings), on_print, workflow or self._workflow, trio.Event())
        try:
            self._request(TaskRequest(request_id=request_id, task_type="python"))
            await call.done.wait()
        finally:
            del self._calls[request_id]
            if call.task_id is not None:
                del self._by_task[call.task_id]
                if not call.done.is_set():
                    self._request(RequesterCancel(task_id=call.task_id, reason="Task cancelled by user"))
        if isinstance(call.outcome, ResultData):
            return call.outcome
        if call.outcome is None:
            raise trio.TooSlowError("no runner took the task")
        raise TaskFailed(call.outcome)

    def drain(self) -> None:
        """Tells all runners that this broker is stopping."""
        self._carry_out(self._broker.drain())

    async def disconnect(self, code: int = 1001) -> None:
        """Closes every runner's connection, after what is still to be written. Returns when all are gone."""
        gone = list(self._sockets.values())
        for outbox in self._outboxes.values():
            outbox.send_nowait(code)
        self._outboxes.clear()
        while any(websocket in gone for websocket in self._sockets.values()):
            await self._left.wait()

    # HTTP and WebSocket

    async def _answer(self, request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        if request.path == "/healthz":
            return Response(200, b'{"status":"ok"}', "application/json")
        if request.method == "POST" and request.path == f"{PATH}/auth":
            return self._grant(request.body)
        return Response(404)

    def _grant(self, body: bytes) -> Response:
        try:
            token = msgspec.json.decode(body, type=dict[str, str]).get("token")
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return Response(400, b'{"code":400,"message":"invalid_type"}', "application/json")
        if token is None or not secrets.compare_digest(token.encode(), self._auth_token.encode()):
            return Response(403, b'{"code":403,"message":"Forbidden"}', "application/json")
        return Response(200, msgspec.json.encode({"data": {"token": self.new_grant()}}), "application/json")

    def new_grant(self) -> str:
        """A token for one connection."""
        grant = secrets.token_hex(32)
        self._grants.add(grant)
        return grant

    async def _serve_runner(self, request: Request, stream: trio.abc.Stream) -> Response | None:
        runner_id = parse_qs(request.target.partition("?")[2]).get("id", [""])[0]
        scheme, _, grant = (request.header("authorization") or "").partition(" ")
        if request.path != f"{PATH}/_ws":
            return Response(404)
        if not runner_id:
            return Response(400)
        if scheme.lower() != "bearer":
            return Response(401)
        if grant not in self._grants:
            return Response(403)
        self._grants.discard(grant)
        try:
            async with trio.open_nursery() as nursery:
                websocket: WebSocketConnection | None = None
                with trio.move_on_after(_HANDSHAKE_LIMIT):
                    handshake = await wrap_server_stream(
                        nursery,
                        Replay(stream, request.raw),
                        max_message_size=self._max_payload,
                        receive_buffer_size=262_144,
                    )
                    websocket = await handshake.accept()
                if websocket is not None:
                    await self._converse(runner_id, websocket, nursery)
                nursery.cancel_scope.cancel()
        except* (ProtocolError, ConnectionClosed) as group:
            log.warning("A runner's connection failed: %s", group.exceptions[0])
        return None

    async def _converse(self, runner_id: str, websocket: WebSocketConnection, nursery: trio.Nursery) -> None:
        outbox, to_write = trio.open_memory_channel[bytes | int](_QUEUE)
        actions = self._broker.connect(runner_id)
        self._carry_out([action for action in actions if isinstance(action, CloseRunner)])
        self._outboxes[runner_id], self._sockets[runner_id] = outbox, websocket
        self._carry_out([action for action in actions if not isinstance(action, CloseRunner)])
        nursery.start_soon(_write, websocket, to_write, written := trio.Event())
        try:
            while True:
                frame = await websocket.get_message()
                try:
                    message = decode_from_runner(frame)
                except Refused as refused:
                    log.warning("A runner sent something else than a message: %s", refused.text)
                    continue
                # a runner that was replaced by another of its id is not listened to any more (protocol.md 4)
                if self._sockets.get(runner_id) is websocket:
                    self._carry_out(self._broker.receive(runner_id, message, trio.current_time()))
        except ConnectionClosed:
            pass
        finally:
            outbox.close()
            if self._sockets.get(runner_id) is websocket:
                self._outboxes.pop(runner_id, None)
                del self._sockets[runner_id]
                self._carry_out(self._broker.disconnect(runner_id, trio.current_time()))
            self._left.set()
            self._left = trio.Event()
        # when it was us who closed, the runner's own close frame is still to come
        with trio.move_on_after(_CLOSE_LIMIT):
            await written.wait()

    # The machine's actions

    def _request(self, message: RequesterMessage) -> None:
        self._carry_out(self._broker.request(message, trio.current_time()))

    def _carry_out(self, actions: list[BrokerAction]) -> None:
        for action in actions:
            if isinstance(action, ToRunner):
                if outbox := self._outboxes.get(action.runner_id):
                    outbox.send_nowait(encode(action.message))
            elif isinstance(action, ToRequester):
                self._tell_requester(action)
            elif outbox := self._outboxes.pop(action.runner_id, None):
                outbox.send_nowait(action.code)
        with suppress(trio.WouldBlock):
            self._wake.send_nowait(None)

    def _tell_requester(self, action: ToRequester) -> None:
        message = action.message
        if isinstance(message, TaskReady):
            call = self._calls.get(message.request_id)
            if call is None:
                self._request(RequesterCancel(task_id=message.task_id, reason="Task cancelled by user"))
                return
            call.task_id = message.task_id
            self._by_task[message.task_id] = message.request_id
            self._request(RequesterSettings(task_id=message.task_id, settings=call.settings))
        elif isinstance(message, RequestExpired):
            self._end(message.request_id, None)
        elif isinstance(message, ForwardedDone):
            data = message.data if isinstance(message.data, ResultData) else ResultData()
            self._end(self._by_task.get(message.task_id), data)
        elif isinstance(message, ForwardedError):
            error = msgspec.json.decode(message.error)
            self._end(self._by_task.get(message.task_id), error if isinstance(error, dict) else {"message": str(error)})
        elif isinstance(message, ForwardedRpc):
            self._call_back(message)
        elif isinstance(message, ForwardedDataRequest):
            self._look_up(message)

    def _end(self, request_id: str | None, outcome: ResultData | dict[str, object] | None) -> None:
        call = self._calls.get(request_id or "")
        if call is not None:
            call.outcome = outcome
            call.done.set()

    def _call_back(self, rpc: ForwardedRpc) -> None:
        call = self._calls.get(self._by_task.get(rpc.task_id, ""))
        if rpc.name == "logNodeOutput":
            if call is not None and call.on_print is not None:
                with suppress(msgspec.ValidationError):  # no list: only a foreign runner does that
                    call.on_print(msgspec.json.decode(rpc.params, type=list[object]))
            self._answer_call(rpc, UNSET)
        elif not rpc.name.startswith(PREFIX) or rpc.name.removeprefix(PREFIX) not in HELPERS:
            self._answer_call(rpc, Raw(b'"Method not allowed"'), "error")
        elif call is not None:
            self._to_help.send_nowait((rpc, call.workflow))

    async def _help(self) -> None:
        async with trio.open_nursery() as nursery:
            async for rpc, workflow in self._helping:
                nursery.start_soon(self._help_one, rpc, workflow)

    async def _help_one(self, rpc: ForwardedRpc, workflow: LocalWorkflow) -> None:
        try:
            self._answer_call(rpc, await carry_out(rpc.name, rpc.params, workflow))
        except HelperFailed as failed:
            self._answer_call(rpc, Raw(msgspec.json.encode(failed.data)), "error")

    def _answer_call(
        self, rpc: ForwardedRpc, data: Raw | UnsetType, status: Literal["success", "error"] = "success"
    ) -> None:
        self._request(RequesterRpcResponse(task_id=rpc.task_id, call_id=rpc.call_id, status=status, data=data))

    def _look_up(self, asked: ForwardedDataRequest) -> None:
        call = self._calls.get(self._by_task.get(asked.task_id, ""))
        if call is None:
            return
        try:
            data = call.workflow.answer(msgspec.json.decode(asked.request_params))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            log.warning("A data request has no answer, as with n8n: %s", error)
            return
        answer = RequesterTaskData(
            task_id=asked.task_id, request_id=asked.request_id, data=Raw(msgspec.json.encode(data))
        )
        self._request(answer)

    async def _watch_time(self) -> None:
        while True:
            deadline = self._broker.next_deadline()
            with trio.move_on_at(math.inf if deadline is None else deadline):
                await self._woken.receive()
            if deadline is not None and trio.current_time() >= deadline:
                self._carry_out(self._broker.tick(trio.current_time()))


async def _write(
    websocket: WebSocketConnection, to_write: trio.MemoryReceiveChannel[bytes | int], written: trio.Event
) -> None:
    """Writes messages until the connection is gone, or until a close code says that this was the last one."""
    try:
        async for data in to_write:
            if isinstance(data, int):
                await websocket.aclose(data)
                return
            await websocket.send_message(data.decode())
    except ConnectionClosed:
        return
    finally:
        written.set()
