"""Decoders of the wire vocabulary: whatever the frame, a message or `Refused`; and a message is what it says it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec

from trio_runner.protocol import messages
from trio_runner.protocol.messages import Refused, encode
from trio_runner.protocol.raw import one_value


def decoder(decode: Callable[[str | bytes], Any]) -> Callable[[bytes], None]:
    """A target for one decoder: the frame as bytes, and as the text that a WebSocket library makes of it."""

    def target(data: bytes) -> None:
        for frame in (data, data.decode("utf-8", "replace"), data.decode("utf-8", "surrogateescape")):
            try:
                message = decode(frame)
            except Refused:
                continue
            again = encode(message)
            assert decode(again) == message
            assert json.loads(again)["type"] == type(message).__struct_config__.tag

    return target


def one_json_value(data: bytes) -> None:
    """What goes into a message as it is must be one value for every reader of JSON, not only for ours."""
    for view in (data, memoryview(data)):
        try:
            value = one_value(view)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        frame = encode(messages.TaskDone(task_id="t", data=messages.ResultData(result=value)))
        parsed = json.loads(frame, parse_int=str)  # Python has a limit for digits, JSON has none
        assert parsed.keys() == {"type", "taskId", "data"}
        assert parsed["taskId"] == "t"
        assert parsed["data"].keys() == {"result"}


TARGETS = {
    "broker_message": decoder(messages.decode_from_broker),
    "runner_message": decoder(messages.decode_from_runner),
    "requester_message": decoder(messages.decode_from_requester),
    "to_requester_message": decoder(messages.decode_to_requester),
    "one_value": one_json_value,
}
