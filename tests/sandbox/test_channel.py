"""The channel against a runner that answers in any order: threads, coroutines, and both at once."""

from __future__ import annotations

import _socket
import asyncio
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import trio
import trio.lowlevel

from trio_runner.sandbox import channel, frames
from trio_runner.sandbox.channel import Channel, ChannelError
from trio_runner.sandbox.frames import FrameParser

ROOT = Path(__file__).parent.parent.parent
LIMIT = 10
BIG = b'"' + b"x" * 3_000_000 + b'"'


class Echo:
    """The other end: answers each call with its parameters, those that came together in any order.

    ``big``: with three megabytes; ``bad``: with an error; ``never``: not at all, until `let_go`.
    """

    def __init__(self) -> None:
        self.ours, theirs = _socket.socketpair()
        self._lock = threading.Lock()
        self._theirs = theirs
        self.over = False
        self.most = 0
        self._held: list[int] = []
        self.when_held: Callable[[], object] = lambda: None
        self.channel = Channel(theirs, self._send)
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def _send(self, kind: int, payload: bytes) -> bool:
        with self._lock:
            if self.over:
                return False
            self.most = max(self.most, len(self.channel._out))
            frames.send(self._theirs, kind, payload)
            return True

    def _answer(self) -> None:
        parser = FrameParser({frames.CALL: 1 << 30})
        shuffle = random.Random(7).shuffle
        while data := self.ours.recv(65536):
            calls = [frames.split_call(payload) for _, payload in parser.feed(data)]
            shuffle(calls)
            for number, name, params in calls:
                if name == "never":
                    self._held.append(number)
                    self.when_held()
                else:
                    self._say(
                        number, frames.ERROR if name == "bad" else frames.SUCCESS, BIG if name == "big" else params
                    )

    def _say(self, number: int, status: int, body: bytes | memoryview) -> None:
        with suppress(BrokenPipeError):  # who asked did not wait for it, and the test is over
            self.ours.sendall(b"".join((frames.answer_head(number, status, len(body)), body)))

    def let_go(self) -> None:
        """Answers what was held back."""
        while self._held:
            self._say(self._held.pop(), frames.SUCCESS, b"0")

    def close(self) -> None:
        self.ours.shutdown(_socket.SHUT_RDWR)
        self._thread.join(LIMIT)
        self.ours.close()
        self._theirs.close()


def _end_of_the_thread(_code: int) -> None:
    raise SystemExit


@contextmanager
def echoing() -> Iterator[Echo]:
    """What would end a child when the runner is gone ends a thread that still waits, and not all of these tests."""
    echo = Echo()
    with patch.object(channel, "os", SimpleNamespace(_exit=_end_of_the_thread)):
        try:
            yield echo
        finally:
            echo.close()


def in_threads(count: int, work: object) -> None:
    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()


def test_a_call_returns_what_it_is_answered() -> None:
    with echoing() as echo:
        assert echo.channel.request({"a": 1}) == {"a": 1}
        assert echo.channel.call("x", b"[1,2]") == [1, 2]
        assert echo.channel.call("x", b"") is None
        assert len(echo.channel.call("big", b"[]")) == 3_000_000
        assert echo.channel.call("x", b"[1]", bytes) == b"[1]"


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (b'{"message":"no"}', "no"),
        (b'"Method not allowed"', "Method not allowed"),
        (b"{}", "gave no reason"),
        (b"", "gave no reason"),
    ],
)
def test_an_answer_that_is_an_error_is_raised_with_what_was_said(said: bytes, text: str) -> None:
    with echoing() as echo, pytest.raises(ChannelError, match=text) as caught:
        echo.channel.call("bad", said)
    assert caught.value.data == (frames.parse(said) if said else None)


def test_nothing_can_be_asked_when_the_task_is_over() -> None:
    with echoing() as echo:
        echo.over = True
        for _ in range(100):  # and none of them counts as out
            with pytest.raises(ChannelError, match="over"):
                echo.channel.call("x", b"[]")
        echo.over = False
        assert echo.channel.call("x", b"[1]") == [1]


def test_each_thread_gets_its_own_answers() -> None:
    with echoing() as echo:

        def work() -> None:
            mine = threading.get_ident() % 1000
            for number in range(50):
                assert echo.channel.call("x", b"[%d,%d]" % (mine, number)) == [mine, number]

        in_threads(8, work)


def test_no_more_calls_are_out_at_once_than_the_runner_takes() -> None:
    with echoing() as echo:

        async def many() -> list[object]:
            return list(await asyncio.gather(*[echo.channel.call_async("x", b"[%d]" % n) for n in range(300)]))

        assert asyncio.run(many()) == [[n] for n in range(300)]
        assert 1 < echo.most <= frames.MAX_CALLS_IN_FLIGHT


def test_the_next_calls_are_fewer_after_a_large_answer_and_more_after_each_small_one() -> None:
    with echoing() as echo:
        echo.channel._take(0, frames.SUCCESS, memoryview(bytes(70_000_000)))
        assert echo.channel._window == 1
        in_threads(4, lambda: echo.channel.call("x", b"[]"))
        assert echo.channel._window == 5


