"""What goes into a deployment file: the runner's variables, from flags and from the environment, checked as at a start.

Secrets never do: a file refers to where they are kept. Must not read ``os.environ``; commands hand a mapping in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec

from trio_runner.config import (
    AUTH_TOKEN,
    BROKER_URI,
    GRACE,
    HEALTH_ENABLED,
    HEALTH_HOST,
    HEALTH_PORT,
    INLINE_CACHE,
    MAX_CONCURRENCY,
    MIB,
    NO_COLOR,
    RUNNER_ID,
    STDLIB_ALLOW,
    TASK_MEMORY,
    TASK_TIMEOUT,
    VARIABLES,
    Config,
    ConfigError,
    Variable,
    load,
)

_FIXED: Final = {RUNNER_ID, HEALTH_ENABLED, HEALTH_HOST, HEALTH_PORT}
"""What must differ between runners, and what the files have decided: their probes depend on it."""

_NOT_CARRIED: Final = {*_FIXED, NO_COLOR}
"""What is not taken from the environment: it was meant for this machine."""

_OWN_MEMORY: Final = 512
"""MiB for the runner itself, the process that forks its workers, and what those share."""

DEFAULTS: Final[Mapping[Variable, str]] = {
    MAX_CONCURRENCY: MAX_CONCURRENCY.default,
    # n8n's own default; a runner alone would stop at 60 and be the first to give up
    TASK_TIMEOUT: "300",
    TASK_MEMORY: "512",
    GRACE: "30",
    STDLIB_ALLOW: "@safe",
}
"""What a file says where nobody said anything: it should run on a small machine and let people import json."""


class Settings(msgspec.Struct, frozen=True):
    """The variables of one deployment by name, in the order of `VARIABLES`, and what they mean when read together."""

    values: Mapping[str, str]
    config: Config
    warnings: tuple[str, ...] = ()

    @property
    def memory(self) -> int:
        """MiB that a container needs so that the kernel never has to end it: all tasks at their limit at once."""
        per_task = self.config.confinement.memory // MIB or 1024
        return _OWN_MEMORY + self.config.max_concurrency * per_task

    @property
    def grace(self) -> int:
        """Seconds from the order to stop until a platform may kill: the runner's own wait, and time to say goodbye."""
        return self.config.graceful_shutdown_timeout + 10

    @property
    def threads(self) -> int:
        """Processes and threads that a container may have: 64 a task, and its own."""
        return 128 + 64 * self.config.max_concurrency

    @property
    def target(self) -> str:
        """Tasks in hand at which another runner should start, as Kubernetes writes fractions: 70 % of the slots."""
        return f"{math.ceil(700 * self.config.max_concurrency)}m"

    @property
    def networked(self) -> bool:
        """Whether tasks may open connections of their own."""
        return self.config.confinement.mode != "strict"

    @property
    def installs(self) -> bool:
        """Whether the runner installs packages by itself, and so needs a place for them."""
        return self.config.packages is not None

    @property
    def fetches(self) -> bool:
        """Whether it takes them from an index."""
        packages = self.config.packages
        return packages is not None and (bool(packages.index) or not packages.wheels)

    @property
    def broker(self) -> str:
        """The brokers' address as it was given, or empty."""
        return self.values.get(BROKER_URI.name, "")

    def lines(self, line: Callable[[str, str], str]) -> str:
        """Each variable under a comment that says what it is."""
        return "\n".join(_commented(self.values, line))


def _commented(values: Mapping[str, str], line: Callable[[str, str], str]) -> Iterator[str]:
    for name, value in values.items():
        variable = VARIABLES[name]
        yield f"# {variable.meaning}" + (f" ({variable.unit})" if variable.unit not in ("", "tasks") else "")
        yield line(name, value)


def settle(
    environ: Mapping[str, str], flags: Mapping[str, str], defaults: Mapping[Variable, str], *, cache: str = ""
) -> Settings:
    """The deployment's settings; flags win over the environment. Raises `ConfigError` for what would not start.

    ``cache`` is the folder for packages that the runner installs, if it is to install any.
    """
    if problems := tuple(problem for name in flags if (problem := _refusal(name))):
        raise ConfigError(problems)
    carried = {variable.name for variable in VARIABLES.values() if not variable.secret and variable not in _NOT_CARRIED}
    values = {variable.name: value for variable, value in defaults.items()}
    values |= {name: value for name, value in environ.items() if name in carried}
    values |= flags
    loaded = load({**values, AUTH_TOKEN.name: "-"})
    if cache and loaded.config.packages is not None:
        values.setdefault(INLINE_CACHE.name, cache)
    return Settings(
        values={name: values[name] for name in VARIABLES if name in values},
        config=loaded.config,
        warnings=loaded.warnings,
    )


def _refusal(name: str) -> str:
    """Why a variable cannot be written into a file, or nothing."""
    variable = VARIABLES.get(name)
    if variable is None:
        if name.removesuffix("_FILE") in VARIABLES:
            return f"{name} is the path of a file on another machine: add it to the made file by hand."
        return f"{name} is not a variable of this runner; `trio-runner start --help` lists them."
    if variable.secret:
        return f"{name} is a secret and not written into this file: give it to the runner beside its auth token."
    return (
        f"{name} is decided by the file itself; change it there, with what depends on it." if variable in _FIXED else ""
    )
