"""The helpers of a program that runs without n8n: real HTTP requests, binary data in memory.

Owns what n8n's methods do (protocol.md 14), as far as a person who tries a program out can tell. Requests go out from
this process, not from the child: with the rights of whoever started it, to http and https addresses only.
"""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import trio
from msgspec import UNSET, Raw, UnsetType

from trio_runner.localworkflow import LocalWorkflow

_PIECE = 262_144


class HelperFailed(Exception):  # noqa: N818 - it reports an outcome
    """A call has no result; ``data`` is what the program is told."""

    def __init__(self, message: str, **more: object) -> None:
        super().__init__(message)
        self.data = {"message": message, **more}


async def carry_out(name: str, params: Raw, workflow: LocalWorkflow) -> Raw:
    """The result of one call, as JSON. Raises `HelperFailed`."""
    method = name.removeprefix("helpers.")
    try:
        given = msgspec.json.decode(params, type=list[Any])
        if method in ("httpRequest", "request"):
            from trio_runner.localhttp import request, translated

            [options] = given
            return await trio.to_thread.run_sync(
                request, translated(options) if method == "request" else options, abandon_on_cancel=True
            )
        if (function := _METHODS.get(method)) is None:
            raise HelperFailed(f"Could not find method {name}")
        # base64 and long lists of bytes: not on the loop that serves the sockets
        return await trio.to_thread.run_sync(function, workflow, *given, abandon_on_cancel=True)
    except (msgspec.MsgspecError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise HelperFailed(f"{name} cannot be called like this: {error}") from None


def buffer(data: bytes) -> Raw:
    """Bytes as n8n sends them: an object with a list of numbers."""
    return Raw(b"".join(_buffer_parts(data)))


def _buffer_parts(data: bytes) -> Iterator[bytes]:
    yield b'{"type":"Buffer","data":['
    for start in range(0, len(data), _PIECE):  # a list of small integers takes eight times the room
        yield (b"," if start else b"") + msgspec.json.encode(list(data[start : start + _PIECE]))[1:-1]
    yield b"]}"


def from_buffer(value: object) -> bytes:
    """The bytes of such an object, or of a text. Raises TypeError or ValueError."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and value.get("type") == "Buffer" and isinstance(value.get("data"), list):
        return bytes(value["data"])
    raise TypeError("a Buffer is missing")


class _WithBinary(msgspec.Struct):
    binary: dict[str, dict[str, Any]] | UnsetType | None = UNSET


def _assert_binary_data(workflow: LocalWorkflow, index: int, name: str) -> Raw:
    return Raw(msgspec.json.encode(_binary(workflow, index, name)))


def _get_binary_data_buffer(workflow: LocalWorkflow, index: int, name: str) -> Raw:
    data = _binary(workflow, index, name).get("data")
    if not isinstance(data, str):
        raise HelperFailed(f"The binary data {name!r} of item {index} has no content here")
    return buffer(base64.b64decode(data))


def _binary(workflow: LocalWorkflow, index: int, name: str) -> dict[str, Any]:
    items = msgspec.json.decode(workflow.items, type=list[_WithBinary])
    if not 0 <= index < len(items):
        raise HelperFailed(f"There is no input item {index}")
    found = items[index].binary
    if not isinstance(found, dict) or name not in found:
        raise HelperFailed(
            f"This operation expects the node's input data to contain a binary file {name!r}, but none was found "
            f"[item {index}]",
            name="NodeOperationError",
        )
    return found[name]


def _prepare_binary_data(
    _: LocalWorkflow, data: object, file_name: str | None = None, mime_type: str | None = None
) -> Raw:
    content = from_buffer(data)
    kind = mime_type or mimetypes.guess_type(file_name or "")[0] or "text/plain"
    extension = file_name.rpartition(".")[2] if file_name and "." in file_name else None
    if extension is None and (guessed := mimetypes.guess_extension(kind)):
        extension = guessed[1:]
    described: dict[str, Any] = {"mimeType": kind}
    if (file_type := _file_type(kind)) is not None:
        described["fileType"] = file_type
    if extension:
        described["fileExtension"] = extension
    if file_name:
        described["fileName"] = file_name
    return _stored(described, content)


def _set_binary_data_buffer(_: LocalWorkflow, described: dict[str, Any], data: object) -> Raw:
    return _stored(dict(described), from_buffer(data))


def _stored(described: dict[str, Any], content: bytes) -> Raw:
    described |= {"data": base64.b64encode(content).decode(), "bytes": len(content), "fileSize": _size(len(content))}
    return Raw(msgspec.json.encode(described))


def _binary_to_string(_: LocalWorkflow, data: object, encoding: str | None = None) -> Raw:
    try:
        text = from_buffer(data).decode(encoding or "utf-8", "replace")
    except LookupError:
        raise HelperFailed(f"The encoding {encoding} is not known") from None
    return Raw(msgspec.json.encode(text))


def _file_type(kind: str) -> str | None:
    main = kind.partition("/")[0]
    special = {"application/json": "json", "text/html": "html", "application/pdf": "pdf"}
    return special.get(kind) or (main if main in ("image", "audio", "video", "text") else None)


def _size(count: int) -> str:
    size, units = float(count), iter(("B", "kB", "MB", "GB"))
    unit = next(units)
    while size >= 1000 and unit != "GB":
        size, unit = size / 1000, next(units)
    return f"{size:.3g} {unit}" if size < 1000 else f"{size:.0f} {unit}"


_METHODS: dict[str, Callable[..., Raw]] = {
    "assertBinaryData": _assert_binary_data,
    "getBinaryDataBuffer": _get_binary_data_buffer,
    "prepareBinaryData": _prepare_binary_data,
    "setBinaryDataBuffer": _set_binary_data_buffer,
    "binaryToString": _binary_to_string,
}
