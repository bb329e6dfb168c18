"""The embedded broker as a server: what it answers to runners that behave and to clients that do not."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from tests.shell.shell_kit import read_all
from trio_runner.auth import fetch_grant_token
from trio_runner.config import BrokerAddress
from trio_runner.errors import AuthRefusedError
from trio_runner.http import Response, post_json
from trio_runner.localbroker import LocalBroker, TaskFailed
from trio_runner.protocol.broker import BrokerTerms
from trio_runner.protocol.messages import ResultData

pytestmark = pytest.mark.e2e

SETTINGS = msgspec.json.encode({"code": "return 1", "nodeMode": "runOnceForAllItems", "items": []})


class Served:
    def __init__(self, broker: LocalBroker, port: int, nursery: trio.Nursery) -> None:
        self.broker = broker
        self.port = port
        self.nursery = nursery

    @contextlib.asynccontextmanager
    async def runner(self, runner_id: str = "r", *, types: tuple[str, ...] = ("python",)) -> AsyncIterator[Peer]:
        """A registered runner that does what the test says."""
        headers = [(b"Authorization", f"Bearer {self.broker.new_grant()}".encode())]
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream, trio.open_nursery() as nursery:
            path = f"/runners/_ws?id={runner_id}"
            websocket = await wrap_client_stream(nursery, stream, "x", path, extra_headers=headers)
            peer = Peer(websocket)
            assert (await peer.next())["type"] == "broker:inforequest"
            await peer.send("runner:info", name="test", types=types)
            assert (await peer.next())["type"] == "broker:runnerregistered"
            yield peer
            with trio.move_on_after(1):
                await websocket.aclose()
            nursery.cancel_scope.cancel()

    async def upgrade_status(self, path: str, authorization: str | None) -> int:
        """The status that answers an upgrade request in plain HTTP."""
        lines = [
            f"GET {path} HTTP/1.1",
            "Host: x",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ]
        if authorization is not None:
            lines.append(f"Authorization: {authorization}")
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            await stream.send_all("\r\n".join([*lines, "", ""]).encode())
            return int((await stream.receive_some()).split(b" ")[1])


class Peer:
    def __init__(self, websocket: WebSocketConnection) -> None:
        self.websocket = websocket

    async def send(self, message_type: str, **fields: object) -> None:
        await self.websocket.send_message(json.dumps({"type": message_type, **fields}))

    async def next(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await self.websocket.get_message())
        return message

    async def take(self, offer_id: str = "o") -> str:
        """Offers, accepts what comes and waits for its settings. Gives the task's id."""
        await self.send("runner:taskoffer", offerId=offer_id, taskType="python", validFor=-1)
        accept = await self.next()
        assert (accept["type"], accept["offerId"]) == ("broker:taskofferaccept", offer_id)
        await self.send("runner:taskaccepted", taskId=accept["taskId"])
        settings = await self.next()
        assert settings == {
            "type": "broker:tasksettings",
            "taskId": accept["taskId"],
            "settings": json.loads(SETTINGS),
        }
        return str(accept["taskId"])

    async def closed(self) -> int | None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.next()
        assert self.websocket.closed is not None
        return self.websocket.closed.code


@contextlib.asynccontextmanager
async def served(terms: BrokerTerms | None = None, *, limit: float = 5) -> AsyncIterator[Served]:
    async with trio.open_nursery() as nursery:
        with trio.fail_after(limit):
            broker = LocalBroker(auth_token="secret", terms=terms)
            port = await nursery.start(broker.serve)
            yield Served(broker, port, nursery)
            nursery.cancel_scope.cancel()


class Caller:
    """A call of `run_task` in the background and what came of it."""

    def __init__(self) -> None:
        self.prints: list[list[object]] = []
        self.result: ResultData | None = None
        self.error: Exception | None = None
        self.scope = trio.CancelScope()
        self.done = trio.Event()

    async def run(self, broker: LocalBroker) -> None:
        with self.scope:
            try:
                self.result = await broker.run_task(SETTINGS, self.prints.append)
            except (TaskFailed, trio.TooSlowError) as error:
                self.error = error
            self.done.set()


def call(bench: Served) -> Caller:
    caller = Caller()
    bench.nursery.start_soon(caller.run, bench.broker)
    return caller


async def auth(port: int, body: bytes) -> Response:
    return await post_json(BrokerAddress(scheme="http", host="127.0.0.1", port=port), "/runners/auth", body)


