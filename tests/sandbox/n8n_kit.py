"""An n8n in memory for programs that ask for data and helpers: what it was asked for is written down. For tests."""

from __future__ import annotations

import gc
import json
import marshal
from collections.abc import Callable
from typing import Any

import msgspec

from tests.sandbox.program_kit import RefusedError
from trio_runner.sandbox import child, frames
from trio_runner.sandbox.compiling import examine
from trio_runner.sandbox.frames import Run
from trio_runner.sandbox.policy import Policy

HERE = "Code"
SAFE = Policy(
    stdlib_allow=frozenset("json re datetime collections math random statistics itertools hashlib asyncio".split())
)


def items(*jsons: dict[str, Any]) -> list[dict[str, Any]]:
    """Input items, paired with themselves as n8n hands them over."""
    return [{"json": data, "pairedItem": {"item": index}} for index, data in enumerate(jsons)]


def ran(*outputs: list[dict[str, Any]], source: str | None = None, **which: int) -> dict[str, Any]:
    """One run of a node: what it gave, and which node fed it."""
    fed = [] if source is None else [{"previousNode": source, **which}]
    return {
        "startTime": 1,
        "executionTime": 1,
        "executionStatus": "success",
        "source": fed,
        "data": {"main": list(outputs)},
    }


class FakeN8n:
    """Answers data requests from what it was made with, and calls with functions by their names."""

    def __init__(
        self,
        runs: dict[str, list[dict[str, Any]]] | None = None,
        links: dict[str, list[list[str]]] | None = None,
        *,
        source: str | None = None,
        calls: dict[str, Callable[..., Any]] | None = None,
        params: dict[str, dict[str, Any]] | None = None,
        **changes: Any,
    ) -> None:
        """``links``: for each node, the nodes behind each of its outputs. ``changes`` go into the answer, by path."""
        self.runs = runs or {}
        self.links = links or {}
        self.source = source or next(reversed(self.runs), None)
        self.functions = calls or {}
        self.params = params or {}
        self.changes = changes
        self.requests: list[dict[str, Any]] = []
        self.calls: list[tuple[str, list[Any]]] = []

    @property
    def asked(self) -> list[list[str]]:
        """The nodes of each data request."""
        return [request["dataOfNodes"] for request in self.requests]

    def request(self, params: dict[str, object]) -> Any:
        """As a channel's."""
        params = json.loads(json.dumps(params))
        assert params.keys() == {"dataOfNodes", "prevNode", "input", "env"}, "n8n answers to nothing less"
        self.requests.append(params)
        return json.loads(json.dumps(self._answer(params)))

    def call(self, name: str, params: bytes | bytearray, decode: Callable[[memoryview], Any] = frames.parse) -> Any:
        """As a channel's."""
        given = json.loads(bytes(params))
        self.calls.append((name, given))
        result = self.functions[name](*given)
        if isinstance(result, Exception):
            raise result
        return None if result is None else decode(memoryview(json.dumps(result).encode()))

    async def call_async(
        self, name: str, params: bytes | bytearray, decode: Callable[[memoryview], Any] = frames.parse
    ) -> Any:
        """As a channel's."""
        return self.call(name, params, decode)

    def _answer(self, params: dict[str, Any]) -> dict[str, Any]:
        names = [*self.runs, *(name for name in self.links if name not in self.runs)]
        wanted = self.runs if params["dataOfNodes"] == "all" else params["dataOfNodes"]
        answer: dict[str, Any] = {
            "workflow": {
                "id": "wf1", "name": "My workflow", "active": True, "settings": {"timezone": "Europe/Berlin"},
                "nodes": [
                    {"name": name, "type": "x", "typeVersion": 1, "parameters": self.params.get(name, {})}
                    for name in dict.fromkeys([*names, HERE])
                ],
                "connections": {
                    name: {"main": [[{"node": node, "type": "main", "index": 0} for node in output] for output in ends]}
                    for name, ends in self.links.items()
                },
            },
            "inputData": {},
            "connectionInputSource": {"main": [{"previousNode": self.source}]} if self.source else None,
            "node": {"name": HERE, "typeVersion": 2, "parameters": self.params.get(HERE, {})},
            "runExecutionData": {
                "version": 1,
                "resultData": {"runData": {name: self.runs[name] for name in wanted if name in self.runs}},
                "executionData": {"contextData": {}, "metadata": {}},
                "resumeToken": "the-token",
            },
            "runIndex": 0,
            "itemIndex": 0,
            "activeNodeName": HERE,
            "mode": "webhook",
            "envProviderState": {
                "env": {"STAGE": "test"} if params["env"] else {}, "isEnvAccessBlocked": False,
                "isProcessAvailable": True,
            },
            "additionalData": {
                "executionId": "231", "webhookWaitingBaseUrl": "http://n8n/webhook-waiting",
                "formWaitingBaseUrl": "http://n8n/form-waiting", "variables": {"region": "eu"},
            },
        }  # fmt: skip
        for path, value in self.changes.items():
            *above, last = path.split("__")
            place = answer
            for key in above:
                place = place[key]
            place[last] = value
        return answer


class Outcome(msgspec.Struct):
    """What came of a program."""

    result: Any
    metadata: dict[str, Any] | None = None


class _Prepared(child.Prepared):
    """A child's, with n8n in place of the socket."""

    def __init__(self, policy: Policy, n8n: FakeN8n) -> None:
        super().__init__(policy, 1 << 30)
        self.n8n = n8n
        self.sent: list[tuple[int, bytes]] = []

    @property
    def channel(self) -> Any:
        return self.n8n

    def send(self, kind: int, payload: bytes, *, last: bool = False) -> bool:
        self.sent.append((kind, payload))
        return True


def outcome(
    source: str,
    n8n: FakeN8n | None = None,
    given: Any = (),
    *,
    each_item: bool = False,
    query: Any = None,
    policy: Policy = SAFE,
) -> Outcome:
    """Runs a program as a child does. Raises what it raises, and `RefusedError`."""
    verdict = examine(source, each_item, policy)
    if verdict.failure is not None:
        raise RefusedError(verdict.failure)
    run = Run(source, each_item, json.dumps(query).encode(), verdict.code, verdict.uses, verdict.nodes, verdict.loop)
    prepared = _Prepared(policy, n8n or FakeN8n())
    data = given if isinstance(given, bytes) else json.dumps(list(given)).encode()
    try:
        payload = child._result(prepared, run, marshal.loads(verdict.code), data, [])
    finally:
        gc.unfreeze()
        gc.enable()
    metadata = [json.loads(payload) for kind, payload in prepared.sent if kind == frames.METADATA]
    assert len(metadata) <= 1
    return Outcome(json.loads(payload), metadata[0] if metadata else None)


def result(source: str, n8n: FakeN8n | None = None, given: Any = (), **options: Any) -> Any:
    """What a program returns, after the trip through JSON."""
    return outcome(source, n8n, given, **options).result
