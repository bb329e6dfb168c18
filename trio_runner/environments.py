"""Environments that are in use: one pool of workers each, a few at a time, brought up when a program asks.

Owns who waits for what: tasks that want the same environment wait for one build, a failure holds for a while, and the
least recently used environment gives way to a new one. Builds go on when the task that wanted them is gone. Must not
know how packages are installed (`builder`) or what workers do.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Protocol

import trio

from trio_runner import inline
from trio_runner.config import PackagesConfig
from trio_runner.counters import Counters
from trio_runner.envstore import Built
from trio_runner.errors import PackagesError, StartError
from trio_runner.inline import Allowance, InlineError, Plan
from trio_runner.installer import BuildError
from trio_runner.log import get_logger
from trio_runner.pool import Pool

log = get_logger("packages")

PATIENCE: Final = 1.0
"""Seconds after which a task that waits says so."""
FAILED_FOR: Final = 30.0
"""Seconds for which a failed build is not tried again: a workflow in a loop must not become a loop of builds."""
_MAX_PLANS: Final = 500
_MAX_MESSAGE: Final = 500

Say = Callable[[str], None]


class Builds(Protocol):
    """What `Builder` does."""

    async def open(self) -> None:
        """Raises `StartError` when nothing can be built."""

    def key(self, plan: Plan) -> str:
        """The name of the environment that a plan gives."""

    async def obtain(self, plan: Plan, wanted: Callable[[], bool]) -> Built | None:
        """The environment; None when nobody wants it any more. Raises `BuildError`."""


class _Environment:
    """One environment, from the first task that asks for it to its retirement."""

    def __init__(self, key: str, plan: Plan) -> None:
        self.key = key
        self.plan = plan
        self.users = 0
        self.pool: Pool | None = None
        self.error: PackagesError | None = None
        self.retry_at = math.inf
        self.ready = trio.Event()
        self.scope = trio.CancelScope()
        self.gone = trio.Event()

    def fail(self, error: PackagesError) -> None:
        self.error = error
        self.retry_at = trio.current_time() + FAILED_FOR
        self.ready.set()


class Environments:
    """The pools of programs with packages of their own."""

    def __init__(
        self, config: PackagesConfig, builder: Builds, make_pool: Callable[[Built], Pool], counters: Counters
    ) -> None:
        self._config = config
        self._builder = builder
        self._make_pool = make_pool
        self._counters = counters
        self._allowance = Allowance(config.inline or None)
        self._plans: OrderedDict[bytes, Plan | InlineError | None] = OrderedDict()
        self._known: OrderedDict[str, _Environment] = OrderedDict()
        self._warm: set[_Environment] = set()
        self._changed = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Builds and keeps environments until cancelled. Raises `StartError` when there is nothing to build with."""
        await self._builder.open()
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    @asynccontextmanager
    async def use(self, source: str, say: Say) -> AsyncIterator[Pool | None]:
        """The pool for a program, which stays for the block; None when it asks for no packages.

        ``say`` is told what there is to wait for when it takes longer. Raises `PackagesError`.
        """
        plan = self._plan(source)
        if plan is None:
            yield None
            return
        environment = self._environment(plan)
        environment.users += 1
        try:
            yield await self._wait(environment, say)
        finally:
            environment.users -= 1
            self._wake()

    def _plan(self, source: str) -> Plan | None:
        key = hashlib.sha256(source.encode(errors="surrogatepass")).digest()
        if key in self._plans:
            plan = self._plans[key]
            self._plans.move_to_end(key)
        else:
            plan = self._plans[key] = self._read(source)
            if len(self._plans) > _MAX_PLANS:
                self._plans.popitem(last=False)
        if isinstance(plan, InlineError):
            raise PackagesError(str(plan), line=plan.line, kind="violation", before_start=True)
        return plan

    def _read(self, source: str) -> Plan | InlineError | None:
        try:
            metadata = inline.read(source)
            return inline.plan(metadata, self._allowance, platform.python_version()) if metadata is not None else None
        except InlineError as error:
            return error

    def _environment(self, plan: Plan) -> _Environment:
        now = trio.current_time()
        for old in [one for one in self._known.values() if now >= one.retry_at]:
            del self._known[old.key]
        key = self._builder.key(plan)
        environment = self._known.get(key)
        if environment is None:
            if self._nursery is None:
                raise PackagesError("The runner is not ready to install packages yet. Run the node again.")
            environment = self._known[key] = _Environment(key, plan)
            self._nursery.start_soon(self._keep, environment)
        self._known.move_to_end(key)
        return environment

    async def _wait(self, environment: _Environment, say: Say) -> Pool:
        with trio.move_on_after(self._config.wait):
            with trio.move_on_after(PATIENCE):
                await environment.ready.wait()
            if not environment.ready.is_set():
                say(f"Waiting for the packages of this program: {environment.plan}")
                await environment.ready.wait()
        if environment.error is not None:
            error = environment.error
            raise PackagesError(error.message, error.description, kind=error.kind)
        if environment.pool is None:
            raise PackagesError(
                f"The packages of this program are not ready after {self._config.wait} s",
                f"{environment.plan}\n\nThey are still being installed. Run the node again in a while; to wait longer, "
                "the runner's operator raises N8N_RUNNERS_INLINE_WAIT.",
            )
        return environment.pool

    async def _keep(self, environment: _Environment) -> None:
        """One environment's life: build, room, workers, until it is retired. A failure ends it and nothing else."""
        try:
            with environment.scope:
                built = await self._builder.obtain(environment.plan, lambda: environment.users > 0)
                if built is not None:
                    try:
                        if await self._make_room(environment):
                            await self._serve(environment, built)
                    finally:
                        built.release()
        except BuildError as error:
            environment.fail(_failed(environment.plan, error))
        except Exception as error:
            log.exception("The environment of %s met an internal error", environment.plan)
            environment.fail(PackagesError("The packages of this program cannot be used", type(error).__name__))
        finally:
            self._forget(environment)

    def _forget(self, environment: _Environment) -> None:
        """It has no pool any more. What failed stays known for a while."""
        environment.pool = None
        self._warm.discard(environment)
        self._counters.environments = len(self._warm)
        if environment.error is None:
            if self._known.get(environment.key) is environment:
                del self._known[environment.key]
            environment.ready.set()
        environment.gone.set()
        self._wake()

    async def _make_room(self, environment: _Environment) -> bool:
        """Waits until there may be one more. False when nobody wants it any more."""
        while len(self._warm) >= self._config.environments:
            idle = next((one for one in self._known.values() if one.pool is not None and not one.users), None)
            if idle is not None:
                log.info("Retiring the least recently used environment: %s", idle.plan)
                del self._known[idle.key]
                idle.scope.cancel()
                await idle.gone.wait()
            elif not environment.users:
                return False
            else:
                await self._changed.wait()
        self._warm.add(environment)
        return True

    async def _serve(self, environment: _Environment, built: Built) -> None:
        pool = self._make_pool(built)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(pool.run)
                if pool.report is not None and pool.report.sealed and not self._allowance.named:
                    raise StartError("No file can be opened in this sandbox (no Landlock), so nothing can be imported")
                environment.pool = pool
                self._counters.environments = len(self._warm)
                environment.ready.set()
                self._wake()  # nobody may want it any more: then it can give way
        except* StartError as group:
            log.error("The workers of %s cannot be started: %s", environment.plan, group.exceptions[0])
            reason = "The runner's log says why."
            environment.fail(PackagesError("The workers for these packages cannot be started", reason))

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _failed(plan: Plan, error: BuildError) -> PackagesError:
    text = str(error)
    start = max(0, text.find("Because "))  # before it stands only that there is no solution
    decisive = " ".join(text[start:].split())[:_MAX_MESSAGE]
    return PackagesError(
        f"The packages of this program could not be installed: {decisive}",
        f"{text}\n\nAsked for: {plan}\nThe runner tries again {FAILED_FOR:.0f} seconds after a failure.",
        kind="error" if error.kind == "resolver" else "worker",
    )
