"""The child's way to n8n while a program runs: calls go out, answers come back to whoever made the call.

Owns the numbers of calls, how many are out at once, and who reads the socket: the callers themselves, one at a time for
all of them. There is no thread in the background, since the program may be all there is room for, and nothing waits
here whose caller does not. Knows no helper and no data; what may be called is decided by the runner.
"""

from __future__ import annotations

import _socket
import _thread
import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol

import msgspec

from trio_runner.sandbox import frames
from trio_runner.sandbox.frames import FrameParser
from trio_runner.sandbox.userapi import held

Send = Callable[[int, bytes], bool]
Decode = Callable[[memoryview], Any]

_RECEIVE: Final = 65_536
_MAX_ANSWER: Final = 2**32 - 1  # the runner is trusted
_FIRST_WINDOW: Final = 4
_UNSENT: Final = -1
_BROKEN: Final = -2
_INSIDE: Final = "A signal handler or a finalizer asks in the middle of another call or print of its thread"
_LARGE: Final = 1_048_576
_AT_ONCE: Final = 134_217_728
"""Bytes of answers that are asked for at once, as far as their size can be guessed from the last one."""


class ChannelError(Exception):
    """An answer that is an error. ``data`` is what n8n said: mostly an object, a text in some cases, or None."""

    def __init__(self, data: Any) -> None:
        said = data.get("message") if isinstance(data, dict) else data
        super().__init__(said if isinstance(said, str) and said else "n8n refused the call and gave no reason")
        self.data = data


class _Waits(Protocol):
    """How one caller waits: for the socket, or for another caller that reads it."""

    def wake(self) -> None:
        """Ends the wait of `woken`, now or the next one. From any thread."""


class _Call:
    """One call. ``payload`` is what is to be sent for it, ``answer`` status and JSON."""

    __slots__ = ("answer", "number", "payload", "waits")

    def __init__(self, number: int, payload: bytes, waits: _Waits) -> None:
        self.number = number
        self.payload = payload
        self.waits = waits
        self.answer: tuple[int, memoryview] | None = None

    def is_answered(self) -> bool:
        """Whether it is over."""
        return self.answer is not None


