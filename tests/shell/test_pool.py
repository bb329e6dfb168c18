"""The pool's side of the talk with its zygote, which is a socket here: when it asks, and when it gives up."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.shell.shell_kit import our_records
from trio_runner import pool as pool_module
from trio_runner.pool import FORK_LIMIT, PING_AFTER, QUIET, Pool
from trio_runner.sandbox.policy import Policy
from trio_runner.sandbox.records import CHILD, EXIT, FORK, FORK_FAILED, KILL, PING, PONG, RECORD

TARGET = 5


class Zygote:
    """What the other end of the socket sees and says."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._pid = 1000

    def heard(self) -> list[tuple[int, int]]:
        """Kind and number of what came since the last time, but for the end of workers that were used."""
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            return []
        return [(kind, number) for kind, number, _, _ in RECORD.iter_unpack(data) if kind != KILL]

    def make(self, count: int) -> None:
        """Says that there are ``count`` more children."""
        for _ in range(count):
            self._pid += 1
            ours, theirs = socket.socketpair()
            with ours, theirs:
                socket.send_fds(self._sock, [RECORD.pack(CHILD, self._pid, 0, 0)], [ours.fileno()])

    def lose(self) -> None:
        """Says that the last child is dead."""
        self._sock.send(RECORD.pack(EXIT, self._pid, signal.SIGKILL, 0))

    def say(self, kind: int, status: int = 0) -> None:
        """One bare record."""
        self._sock.send(RECORD.pack(kind, 0, status, 0))


