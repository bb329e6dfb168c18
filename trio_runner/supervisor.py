"""The root nursery: everything that runs has its place in this tree.

    Runner.run
    ├─ Runner._watch_signals    ├─ serve_health    ├─ Pool.run ── the zygote's process    ├─ IdleClock.run
    ├─ Runner._lose_patience    ├─ Environments.run ── a build or a Pool.run, one per environment
    ├─ Links._watch_names
    │    └─ NameWatch.run, one per name behind which there may be several brokers
    └─ Links._serve, one per broker: logs in, connects, and takes the broker's messages
         ├─ WebSocketConnection._reader_task    ├─ Dispatcher.emit_offers    ├─ Link._keep_alive
         ├─ _write_messages
         └─ Dispatcher._execute, one per task, each with its own CancelScope

Shutdown goes from left to right: offers stop, tasks finish within the graceful timeout, results are written,
connections close, services end. A deadline, not a flag, ends what does not end by itself.
"""

from __future__ import annotations

import math
import os
import secrets
import signal
import socket
import string
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import trio
from msgspec.structs import replace

from trio_runner import __version__
from trio_runner.config import Config, without_secrets
from trio_runner.counters import Counters
from trio_runner.errors import FatalError
from trio_runner.executor import Executor
from trio_runner.health import Readiness, serve_health
from trio_runner.link import Link
from trio_runner.links import Links
from trio_runner.log import get_logger
from trio_runner.pool import Pool
from trio_runner.protocol.backoff import ReconnectTerms
from trio_runner.protocol.session import OfferTerms
from trio_runner.protocol.slots import Slots
from trio_runner.sandbox.policy import Confinement

if TYPE_CHECKING:
    from trio_runner.statuspage import StatusPage

log = get_logger("supervisor")

CUT_OFF_LIMIT = 2.0
"""Seconds that are left, after the graceful timeout, to tell n8n what was cut off."""
CUT_OFF_REASON = "The runner was stopped before this task was done"
IDLE_SHUTDOWN_LIMIT = 3.0
"""Seconds that an idle shutdown may take (runner-behaviour 3)."""
ENVELOPE = 1024
"""Bytes that a message needs around a result: a frame beyond the limit would cost the whole connection."""
_ID_ALPHABET = string.ascii_letters + string.digits


