"""Asks uv for the dependency groups of the benchmark when they are not installed."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from typing import Final

NEEDED: Final = ("websockets", "orjson", "pydantic", "matplotlib", "pandas")
_ASKED: Final = "TRIO_RUNNER_BENCH_GROUPS"


def ensure() -> None:
    """Starts this program again in an environment that has them. Without uv the run goes on and says what is missing.

    A variable keeps a group that cannot be installed from leading back here for ever.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if not missing or _ASKED in os.environ:
        return
    uv = shutil.which("uv")
    if uv is None:
        print(f"not installed: {', '.join(missing)}; what needs them is left out", file=sys.stderr)
        return
    groups = ["--group", "bench", "--group", "packages"]
    os.environ[_ASKED] = "1"
    os.execv(uv, [uv, "run", "--quiet", *groups, "python", "-m", "bench", *sys.argv[1:]])