class Channel:
    """One per child. Calls may be made from several threads and coroutines at once."""

    def __init__(self, sock: _socket.socket, send: Send, sends: Callable[[], bool] = lambda: False) -> None:
        """``send`` writes one frame and says whether it could; ``sends`` whether this thread is just doing so."""
        self._sock = sock
        self._send = send
        self._sends = sends
        self._parser = FrameParser({frames.ANSWER: _MAX_ANSWER})
        self._numbers = itertools.count(1)
        self._state = _thread.RLock()  # the program's finalizers run wherever they like
        self._reading = _thread.RLock()
        self._reader: _Blocking | None = None
        self._watched: set[object] = set()
        self._out: dict[int, _Call] = {}
        self._queue: deque[_Call] = deque()
        self._waiting: dict[_Call, None] = {}
        self._window = _FIRST_WINDOW
        self._broken = False

    def request(self, params: dict[str, object]) -> Any:
        """Asks for data of the workflow and returns it. Blocks. Raises `ChannelError`."""
        return self._ask("", msgspec.json.encode(params))

    def call(self, name: str, params: bytes | bytearray, decode: Decode = frames.parse) -> Any:
        """Calls a method by n8n's name, with a JSON array of parameters, and returns what it returned, None if nothing.

        ``decode`` reads the JSON of a success. Blocks. Raises `ChannelError`.
        """
        return self._ask(name, params, decode)

    async def call_async(self, name: str, params: bytes | bytearray, decode: Decode = frames.parse) -> Any:
        """As `call`, from a coroutine: other coroutines of its loop run meanwhile."""
        waits = _async_waits()
        if waits is None:  # nobody else could run
            return self._ask(name, params, decode)
        with self._calling(name, params, waits) as call:
            await self._wait_async(waits, call.is_answered)
        return _result(call, decode)

    # One call

    def _ask(self, name: str, params: bytes | bytearray, decode: Decode = frames.parse) -> Any:
        waits = _Blocking()
        with self._calling(name, params, waits) as call:
            self._wait(waits, call.is_answered)
        return _result(call, decode)

    @contextmanager
    def _calling(self, name: str, params: bytes | bytearray, waits: _Waits) -> Iterator[_Call]:
        if self._is_inside():
            raise ChannelError(_INSIDE)
        number = next(self._numbers)
        call = _Call(number, frames.call(number, name, params), waits)
        with self._state:
            self._queue.append(call)
            self._waiting[call] = None
            self._send_queued()
        try:
            yield call
        finally:
            with self._state:
                del self._waiting[call]
                with suppress(ValueError):  # it has been sent
                    self._queue.remove(call)

    def _is_inside(self) -> bool:
        """Whether this thread is in the middle of something here, so that it would wait for itself.

        Signal handlers and finalizers of the program run wherever their thread happens to be.
        """
        reader = self._reader
        reads = reader is not None and reader.thread == _thread.get_ident()
        return reads or held(self._reading) or held(self._state) or self._sends()

    def _send_queued(self) -> None:
        """Sends calls that wait, as many as there is room for. What was given up still counts until it is answered.

        Whoever makes room sends: the caller may be a coroutine whose loop stands still.
        """
        while self._queue and len(self._out) < self._window:
            call = self._queue.popleft()
            payload, call.payload = call.payload, b""
            self._out[call.number] = call
            try:
                sent = not self._broken and self._send(frames.CALL, payload)
            except BaseException:
                self._break_off()
                raise
            if not sent:
                del self._out[call.number]
                call.answer = _BROKEN if self._broken else _UNSENT, memoryview(b"")
                call.waits.wake()

    # Reading: whoever waits first reads for all; when it leaves, the others are woken, and one of them goes on.
    # A coroutine only watches the socket and leaves it to a thread that blocks, which may be its own. One coroutine
    # of each loop watches: a loop that stands still, or was stopped, must not keep the answers of another.

    def _wait(self, waits: _Blocking, done: Callable[[], bool]) -> None:
        try:
            while not done():
                with self._state:
                    if self._reader is None:
                        self._reader = waits
                if self._reader is not waits:
                    waits.woken()
                    continue
                while not done():
                    with self._reading:
                        if not done():  # a coroutine may just have read its answer, and no other need ever come
                            self._read()
        finally:
            if self._reader is waits:
                self._reader = None
                self._wake_all()

    async def _wait_async(self, waits: _AsyncWaits, done: Callable[[], bool]) -> None:
        while not done():
            waits.renew()
            with self._state:
                if watching := self._reader is None and waits.loop not in self._watched:
                    self._watched.add(waits.loop)
            if not watching:
                await waits.wait(None)
                continue
            try:
                while not done() and self._reader is None:
                    await waits.wait(self._sock.fileno())
                    waits.renew()
                    if self._reading.acquire(blocking=False):
                        try:
                            self._read(_socket.MSG_DONTWAIT)
                        finally:
                            self._reading.release()
            finally:
                self._watched.discard(waits.loop)
                self._wake_all()

    def _wake_all(self) -> None:
        with self._state:
            for call in list(self._waiting):  # a finalizer may end the wait of a coroutine that was forgotten
                call.waits.wake()

    def _read(self, flags: int = 0) -> None:
        """Takes what one read brings, and waits for it unless told otherwise."""
        if not flags:
            with suppress(ConnectionResetError):  # comes again
                self._sock.recv(1, _socket.MSG_PEEK)  # takes nothing yet: what a signal handler raises here, it may
        whole = False
        try:
            self._take_some()
            whole = True
        finally:
            if not whole:
                self._break_off()

    def _take_some(self) -> None:
        room = self._parser.room
        try:
            if room is None:
                data = self._sock.recv(_RECEIVE, _socket.MSG_DONTWAIT)
                complete = self._parser.feed(data) if data else None
            else:
                count = self._sock.recv_into(room, 0, _socket.MSG_DONTWAIT)
                complete = self._parser.fill(count) if count else None
        except BlockingIOError:
            return
        except ConnectionResetError:
            complete = None
        if complete is None:
            os._exit(0)  # the runner is gone: nobody is interested any more
        for _, payload in complete:
            self._take(*frames.split_answer(payload))

    def _break_off(self) -> None:
        """What was read or sent is not whole: a signal handler raised an exception, or there was no memory.

        What comes next would be taken for something else, so nothing is asked any more.
        """
        with self._state:
            self._broken = True
            self._out.clear()
            self._queue.clear()
            for call in list(self._waiting):
                if call.answer is None:
                    call.answer = _BROKEN, memoryview(b"")
                    call.waits.wake()

    def _take(self, number: int, status: int, body: memoryview) -> None:
        with self._state:
            size = len(body)
            self._window = max(1, _AT_ONCE // size) if size > _LARGE else self._window + 1
            self._window = min(self._window, frames.MAX_CALLS_IN_FLIGHT)
            call = self._out.pop(number, None)
            if call is not None:
                call.answer = status, body
                call.waits.wake()
            self._send_queued()


def _result(call: _Call, decode: Decode) -> Any:
    assert call.answer is not None
    status, body = call.answer
    call.answer = None  # a large one is not held while it is decoded by somebody who is done with it
    if status == _UNSENT:
        raise ChannelError("The task is over, or in the middle of another call: nothing can be asked now")
    if status == _BROKEN:
        raise ChannelError(
            "An exception came in the middle of an earlier answer or call: nothing can be asked any more"
        )
    if status != frames.SUCCESS:
        raise ChannelError(frames.parse(body) if len(body) else None)
    return decode(body) if len(body) else None


class _Blocking:
    """A thread that waits."""

    def __init__(self) -> None:
        self.thread = _thread.get_ident()
        self._lock = _thread.allocate_lock()
        self._lock.acquire()

    def wake(self) -> None:
        with suppress(RuntimeError):  # it has been woken already and has not run yet
            self._lock.release()

    def woken(self) -> None:
        """Waits for `wake`, which may have come before."""
        self._lock.acquire()


class _AsyncWaits(_Waits, Protocol):
    """A coroutine that waits."""

    @property
    def loop(self) -> object:
        """What it runs under."""

    def renew(self) -> None:
        """Forgets earlier calls of `wake`."""

    async def wait(self, readable: int | None) -> None:
        """Waits for `wake` since the last `renew`, or until there is something to read from this descriptor."""


class _AsyncioWaits:
    """Under asyncio, or under a loop that takes its place."""

    def __init__(self, asyncio: Any, loop: Any) -> None:
        self.loop = loop
        self._event = asyncio.Event()

    def wake(self) -> None:
        with suppress(RuntimeError):  # its loop is closed, and nobody waits
            self.loop.call_soon_threadsafe(self._event.set)

    def renew(self) -> None:
        self._event.clear()

    async def wait(self, readable: int | None) -> None:
        if readable is None:
            await self._event.wait()
            return
        self.loop.add_reader(readable, self._event.set)
        try:
            await self._event.wait()
        finally:
            self.loop.remove_reader(readable)


class _TrioWaits:
    """Under trio."""

    def __init__(self, trio: Any) -> None:
        self._trio = trio
        self.loop = trio.lowlevel.current_trio_token()
        self.renew()

    def wake(self) -> None:
        with suppress(self._trio.RunFinishedError):  # nobody waits
            self.loop.run_sync_soon(self._woken)

    def _woken(self) -> None:
        self._scope.cancel()

    def renew(self) -> None:
        self._scope = self._trio.CancelScope()

    async def wait(self, readable: int | None) -> None:
        with self._scope:
            if readable is None:
                await self._trio.sleep_forever()
            await self._trio.lowlevel.wait_readable(readable)


def _async_waits() -> _AsyncWaits | None:
    """How to wait under the event loop that runs here, or None when none does. Imports neither of them."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        return _TrioWaits(trio)
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:
        with suppress(RuntimeError):
            return _AsyncioWaits(asyncio, asyncio.get_running_loop())
    return None
