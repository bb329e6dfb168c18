from __future__ import annotations

import os

import pytest

from trio_runner.config import VARIABLES


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of ours from outside."""
    for name in os.environ:
        if name.startswith("N8N_") or name in VARIABLES:
            monkeypatch.delenv(name)
