"""One n8n as a runner sees it: a port on which one embedded broker after the other lives and dies."""

from __future__ import annotations

import trio

from tests.chaos.ledger import Ledger, WatchedBroker
from trio_runner.localbroker import LocalBroker, OnPrint
from trio_runner.protocol.broker import BrokerTerms
from trio_runner.protocol.messages import ResultData

AUTH_TOKEN = "chaos"
TERMS = BrokerTerms(request_timeout=40.0, accept_timeout=2.0, requester_timeout=2.0, task_timeout=30.0)


class BrokerGoneError(Exception):
    """The broker died with the caller's task."""


class Site:
    """Where a runner's broker is, if it is."""

    def __init__(self, port: int, ledger: Ledger) -> None:
        self.port = port
        self.ledger = ledger
        self._nursery: trio.Nursery | None = None
        self._life: _Life | None = None

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Has a place for brokers until cancelled, and a first one in it."""
        async with trio.open_nursery() as self._nursery:
            await self.start()
            task_status.started()
            await trio.sleep_forever()

    async def start(self) -> None:
        """A broker starts, with no memory of the one before."""
        assert self._nursery is not None
        life = _Life(self.ledger)
        await self._nursery.start(life.run, self.port)
        self._life = life

    async def kill(self) -> None:
        """The broker ends without a word, as by SIGKILL: its sockets are closed, its callers are gone."""
        life, self._life = self._life, None
        if life is not None:
            await life.end()

    async def drain(self, *, patience: float) -> None:
        """The broker says that it is stopping, waits for its tasks, closes with 1001 and ends."""
        life = self._life
        if life is not None:
            life.broker.drain()
            with trio.move_on_after(patience):
                while life.machine.open_tasks:
                    await self.ledger.news.wait()
            await life.broker.disconnect(1001)
        await self.kill()

    async def close_runners(self, code: int) -> None:
        """The broker throws its runners out and stays."""
        if self._life is not None:
            await self._life.broker.disconnect(code)

    def in_view(self) -> int:
        """Slots that the broker knows of; 0 while there is none."""
        return self._life.machine.in_view(trio.current_time()) if self._life is not None else 0

    def busy(self) -> int:
        """Slots that were taken up here, or are about to be."""
        return len(self._life.machine.open_tasks) + self.ledger.unanswered() if self._life is not None else 0

    def at_rest(self, capacity: int) -> bool:
        """Whether the broker has no task and just so many offers."""
        if self._life is None:
            return False
        machine = self._life.machine
        return not machine.open_tasks and machine.open_offers(trio.current_time()) == capacity

    async def call(self, settings: bytes, on_print: OnPrint | None = None) -> ResultData:
        """Runs one task. Raises as `LocalBroker.run_task` does, or `BrokerGoneError`."""
        if self._life is None:
            raise BrokerGoneError
        return await self._life.call(settings, on_print)


class _Life:
    """One broker from its start to its end."""

    def __init__(self, ledger: Ledger) -> None:
        self.machine = WatchedBroker(ledger, TERMS)
        self.broker = LocalBroker(auth_token=AUTH_TOKEN, machine=self.machine)
        self._scope = trio.CancelScope()
        self._calls: set[trio.CancelScope] = set()
        self._over = trio.Event()

    async def run(self, port: int, *, task_status: trio.TaskStatus[int]) -> None:
        with self._scope:
            await self.broker.serve(port, task_status=task_status)
        self._over.set()

    async def end(self) -> None:
        self._scope.cancel()
        await self._over.wait()
        for call in self._calls:
            call.cancel()

    async def call(self, settings: bytes, on_print: OnPrint | None) -> ResultData:
        with trio.CancelScope() as scope:
            self._calls.add(scope)
            try:
                return await self.broker.run_task(settings, on_print)
            finally:
                self._calls.discard(scope)
        raise BrokerGoneError
