"""How many processes share a run of the tests, and the wheel of this checkout, installed where nothing else is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.release.wheel_kit import build, install

pytest_plugins = ["tests.limits"]

# The same examples each time, however busy the machine is. tests/fuzz looks for others.
settings.register_profile("here", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are processors, and eight at most, for ordinary tests: they wait for a third of their time.

    None, that is this very process, for chosen files, where it would only take longer, and for another selection than
    the default one: what is slow measures time, or tells how far it is. ``-n`` has the last word.
    """
    defaults: list[str] = config.getini("addopts")
    chosen = config.getoption("markexpr") != defaults[defaults.index("-m") + 1]
    if chosen or all(Path(path.partition("::")[0]).is_file() for path in config.args):
        return 0
    return min(8, (os.cpu_count() or 1) + 1)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the sdist."""
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def commands(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an environment that holds the wheel and what it needs, and nothing else."""
    return install(built[0], tmp_path_factory.mktemp("installed") / "venv")
