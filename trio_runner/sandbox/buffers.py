"""Node's Buffers as n8n writes them in JSON, ``{"type":"Buffer","data":[98,…]}``, and bytes.

A file of 50 MB is 180 MB of such text: it is read and written in blocks, so that there is never an object per byte for
more than one block.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from trio_runner.sandbox import values

_HEAD: Final = re.compile(rb'\s*\{\s*"type"\s*:\s*"Buffer"\s*,\s*"data"\s*:\s*\[')
_TAIL: Final = re.compile(rb"\]\s*\}\s*")
_BLOCK: Final = 1_048_576
"""Bytes of content, or about as many of text, that are converted at once."""


def decode(body: memoryview) -> bytes | None:
    """The content of a Buffer, or None for any other JSON."""
    head = _HEAD.match(body)
    if head is None:
        return None
    content = bytearray()
    at, end = head.end(), len(body)
    while end > at and body[end - 1] != 0x5D:  # ]
        end -= 1
    end -= 1
    if end < at or not _TAIL.fullmatch(body, end):
        return None
    numbers = msgspec.json.Decoder(list[int])
    try:
        while at < end:
            stop = min(at + _BLOCK, end)
            while stop < end and body[stop] != 0x2C:  # ,
                stop += 1
            content += bytes(numbers.decode(b"".join((b"[", body[at:stop], b"]"))))
            at = stop + 1
    except (ValueError, msgspec.DecodeError):  # not bytes
        return None
    return bytes(content)


def from_json(value: Any) -> bytes | None:
    """The content of a Buffer that has been decoded already, or None for any other value."""
    if isinstance(value, dict) and value.get("type") == "Buffer" and isinstance(value.get("data"), list):
        try:
            return bytes(value["data"])
        except (ValueError, TypeError):
            return None
    return None


def params(arguments: Iterable[Any]) -> bytearray:
    """The JSON array of these arguments, with bytes as Buffers. Raises what `values.encode` raises."""
    text = bytearray()
    for argument in arguments:
        text += b"," if text else b"["
        if isinstance(argument, bytes):
            text += b'{"type":"Buffer","data":['
            for start in range(0, len(argument), _BLOCK):
                text += b"," if start else b""
                text += msgspec.json.encode(list(argument[start : start + _BLOCK]))[1:-1]
            text += b"]}"
        else:
            text += values.encode(argument)
    return text + b"]"