class IdleClock:
    """The idle auto-shutdown: a cancel scope whose deadline moves with what goes on (runner-behaviour 3)."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._scope = trio.CancelScope()

    def update(self, *, busy: bool, registered: bool) -> None:
        """Something happened: the time starts anew, or stands still while there is work or no broker."""
        running = self._timeout > 0 and registered and not busy
        self._scope.deadline = trio.current_time() + self._timeout if running else math.inf

    async def run(self, expired: Callable[[], None]) -> None:
        """Calls ``expired`` once, when nothing happened for the timeout."""
        with self._scope:
            await trio.sleep_forever()
        if self._scope.cancelled_caught:
            log.info("Reached idle timeout, starting shutdown...")
            expired()


class Runner:
    """One runner: its slots, its pool, its links. `run` is its whole life."""

    def __init__(
        self,
        config: Config,
        *,
        environment: dict[str, str] | None = None,
        terms: OfferTerms | None = None,
        reconnect: ReconnectTerms | None = None,
        spare_workers: int | None = None,
        pool: Pool | None = None,
        executor: Executor | None = None,
    ) -> None:
        """``pool`` and ``executor`` take the place of those that the configuration asks for, in tests."""
        self._config = config
        self.counters = Counters()
        self._slots = Slots(config.max_concurrency)
        idle = config.max_concurrency if spare_workers is None else spare_workers
        max_result = max(1, config.max_payload - ENVELOPE)
        self._make_pool = partial(
            Pool,
            config.policy,
            max_payload=max_result,
            environment=_child_environment(environment or {}, blocked=config.policy.block_env),
            confinement=confinement_of(config),
            preload=config.preload,
            counters=self.counters,
        )
        self.pool = pool or self._make_pool(idle=idle)
        self.pool.changed = self._note_workers
        self._note_workers()
        self._outfitter = self._environments = None
        if config.packages is not None:
            from trio_runner.outfitter import Outfitter

            self._outfitter = Outfitter(config, confinement_of(config), environment or {}, self.counters)
            self._environments = self._outfitter.environments(partial(self._make_pool, idle=min(2, idle)))
        executor = executor or Executor(
            self.pool,
            task_timeout=config.task_timeout,
            max_payload=max_result,
            cpu_limit=confinement_of(config).cpu,
            rules=config.calls,
            counters=self.counters,
            environments=self._environments,
        )
        self._idle_clock = IdleClock(config.auto_shutdown_timeout)
        runner_id = config.runner_id or "".join(secrets.choice(_ID_ALPHABET) for _ in range(22))
        self._links = Links(
            config,
            partial(
                Link,
                config=config,
                runner_id=runner_id,
                slots=self._slots,
                executor=executor,
                activity=self._note_activity,
                terms=terms,
                reconnect=reconnect,
                counters=self.counters,
            ),
        )
        self._root = trio.CancelScope()
        self._preparation = trio.CancelScope()
        self._patience = trio.CancelScope()
        self.tasks_cut_off = 0

    @property
    def slots(self) -> Slots:
        """Capacity and what is taken of it."""
        return self._slots

    def readiness(self) -> Readiness:
        """What `/readyz` answers: whether a task would be taken now."""
        brokers = self._links.states()
        return Readiness(
            ready=self.pool.alive and any(broker.registered for broker in brokers),
            brokers=brokers,
            workers_idle=self.pool.idle,
            workers_busy=self.pool.busy,
            workers_starting=self.pool.starting,
            workers_alive=self.pool.alive,
            zygote_restarts=self.pool.restarts,
            slots=self._slots.capacity,
            tasks=self._slots.taken,
            sandbox={layer.name: layer.status for layer in self.pool.report.layers} if self.pool.report else {},
        )

    def _status_page(self, hosts: frozenset[str]) -> StatusPage:
        from trio_runner.status import Board
        from trio_runner.statuspage import StatusPage

        board = Board(
            self.counters,
            runner=f"{socket.gethostname()}, process {os.getpid()}",
            version=__version__,
            task_timeout=self._config.task_timeout,
            sandbox_mode=self._config.confinement.mode,
            readiness=self.readiness,
            running=self._links.running,
            layers=lambda: self.pool.report.layers if self.pool.report else (),
            now=trio.current_time,
        )
        return StatusPage(board.snapshot, hosts)

    def stop(self, within: float) -> None:
        """Starts a graceful shutdown: no more offers; what still runs after ``within`` seconds is cut off."""
        self._patience.deadline = min(self._patience.deadline, trio.current_time() + within)
        self._preparation.cancel()
        self._links.stop()

    def stop_now(self) -> None:
        """Ends everything at once; what was running is lost and counts as cut off."""
        self.tasks_cut_off = self._slots.taken
        self._root.cancel()

    async def run(self, *, handle_signals: bool = True) -> None:
        """Runs until stopped. Raises the first `FatalError` when it cannot go on."""
        log.info(
            "Up to %d task(s) at a time, %ds each (n8n has a limit of its own; the shorter one counts), for %s",
            self._config.max_concurrency,
            self._config.task_timeout,
            ", ".join(address.label for address in self._config.brokers),
        )
        fatal: list[FatalError] = []
        try:
            with self._root:
                async with trio.open_nursery() as services:
                    if handle_signals:
                        await services.start(self._watch_signals)
                    if (health := self._config.health) is not None:
                        page = [self._status_page(health.status_hosts).answer] if health.status_page else []
                        await services.start(serve_health, health, self.readiness, self.counters, *page)
                    with self._preparation:
                        if self._outfitter is not None:
                            await self._outfitter.equip(self.pool)
                        if self._environments is not None:
                            await services.start(self._environments.run)
                    services.start_soon(self.pool.run)
                    services.start_soon(self._idle_clock.run, partial(self.stop, IDLE_SHUTDOWN_LIMIT))
                    await self._run_links()
                    services.cancel_scope.cancel()
        except* FatalError as group:
            fatal = list(_leaves(group))
        if fatal:
            raise fatal[0]
        if self._root.cancelled_caught:
            log.warning("Stopped at once; what was running is lost")
        log.info("Runner stopped")

    async def _run_links(self) -> None:
        """Serves all brokers until each link has ended, by itself or because the patience of a shutdown is over."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._lose_patience, nursery.cancel_scope)
            await self._links.run()
            nursery.cancel_scope.cancel()

    async def _lose_patience(self, links: trio.CancelScope) -> None:
        """When a shutdown's time is up: cuts off what runs, gives the word a moment to get out, then ends the links."""
        with self._patience:
            await trio.sleep_forever()
        self.tasks_cut_off = self._links.cut_off(CUT_OFF_REASON)
        log.error("Shutdown took too long: %d running task(s) cut off", self.tasks_cut_off)
        links.deadline = trio.current_time() + CUT_OFF_LIMIT

    def _note_workers(self) -> None:
        """Without a zygote a task would wait for its worker; elsewhere it need not, so nothing is offered."""
        if self.pool.alive:
            self._slots.resume()
        else:
            self._slots.suspend()

    def _note_activity(self) -> None:
        self._idle_clock.update(busy=self._slots.taken > 0, registered=self._links.registered)

    async def _watch_signals(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            told = False
            async for number in signals:
                name = signal.Signals(number).name
                if told:
                    log.warning("Received %s again, stopping at once", name)
                    self.stop_now()
                    return
                told = True
                log.info("Received %s signal, starting shutdown...", name)
                self.stop(self._config.graceful_shutdown_timeout)


def confinement_of(config: Config) -> Confinement:
    """The confinement with its processor time filled in: what the time limit would allow, when it has none itself."""
    return replace(config.confinement, cpu=config.confinement.cpu or config.task_timeout + 1)


def _child_environment(environment: dict[str, str], *, blocked: bool) -> dict[str, str]:
    """What children are started with: nothing, or all but the secrets. Local time follows TZ in any case."""
    if not blocked:
        return without_secrets(environment)
    return {"TZ": environment["TZ"]} if "TZ" in environment else {}


def _leaves(group: BaseExceptionGroup[FatalError]) -> Iterator[FatalError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
