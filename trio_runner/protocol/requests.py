"""What a program may ask n8n for while it runs: the methods, the parameters of a data request, the operator's rules.

Owns the checks of what a child asks for, which is not trusted. Must not know tasks or how anything is sent.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from trio_runner.protocol.messages import encode
from trio_runner.protocol.raw import one_value

HELPERS: Final = frozenset(
    "assertBinaryData binaryToString getBinaryDataBuffer httpRequest prepareBinaryData request "
    "setBinaryDataBuffer".split()
)
"""Methods that n8n offers to code (protocol.md 14.1). ``logNodeOutput`` is for prints, which have their own bounds."""
PREFIX: Final = "helpers."
DATA: Final = frozenset({"workflow", "input", "nodes", "env"})
"""What a data request can ask for. ``workflow`` comes with every answer: its definition, variables, the execution."""


class CallRules(msgspec.Struct, frozen=True):
    """What the operator lets programs ask for: methods without their prefix, and kinds of data."""

    helpers: frozenset[str] = HELPERS
    data: frozenset[str] = DATA


class Chunk(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A part of the input items."""

    start_index: Annotated[int, msgspec.Meta(ge=0)]
    count: Annotated[int, msgspec.Meta(ge=0)]


class InputWanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether the input items are wanted, and which."""

    include: bool
    chunk: Chunk | UnsetType = UNSET


class DataRequest(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The parameters of a data request (protocol.md 15): without one of them n8n would never answer."""

    data_of_nodes: list[str] | Literal["all"]
    prev_node: bool
    input: InputWanted
    env: bool

    def kinds(self) -> list[str]:
        """What it asks for, in the words of the rules."""
        asked = {"nodes": bool(self.data_of_nodes) or self.prev_node, "input": self.input.include, "env": self.env}
        return [kind for kind, wanted in asked.items() if wanted] or ["workflow"]


_decode = msgspec.json.Decoder(DataRequest).decode


def data_request(params: bytes | memoryview) -> tuple[DataRequest, Raw]:
    """A child's data request, and how it goes to n8n: in our own words. Raises ``msgspec.MsgspecError``."""
    request = _decode(params)
    return request, Raw(encode(request))


def call_params(params: bytes | memoryview) -> Raw:
    """The parameters of a child's call, as they are: one JSON array.

    Raises ``msgspec.DecodeError`` or ``UnicodeDecodeError``.
    """
    if params[:1] != b"[":
        raise msgspec.DecodeError("The parameters of a call are a list")
    return one_value(params)


class _Metadata(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    custom_data: dict[str, str] | UnsetType = UNSET
    static_data: dict[str, dict[str, Raw]] | UnsetType = UNSET


class _RawMetadata(msgspec.Struct, rename="camel"):
    custom_data: Raw | UnsetType = UNSET
    static_data: Raw | UnsetType = UNSET


def metadata(payload: bytes | memoryview) -> tuple[Raw | UnsetType, Raw | UnsetType, int]:
    """Custom data, static data and their size, as the child gave them and in the shapes that n8n stores.

    Raises ``msgspec.MsgspecError`` or ``UnicodeDecodeError``.
    """
    one_value(payload)
    msgspec.json.decode(payload, type=_Metadata)
    raw = msgspec.json.decode(payload, type=_RawMetadata)
    return raw.custom_data, raw.static_data, len(payload)