async def test_health_and_unknown_paths_answer_as_n8n_does() -> None:
    async with served() as bench:
        async with await trio.open_tcp_stream("127.0.0.1", bench.port) as stream:
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await read_all(stream)).endswith(b'\r\n\r\n{"status":"ok"}')
        address = BrokerAddress(scheme="http", host="127.0.0.1", port=bench.port)
        assert (await post_json(address, "/other", b"{}")).status == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"token":"secret"}', 200),
        (b'{"token":"wrong"}', 403),
        (b'{"token":""}', 403),
        ('{"token":"gehëim"}'.encode(), 403),
        (b"{}", 403),
        (b'{"token":5}', 400),
        (b"[]", 400),
        (b"", 400),
        (b'{"token":"\xff"}', 400),
    ],
)
async def test_a_login_is_answered_by_what_it_holds(body: bytes, status: int) -> None:
    async with served() as bench:
        assert (await auth(bench.port, body)).status == status


async def test_our_own_login_gets_a_new_token_each_time_or_is_refused() -> None:
    async with served() as bench:
        address = BrokerAddress(scheme="http", host="127.0.0.1", port=bench.port)
        assert len({await fetch_grant_token(address, "secret") for _ in range(3)}) == 3
        with pytest.raises(AuthRefusedError):
            await fetch_grant_token(address, "wrong")


async def test_a_grant_token_opens_one_connection() -> None:
    async with served() as bench:
        grant = f"Bearer {bench.broker.new_grant()}"
        assert await bench.upgrade_status("/runners/_ws?id=a", grant) == 101
        assert await bench.upgrade_status("/runners/_ws?id=a", grant) == 403


async def test_upgrades_without_what_they_need_are_refused() -> None:
    async with served() as bench:
        grant = f"Bearer {bench.broker.new_grant()}"
        assert await bench.upgrade_status("/runners/other?id=a", grant) == 404
        assert await bench.upgrade_status("/runners/_ws", grant) == 400
        assert await bench.upgrade_status("/runners/_ws?id=a", None) == 401
        assert await bench.upgrade_status("/runners/_ws?id=a", "Basic abc") == 401
        assert await bench.upgrade_status("/runners/_ws?id=a", "Bearer unknown") == 403
        assert await bench.upgrade_status("/runners/_ws?id=a", grant) == 101, "a refusal must not use the token up"


async def test_an_upgrade_that_is_no_websocket_hurts_nobody(jump_clock: MockClock) -> None:
    async with served(limit=30) as bench:
        async with await trio.open_tcp_stream("127.0.0.1", bench.port) as stream:
            grant = bench.broker.new_grant()
            head = (
                f"GET /runners/_ws?id=a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {grant}\r\nUpgrade: websocket\r\n"
            )
            await stream.send_all(head.encode() + b"\r\n")
            await read_all(stream)
        async with bench.runner():
            pass


async def test_a_runner_gets_a_task_and_its_prints_and_result_come_back() -> None:
    async with served() as bench, bench.runner() as runner:
        caller = call(bench)
        task_id = await runner.take()
        await runner.send("runner:rpc", callId="1", taskId=task_id, name="logNodeOutput", params=["'a'", "1"])
        assert await runner.next() == {
            "type": "broker:rpcresponse",
            "taskId": task_id,
            "callId": "1",
            "status": "success",
        }
        assert caller.prints == [["'a'", "1"]], "a print comes out as it happens"
        await runner.send("runner:rpc", callId="2", taskId=task_id, name="helpers.copyBinaryFile", params=[])
        answer = await runner.next()
        assert (answer["status"], answer["data"]) == ("error", "Method not allowed")
        await runner.send("runner:taskdone", taskId=task_id, data={"result": [{"json": {}}]})
        await caller.done.wait()
        assert caller.result == ResultData(result=msgspec.Raw(b'[{"json": {}}]'))


@pytest.mark.parametrize(
    ("error", "expected"), [({"message": "m", "x": 1}, {"message": "m", "x": 1}), (5, {"message": "5"})]
)
async def test_an_error_comes_back_as_the_runner_sent_it(error: object, expected: dict[str, object]) -> None:
    async with served() as bench, bench.runner() as runner:
        caller = call(bench)
        await runner.send("runner:taskerror", taskId=await runner.take(), error=error)
        await caller.done.wait()
        assert isinstance(caller.error, TaskFailed)
        assert caller.error.error == expected


async def test_garbage_from_a_runner_is_skipped() -> None:
    async with served() as bench, bench.runner() as runner:
        caller = call(bench)
        await runner.websocket.send_message("not json")
        await runner.websocket.send_message(b"\xff\xfe")
        await runner.send("runner:unknown", a=1)
        await runner.send("runner:taskdone")
        await runner.send("runner:rpc", callId="1", taskId="none", name="logNodeOutput", params=[])
        task_id = await runner.take()
        await runner.send("runner:rpc", callId="1", taskId=task_id, name="logNodeOutput", params={"no": "list"})
        assert (await runner.next())["type"] == "broker:rpcresponse"
        await runner.send("runner:taskdone", taskId=task_id)
        await caller.done.wait()
        assert caller.result == ResultData()


