"""The wire vocabulary: every message of the n8n task-runner protocol, as frozen structs (protocol.md 6 to 9).

Owns the wire tags, the field names and the decoding of one frame. Must not know states, time or sockets. User data
(`items`, results, parameters) stays `msgspec.Raw`: it is checked to be one JSON value and never built here.
"""

from __future__ import annotations

import re
import struct
from typing import Any, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from trio_runner.protocol.raw import LARGE, utf8

NULL: Final = Raw(b"null")
EMPTY_LIST: Final = Raw(b"[]")

NodeMode = Literal["runOnceForAllItems", "runOnceForEachItem"]
EACH_ITEM: Final = "runOnceForEachItem"


class Message(msgspec.Struct, frozen=True, tag_field="type", rename="camel", kw_only=True):
    """Base of all messages: camelCase on the wire, unknown fields ignored."""


# Broker to runner (protocol.md 7)


class InfoRequest(Message, frozen=True, tag="broker:inforequest"):
    """The broker asks who we are; the first message on a connection."""


class RunnerRegistered(Message, frozen=True, tag="broker:runnerregistered"):
    """From here on the broker takes offers."""


class TaskOfferAccept(Message, frozen=True, tag="broker:taskofferaccept", kw_only=True):
    """One of our offers was matched with a request; to be answered within the accept window (2 s)."""

    task_id: str
    offer_id: str


