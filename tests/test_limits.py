"""A test that hangs ends, and shows what its tasks wait for; none ends the others as if all were well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.limits import ENDED

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


ENDS = """
import os, threading

def test_it():
    if (pid := os.fork()) == 0:
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    thread = threading.Thread(target=gives_up)
    thread.start()
    thread.join()

def gives_up():
    os._exit(0)
"""


def run(tmp_path: Path, name: str, source: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / name).write_text(source)
    options = ["-p", "tests.limits", "-o", "trio_mode=true", "-o", "timeout_method=signal", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, "--rootdir", str(tmp_path), str(tmp_path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_a_test_that_ends_the_process_does_not_end_it_as_if_all_were_well_and_shows_where(tmp_path: Path) -> None:
    ran = run(tmp_path, "test_ends.py", ENDS)
    assert ran.returncode == ENDED
    assert ran.stderr.count("The process of the tests was to end with code 0") == 1
    assert "in gives_up" in ran.stderr


def test_a_test_that_hangs_fails_and_names_its_tasks(tmp_path: Path) -> None:
    ran = run(tmp_path, "test_hangs.py", HANGS)
    assert ran.returncode != 0
    assert "Timeout (>0.3s)" in ran.stdout
    assert "test_hangs.py::test_it takes too long" in ran.stderr
    assert "task test_hangs.listens_in_vain" in ran.stderr
    assert "in test_it" in ran.stderr
