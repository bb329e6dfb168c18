"""Our own vocabulary, the floor under it (bare msgspec on the same structs), and ours with the user's data built.

Ours leaves items and results as `msgspec.Raw`, because the runner never needs them as objects: its child builds them,
once. `BUILT` adds that work, for a comparison of libraries rather than of designs.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from bench.codecs import BARE, OURS_BUILT, Codec, Sender
from bench.results import OURS
from trio_runner.protocol import messages
from trio_runner.protocol.messages import ResultData, TaskDone, TaskSettingsMessage

OUR_DECODERS = {"broker": messages.decode_from_broker, "runner": messages.decode_from_runner}
BARE_DECODERS: dict[Sender, Any] = {
    "broker": msgspec.json.Decoder(messages.BrokerMessage).decode,
    "runner": msgspec.json.Decoder(messages.RunnerMessage).decode,
}


def built_decoder(sender: Sender) -> Any:
    """Ours, and then the items or the result as objects."""
    ours, build = OUR_DECODERS[sender], msgspec.json.Decoder().decode

    def decode(frame: str) -> tuple[Any, Any]:
        message = ours(frame)
        if type(message) is TaskSettingsMessage:
            return message, build(message.settings.items)
        if type(message) is TaskDone and isinstance(message.data, ResultData) and isinstance(message.data.result, Raw):
            return message, build(message.data.result)
        return message, None

    return decode


def encode_built(pair: tuple[Any, Any]) -> bytes:
    """The items or the result to JSON, that into a message, and the message to JSON."""
    message, built = pair
    if type(message) is TaskSettingsMessage:
        settings = msgspec.structs.replace(message.settings, items=Raw(messages.encode(built)))
        message = TaskSettingsMessage(task_id=message.task_id, settings=settings)
    elif type(message) is TaskDone:
        message = TaskDone(task_id=message.task_id, data=ResultData(result=Raw(messages.encode(built))))
    return messages.encode(message)


CODEC = Codec(OURS, "validated structs; items and results stay as they are", OUR_DECODERS.__getitem__, messages.encode)
FLOOR = Codec(BARE, "the same structs, nothing besides", BARE_DECODERS.__getitem__, msgspec.json.Encoder().encode)
BUILT = Codec(OURS_BUILT, "what the child does is counted too", built_decoder, encode_built)
