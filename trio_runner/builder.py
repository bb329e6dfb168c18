"""From a plan to an environment on disk: the one that is there, or a build, a few at a time.

Owns the limit on builds and their numbers. Must not know who waits, nor what an environment is used for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import trio

from trio_runner.config import PackagesConfig
from trio_runner.counters import Counters
from trio_runner.envstore import Built, Store, describe_size
from trio_runner.inline import Plan
from trio_runner.installer import BuildError, find_uv, install
from trio_runner.log import get_logger

log = get_logger("packages")


class Builder:
    """Builds environments and keeps them on disk."""

    def __init__(self, config: PackagesConfig, environment: Mapping[str, str], counters: Counters) -> None:
        self._config = config
        self._environment = environment
        self._counters = counters
        self._store = Store(config)
        self._turn = trio.Semaphore(config.builds)
        self.uv = ""

    async def open(self) -> None:
        """Looks whether there is all that it takes. Raises `StartError`."""
        self.uv = find_uv(self._environment.get("PATH"))
        await trio.to_thread.run_sync(self._store.open)

    def key(self, plan: Plan) -> str:
        """The name of the environment that this plan gives."""
        return self._store.key(plan)

    async def obtain(self, plan: Plan, wanted: Callable[[], bool] = lambda: True) -> Built | None:
        """The environment, held until it is let go of. None when nobody wants it any more as its turn comes.

        Raises `BuildError`. A build that is cancelled leaves nothing behind.
        """
        key = self._store.key(plan)
        if (found := await trio.to_thread.run_sync(self._store.find, key)) is not None:
            return found
        async with self._turn:
            if not wanted():
                return None
            started = trio.current_time()
            log.info("Installing packages for an environment: %s", plan)
            try:
                built = await self._build(key, plan)
            except BuildError as error:
                self._counters.builds[error.kind] += 1
                log.warning("An environment could not be built (%s): %s: %s", error.kind, plan, error)
                raise
            took = trio.current_time() - started
        self._counters.builds["built"] += 1
        self._counters.build_time.observe(took)
        text = "Installed in %.1fs (%d packages, %s): %s"
        log.info(text, took, len(built.about.installed), describe_size(built.about.size), plan)
        return built

    async def _build(self, key: str, plan: Plan) -> Built:
        try:
            with ExitStack() as workplace:
                place = await trio.to_thread.run_sync(workplace.enter_context, self._store.building())
                try:
                    await install(self.uv, plan, place, self._config, self._environment)
                    built = await trio.to_thread.run_sync(self._store.publish, key, plan, place)
                finally:
                    with trio.CancelScope(shield=True):  # thousands of files may have to go: not in the event loop
                        await trio.to_thread.run_sync(workplace.close)
            await trio.to_thread.run_sync(self._store.trim)
        except OSError as error:
            raise BuildError("internal", f"The environment could not be written: {error.strerror}") from error
        if built is None:
            raise BuildError("internal", "The environment was thrown away as soon as it was there")
        return built
