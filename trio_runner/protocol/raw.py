"""User data on its way through the runner: bytes that are checked to be one JSON value and never built.

Owns the check of what a child has sent. Must not know messages.
"""

from __future__ import annotations

import codecs
from typing import Final

import msgspec
from msgspec import Raw

LARGE: Final = 65_536
"""Bytes or characters from which on copies matter more than the calls that save them."""
_PIECE: Final = 65_536
"""Bytes of text that are checked at a time: the C library keeps memory of this size, and more it gives back."""
_utf8_decoder: Final = codecs.getincrementaldecoder("utf-8")


def one_value(data: bytes | bytearray | memoryview) -> Raw:
    """``data`` as `Raw` after a check that it is exactly one JSON value in valid UTF-8.

    Whatever a child sent goes into a message of ours as text: a value such as ``[]},"taskId":"other"`` must not pass.
    Raises ``msgspec.DecodeError`` or ``UnicodeDecodeError``, never anything else: the child is not trusted, and a
    thousand opening brackets must not end more than its own task.
    """
    _check_utf8(data)
    try:
        msgspec.json.decode(data, type=Raw)
    except RecursionError:
        raise msgspec.DecodeError("The JSON is nested too deeply") from None
    return Raw(data)


def utf8(text: str | bytes | memoryview) -> str | bytes | memoryview:
    """``text`` in a form that msgspec reads without a copy of its own. Raises UnicodeError.

    For text beyond ASCII it would make two, and keep one of them as long as the text; fields that it skips it does not
    check, so bytes are checked here.
    """
    if isinstance(text, str):
        return text if text.isascii() else text.encode()
    _check_utf8(text)
    return text


def _check_utf8(data: bytes | bytearray | memoryview) -> None:
    """Piece by piece: the text of a large result is not needed, and its pages would cost more than the check."""
    if len(data) <= _PIECE:
        str(data, "utf-8")
        return
    decode = _utf8_decoder().decode
    view = memoryview(data)
    for start in range(0, len(view), _PIECE):
        decode(view[start : start + _PIECE])
    decode(b"", True)
