"""The calls of one task without a process: what reaches n8n, what is refused, and where the bounds are."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
from msgspec import Raw
from trio.testing import wait_all_tasks_blocked

from trio_runner.calls import MAX_CALLS, Calls, Question
from trio_runner.counters import Counters
from trio_runner.protocol.messages import NodeTypes, Rpc, RpcResponse, TaskDataRequest, TaskDataResponse
from trio_runner.protocol.requests import CallRules
from trio_runner.sandbox import frames
from trio_runner.sandbox.frames import FrameError, FrameParser

DATA = {"dataOfNodes": ["A"], "prevNode": False, "input": {"include": False}, "env": False}


class Task:
    """A task that asks: its child's end of the socket, and what n8n was asked."""

    def __init__(self, nursery: trio.Nursery, rules: CallRules, max_unread: int) -> None:
        self.sock, self.child = socket.socketpair()
        for end in (self.sock, self.child):
            end.setblocking(False)
        self.asked: list[Question] = []
        self.counters = Counters()
        self.nursery = nursery
        ids = iter(range(1_000_000))
        self.calls = Calls(
            "t",
            self._ask,
            rules=rules,
            new_id=lambda: f"id{next(ids)}",
            max_unread=max_unread,
            scope=nursery.cancel_scope,
            counters=self.counters,
        )

    async def _ask(self, question: Question) -> None:
        await trio.lowlevel.checkpoint()
        self.asked.append(question)

    async def call(self, number: int, name: str, params: object) -> None:
        body = params if isinstance(params, bytes) else json.dumps(params).encode()
        await self.calls.forward(frames.call(number, name, body))

    def answer(self, number: int, data: bytes = b"null", status: str = "success") -> None:
        self.calls.deliver(RpcResponse(task_id="t", call_id=f"id{number}", status=status, data=Raw(data)))  # type: ignore[arg-type]

    def heard(self) -> list[tuple[int, int, Any]]:
        """What the child can read now."""
        parser, heard = FrameParser({frames.ANSWER: 1 << 30}), []
        try:
            while data := self.child.recv(1 << 20):
                for _, payload in parser.feed(data):
                    number, status, body = frames.split_answer(payload)
                    heard.append((number, status, json.loads(bytes(body)) if len(body) else None))
        except BlockingIOError:
            pass
        return heard


@asynccontextmanager
async def asking(rules: CallRules | None = None, max_unread: int = 1 << 20) -> AsyncIterator[Task]:
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            task = Task(nursery, rules or CallRules(), max_unread)
            with task.sock, task.child:
                nursery.start_soon(task.calls.write_answers, task.sock)
                yield task
                nursery.cancel_scope.cancel()


async def test_a_call_goes_to_n8n_as_it_is_and_its_answer_to_the_child_under_its_number() -> None:
    async with asking() as task:
        await task.call(70, "helpers.httpRequest", b'[{"url": "x"}]')
        assert task.asked == [
            Rpc(call_id="id0", task_id="t", name="helpers.httpRequest", params=Raw(b'[{"url": "x"}]'))
        ]
        task.answer(0, b'{"a":1}')
        await wait_all_tasks_blocked()
        assert task.heard() == [(70, frames.SUCCESS, {"a": 1})]
        assert task.counters.calls["httpRequest"] == {"success": 1, "error": 0, "refused": 0}


async def test_a_data_request_goes_in_our_own_words() -> None:
    async with asking() as task:
        await task.call(1, "", {**DATA, "input": {"include": True, "chunk": {"startIndex": 2, "count": 3}}})
        [request] = task.asked
        assert isinstance(request, TaskDataRequest)
        assert json.loads(bytes(request.request_params))["input"]["chunk"] == {"startIndex": 2, "count": 3}
        task.calls.deliver(TaskDataResponse(task_id="t", request_id="id0", data=Raw(b'{"n":1}')))
        await wait_all_tasks_blocked()
        assert task.heard() == [(1, frames.SUCCESS, {"n": 1})]


async def test_answers_come_back_in_any_order_and_errors_as_errors() -> None:
    async with asking() as task:
        for number in range(3):
            await task.call(10 + number, "helpers.request", [])
        task.answer(2, b'"second"', status="error")
        task.answer(0)
        await wait_all_tasks_blocked()
        assert task.heard() == [(12, frames.ERROR, "second"), (10, frames.SUCCESS, None)]


async def test_an_answer_to_nothing_is_dropped() -> None:
    async with asking() as task:
        await task.call(1, "helpers.request", [])
        task.calls.deliver(NodeTypes(task_id="t", request_id="id0", node_types=Raw(b"[]")))
        task.answer(9)
        task.answer(0)
        task.answer(0)
        await wait_all_tasks_blocked()
        assert len(task.heard()) == 1