async def _rounds(channel: Channel, number: int) -> None:
    for _ in range(10):
        assert await channel.call_async("x", b"[%d]" % number) == [number]


def _blocking(channel: Channel) -> None:
    for _ in range(20):
        assert channel.call("x", b"[7]") == [7]


def test_asyncio_its_threads_and_calls_that_block_its_loop_share_one_channel() -> None:
    async def main(channel: Channel) -> None:
        rounds = [asyncio.create_task(_rounds(channel, number)) for number in range(12)]
        await asyncio.sleep(0)
        for _ in range(20):
            assert channel.call("x", b"[5]") == [5]
            await asyncio.sleep(0)
        async with asyncio.timeout(LIMIT):
            await asyncio.gather(*rounds, *[asyncio.to_thread(_blocking, channel) for _ in range(3)])

    with echoing() as echo:
        asyncio.run(main(echo.channel))
        assert not echo.channel._out


def test_trio_its_threads_and_calls_that_block_its_loop_share_one_channel() -> None:
    async def main(channel: Channel) -> None:
        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                for number in range(12):
                    nursery.start_soon(_rounds, channel, number)
                for _ in range(3):
                    nursery.start_soon(trio.to_thread.run_sync, _blocking, channel)
                for _ in range(20):
                    assert channel.call("x", b"[5]") == [5]
                    await trio.lowlevel.checkpoint()

    with echoing() as echo:
        trio.run(main, echo.channel)
        assert not echo.channel._out


class _Interrupted:
    """A lock before and after which other threads may get ahead."""

    def __init__(self, lock: Any, pause: Callable[[], None]) -> None:
        self._lock = lock
        self._pause = pause

    def _is_owned(self) -> bool:
        return bool(self._lock._is_owned())

    def acquire(self, *, blocking: bool) -> bool:
        self._pause()
        return bool(self._lock.acquire(blocking=blocking))

    def release(self) -> None:
        self._lock.release()
        self._pause()

    def __enter__(self) -> None:
        self._pause()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", range(3))
def test_threads_and_coroutines_are_all_answered_however_they_overtake_one_another(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed).random

    def pause() -> None:
        if chance() < 0.2:
            time.sleep(chance() * 0.001)

    def is_answered(call: channel._Call) -> bool:
        answered = call.answer is not None
        pause()
        return answered

    async def main(echo: Echo) -> None:
        for _ in range(100):  # and each time nothing else is under way that would wake who was forgotten
            async with trio.open_nursery() as nursery:
                nursery.start_soon(echo.channel.call_async, "x", b"[1]")
                nursery.start_soon(trio.to_thread.run_sync, echo.channel.call, "x", b"[2]")
        assert not echo.channel._out

    monkeypatch.setattr(channel._Call, "is_answered", is_answered)
    with echoing() as echo:
        for lock in ("_state", "_reading"):
            monkeypatch.setattr(echo.channel, lock, _Interrupted(getattr(echo.channel, lock), pause))
        trio.run(main, echo)


class _Overtaken:
    """The lock of whoever reads, which a coroutine always takes a moment before a thread that blocks."""

    def __init__(self, channel: Channel, sock: _socket.socket) -> None:
        self._channel = channel
        self._sock = sock
        self.times = 0

    def _is_owned(self) -> bool:
        return False

    def __enter__(self) -> None:
        if self.times == 0:
            assert select.select([self._sock], [], [], LIMIT)[0]
            self._channel._read(_socket.MSG_DONTWAIT)
        self.times += 1

    def __exit__(self, *_: object) -> None:
        pass


def test_a_thread_does_not_wait_for_an_answer_that_a_coroutine_has_read_for_it() -> None:
    with echoing() as echo:
        overtaken = echo.channel._reading = _Overtaken(echo.channel, echo._theirs)  # type: ignore[assignment]
        in_threads(1, lambda: echo.channel.call("x", b"[1]"))
        assert overtaken.times == 1


@contextmanager
def signalled(handler: Callable[[], object]) -> Iterator[None]:
    """The handler runs in this thread at its next step, wherever that is."""
    before = signal.signal(signal.SIGUSR1, lambda *_: handler())
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.timeout(3 * LIMIT)
def test_a_signal_handler_cannot_call_while_its_thread_reads_and_the_call_under_way_is_answered() -> None:
    with echoing() as echo:

        def handler() -> None:
            with pytest.raises(ChannelError, match="signal handler"):
                echo.channel.call("x", b"[1]")
            with pytest.raises(ChannelError, match="signal handler"):
                asyncio.run(echo.channel.call_async("x", b"[1]"))
            echo.let_go()

        with signalled(handler):
            echo.when_held = lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            assert echo.channel.call("never", b"[]") == 0
        assert echo.channel.call("x", b"[2]") == [2]


