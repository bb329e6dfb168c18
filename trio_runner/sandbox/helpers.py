"""``_helpers``: what n8n does for a program, by Python's names and by n8n's own.

Owns the parameters and results of the calls (protocol.md 14) and the errors that user code sees. Must not know sockets:
a channel carries the calls, and the runner decides which are allowed.
"""

from __future__ import annotations

import binascii
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from trio_runner.sandbox import buffers, frames, values
from trio_runner.sandbox.channel import ChannelError
from trio_runner.sandbox.hardened import facade, rename
from trio_runner.sandbox.httpoptions import Response, http_options
from trio_runner.sandbox.items import AttrDict, Input, dotted

_MAX_TEXT: Final = 500

Decode = Callable[[memoryview], Any]


class Calls(Protocol):
    """What a channel must be able to do here."""

    def call(self, name: str, params: bytes | bytearray, decode: Decode) -> Any:
        """Calls a method of n8n's. Blocks. Raises `ChannelError`."""
        ...

    def call_async(self, name: str, params: bytes | bytearray, decode: Decode) -> Awaitable[Any]:
        """The same from a coroutine."""
        ...


class HelperError(Exception):
    """n8n could not do it. ``helper`` is the method; ``code`` n8n's or the network's word for the reason, if any."""

    def __init__(self, message: str, helper: str, code: str | None = None) -> None:
        super().__init__(message)
        self.helper = helper
        self.code = code


class HttpError(HelperError):
    """An answer whose status is an error. ``body`` is what it said, as far as n8n hands it on."""

    def __init__(self, message: str, helper: str, code: str | None, status_code: int, body: Any) -> None:
        super().__init__(message, helper, code)
        self.status_code = self.statusCode = status_code
        self.body = body


class _Call:
    """One call to be made: its name and parameters, and what becomes of the result."""

    __slots__ = ("finish", "hint", "name", "params")

    def __init__(self, name: str, params: bytes | bytearray, finish: Decode | None = None, hint: str = "") -> None:
        self.name = name
        self.params = params
        self.finish = finish
        self.hint = hint


