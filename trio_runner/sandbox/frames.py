"""How the runner and a child talk over their socket pair: frames of kind, length and payload.

Owns the framing and the structs inside the frames. Must not know what is done with them. The runner trusts nothing it
reads: `FrameParser` bounds every length, and what a payload claims is checked where it is used.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

if TYPE_CHECKING:
    import _socket

HEADER_SIZE: Final = 5
_LENGTH_AT: Final = 1

# runner to child
COMPILE: Final = 1  # Compile: look at this source before anything else; answered by one VERDICT
RUN: Final = 2  # Run: the task; ITEMS follows
ITEMS: Final = 3  # the items as they came from n8n, a JSON array
ANSWER: Final = 4  # to one CALL: its number (4 bytes), a status (1 byte), JSON or nothing
# child to runner
VERDICT: Final = 16  # Verdict; only before RUN, when no user code has run yet
PRINT: Final = 17  # a JSON array of texts: one print call
RESULT: Final = 18  # one JSON value
FAILURE: Final = 19  # Failure
CALL: Final = 20  # after RUN: a number (4 bytes), the length of a name (1 byte), the name, JSON; answered by one ANSWER
METADATA: Final = 21  # at most one, before RESULT: a JSON object with customData, staticData or both

SUCCESS: Final = 0
ERROR: Final = 1
"""The statuses of an ANSWER."""
MAX_CALLS_IN_FLIGHT: Final = 32
"""Calls that a child may have out at once. A channel waits before one more; who does not is cut off."""
MAX_METADATA: Final = 16_777_216
_CALL_HEAD: Final = struct.Struct("<IB")

_SMALL: Final = 8_388_608
BIG: Final = 262_144
"""Bytes from which on a payload gets memory of its own, where it is received without a copy."""
_HUGE_PAGE: Final = 2_097_152


def limits_from_child(max_payload: int) -> dict[int, int]:
    """How large a payload of each kind may be that a child sends, in bytes. Other kinds are not known.

    ``max_payload`` is about results. A verdict stays in the runner, and a child keeps prints and errors below it.
    """
    return {
        VERDICT: 64 * 1024 * 1024,
        PRINT: _SMALL,
        RESULT: max_payload,
        FAILURE: _SMALL,
        CALL: max_payload,
        METADATA: min(MAX_METADATA, max_payload),
    }


Loop = Literal["", "none", "asyncio", "trio"]
"""What a program's coroutines run under: empty when it has none; ``none`` when it can wait for nothing but our answers,
which takes no event loop."""


class Compile(msgspec.Struct, frozen=True):
    """A source that the runner has not seen before."""

    source: str
    each_item: bool


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the source checks said. ``code`` is a marshalled code object when the program may run."""

    code: bytes = b""
    failure: Failure | None = None
    uses: tuple[str, ...] = ()
    """The names of ours, beyond the inputs, that the source mentions."""
    nodes: tuple[str, ...] = ()
    """The nodes whose data it names in so many words."""
    loop: Loop = ""
    """What its coroutines run under."""


class Run(msgspec.Struct, frozen=True, omit_defaults=True):
    """One task. ``code`` is empty when the child has just compiled the source itself; the rest is the verdict's."""

    source: str
    each_item: bool
    query: bytes
    code: bytes = b""
    uses: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    loop: Loop = ""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a program has no result, in words for the workflow's author.

    ``before_start``: refused before any of it ran; n8n's continue-on-fail does not apply then (runner-behaviour 12).
    """

    message: str
    description: str | None = None
    line: int | None = None
    item_index: int | None = None
    before_start: bool = False
    kind: Literal["error", "syntax", "violation", "result", "limit", "worker"] = "error"
    limit: Literal["memory", "result_size"] | None = None
    """The limit that the child met by itself, if it was one."""


_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
"""Encodes the payload of a frame that is not JSON."""

decode_compile = msgspec.msgpack.Decoder(Compile).decode
decode_run = msgspec.msgpack.Decoder(Run).decode
decode_verdict = msgspec.msgpack.Decoder(Verdict).decode
decode_failure = msgspec.msgpack.Decoder(Failure).decode


def header(kind: int, length: int) -> bytes:
    """The five bytes in front of a payload: kind, then the length, little-endian (so at most 4 GiB - 1)."""
    return kind.to_bytes(1, "little") + length.to_bytes(4, "little")


def call(number: int, name: str, params: bytes | bytearray | memoryview) -> bytes:
    """The payload of a CALL."""
    encoded = name.encode()
    return b"".join((_CALL_HEAD.pack(number, len(encoded)), encoded, params))


def split_call(payload: bytes | memoryview) -> tuple[int, str, memoryview]:
    """Number, name and parameters of a CALL, all of them untrusted. Raises `FrameError` or UnicodeDecodeError."""
    view = memoryview(payload)
    if len(view) < _CALL_HEAD.size:
        raise FrameError("a call that is too short")
    number, length = _CALL_HEAD.unpack_from(view)
    start = _CALL_HEAD.size + length
    if len(view) < start:
        raise FrameError("a call whose name is cut off")
    return number, str(view[_CALL_HEAD.size : start], "utf-8"), view[start:]


def answer_head(number: int, status: int, length: int) -> bytes:
    """What stands in front of the ``length`` bytes of JSON of an ANSWER, the frame's header included."""
    return header(ANSWER, _CALL_HEAD.size + length) + _CALL_HEAD.pack(number, status)