class TaskSettings(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What to run (protocol.md 9). ``items`` is a JSON array that nobody but the child parses."""

    code: str
    node_mode: NodeMode
    items: Raw
    workflow_mode: str | None = None
    continue_on_fail: bool | None = False
    node_id: str | None = "Unknown"
    node_name: str | None = "Unknown"
    workflow_id: str | None = "Unknown"
    workflow_name: str | None = "Unknown"
    query: Raw = NULL


class TaskSettingsMessage(Message, frozen=True, tag="broker:tasksettings", kw_only=True):
    """The settings of an accepted task: start it."""

    task_id: str
    settings: TaskSettings


class TaskCancel(Message, frozen=True, tag="broker:taskcancel", kw_only=True):
    """Stop the task. The reason may be absent in our reading: dropping a cancel would be worse than a bare one."""

    task_id: str
    reason: str = ""


class RpcResponse(Message, frozen=True, tag="broker:rpcresponse", kw_only=True):
    """The answer to `Rpc`; ``data`` is absent when the method returned nothing."""

    task_id: str
    call_id: str
    status: Literal["success", "error"]
    data: Raw = NULL


class TaskDataResponse(Message, frozen=True, tag="broker:taskdataresponse", kw_only=True):
    """The answer to `TaskDataRequest`."""

    task_id: str
    request_id: str
    data: Raw


class NodeTypes(Message, frozen=True, tag="broker:nodetypes", kw_only=True):
    """The answer to `NodeTypesRequest`."""

    task_id: str
    request_id: str
    node_types: Raw


class Drain(Message, frozen=True, tag="broker:drain"):
    """The broker is stopping: no more offers, finish what runs."""


BrokerMessage = (
    InfoRequest
    | RunnerRegistered
    | TaskOfferAccept
    | TaskSettingsMessage
    | TaskCancel
    | RpcResponse
    | TaskDataResponse
    | NodeTypes
    | Drain
)
TaskReply = RpcResponse | TaskDataResponse | NodeTypes

# Runner to broker (protocol.md 6)


class RunnerInfo(Message, frozen=True, tag="runner:info", kw_only=True):
    """Who we are; the name is for n8n's log only."""

    name: str
    types: tuple[str, ...]


class TaskOffer(Message, frozen=True, tag="runner:taskoffer", kw_only=True):
    """One free slot, for ``valid_for`` milliseconds (-1: for ever)."""

    offer_id: str
    task_type: str
    valid_for: int | float


class TaskAccepted(Message, frozen=True, tag="runner:taskaccepted", kw_only=True):
    """We take the task; settings follow."""

    task_id: str


class TaskRejected(Message, frozen=True, tag="runner:taskrejected", kw_only=True):
    """We do not take the task; the request goes back to the queue."""

    task_id: str
    reason: str


class TaskDeferred(Message, frozen=True, tag="runner:taskdeferred", kw_only=True):
    """Launchers only: a real runner is being started for this task."""

    task_id: str


class ResultData(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The body of `TaskDone`: ``result`` is whatever JSON the child made."""

    result: Raw | UnsetType = UNSET
    custom_data: Raw | UnsetType = UNSET
    static_data: Raw | UnsetType = UNSET


class TaskDone(Message, frozen=True, tag="runner:taskdone", kw_only=True):
    """The task succeeded. Without ``data`` n8n fails the node, so only a foreign runner leaves it out."""

    task_id: str
    data: ResultData | UnsetType = UNSET


class ErrorContext(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """Where in the input an error happened."""

    item_index: int | None = None


class ErrorBody(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """The keys of an error that n8n shows (protocol.md 10.2)."""

    message: str
    description: str | None = None
    line_number: int | None = None
    context: ErrorContext | None = None


class TaskError(Message, frozen=True, tag="runner:taskerror", kw_only=True):
    """The task failed; ``error`` is an encoded `ErrorBody` when it is ours, anything when it is another runner's."""

    task_id: str
    error: Raw


class Rpc(Message, frozen=True, tag="runner:rpc", kw_only=True):
    """Calls a function of the node's execution context in n8n; ``params`` is a JSON array (protocol.md 14)."""

    call_id: str
    task_id: str
    name: str
    params: Raw


class TaskDataRequest(Message, frozen=True, tag="runner:taskdatarequest", kw_only=True):
    """Asks for the workflow's data (protocol.md 15)."""

    task_id: str
    request_id: str
    request_params: Raw


class NodeTypesRequest(Message, frozen=True, tag="runner:nodetypesrequest", kw_only=True):
    """Asks for node type descriptions (protocol.md 16)."""

    task_id: str
    request_id: str
    request_params: Raw


RunnerMessage = (
    RunnerInfo
    | TaskOffer
    | TaskAccepted
    | TaskRejected
    | TaskDeferred
    | TaskDone
    | TaskError
    | Rpc
    | TaskDataRequest
    | NodeTypesRequest
)
TaskResult = TaskDone | TaskError

# Requester to broker and back (protocol.md 8): in-process calls in n8n, the other port of our broker machine


class TaskRequest(Message, frozen=True, tag="requester:taskrequest", kw_only=True):
    """A node wants a runner of this type."""

    request_id: str
    task_type: str


class RequesterSettings(Message, frozen=True, tag="requester:tasksettings", kw_only=True):
    """The settings of a task that became ready; forwarded without a look inside."""

    task_id: str
    settings: Raw


class RequesterCancel(Message, frozen=True, tag="requester:taskcancel", kw_only=True):
    """The requester gives the task up."""

    task_id: str
    reason: str


class RequesterRpcResponse(Message, frozen=True, tag="requester:rpcresponse", kw_only=True):
    """The answer to a forwarded `Rpc`."""

    task_id: str
    call_id: str
    status: Literal["success", "error"]
    data: Raw | UnsetType = UNSET


class RequesterTaskData(Message, frozen=True, tag="requester:taskdataresponse", kw_only=True):
    """The answer to a forwarded `TaskDataRequest`."""

    task_id: str
    request_id: str
    data: Raw


class RequesterNodeTypes(Message, frozen=True, tag="requester:nodetypesresponse", kw_only=True):
    """The answer to a forwarded `NodeTypesRequest`."""

    task_id: str
    request_id: str
    node_types: Raw


RequesterMessage = (
    TaskRequest | RequesterSettings | RequesterCancel | RequesterRpcResponse | RequesterTaskData | RequesterNodeTypes
)


class TaskReady(Message, frozen=True, tag="broker:taskready", kw_only=True):
    """A runner took the request: the settings are due."""

    request_id: str
    task_id: str


class ForwardedDone(Message, frozen=True, tag="broker:taskdone", kw_only=True):
    """The runner's result, as it came."""

    task_id: str
    data: ResultData | UnsetType = UNSET


class ForwardedError(Message, frozen=True, tag="broker:taskerror", kw_only=True):
    """The runner's error, or one that the broker made."""

    task_id: str
    error: Raw


class RequestExpired(Message, frozen=True, tag="broker:requestexpired", kw_only=True):
    """No runner took the request in time, or the broker is stopping."""

    request_id: str
    reason: Literal["timeout", "draining"]


class ForwardedRpc(Message, frozen=True, tag="broker:rpc", kw_only=True):
    """A runner's `Rpc`."""

    task_id: str
    call_id: str
    name: str
    params: Raw


class ForwardedDataRequest(Message, frozen=True, tag="broker:taskdatarequest", kw_only=True):
    """A runner's `TaskDataRequest`."""

    task_id: str
    request_id: str
    request_params: Raw


class ForwardedNodeTypesRequest(Message, frozen=True, tag="broker:nodetypesrequest", kw_only=True):
    """A runner's `NodeTypesRequest`."""

    task_id: str
    request_id: str
    request_params: Raw


ToRequesterMessage = (
    TaskReady
    | ForwardedDone
    | ForwardedError
    | RequestExpired
    | ForwardedRpc
    | ForwardedDataRequest
    | ForwardedNodeTypesRequest
)

# Decoding and encoding

RefusalKind = Literal[
    "invalid_utf8", "invalid_json", "not_object", "missing_field", "wrong_type", "invalid_value", "unknown_type"
]


class Refused(Exception):  # noqa: N818 - it names what happened to the frame; the connection carries on
    """A frame that is not a message of ours. ``message_type`` and ``task_id`` are set where they could be read."""

    def __init__(
        self, kind: RefusalKind, text: str, field: str = "", message_type: str = "", task_id: str = ""
    ) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.field = field
        self.message_type = message_type
        self.task_id = task_id


class _Envelope(msgspec.Struct, rename="camel"):
    """What can be read of a message whose body is not understood."""

    type: Any = UNSET
    task_id: Any = UNSET


_broker_decoder: msgspec.json.Decoder[BrokerMessage] = msgspec.json.Decoder(BrokerMessage)
_runner_decoder: msgspec.json.Decoder[RunnerMessage] = msgspec.json.Decoder(RunnerMessage)
_requester_decoder: msgspec.json.Decoder[RequesterMessage] = msgspec.json.Decoder(RequesterMessage)
_to_requester_decoder: msgspec.json.Decoder[ToRequesterMessage] = msgspec.json.Decoder(ToRequesterMessage)
_envelope_decoder = msgspec.json.Decoder(_Envelope)
_encoder = msgspec.json.Encoder()

encode = _encoder.encode
"""Encodes any message to UTF-8 JSON bytes. Raw fields are copied as they are: check them first (`raw.one_value`)."""

M = TypeVar("M")

_first_byte = struct.Struct("c").unpack_from  # half the time of a memoryview
_UNREADABLE: Final = (UnicodeError, msgspec.DecodeError, RecursionError)

# The first two run once per frame, where msgspec needs 80 to 200 ns: one more Python call would be felt, and so would
# an isinstance() that fails on a struct (its metaclass makes that slow). What is not plainly right is read again by
# `_decode`, which knows every reason.


def decode_from_broker(frame: str | bytes | memoryview) -> BrokerMessage:
    """Decodes one frame of the broker; raises `Refused` with the reason, never anything else.

    What it gives may hold parts of ``frame``, which must stay as it is.
    """
    try:
        if len(frame) > LARGE:
            message = _broker_decoder.decode(utf8(frame))
        else:
            message = _broker_decoder.decode(frame if isinstance(frame, str) else str(frame, "utf-8"))
    except _UNREADABLE:
        message = _decode(_broker_decoder, frame)
    if type(message) is TaskSettingsMessage and _first_byte(message.settings.items) != (b"[",):
        text = "Expected `array` - at `$.settings.items`"
        raise Refused("wrong_type", text, "settings.items", "broker:tasksettings", message.task_id)
    return message


def decode_from_runner(frame: str | bytes) -> RunnerMessage:
    """Decodes one frame of a runner; raises `Refused`."""
    try:
        return _runner_decoder.decode(frame if isinstance(frame, str) else frame.decode())
    except _UNREADABLE:
        return _decode(_runner_decoder, frame)


def decode_from_requester(frame: str | bytes) -> RequesterMessage:
    """Decodes one message of a requester; raises `Refused`."""
    return _decode(_requester_decoder, frame)


def decode_to_requester(frame: str | bytes) -> ToRequesterMessage:
    """Decodes one message to a requester; raises `Refused`."""
    return _decode(_to_requester_decoder, frame)


def _decode(decoder: msgspec.json.Decoder[M], frame: str | bytes | memoryview) -> M:
    try:
        # n8n sends text; a binary frame is checked as a whole, since fields that are skipped are not
        text = frame if isinstance(frame, str) else str(frame, "utf-8")
        return decoder.decode(text)
    except UnicodeError as error:  # encoding, too: text that was decoded leniently may hold half a character
        raise Refused("invalid_utf8", f"The frame is not UTF-8: {error}") from None
    except msgspec.ValidationError as error:
        raise _explain(error, text) from None
    except RecursionError:
        raise Refused("invalid_json", "The JSON is nested too deeply") from None
    except msgspec.DecodeError as error:
        if repaired := _without_lone_surrogates(text):
            return _decode(decoder, repaired)
        raise Refused("invalid_json", str(error)) from None


_FIELD = re.compile(r"`\$\.?([^`]*)`$")
_MISSING = re.compile(r"missing required field `([^`]+)`")


def _explain(error: msgspec.ValidationError, frame: str) -> Refused:
    """Turns msgspec's text into a kind and a field; the texts are pinned by the wire vectors."""
    text = str(error)
    path = found.group(1) if (found := _FIELD.search(text)) else ""
    try:
        envelope = _envelope_decoder.decode(frame)
    except (msgspec.DecodeError, RecursionError):
        envelope = _Envelope()
    kind: RefusalKind = "wrong_type"
    if text.startswith("Expected `object`") and not path:
        return Refused("not_object", text)
    if missing := _MISSING.search(text):
        kind, path = "missing_field", f"{path}.{missing.group(1)}".lstrip(".")
    elif path == "type" and text.startswith("Invalid value"):
        kind = "unknown_type"
    elif text.startswith("Invalid"):
        kind = "invalid_value"
    return Refused(kind, text, path, _text(envelope.type), _text(envelope.task_id))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


# One escape sequence at a time, so that an escaped backslash in front of "ud800" is not taken for a surrogate.
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def _without_lone_surrogates(frame: str) -> str | None:
    """The frame with every escaped lone surrogate replaced by U+FFFD, or None when it holds none.

    JavaScript text may hold half a character (a string cut inside an emoji) and JSON.stringify escapes it; msgspec
    refuses the escape. One bad character must not cost the task.
    """
    if "\\u" not in frame:
        return None
    repaired = _ESCAPE.sub(lambda match: "\\ufffd" if match.group(1) else match.group(0), frame)
    return repaired if repaired != frame else None