@pytest.mark.timeout(3 * LIMIT)
def test_a_signal_handler_may_end_a_call_that_waits_and_the_next_ones_are_answered() -> None:
    def handler() -> None:
        raise TimeoutError

    def when_it_waits() -> None:
        while echo.channel._reading.acquire(blocking=False):
            echo.channel._reading.release()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    with echoing() as echo, signalled(handler):
        echo.when_held = when_it_waits
        for number in range(3):
            with pytest.raises(TimeoutError):
                echo.channel.call("never", b"[]")
            assert echo.channel.call("x", b"[%d]" % number) == [number]


def test_nobody_waits_for_what_was_lost_when_an_answer_was_read_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[str] = []

    def lost(_: bytes) -> Iterator[tuple[int, bytes | memoryview]]:
        monkeypatch.undo()
        raise MemoryError

    def work(channel: Channel) -> None:
        try:
            channel.call("x", b"[1]")
        except (MemoryError, ChannelError) as error:
            raised.append(str(error))

    with echoing() as echo:
        monkeypatch.setattr(echo.channel._parser, "feed", lost)
        in_threads(3, lambda: work(echo.channel))
        raised.sort()
        assert raised == ["", raised[1], raised[1]]
        assert "in the middle of an earlier" in raised[1]


def test_nothing_is_asked_any_more_when_a_call_was_sent_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(*_: object) -> bool:
        raise TimeoutError

    with echoing() as echo:
        monkeypatch.setattr(echo.channel, "_send", cut_off)
        with pytest.raises(TimeoutError):
            echo.channel.call("x", b"[1]")
        monkeypatch.undo()
        with pytest.raises(ChannelError, match="in the middle of an earlier"):
            echo.channel.call("x", b"[1]")


def test_a_finalizer_that_calls_in_the_middle_of_an_answer_gets_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[ChannelError] = []

    async def main(echo: Echo) -> None:
        assert await echo.channel.call_async("x", b"[2]") == [2]

    with echoing() as echo:
        feed = echo.channel._parser.feed

        def interrupted(data: bytes) -> Iterator[tuple[int, bytes | memoryview]]:
            with pytest.raises(ChannelError, match="finalizer") as caught:
                echo.channel.call("x", b"[1]")
            refused.append(caught.value)
            return feed(data)

        monkeypatch.setattr(echo.channel._parser, "feed", interrupted)
        in_threads(1, lambda: echo.channel.call("x", b"[1]"))
        trio.run(main, echo)
        assert len(refused) == 2


def test_a_loop_that_was_stopped_in_the_middle_of_a_call_keeps_no_answers_of_another() -> None:
    async def soon(task: asyncio.Task[object]) -> None:
        await asyncio.wait([task], timeout=0.01)

    async def at_last(channel: Channel) -> object:
        async with asyncio.timeout(LIMIT):
            return await channel.call_async("x", b"[1]")

    with echoing() as echo:
        stopped = asyncio.new_event_loop()
        task = stopped.create_task(echo.channel.call_async("never", b"[]"))
        stopped.run_until_complete(soon(task))
        assert asyncio.run(at_last(echo.channel)) == [1]
        echo.let_go()
        assert stopped.run_until_complete(task) == 0
        stopped.close()


def test_a_loop_may_stand_still_until_another_thread_has_run_one_of_its_own() -> None:
    async def main(channel: Channel) -> None:
        for first in ("never", "x"):
            task = asyncio.create_task(channel.call_async(first, b"[1]"))
            await asyncio.wait([task], timeout=0.01)
            in_threads(1, lambda: asyncio.run(channel.call_async("x", b"[2]")))
            in_threads(1, lambda: trio.run(channel.call_async, "x", b"[3]"))
        echo.let_go()

    with echoing() as echo:
        asyncio.run(main(echo.channel))


def test_a_call_that_was_given_up_takes_nobody_elses_answer_and_makes_room_when_it_is_answered() -> None:
    async def main(echo: Echo) -> None:
        for _ in range(3):
            with trio.move_on_after(0.01):
                await echo.channel.call_async("never", b"[]")
        assert await echo.channel.call_async("x", b"[1]") == [1]
        assert len(echo.channel._out) == 3
        echo.let_go()
        assert await echo.channel.call_async("x", b"[2]") == [2]
        assert not echo.channel._out

    with echoing() as echo:
        trio.run(main, echo)


def test_one_who_waits_goes_on_when_the_one_who_read_for_all_gives_up() -> None:
    async def main(echo: Echo) -> None:
        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                with trio.CancelScope() as first:
                    nursery.start_soon(_rounds, echo.channel, 3)
                    nursery.start_soon(trio.to_thread.run_sync, _blocking, echo.channel)
                    first.deadline = trio.current_time() + 0.02
                    await echo.channel.call_async("never", b"[]")

    with echoing() as echo:
        trio.run(main, echo)


def test_the_process_ends_when_the_runner_is_gone() -> None:
    program = (
        "import _socket; from trio_runner.sandbox.channel import Channel; "
        "ours, theirs = _socket.socketpair(); ours.close(); "
        "Channel(theirs, lambda kind, payload: True).call('x', b'[]'); print('still here')"
    )
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("", "")
