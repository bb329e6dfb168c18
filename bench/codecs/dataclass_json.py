"""Dataclasses and the standard library's json, with hand-written conversions: what one writes without dependencies.

Presence of the fields is checked, by KeyError; types are not. Owns its own words of the protocol, so that it depends on
nothing of ours.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from bench.codecs import DATACLASSES, Codec

Body = dict[str, Any]


class Message(Protocol):
    """What every dataclass here can do."""

    tag: ClassVar[str]

    def to_dict(self) -> Body:
        """The message as it goes to json."""
        ...


@dataclass(slots=True)
class InfoRequest:
    tag: ClassVar[str] = "broker:inforequest"

    @classmethod
    def from_dict(cls, body: Body) -> InfoRequest:  # noqa: ARG003 - all have one signature
        return cls()

    def to_dict(self) -> Body:
        return {"type": self.tag}


@dataclass(slots=True)
class RunnerRegistered:
    tag: ClassVar[str] = "broker:runnerregistered"

    @classmethod
    def from_dict(cls, body: Body) -> RunnerRegistered:  # noqa: ARG003
        return cls()

    def to_dict(self) -> Body:
        return {"type": self.tag}


@dataclass(slots=True)
class TaskOfferAccept:
    tag: ClassVar[str] = "broker:taskofferaccept"
    task_id: str
    offer_id: str

    @classmethod
    def from_dict(cls, body: Body) -> TaskOfferAccept:
        return cls(body["taskId"], body["offerId"])

    def to_dict(self) -> Body:
        return {"type": self.tag, "taskId": self.task_id, "offerId": self.offer_id}


@dataclass(slots=True)
class Settings:
    code: str
    node_mode: str
    items: list[Body]
    workflow_mode: str | None
    continue_on_fail: bool
    node_id: str
    node_name: str
    workflow_id: str
    workflow_name: str
    query: Any

    @classmethod
    def from_dict(cls, body: Body) -> Settings:
        return cls(
            body["code"],
            body["nodeMode"],
            body["items"],
            body.get("workflowMode"),
            body.get("continueOnFail", False),
            body.get("nodeId", "Unknown"),
            body.get("nodeName", "Unknown"),
            body.get("workflowId", "Unknown"),
            body.get("workflowName", "Unknown"),
            body.get("query"),
        )

    def to_dict(self) -> Body:
        return {
            "code": self.code,
            "nodeMode": self.node_mode,
            "items": self.items,
            "workflowMode": self.workflow_mode,
            "continueOnFail": self.continue_on_fail,
            "nodeId": self.node_id,
            "nodeName": self.node_name,
            "workflowId": self.workflow_id,
            "workflowName": self.workflow_name,
            "query": self.query,
        }


@dataclass(slots=True)
class TaskSettings:
    tag: ClassVar[str] = "broker:tasksettings"
    task_id: str
    settings: Settings

    @classmethod
    def from_dict(cls, body: Body) -> TaskSettings:
        return cls(body["taskId"], Settings.from_dict(body["settings"]))

    def to_dict(self) -> Body:
        return {"type": self.tag, "taskId": self.task_id, "settings": self.settings.to_dict()}


@dataclass(slots=True)
class TaskCancel:
    tag: ClassVar[str] = "broker:taskcancel"
    task_id: str
    reason: str

    @classmethod
    def from_dict(cls, body: Body) -> TaskCancel:
        return cls(body["taskId"], body["reason"])

    def to_dict(self) -> Body:
        return {"type": self.tag, "taskId": self.task_id, "reason": self.reason}


@dataclass(slots=True)
class RpcResponse:
    tag: ClassVar[str] = "broker:rpcresponse"
    task_id: str
    call_id: str
    status: str
    data: Any

    @classmethod
    def from_dict(cls, body: Body) -> RpcResponse:
        return cls(body["taskId"], body["callId"], body["status"], body.get("data"))

    def to_dict(self) -> Body:
        return {
            "type": self.tag,
            "taskId": self.task_id,
            "callId": self.call_id,
            "status": self.status,
            "data": self.data,
        }


@dataclass(slots=True)
class TaskDataResponse:
    tag: ClassVar[str] = "broker:taskdataresponse"
    task_id: str
    request_id: str
    data: Body

    @classmethod
    def from_dict(cls, body: Body) -> TaskDataResponse:
        return cls(body["taskId"], body["requestId"], body["data"])

    def to_dict(self) -> Body:
        return {"type": self.tag, "taskId": self.task_id, "requestId": self.request_id, "data": self.data}


@dataclass(slots=True)
class NodeTypes:
    tag: ClassVar[str] = "broker:nodetypes"
    task_id: str
    request_id: str
    node_types: list[Body]

    @classmethod
    def from_dict(cls, body: Body) -> NodeTypes:
        return cls(body["taskId"], body["requestId"], body["nodeTypes"])

    def to_dict(self) -> Body:
        return {"type": self.tag, "taskId": self.task_id, "requestId": self.request_id, "nodeTypes": self.node_types}


@dataclass(slots=True)
class Drain:
    tag: ClassVar[str] = "broker:drain"

    @classmethod
    def from_dict(cls, body: Body) -> Drain:  # noqa: ARG003
        return cls()

    def to_dict(self) -> Body:
        return {"type": self.tag}


@dataclass(slots=True)
class RunnerInfo:
    tag: ClassVar[str] = "runner:info"
    name: str
    types: list[str]

    @classmethod
    def from_dict(cls, body: Body) -> RunnerInfo:
        return cls(body["name"], body["types"])

    def to_dict(self) -> Body:
        return {"type": self.tag, "name": self.name, "types": self.types}


@dataclass(slots=True)
class TaskOffer:
    tag: ClassVar[str] = "runner:taskoffer"
    offer_id: str
    task_type: str
    valid_for: float

    @classmethod
    def from_dict(cls, body: Body) -> TaskOffer:
        return cls(body["offerId"], body["taskType"], body["validFor"])

    def to_dict(self) -> Body:
        return {"type": self.tag, "offerId": self.offer_id, "taskType": self.task_type, "validFor": self.valid_for}


@dataclass(slots=True)
class TaskAccepted:
    tag: ClassVar[str] = "runner:taskaccepted"
    task_id: str

    @classmethod
    def from_dict(cls, body: Body) -> TaskAccepted:
        return cls(body["taskId"])

    def to_dict(self) -> Body:
        return {"type": self.tag, "taskId": self.task_id}


@dataclass(slots=True)
class TaskRejected:
    tag: ClassVar[str] = "runner:taskrejected"
    task_id: str
    reason: str

    @classmethod
    def from_dict(cls, body: Body) -> TaskRejected:
        return cls(body["taskId"], body["reason"])

    def to_dict(self) -> Body:
        return {"type": self.tag, "taskId": self.task_id, "reason": self.reason}


@dataclass(slots=True)
class TaskDeferred:
    tag: ClassVar[str] = "runner:taskdeferred"
    task_id: str

    @classmethod
    def from_dict(cls, body: Body) -> TaskDeferred:
        return cls(body["taskId"])

    def to_dict(self) -> Body:
        return {"type": self.tag, "taskId": self.task_id}


@dataclass(slots=True)
class TaskDone:
    tag: ClassVar[str] = "runner:taskdone"
    task_id: str
    result: Any

    @classmethod
    def from_dict(cls, body: Body) -> TaskDone:
        return cls(body["taskId"], body["data"]["result"])

    def to_dict(self) -> Body:
        return {"type": self.tag, "taskId": self.task_id, "data": {"result": self.result}}


@dataclass(slots=True)
class TaskError:
    tag: ClassVar[str] = "runner:taskerror"
    task_id: str
    error: Any

    @classmethod
    def from_dict(cls, body: Body) -> TaskError:
        return cls(body["taskId"], body["error"])

    def to_dict(self) -> Body:
        return {"type": self.tag, "taskId": self.task_id, "error": self.error}


@dataclass(slots=True)
class Rpc:
    tag: ClassVar[str] = "runner:rpc"
    call_id: str
    task_id: str
    name: str
    params: list[Any]

    @classmethod
    def from_dict(cls, body: Body) -> Rpc:
        return cls(body["callId"], body["taskId"], body["name"], body["params"])

    def to_dict(self) -> Body:
        return {
            "type": self.tag,
            "callId": self.call_id,
            "taskId": self.task_id,
            "name": self.name,
            "params": self.params,
        }


@dataclass(slots=True)
class TaskDataRequest:
    tag: ClassVar[str] = "runner:taskdatarequest"
    task_id: str
    request_id: str
    request_params: Body

    @classmethod
    def from_dict(cls, body: Body) -> TaskDataRequest:
        return cls(body["taskId"], body["requestId"], body["requestParams"])

    def to_dict(self) -> Body:
        return {
            "type": self.tag,
            "taskId": self.task_id,
            "requestId": self.request_id,
            "requestParams": self.request_params,
        }


@dataclass(slots=True)
class NodeTypesRequest:
    tag: ClassVar[str] = "runner:nodetypesrequest"
    task_id: str
    request_id: str
    request_params: list[Body]

    @classmethod
    def from_dict(cls, body: Body) -> NodeTypesRequest:
        return cls(body["taskId"], body["requestId"], body["requestParams"])

    def to_dict(self) -> Body:
        return {
            "type": self.tag,
            "taskId": self.task_id,
            "requestId": self.request_id,
            "requestParams": self.request_params,
        }


READERS = {
    kind.tag: kind.from_dict
    for kind in (
        InfoRequest,
        RunnerRegistered,
        TaskOfferAccept,
        TaskSettings,
        TaskCancel,
        RpcResponse,
        TaskDataResponse,
        NodeTypes,
        Drain,
        RunnerInfo,
        TaskOffer,
        TaskAccepted,
        TaskRejected,
        TaskDeferred,
        TaskDone,
        TaskError,
        Rpc,
        TaskDataRequest,
        NodeTypesRequest,
    )
}


def decode(frame: str) -> Message:
    """Raises ValueError or KeyError for what is not a message."""
    body = json.loads(frame)
    return READERS[body["type"]](body)


def encode(message: Message) -> bytes:
    """UTF-8, as a WebSocket library would make of the text."""
    return json.dumps(message.to_dict()).encode()


CODEC = Codec(DATACLASSES, "hand-written to and from dict; presence checked, types not", lambda _: decode, encode)