class _Done:
    """A call that turned out not to be needed."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


Connect = Callable[[], Calls]


def make(connect: Connect, items: Input) -> object:
    """The ``_helpers`` of a program with these input items; ``connect`` is asked for the channel when one is needed."""
    plans: dict[str, tuple[tuple[str, ...], Callable[..., _Call | _Done]]] = {
        "http_request": (("httpRequest",), _http("helpers.httpRequest")),
        "request": ((), _http("helpers.request")),
        "get_binary_data": (("getBinaryDataBuffer", "get_binary_data_buffer"), _Binary(items).get),
        "assert_binary_data": (("assertBinaryData",), _Binary(items).check),
        "prepare_binary_data": (("prepareBinaryData",), _prepare),
        "set_binary_data": (("setBinaryDataBuffer", "set_binary_data_buffer"), _set),
        "binary_to_string": (("binaryToString",), _to_string),
    }
    functions: dict[str, object] = {"HelperError": HelperError, "HttpError": HttpError}
    for name, (aliases, plan) in plans.items():
        rename(plan, name)
        blocking, waiting = _blocking(connect, plan), _waiting(connect, plan)
        for alias in (name, *aliases):
            functions[alias] = blocking
            functions[alias + ("_async" if "_" in alias or alias == name else "Async")] = waiting
    return facade("_helpers", functions)


def _blocking(connect: Connect, plan: Callable[..., _Call | _Done]) -> Callable[..., Any]:
    def helper(*args: Any, **kwargs: Any) -> Any:
        call = plan(*args, **kwargs)
        if isinstance(call, _Done):
            return call.value
        try:
            return connect().call(call.name, call.params, call.finish or _parsed)
        except ChannelError as error:
            failure = _failure(call, error.data)
        raise failure  # outside the handler: ten kilobytes of n8n's words are not its context

    return helper


def _waiting(connect: Connect, plan: Callable[..., _Call | _Done]) -> Callable[..., Any]:
    async def helper(*args: Any, **kwargs: Any) -> Any:
        call = plan(*args, **kwargs)
        if isinstance(call, _Done):
            return call.value
        try:
            return await connect().call_async(call.name, call.params, call.finish or _parsed)
        except ChannelError as error:
            failure = _failure(call, error.data)
        raise failure

    return helper


def _parsed(body: memoryview) -> Any:
    return dotted(frames.parse(body))


def _failure(call: _Call, data: Any) -> HelperError:
    """The error in few words; what n8n hands over may be a whole request with its headers and secrets."""
    said: dict[str, Any] = data if isinstance(data, dict) else {"message": data}
    response = said.get("response")
    response = response if isinstance(response, dict) else {}
    message = said.get("message") or said.get("description")
    text = message if isinstance(message, str) else ""
    code = said.get("code") if isinstance(said.get("code"), str) else None
    status = next((int(s) for s in (*_statuses(said), *_statuses(response)) if _is_status(s)), None)
    helper = call.name.removeprefix("helpers.")
    if status is not None:
        text = text or f"the server answered with status {status}"
        body = response.get("data", response.get("body"))
        return HttpError(f"{helper}: {text[:_MAX_TEXT]}", helper, code, status, body)
    return HelperError(f"{helper}: {text[:_MAX_TEXT] or 'n8n gave no reason' + call.hint}", helper, code)


def _statuses(said: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(said.get(key) for key in ("status", "statusCode", "httpCode"))


def _is_status(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and value.isdecimal())


def _http(name: str) -> Callable[..., _Call]:
    def plan(*args: Any, **options: Any) -> _Call:
        made = http_options(*args, **options)
        return _Call(name, values.encode([made]), _http_result, _no_address(made))

    return plan


def _no_address(options: dict[str, Any]) -> str:
    """What to think of when n8n gives no reason: it gives none for what is no address."""
    address = str(options.get("baseURL") or options.get("url") or options.get("uri"))
    return (
        ""
        if address.startswith(("http://", "https://"))
        else f": does '{address[:100]}' begin with http:// or https://?"
    )


def _http_result(body: memoryview) -> Any:
    """The body of an answer, or all of it: a buffer becomes bytes wherever n8n puts one."""
    if (data := buffers.decode(body)) is not None:
        return data
    result = _parsed(body)
    if isinstance(result, AttrDict) and result.keys() >= {"body", "headers", "statusCode"}:
        result = Response(result)
        if (data := buffers.from_json(result["body"])) is not None:
            result["body"] = data
    return result


class _Binary:
    """What is about the binary data of the input items."""

    def __init__(self, items: Input) -> None:
        self._items = items

    def get(self, item: Any = 0, name: str = "data") -> _Call | _Done:
        if isinstance(item, dict) and (found := _inline(item, name)) is not None:
            return _Done(found)
        index = self._index(item)
        return _Call("helpers.getBinaryDataBuffer", values.encode([index, name]), _buffer, _no_binary(index, name))

    def check(self, item: Any = 0, name: str = "data") -> _Call:
        index = self._index(item)
        return _Call("helpers.assertBinaryData", values.encode([index, name]), None, _no_binary(index, name))

    def _index(self, item: Any) -> int:
        if isinstance(item, int) and not isinstance(item, bool):
            return item
        if not isinstance(item, dict):
            raise TypeError("binary data belongs to an input item: pass the item, or its index")
        index = self._items.index_of(item)
        if index is None:
            raise ValueError("n8n reads binary data of this node's input items only, and this item is not one of them")
        return index


def _no_binary(index: int, name: str) -> str:
    return f": does input item {index} have binary data named '{name[:100]}'?"


def _inline(item: dict[str, Any], name: str) -> bytes | None:
    """The content, where n8n keeps it in the item itself."""
    entry = (item.get("binary") or {}).get(name)
    if not isinstance(entry, dict) or entry.get("id") or not isinstance(entry.get("data"), str):
        return None
    try:
        return binascii.a2b_base64(entry["data"], strict_mode=True)
    except binascii.Error:
        return None


def _buffer(body: memoryview) -> bytes:
    data = buffers.decode(body)
    if data is None:
        raise HelperError("getBinaryDataBuffer: n8n answered with something else than a buffer", "getBinaryDataBuffer")
    return data


def _prepare(data: Any, file_name: str | None = None, mime_type: str | None = None, **names: Any) -> _Call:
    file_name, mime_type = names.pop("fileName", file_name), names.pop("mimeType", mime_type)
    _no_more("prepare_binary_data", names)
    rest = [file_name] if mime_type is None else [file_name, mime_type]
    return _Call("helpers.prepareBinaryData", buffers.params((_bytes(data), *(rest if any(rest) else ()))))


def _set(binary_data: Any, data: Any) -> _Call:
    if not isinstance(binary_data, dict):
        raise TypeError("set_binary_data takes what prepare_binary_data returned, then the new content")
    return _Call("helpers.setBinaryDataBuffer", buffers.params((binary_data, _bytes(data))))


def _to_string(data: Any, encoding: str = "utf-8") -> _Call | _Done:
    content = _bytes(data)
    try:
        text = content.decode("utf-8" if encoding in ("utf8", "utf-8") else encoding, "replace")
        return _Done(text.removeprefix("\ufeff"))
    except LookupError:  # n8n may know it
        return _Call("helpers.binaryToString", buffers.params((content, encoding)))


def _bytes(data: Any) -> bytes:
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"binary data must be bytes or text, not {type(data).__name__}")


def _no_more(function: str, names: dict[str, Any]) -> None:
    if names:
        raise TypeError(f"{function} got an unexpected argument '{next(iter(names))}'")