@asynccontextmanager
async def listening(*, idle: int = TARGET) -> AsyncIterator[tuple[Pool, Zygote, trio.Event]]:
    """A pool that talks to a `Zygote`; the event says that it has given it up."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    pool = Pool(Policy(), max_payload=1000, idle=idle)
    gone = trio.Event()

    async def listen() -> None:
        await pool._serve_zygote(ours)
        gone.set()

    with ours, theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            yield pool, Zygote(theirs), gone
            nursery.cancel_scope.cancel()
        pool._forget_all()


async def settled() -> None:
    """Everything that was sent has been taken."""
    await trio.testing.wait_all_tasks_blocked()


async def use(pool: Pool, count: int) -> None:
    """So many tasks, one after the other."""
    for _ in range(count):
        async with pool.lease():
            pass


async def test_all_workers_are_asked_for_at_once_in_the_beginning(autojump_clock: trio.testing.MockClock) -> None:
    async with listening() as (pool, zygote, _):
        assert zygote.heard() == [(FORK, TARGET)]
        zygote.make(TARGET)
        await settled()
        assert pool.idle == TARGET


async def test_workers_are_replaced_several_at_a_time(autojump_clock: trio.testing.MockClock) -> None:
    async with listening() as (pool, zygote, _):
        zygote.heard()
        zygote.make(TARGET)
        await settled()
        await use(pool, 2)
        assert (zygote.heard(), pool.idle) == ([], 3)
        await use(pool, 1)
        assert zygote.heard() == [(FORK, 3)]


async def test_in_a_quiet_moment_the_last_missing_ones_are_made(autojump_clock: trio.testing.MockClock) -> None:
    async with listening() as (pool, zygote, _):
        zygote.heard()
        zygote.make(TARGET)
        await settled()
        await use(pool, 1)
        await trio.sleep(QUIET * 0.9)
        await use(pool, 1)
        await trio.sleep(QUIET * 0.9)
        assert zygote.heard() == [], "there was no quiet moment yet"
        await trio.sleep(QUIET * 0.2)
        assert zygote.heard() == [(FORK, 2)]


async def test_who_waits_is_not_made_to_wait_for_a_quiet_moment(autojump_clock: trio.testing.MockClock) -> None:
    async with listening(idle=4) as (pool, zygote, _):
        zygote.heard()
        zygote.make(1)
        await settled()
        async with pool.lease(), trio.open_nursery() as nursery:
            nursery.start_soon(use, pool, 1)
            await settled()
            assert zygote.heard() == [(FORK, 2)], "one for the waiting task, one for the task that runs"
            zygote.make(1)


async def test_a_silent_zygote_is_asked_and_given_up_when_it_does_not_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with listening() as (_, zygote, gone):
        zygote.heard()
        zygote.make(TARGET)
        await settled()
        for _ in range(3):
            await trio.sleep(PING_AFTER + 0.1)
            assert zygote.heard() == [(PING, 0)]
            zygote.say(PONG)
            await settled()
        await trio.sleep(PING_AFTER + FORK_LIMIT - 0.2)
        assert zygote.heard() == [(PING, 0)]
        assert not gone.is_set()
        await trio.sleep(0.3)
        assert gone.is_set()


async def test_a_zygote_that_does_not_fork_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with listening() as (_, _zygote, gone):
        await trio.sleep(FORK_LIMIT - 0.1)
        assert not gone.is_set()
        await trio.sleep(0.2)
        assert gone.is_set()


async def test_a_zygote_that_cannot_fork_is_asked_ever_less_often_and_no_tasks_are_wanted_meanwhile(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with listening() as (pool, zygote, gone):
        told: list[bool] = []
        pool.changed = lambda: told.append(pool.alive)
        asked: list[float] = []
        while len(asked) < 7:
            if zygote.heard() == [(FORK, TARGET)]:
                asked.append(trio.current_time())
                for _ in range(TARGET):
                    zygote.say(FORK_FAILED)
            await trio.sleep(0.01)
        waits = [after - before for before, after in itertools.pairwise(asked)]
        assert waits == pytest.approx([0.2, 0.4, 0.8, 1.6, 2, 2], abs=0.02)
        assert told == [False]
        assert not gone.is_set()
        await trio.sleep(2.1)
        assert zygote.heard() == [(FORK, TARGET)]
        zygote.make(1)
        await settled()
        assert told == [False, True]


async def test_a_night_without_room_for_a_worker_ends_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with listening(idle=1) as (pool, zygote, gone):
        asked = 0
        with our_records() as records:
            while trio.current_time() < 3600:
                for _ in zygote.heard():
                    zygote.say(FORK_FAILED, status=errno.EAGAIN)
                    asked += 1
                await trio.sleep(2.1)
        assert asked > sys.float_info.max_exp, "waits that doubled each time would be no numbers any more"
        assert set(records.lines) == {
            "There is one worker less: no more processes are allowed (ulimit -u, or the container's limit of pids)"
        }
        assert 300 < len(records.lines) <= 361, "a line in ten seconds, not one each time"
        assert not gone.is_set()
        zygote.make(1)
        await settled()
        assert pool.idle == 1


async def test_a_night_in_which_all_idle_workers_die_ends_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with listening(idle=1) as (pool, zygote, gone):
        died = 0
        while trio.current_time() < 3600:
            if (FORK, 1) in zygote.heard():
                zygote.make(1)
                zygote.lose()
                died += 1
            await trio.sleep(2.1)
        assert died > sys.float_info.max_exp
        assert not gone.is_set()
        zygote.make(1)
        await settled()
        assert pool.idle == 1


async def test_who_is_overtaken_by_other_tasks_gets_a_worker_that_is_made_for_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """With fewer spare workers than tasks, as an environment of its own has them."""
    for _ in range(60):  # trio tosses a coin for who runs first
        if await _overtaken():
            return
    pytest.fail("who waited was the first each time")


async def _overtaken() -> bool:
    """Takes the workers that are made for one that waits, if it is not quicker, and sees that it gets another."""
    async with listening(idle=2) as (pool, zygote, _), trio.open_nursery() as nursery:

        async def occupy() -> None:
            async with pool.lease():
                await trio.sleep_forever()

        zygote.heard()
        zygote.make(2)
        await settled()
        nursery.start_soon(occupy)
        nursery.start_soon(occupy)
        await settled()
        done = trio.Event()

        async def wait() -> None:
            await use(pool, 1)
            done.set()

        nursery.start_soon(wait)
        await settled()
        assert zygote.heard() == [(FORK, 3)]
        zygote.make(3)
        while pool.idle < 3 and not done.is_set():  # the moment in which they are there and who waits has not run yet
            await trio.lowlevel.cancel_shielded_checkpoint()
        slower = not done.is_set()
        if slower:
            async with pool.lease(), pool.lease(), pool.lease():
                await settled()
                assert zygote.heard() == [(FORK, 3)]
                zygote.make(3)
                with trio.fail_after(1):
                    await done.wait()
        nursery.cancel_scope.cancel()
        return slower


async def test_a_worker_that_could_not_be_made_keeps_no_task_from_those_that_are_there(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with listening() as (pool, zygote, _):
        zygote.heard()
        zygote.make(TARGET - 1)
        zygote.say(FORK_FAILED)
        await settled()
        assert pool.alive
        await trio.sleep(0.21)
        assert zygote.heard() == [(FORK, 1)]


@pytest.mark.e2e
async def test_a_zygote_that_was_stopped_is_replaced_also_while_nobody_needs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "PING_AFTER", 0.2)
    monkeypatch.setattr(pool_module, "FORK_LIMIT", 0.5)
    pool = Pool(Policy(), max_payload=1000, idle=1)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.run)
            stopped = pool.zygote_pid
            assert stopped is not None
            while pool.idle < 1:  # noqa: ASYNC110 - the pool tells nobody
                await trio.sleep(0.01)
            os.kill(stopped, signal.SIGSTOP)
            while pool.zygote_pid in (None, stopped):  # noqa: ASYNC110
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert pool.restarts == 1