@pytest.mark.parametrize(
    ("rules", "name", "params", "counted"),
    [
        (CallRules(helpers=frozenset({"request"})), "helpers.httpRequest", [], "httpRequest"),
        (CallRules(), "logNodeOutput", ["x"], "other"),
        (CallRules(), "httpRequest", [], "httpRequest"),
        (CallRules(), "helpers.helpers.httpRequest", [], "other"),
        (CallRules(data=frozenset({"input"})), "", DATA, "data"),
        (CallRules(data=frozenset({"nodes"})), "", {**DATA, "env": True}, "data"),
        (CallRules(data=frozenset()), "", {**DATA, "dataOfNodes": []}, "data"),
    ],
)
async def test_what_is_not_allowed_is_answered_here(rules: CallRules, name: str, params: object, counted: str) -> None:
    async with asking(rules) as task:
        await task.call(5, name, params)
        await wait_all_tasks_blocked()
        [(number, status, said)] = task.heard()
        assert (number, status, task.asked) == (5, frames.ERROR, [])
        assert said["message"]
        assert task.counters.calls[counted]["refused"] == 1


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("helpers.request", b'[]},"taskId":"other"'),
        ("helpers.request", b"{}"),
        ("helpers.request", b" []"),
        ("helpers.request", b""),
        ("helpers.request", b'["\xff"]'),
        ("helpers.request", b"[" * 5000),
        ("", b"{}"),
        ("", json.dumps({**DATA, "more": 1}).encode()),
        ("", json.dumps({**DATA, "dataOfNodes": "some"}).encode()),
        ("", json.dumps({**DATA, "input": {"include": True, "chunk": {"startIndex": -1, "count": 1}}}).encode()),
    ],
)
async def test_parameters_that_no_channel_makes_end_the_task(name: str, params: bytes) -> None:
    async with asking() as task:
        with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError)):
            await task.call(1, name, params)
        assert task.asked == []


@pytest.mark.parametrize("payload", [b"", b"1234", b"\0\0\0\0\5abc", b"\0\0\0\0\1\xff[]"])
async def test_a_call_without_a_name_is_none(payload: bytes) -> None:
    async with asking() as task:
        with pytest.raises((FrameError, UnicodeDecodeError)):
            await task.calls.forward(payload)


async def test_a_child_with_more_calls_at_once_than_a_channel_makes_is_cut_off() -> None:
    async with asking() as task:
        for number in range(frames.MAX_CALLS_IN_FLIGHT):
            await task.call(number, "helpers.request", [])
        with pytest.raises(FrameError, match="more calls at once"):
            await task.call(99, "helpers.request", [])
        assert len(task.asked) == frames.MAX_CALLS_IN_FLIGHT


async def test_calls_that_were_answered_make_room_for_others() -> None:
    async with asking(CallRules(helpers=frozenset({"request"}), data=frozenset({"input"}))) as task:
        for number in range(3 * frames.MAX_CALLS_IN_FLIGHT):
            name, params = [("helpers.request", []), ("refused", []), ("", {**DATA, "dataOfNodes": []})][number % 3]
            await task.call(number, name, params)
            match task.asked.pop() if task.asked else None:
                case Rpc(call_id=call_id):
                    task.answer(int(call_id[2:]))
                case TaskDataRequest(request_id=request_id):  # the workflow comes with whatever is allowed
                    task.calls.deliver(TaskDataResponse(task_id="t", request_id=request_id, data=Raw(b"{}")))
            await wait_all_tasks_blocked()
            [(answered, status, _)] = task.heard()
            assert (answered, status) == (number, frames.ERROR if name == "refused" else frames.SUCCESS)


async def test_refusals_that_are_not_read_count_as_calls_at_once() -> None:
    async with asking() as task:
        for number in range(frames.MAX_CALLS_IN_FLIGHT):
            await task.call(number, "x", [])
        with pytest.raises(FrameError, match="more calls at once"):
            await task.call(99, "x", [])


async def test_a_task_makes_so_many_calls_and_no_more() -> None:
    async with asking() as task:
        task.calls._made = MAX_CALLS - 1
        await task.call(1, "helpers.request", [])
        assert task.calls.failure is None
        await task.call(2, "helpers.request", [])
        assert task.calls.failure is not None
        assert "at most 20000 calls" in task.calls.failure.message
        assert task.nursery.cancel_scope.cancel_called
        assert len(task.asked) == 1


async def test_answers_that_nobody_reads_end_the_task_before_they_fill_the_memory() -> None:
    large = b'"' + b"x" * 2_000_000 + b'"'
    async with asking(max_unread=5_000_000) as task:
        for number in range(5):
            await task.call(number, "helpers.request", [])
        for number in range(2):
            task.answer(number, large)
        await wait_all_tasks_blocked()
        assert task.calls.failure is None
        task.answer(2, large)
        assert task.calls.failure is not None
        assert "did not read" in task.calls.failure.message
        task.answer(3, large)  # and whatever comes after that is dropped


async def test_one_answer_may_be_as_large_as_a_message() -> None:
    async with asking(max_unread=1000) as task:
        await task.call(1, "helpers.request", [])
        task.answer(0, b'"' + b"x" * 100_000 + b'"')
        await wait_all_tasks_blocked()
        assert task.calls.failure is None
        assert len(task.heard()[0][2]) == 100_000


async def test_an_answer_for_a_child_that_is_gone_goes_nowhere() -> None:
    async with asking() as task:
        for number in range(3):
            await task.call(number, "helpers.request", [])
        task.child.close()
        for number in range(3):
            task.answer(number)
            await wait_all_tasks_blocked()
        assert task.calls.failure is None