def split_answer(payload: bytes | memoryview) -> tuple[int, int, memoryview]:
    """Number, status and JSON of an ANSWER, which is the runner's."""
    view = memoryview(payload)
    number, status = _CALL_HEAD.unpack_from(view)
    return number, status, view[_CALL_HEAD.size :]


class FrameError(Exception):
    """The other side broke the framing: an unknown kind or a length beyond the limit."""


class FrameParser:
    """Cuts a stream of bytes into frames. ``limits`` maps each known kind to its largest payload in bytes."""

    def __init__(self, limits: Mapping[int, int]) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._big: mmap.mmap | None = None
        self._big_kind = 0
        self._filled = 0

    @property
    def room(self) -> memoryview | None:
        """Where the next bytes belong when a large payload has begun: receive there, and say so with `fill`."""
        return memoryview(self._big)[self._filled :] if self._big is not None else None

    def fill(self, count: int) -> Iterator[tuple[int, bytes | memoryview]]:
        """``count`` bytes were received into `room`. Yields the frame that they complete."""
        assert self._big is not None
        self._filled += count
        if self._filled == len(self._big):
            payload, self._big = memoryview(self._big), None
            yield self._big_kind, payload

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes | memoryview]]:
        """Takes bytes and yields the frames that they complete. Raises `FrameError`; the stream is then useless."""
        if self._big is not None:
            part = data[: len(self._big) - self._filled]
            self._big[self._filled : self._filled + len(part)] = part
            yield from self.fill(len(part))
            data = data[len(part) :]
        self._buffer += data
        while len(self._buffer) >= HEADER_SIZE:
            kind = self._buffer[0]
            length = int.from_bytes(self._buffer[_LENGTH_AT:HEADER_SIZE], "little")
            limit = self._limits.get(kind)
            if limit is None:
                raise FrameError(f"unknown frame kind {kind}")
            if length > limit:
                raise FrameError(f"a frame of {length} bytes is beyond the limit of {limit}")
            end = HEADER_SIZE + length
            if len(self._buffer) < end:
                if length >= BIG:
                    self._big, self._big_kind, self._filled = memory_for(length), kind, len(self._buffer) - HEADER_SIZE
                    self._big[: self._filled] = self._buffer[HEADER_SIZE:]
                    self._buffer = bytearray()
                return
            if len(self._buffer) == end:
                # the usual case, and the one that matters for a big result: handed over without a copy
                payload, self._buffer = memoryview(self._buffer)[HEADER_SIZE:], bytearray()
                yield kind, payload
            else:
                with memoryview(self._buffer) as view:
                    copied = bytes(view[HEADER_SIZE:end])
                del self._buffer[:end]
                yield kind, copied


def memory_for(length: int) -> mmap.mmap:
    """Memory for a large payload: zero pages until something is written to them, in huge pages where there are any.

    An array of bytes would be filled with zeros first, page by page, whatever of it the other side then sends.
    """
    memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if length >= _HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


class FrameReader:
    """The child's end: blocking reads from a runner that is trusted."""

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock
        self._buffer = b""

    def next(self) -> tuple[int, bytes | mmap.mmap] | None:
        """The next frame, or None when the runner has hung up."""
        while len(self._buffer) < HEADER_SIZE:
            data = self._sock.recv(65536)
            if not data:
                return None
            self._buffer += data
        kind = self._buffer[0]
        length = int.from_bytes(self._buffer[_LENGTH_AT:HEADER_SIZE], "little")
        end = HEADER_SIZE + length
        if len(self._buffer) >= end:
            payload, self._buffer = self._buffer[HEADER_SIZE:end], self._buffer[end:]
            return kind, payload
        big = memory_for(length)
        have = len(self._buffer) - HEADER_SIZE
        big[:have] = self._buffer[HEADER_SIZE:]
        self._buffer = b""
        with memoryview(big) as view:
            while have < length:
                got = self._sock.recv_into(view[have:])
                if got == 0:
                    return None
                have += got
        return kind, big


def parse(data: bytes | memoryview | mmap.mmap) -> Any:
    """What came from n8n, as objects: decoded once, here in the child."""
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        import json  # numbers beyond a double, and whatever else only the standard library reads

        return json.loads(bytes(data))


def send(sock: _socket.socket, kind: int, payload: bytes) -> None:
    """Writes one frame, blocking. A small one goes out in one piece."""
    if len(payload) < 65536:
        sock.sendall(header(kind, len(payload)) + payload)
    else:
        sock.sendall(header(kind, len(payload)))
        sock.sendall(payload)
