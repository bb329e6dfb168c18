"""What a connection gets in the broker's place: errors, noise and silence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from tests.chaos.connection import FORGET_AFTER

Answer = Callable[[trio.abc.Stream], Awaitable[None]]
"""What a connection gets instead of the broker. It is closed afterwards."""


def refuse(status: int, body: bytes = b"") -> Answer:
    """An HTTP error. Without a body it is as n8n refuses an upgrade: no length, and the connection stays open."""

    async def answer(stream: trio.abc.Stream) -> None:
        length = b"Content-Length: %d\r\nConnection: close\r\n" % len(body) if body else b""
        await stream.send_all(b"HTTP/1.1 %d Refused\r\n%s\r\n%s" % (status, length, body))
        if not body:
            with trio.move_on_after(FORGET_AFTER):
                while await stream.receive_some():
                    pass

    return answer


def say(data: bytes) -> Answer:
    """These bytes, then the end of the connection."""

    async def answer(stream: trio.abc.Stream) -> None:
        await stream.send_all(data)

    return answer


def say_nothing(seconds: float) -> Answer:
    """No answer for so long, then the end of the connection."""

    async def answer(_: trio.abc.Stream) -> None:
        await trio.sleep(seconds)

    return answer
