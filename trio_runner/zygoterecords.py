"""What a zygote says to its pool, as it comes: records of one size, some with descriptors, and one report.

Owns the reading, and the descriptors until they are handed over. Must not know what becomes of either.
"""

from __future__ import annotations

import array
import os
import socket

import msgspec
import trio

from trio_runner.errors import StartError
from trio_runner.sandbox import records

_INT = array.array("i").itemsize
Record = tuple[int, int, int, int, list[int]]
"""Kind, pid, status, length of a payload, descriptors."""
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Records:
    """The zygote's records as they come. One at a time is read: the descriptors that come with it are its own."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._data = b""
        self._fds: list[int] = []

    async def next(self) -> Record | None:
        """The next record, or None at the end of the stream."""
        while True:
            try:
                return self.waiting()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._control)

    def waiting(self) -> Record | None:
        """The next record if it is there; raises BlockingIOError when it is not."""
        while len(self._data) < records.RECORD.size:
            try:
                more, ancillary, _, _ = self._control.recvmsg(
                    records.RECORD.size - len(self._data), socket.CMSG_SPACE(2 * _INT), _CLOEXEC
                )
            except ConnectionResetError:
                more, ancillary = b"", []
            if not more:
                for fd in self._fds:
                    os.close(fd)
                self._fds = []
                return None
            self._data += more
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    self._fds += memoryview(payload[: len(payload) - len(payload) % _INT]).cast("i").tolist()
        kind, pid, status, length = records.RECORD.unpack(self._data)
        fds, self._data, self._fds = self._fds, b"", []
        return kind, pid, status, length, fds


async def read_report(control: trio.socket.SocketType, stream: Records) -> records.Report:
    """The first record of a zygote: it is ready. Raises `StartError` when it ended before."""
    record = await stream.next()
    if record is None or record[0] != records.READY:
        raise StartError("The zygote ended before it was ready; its own error stands above")
    payload = b""
    while len(payload) < record[3]:
        more = await control.recv(record[3] - len(payload))
        if not more:
            raise StartError("The zygote ended before it was ready")
        payload += more
    return msgspec.msgpack.decode(payload, type=records.Report)
