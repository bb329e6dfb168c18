"""A test that hangs ends, and shows what its tasks wait for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

HANGS = """
import pytest, trio

pytestmark = pytest.mark.timeout(0.3)

async def listens_in_vain():
    await trio.sleep_forever()

async def test_it():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listens_in_vain)
"""


def test_a_test_that_hangs_fails_and_names_its_tasks(tmp_path: Path) -> None:
    (tmp_path / "test_hangs.py").write_text(HANGS)
    options = ["-p", "tests.limits", "-o", "trio_mode=true", "-o", "timeout_method=signal", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, "--rootdir", str(tmp_path), str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode != 0
    assert "Timeout (>0.3s)" in ran.stdout
    assert "test_hangs.py::test_it takes too long" in ran.stderr
    assert "task test_hangs.listens_in_vain" in ran.stderr
    assert "in test_it" in ran.stderr
