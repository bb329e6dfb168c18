"""How many processes share a run of the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are processors for folders of ordinary tests, which wait for a third of their time.

    None, that is this very process, for chosen files, where it would only take longer, and for another selection than
    the default one: what is slow measures time, or tells how far it is. ``-n`` has the last word.
    """
    defaults: list[str] = config.getini("addopts")
    chosen = config.getoption("markexpr") != defaults[defaults.index("-m") + 1]
    if chosen or all(Path(path.partition("::")[0]).is_file() for path in config.args):
        return 0
    return (os.cpu_count() or 1) + 1
