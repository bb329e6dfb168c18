"""Puts the parts together that the runner needs for packages: builder, environments, and the requirements of all.

Owns N8N_RUNNERS_REQUIREMENTS. Loaded only when the operator lets the runner install something.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping

import trio

from trio_runner import inline, outfit
from trio_runner.builder import Builder
from trio_runner.config import Config
from trio_runner.counters import Counters
from trio_runner.environments import Environments
from trio_runner.envstore import Built
from trio_runner.errors import StartError
from trio_runner.inline import Allowance, InlineError, Metadata, Plan
from trio_runner.installer import BuildError
from trio_runner.log import get_logger
from trio_runner.pool import Pool
from trio_runner.sandbox.policy import Confinement

log = get_logger("packages")


class Outfitter:
    """What the operator decided about packages, carried out."""

    def __init__(
        self, config: Config, confinement: Confinement, environment: Mapping[str, str], counters: Counters
    ) -> None:
        assert config.packages is not None
        self._config = config.packages
        self._counters = counters
        self._builder = Builder(config.packages, environment, counters)
        self._terms = outfit.Terms(
            policy=config.policy,
            confinement=confinement,
            preload=config.preload,
            opens_network=config.packages.opens_network,
        )
        self._base: Built | None = None  # held as long as the runner lives

    def environments(self, make_pool: Callable[[], Pool]) -> Environments | None:
        """Those of programs that ask for packages; None when they may not."""
        if self._config.inline is None:
            return None

        def equipped(built: Built) -> Pool:
            pool = make_pool()
            pool.equip(outfit.isolated(self._terms, built, vouched=bool(self._config.inline)))
            return pool

        return Environments(self._config, self._builder, equipped, self._counters)

    async def open(self) -> str:
        """Looks whether packages can be installed and says with what, and where to. Raises `StartError`."""
        await self._builder.open()
        return f"{self._builder.uv}, into {self._config.cache}"

    async def equip(self, pool: Pool) -> tuple[str, ...]:
        """Installs the requirements of all programs, if there are any, and says what they have become.

        Raises `StartError`: nothing goes without.
        """
        name = self._config.requirements
        if not name:
            return ()
        try:
            text = await trio.Path(name).read_text(encoding="utf-8-sig")
            plan = _plan(text)
            if plan is None:
                return ()
            await self._builder.open()
            self._base = await self._builder.obtain(plan)
        except OSError as error:
            raise StartError(f"The requirements in {name} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise StartError(f"The requirements in {name} cannot be read: it is not UTF-8 text") from error
        except (InlineError, BuildError) as error:
            raise StartError(f"The requirements in {name} cannot be installed: {error}") from error
        assert self._base is not None
        log.info("Packages for all programs: %s", ", ".join(self._base.about.installed))
        pool.equip(outfit.extended(self._terms, self._base))
        return self._base.about.installed


def _plan(text: str) -> Plan | None:
    return inline.plan(Metadata(inline.file_lines(text)), Allowance(None), platform.python_version())
