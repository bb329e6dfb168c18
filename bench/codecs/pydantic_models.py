"""Pydantic 2: models in a discriminated union, validated and written by its compiled core."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.alias_generators import to_camel

from bench.codecs import PYDANTIC, Codec


class Model(BaseModel):
    """camelCase on the wire, unknown fields ignored."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, frozen=True)


class InfoRequest(Model):
    type: Literal["broker:inforequest"]


class RunnerRegistered(Model):
    type: Literal["broker:runnerregistered"]


class TaskOfferAccept(Model):
    type: Literal["broker:taskofferaccept"]
    task_id: str
    offer_id: str


class Settings(Model):
    code: str
    node_mode: Literal["runOnceForAllItems", "runOnceForEachItem"]
    items: list[dict[str, Any]]
    workflow_mode: str | None = None
    continue_on_fail: bool | None = False
    node_id: str | None = "Unknown"
    node_name: str | None = "Unknown"
    workflow_id: str | None = "Unknown"
    workflow_name: str | None = "Unknown"
    query: Any = None


class TaskSettings(Model):
    type: Literal["broker:tasksettings"]
    task_id: str
    settings: Settings


class TaskCancel(Model):
    type: Literal["broker:taskcancel"]
    task_id: str
    reason: str


class RpcResponse(Model):
    type: Literal["broker:rpcresponse"]
    task_id: str
    call_id: str
    status: Literal["success", "error"]
    data: Any = None


class TaskDataResponse(Model):
    type: Literal["broker:taskdataresponse"]
    task_id: str
    request_id: str
    data: dict[str, Any]


class NodeTypes(Model):
    type: Literal["broker:nodetypes"]
    task_id: str
    request_id: str
    node_types: list[dict[str, Any]]


class Drain(Model):
    type: Literal["broker:drain"]


class RunnerInfo(Model):
    type: Literal["runner:info"]
    name: str
    types: tuple[str, ...]


class TaskOffer(Model):
    type: Literal["runner:taskoffer"]
    offer_id: str
    task_type: str
    valid_for: int | float


class TaskAccepted(Model):
    type: Literal["runner:taskaccepted"]
    task_id: str


class TaskRejected(Model):
    type: Literal["runner:taskrejected"]
    task_id: str
    reason: str


class TaskDeferred(Model):
    type: Literal["runner:taskdeferred"]
    task_id: str


class Result(Model):
    result: Any
    custom_data: dict[str, str] | None = None
    static_data: dict[str, Any] | None = None


class TaskDone(Model):
    type: Literal["runner:taskdone"]
    task_id: str
    data: Result


class TaskError(Model):
    type: Literal["runner:taskerror"]
    task_id: str
    error: Any


class Rpc(Model):
    type: Literal["runner:rpc"]
    call_id: str
    task_id: str
    name: str
    params: list[Any]


class TaskDataRequest(Model):
    type: Literal["runner:taskdatarequest"]
    task_id: str
    request_id: str
    request_params: dict[str, Any]


class NodeTypesRequest(Model):
    type: Literal["runner:nodetypesrequest"]
    task_id: str
    request_id: str
    request_params: list[dict[str, Any]]


BrokerMessage = Annotated[
    InfoRequest
    | RunnerRegistered
    | TaskOfferAccept
    | TaskSettings
    | TaskCancel
    | RpcResponse
    | TaskDataResponse
    | NodeTypes
    | Drain,
    Field(discriminator="type"),
]
RunnerMessage = Annotated[
    RunnerInfo
    | TaskOffer
    | TaskAccepted
    | TaskRejected
    | TaskDeferred
    | TaskDone
    | TaskError
    | Rpc
    | TaskDataRequest
    | NodeTypesRequest,
    Field(discriminator="type"),
]

READERS = {
    "broker": TypeAdapter[Any](BrokerMessage).validate_json,
    "runner": TypeAdapter[Any](RunnerMessage).validate_json,
}


def encode(message: Model) -> bytes:
    """UTF-8, as a WebSocket library would make of the text. Fields that were not given are not written."""
    return message.model_dump_json(by_alias=True, exclude_unset=True).encode()


CODEC = Codec(PYDANTIC, "models in a discriminated union", READERS.__getitem__, encode)