async def test_a_caller_that_gives_up_cancels_its_task() -> None:
    async with served() as bench, bench.runner() as runner:
        caller = call(bench)
        task_id = await runner.take()
        caller.scope.cancel()
        assert await runner.next() == {
            "type": "broker:taskcancel",
            "taskId": task_id,
            "reason": "Task cancelled by user",
        }


async def test_a_caller_that_gave_up_before_a_runner_came_costs_that_runner_nothing() -> None:
    async with served() as bench:
        gone = call(bench)
        await trio.testing.wait_all_tasks_blocked()
        gone.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        async with bench.runner() as runner:
            await runner.send("runner:taskoffer", offerId="o", taskType="python", validFor=-1)
            accept = await runner.next()
            await runner.send("runner:taskaccepted", taskId=accept["taskId"])
            assert (await runner.next())["type"] == "broker:taskcancel"


async def test_a_task_that_no_runner_takes_in_time_is_too_slow(jump_clock: MockClock) -> None:
    async with served(BrokerTerms(request_timeout=7), limit=20) as bench:
        started = trio.current_time()
        with pytest.raises(trio.TooSlowError):
            await bench.broker.run_task(SETTINGS)
        assert trio.current_time() - started == pytest.approx(7, abs=0.1)


async def test_a_task_that_runs_too_long_fails_and_its_runner_is_told(jump_clock: MockClock) -> None:
    async with served(BrokerTerms(task_timeout=9), limit=20) as bench, bench.runner() as runner:
        caller = call(bench)
        await runner.take()
        cancel = await runner.next()
        assert (cancel["type"], cancel["reason"]) == ("broker:taskcancel", "Task execution timed out")
        await caller.done.wait()
        assert isinstance(caller.error, TaskFailed)
        assert caller.error.error["message"] == "Task execution timed out after 9 seconds"


async def test_a_runner_that_hangs_up_fails_its_tasks() -> None:
    async with served() as bench:
        async with bench.runner() as runner:
            caller = call(bench)
            await runner.take()
        await caller.done.wait()
        assert isinstance(caller.error, TaskFailed)
        assert caller.error.error == {"message": "Node execution failed"}


async def test_a_second_runner_of_the_same_id_replaces_the_first() -> None:
    async with served() as bench, bench.runner("same") as first:
        caller = call(bench)
        await first.take()
        async with bench.runner("same") as second:
            assert await first.closed() == 1000
            await caller.done.wait()
            assert isinstance(caller.error, TaskFailed)
            again = call(bench)
            await second.send("runner:taskdone", taskId=await second.take(), data={"result": 1})
            await again.done.wait()
            assert again.result == ResultData(result=msgspec.Raw(b"1"))
            assert bench.broker.machine.runners == {"same"}
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not bench.broker.machine.runners


async def test_a_runner_that_never_answers_is_closed_with_1002_and_forgotten(jump_clock: MockClock) -> None:
    async with served(BrokerTerms(request_timeout=60), limit=90) as bench, bench.runner() as runner:
        call(bench)
        for number in range(4):
            await runner.send("runner:taskoffer", offerId=f"o{number}", taskType="python", validFor=-1)
        with contextlib.suppress(ConnectionClosed):
            for number in range(4, 20):
                with trio.move_on_after(2.5):
                    while True:
                        await runner.next()
                await runner.send("runner:taskoffer", offerId=f"o{number}", taskType="python", validFor=-1)
        assert await runner.closed() == 1002
        await trio.sleep(0.1)
        assert not bench.broker.machine.runners
        assert bench.broker.machine.open_offers(trio.current_time()) == 0, "offers of a runner that is gone are void"


async def test_drain_is_told_to_every_runner_and_waiting_callers_fail() -> None:
    async with served() as bench, bench.runner("a") as one, bench.runner("b") as other:
        caller = call(bench)
        await trio.testing.wait_all_tasks_blocked(0.05)
        bench.broker.drain()
        assert [await one.next(), await other.next()] == [{"type": "broker:drain"}] * 2
        await caller.done.wait()
        assert isinstance(caller.error, trio.TooSlowError)


async def test_disconnect_closes_every_runner_with_the_code_and_returns_when_all_are_gone() -> None:
    async with served() as bench, bench.runner("a") as one, bench.runner("b") as other:
        await bench.broker.disconnect(1001)
        assert not bench.broker.machine.runners
        assert [await one.closed(), await other.closed()] == [1001, 1001]
        await bench.broker.disconnect(1001)
