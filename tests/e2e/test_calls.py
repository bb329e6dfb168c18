"""Programs that ask for something while they run: real children, the embedded broker in place of n8n.

The program takes the channel from the child that it runs in, as it could: all of it is its own.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.runner_kit import Bench, running
from tests.shell.shell_kit import mute, tcp_server, until
from trio_runner.localworkflow import LocalWorkflow

pytestmark = pytest.mark.e2e

ALL = {
    "N8N_RUNNERS_STDLIB_ALLOW": "*",
    "N8N_RUNNERS_EXTERNAL_ALLOW": "*",
    "N8N_RUNNERS_BUILTINS_DENY": "",
    "N8N_RUNNERS_SANDBOX": "strict",
}
CHANNEL = """
import json, sys
frame = sys._getframe()
while "prepared" not in frame.f_locals:
    frame = frame.f_back
channel = frame.f_locals["prepared"].channel
def call(name, *params):
    return channel.call("helpers." + name, json.dumps(params).encode())
def request(nodes=(), prev=False, items=False, env=False):
    return channel.request({"dataOfNodes": list(nodes), "prevNode": prev, "input": {"include": items}, "env": env})
"""


@asynccontextmanager
async def bench(environ: dict[str, str] | None = None, **workflow: Any) -> AsyncIterator[Bench]:
    with trio.fail_after(60):
        async with running({**ALL, **(environ or {})}, workflow=LocalWorkflow(**workflow)) as found:
            yield found


async def test_a_data_request_is_answered() -> None:
    async with bench(nodes={"Before": [{"json": {"n": 7}}]}, variables={"v": "w"}) as rig:
        done = await rig.run(CHANNEL + "return request(['Before'])")
        data = done["result"]
        assert data["runExecutionData"]["resultData"]["runData"]["Before"][0]["data"]["main"] == [[{"json": {"n": 7}}]]
        assert data["additionalData"]["variables"] == {"v": "w"}
        assert data["inputData"] == {}
        assert data["envProviderState"]["env"] == {}


async def test_a_helper_is_called_and_its_result_comes_back() -> None:
    async with bench() as rig:
        done = await rig.run(CHANNEL + "return call('binaryToString', {'type': 'Buffer', 'data': [72, 105]})")
        assert done["result"] == "Hi"
        assert rig.runner.counters.calls["binaryToString"]["success"] == 1


async def test_an_error_of_a_helper_is_raised_in_the_program() -> None:
    async with bench() as rig:
        done = await rig.run(CHANNEL + "return call('getBinaryDataBuffer', 3, 'data')")
        assert done["error"]["message"] == "There is no input item 3"
        assert rig.runner.counters.calls["getBinaryDataBuffer"]["error"] == 1


@pytest.mark.parametrize(
    ("environ", "program", "said"),
    [
        ({"N8N_RUNNERS_HELPERS_ALLOW": "httpRequest"}, "call('request', {})", "adds request to N8N_RUNNERS_HELPERS"),
        ({}, "channel.call('logNodeOutput', b'[\"x\"]')", "no method for code that is called logNodeOutput"),
        ({}, "channel.call('helpers.getBinaryStream', b'[]')", "no method for code"),
        ({"N8N_RUNNERS_DATA_ALLOW": "input"}, "request(['X'])", "(nodes) that it is not allowed"),
        ({"N8N_RUNNERS_DATA_ALLOW": "input"}, "request(env=True)", "(env)"),
        ({"N8N_RUNNERS_DATA_ALLOW": "none"}, "request()", "(workflow)"),
    ],
)
async def test_what_the_operator_does_not_allow_never_leaves_the_runner(
    environ: dict[str, str], program: str, said: str
) -> None:
    async with bench(environ) as rig:
        done = await rig.run(f"{CHANNEL}return {program}")
        assert said in done["error"]["message"]
        assert sum(outcomes["refused"] for outcomes in rig.runner.counters.calls.values()) == 1
        assert rig.runner.counters.call.counts == [0] * len(rig.runner.counters.call.counts)
        assert done["logs"] == []


async def test_custom_and_static_data_go_back_with_the_result() -> None:
    program = (
        CHANNEL + "from trio_runner.sandbox import frames\n"
        'channel._send(frames.METADATA, b\'{"customData":{"k":"v"},"staticData":{"global":{"n":1}}}\')\nreturn []'
    )
    async with bench() as rig:
        settings = {"code": program, "nodeMode": "runOnceForAllItems", "items": []}
        data = await rig.broker.run_task(json.dumps(settings).encode())
        assert bytes(data.custom_data) == b'{"k":"v"}'  # type: ignore[arg-type]
        assert bytes(data.static_data) == b'{"global":{"n":1}}'  # type: ignore[arg-type]


async def test_a_large_answer_reaches_the_program_while_another_does_not_read_its_own() -> None:
    items = [{"json": {"text": "x" * 1000}}] * 2_000  # more than the buffers of sockets hold
    lazy = (
        CHANNEL
        + "from trio_runner.sandbox import frames\n"
        + (
            "for number in range(3):\n"
            "    channel._send(frames.CALL, frames.call(number, '', json.dumps({'dataOfNodes': [], 'prevNode': False,"
            " 'input': {'include': True}, 'env': False}).encode()))\n"
            "import time\ntime.sleep(60)"
        )
    )
    two = {"N8N_RUNNERS_MAX_CONCURRENCY": "2"}
    async with bench(two, items=json.dumps(items).encode()) as rig, trio.open_nursery() as nursery:
        nursery.start_soon(rig.run, lazy)
        await until(lambda: rig.runner.counters.calls["data"]["success"] == 3)
        done = await rig.run(CHANNEL + "return len(request(items=True)['inputData']['main'][0])")
        assert done["result"] == 2_000
        nursery.cancel_scope.cancel()


FLOOD = CHANNEL + "from trio_runner.sandbox import frames\n"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        # never reads an answer: cut off as soon as there are more calls than a channel makes
        ("for number in range(100000): channel._send(frames.CALL, frames.call(number, 'x', b'[]'))", "no result"),
        ("channel._send(frames.CALL, frames.call(1, 'helpers.httpRequest', b'[]},\"taskId\":\"other\"'))", "no result"),
        ("channel._send(frames.CALL, frames.call(1, '', b'{\"dataOfNodes\":\"some\"}'))", "no result"),
        ("channel._send(frames.CALL, b'')", "no result"),
        ('channel._send(frames.METADATA, b\'{"customData":{"a":1}}\')', "no result"),
        ("for _ in range(2): channel._send(frames.METADATA, b'{}')", "no result"),
        ("while True:\n  try: channel.call('x', b'[]')\n  except Exception: pass", "at most 20000 calls"),
    ],
    ids=["flood", "smuggled", "nonsense", "empty", "metadata", "twice", "many"],
)
async def test_a_program_that_speaks_out_of_turn_loses_its_own_task_only(body: str, said: str) -> None:
    async with bench() as rig:
        done = await rig.run(f"{FLOOD}{body}\nimport time\ntime.sleep(30)")
        assert said in done["error"]["message"]
        assert (await rig.run("return [1]"))["result"] == [1]


async def test_a_call_that_is_never_answered_counts_into_the_time_limit() -> None:
    async with tcp_server(mute) as port, bench({"N8N_RUNNERS_TASK_TIMEOUT": "1"}) as rig:
        done = await rig.run(f"{CHANNEL}return call('httpRequest', {{'url': 'http://127.0.0.1:{port}/'}})")
        assert done["error"]["message"] == "Task execution timed out after 1 second"
