"""The workflow that a program run without n8n finds itself in: what n8n would answer to a data request, from memory.

Owns the shape of those answers (protocol.md 15). Must not know brokers, runners or where the data came from.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

Item = dict[str, Any]


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a real execution beyond the items of its nodes, all of it as n8n has it."""

    nodes: list[dict[str, Any]] = []
    connections: dict[str, Any] = {}
    pin_data: dict[str, Any] = {}
    runs: dict[str, list[dict[str, Any]]] = {}
    """The runs of each node: every output, and where its items came from."""
    source: dict[str, Any] | None = None
    """The node, output and run that feed the Code node."""


class LocalWorkflow(msgspec.Struct, kw_only=True):
    """One execution of one workflow, as its Code node sees it. ``items`` is a JSON array; times are epoch milliseconds.

    ``nodes`` holds what other nodes gave: the items of their first output, by the node's name. ``static_data`` is keyed
    as n8n keys it: ``global`` and ``node:<name>``.
    """

    items: bytes = b"[]"
    nodes: dict[str, list[Item]] = {}
    node_params: dict[str, dict[str, Any]] = {}
    """The parameters of those nodes."""
    variables: dict[str, Any] = {}
    static_data: dict[str, Any] = {}
    env: dict[str, str] = {}
    workflow_id: str = "exec"
    workflow_name: str = "exec"
    active: bool = False
    settings: dict[str, Any] = {}
    execution_id: str = "1"
    mode: str = "manual"
    webhook_waiting_url: str = "http://localhost:5678/webhook-waiting"
    custom_data: dict[str, str] = {}
    node_name: str = "exec"
    params: dict[str, Any] = {}
    """The parameters of the Code node itself."""
    previous_node: str | None = None
    """The node that feeds it; None: the last of ``nodes``."""
    run_index: int = 0
    started_at: int = 0
    recorded: Recorded = Recorded()
    """The execution that is replayed; ``nodes`` goes before it."""

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The ``data`` of the answer to a data request with these parameters. Raises KeyError, TypeError or ValueError
        for parameters on which n8n would not answer either.
        """
        wanted, with_input, with_env = request["dataOfNodes"], request["input"], request["env"]
        source = self._source()
        previous = source["previousNode"] if source is not None else None
        known = self.recorded.runs.keys() | self.nodes.keys()
        names = known if wanted == "all" else set(wanted)
        if request["prevNode"] and previous is not None:
            names = names | {previous}
        return {
            "workflow": self._workflow(previous),
            "inputData": {"main": [self._input(with_input.get("chunk"))]} if with_input["include"] else {},
            "connectionInputSource": None if source is None else {"main": [source]},
            "node": self._node(self.node_name, self.params),
            "runExecutionData": self._run_data(names & known, previous),
            "runIndex": self.run_index,
            "itemIndex": 0,
            "defaultReturnRunIndex": -1,
            "activeNodeName": self.node_name,
            "contextNodeName": self.node_name,
            "mode": self.mode,
            "selfData": {},
            "siblingParameters": {},
            "envProviderState": {
                "env": self.env if with_env else {},
                "isEnvAccessBlocked": False,
                "isProcessAvailable": True,
            },
            "additionalData": {
                "executionId": self.execution_id,
                "restApiUrl": "http://localhost:5678/rest",
                "instanceBaseUrl": "http://localhost:5678/",
                "formWaitingBaseUrl": "http://localhost:5678/form-waiting",
                "webhookBaseUrl": "http://localhost:5678/webhook",
                "webhookWaitingBaseUrl": self.webhook_waiting_url,
                "webhookTestBaseUrl": "http://localhost:5678/webhook-test",
                "currentNodeParameters": self.params,
                "variables": self.variables,
            },
        }

    def _source(self) -> dict[str, Any] | None:
        if self.recorded.source is not None:
            return self.recorded.source
        previous = self.previous_node if self.previous_node is not None else next(reversed(self.nodes), None)
        if previous is None:
            return None
        return {"previousNode": previous, "previousNodeOutput": 0, "previousNodeRun": 0}

    def _input(self, chunk: dict[str, int] | None) -> Any:
        if chunk is None:
            return Raw(self.items)
        start = int(chunk["startIndex"])
        return msgspec.json.decode(self.items, type=list[Raw])[start : start + int(chunk["count"])]

    def _node(self, name: str, parameters: dict[str, Any] | None) -> dict[str, Any]:
        known = next((node for node in self.recorded.nodes if node.get("name") == name), None)
        if known is not None:
            return known if parameters is None else {**known, "parameters": parameters}
        code = name == self.node_name
        return {
            "id": name,
            "name": name,
            "type": "n8n-nodes-base.code" if code else "n8n-nodes-base.set",
            "typeVersion": 2 if code else 3.4,
            "position": [0, 0],
            "parameters": parameters or {},
        }

    def _workflow(self, previous: str | None) -> dict[str, Any]:
        link = {"main": [[{"node": self.node_name, "type": "main", "index": 0}]]}
        names = [*(str(node.get("name")) for node in self.recorded.nodes), *self.recorded.runs, *self.nodes]
        others = [name for name in dict.fromkeys(names) if name != self.node_name]
        return {
            "id": self.workflow_id,
            "name": self.workflow_name,
            "active": self.active,
            "connections": self.recorded.connections or ({} if previous is None else {previous: link}),
            "nodes": [
                *(self._node(name, self.node_params.get(name)) for name in others),
                self._node(self.node_name, self.params),
            ],
            "pinData": {name: items for name, items in self.recorded.pin_data.items() if name not in self.nodes},
            "settings": self.settings,
            "staticData": self.static_data,
        }

    def _run_data(self, names: set[str], previous: str | None) -> dict[str, Any]:
        runs = {name: found for name, found in self.recorded.runs.items() if name in names}
        pinned = {name: items for name, items in self.recorded.pin_data.items() if name in names}
        for name, items in self.nodes.items():
            if name in names:
                runs[name] = [self._run(items)]
                pinned.pop(name, None)
        return {
            "version": 1,
            "startData": {},
            "resultData": {
                "runData": runs,
                "pinData": pinned,
                "lastNodeExecuted": previous,
                "metadata": self.custom_data,
            },
            "executionData": {
                "contextData": {},
                "metadata": {},
                "nodeExecutionStack": [],
                "waitingExecution": {},
                "waitingExecutionSource": {},
            },
        }

    def _run(self, items: list[Item]) -> dict[str, Any]:
        return {
            "startTime": self.started_at,
            "executionTime": 0,
            "executionStatus": "success",
            "source": [],
            "data": {"main": [items]},
        }
