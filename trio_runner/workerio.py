"""Bytes to and from a worker. Knows nothing of what the frames say.

On its plain socket: trio's own would try to read in vain first, and yield once more after a read that succeeds.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

import trio

from trio_runner.sandbox.frames import FrameParser

_RECEIVE = 65_536
_TRIES = 16


class DeadOnArrivalError(Exception):
    """The worker was gone before it was told anything."""


async def receive(sock: socket.socket, parser: FrameParser) -> Iterator[tuple[int, bytes | memoryview]] | None:
    """The frames that the next bytes complete; None when the worker has hung up."""
    room = parser.room
    while True:
        await trio.lowlevel.wait_readable(sock)
        try:
            if room is not None:
                count = _receive_into(sock, room)
                return parser.fill(count) if count else None
            data = sock.recv(_RECEIVE)
            return parser.feed(data) if data else None
        except BlockingIOError:
            continue
        except ConnectionResetError:
            return None


def _receive_into(sock: socket.socket, room: memoryview) -> int:
    """What is there of a large payload, and what comes while that is taken: a turn of the loop costs more than a try.

    Raises as the socket does when there was nothing at all.
    """
    have = sock.recv_into(room)
    with suppress(BlockingIOError):
        for _ in range(_TRIES):
            if not have or have == len(room):
                break
            if not (count := sock.recv_into(room[have:])):
                break  # the end comes again
            have += count
    return have


async def send(sock: socket.socket, *parts: bytes | memoryview) -> None:
    """Writes the parts one after the other in as few calls as the socket takes; user data is not copied.

    Raises `DeadOnArrivalError` when nothing could be written, BrokenPipeError or ConnectionResetError later.
    """
    buffers = [memoryview(part) for part in parts]
    started = False
    while buffers:
        try:
            sent = sock.sendmsg(buffers)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
            continue
        except (BrokenPipeError, ConnectionResetError):
            if started:
                raise
            raise DeadOnArrivalError from None
        started = True
        while buffers and sent >= len(buffers[0]):
            sent -= len(buffers.pop(0))
        if buffers:
            buffers[0] = buffers[0][sent:]
