"""The workflow that a program run without n8n finds itself in: what n8n would answer to a data request, from memory.

Owns the shape of those answers (protocol.md 15). Must not know brokers, runners or where the data came from.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

Item = dict[str, Any]


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

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The ``data`` of the answer to a data request with these parameters. Raises KeyError, TypeError or ValueError
        for parameters on which n8n would not answer either.
        """
        wanted, with_input, with_env = request["dataOfNodes"], request["input"], request["env"]
        previous = self.previous_node if self.previous_node is not None else next(reversed(self.nodes), None)
        names = set(self.nodes) if wanted == "all" else set(wanted)
        if request["prevNode"] and previous is not None:
            names.add(previous)
        return {
            "workflow": self._workflow(previous),
            "inputData": {"main": [self._input(with_input.get("chunk"))]} if with_input["include"] else {},
            "connectionInputSource": None
            if previous is None
            else {"main": [{"previousNode": previous, "previousNodeOutput": 0, "previousNodeRun": 0}]},
            "node": self._node(self.node_name, self.params),
            "runExecutionData": self._run_data({name for name in self.nodes if name in names}, previous),
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

    def _input(self, chunk: dict[str, int] | None) -> Any:
        if chunk is None:
            return Raw(self.items)
        start = int(chunk["startIndex"])
        return msgspec.json.decode(self.items, type=list[Raw])[start : start + int(chunk["count"])]

    def _node(self, name: str, parameters: dict[str, Any]) -> dict[str, Any]:
        code = name == self.node_name
        return {
            "id": name,
            "name": name,
            "type": "n8n-nodes-base.code" if code else "n8n-nodes-base.set",
            "typeVersion": 2 if code else 3.4,
            "position": [0, 0],
            "parameters": parameters,
        }

    def _workflow(self, previous: str | None) -> dict[str, Any]:
        link = {"main": [[{"node": self.node_name, "type": "main", "index": 0}]]}
        return {
            "id": self.workflow_id,
            "name": self.workflow_name,
            "active": self.active,
            "connections": {} if previous is None else {previous: link},
            "nodes": [
                *(self._node(name, self.node_params.get(name, {})) for name in self.nodes),
                self._node(self.node_name, self.params),
            ],
            "settings": self.settings,
            "staticData": self.static_data,
        }

    def _run_data(self, names: set[str], previous: str | None) -> dict[str, Any]:
        runs = {
            name: [
                {
                    "startTime": self.started_at,
                    "executionTime": 0,
                    "executionStatus": "success",
                    "source": [],
                    "data": {"main": [items]},
                }
            ]
            for name, items in self.nodes.items()
            if name in names
        }
        return {
            "version": 1,
            "startData": {},
            "resultData": {"runData": runs, "pinData": {}, "lastNodeExecuted": previous, "metadata": self.custom_data},
            "executionData": {
                "contextData": {},
                "metadata": {},
                "nodeExecutionStack": [],
                "waitingExecution": {},
                "waitingExecutionSource": {},
            },
        }
