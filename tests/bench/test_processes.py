"""Sums over a tree of processes, with real ones: a shell, its child, and what the child used before it was reaped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from bench import processes

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]

SPIN = "import time\nwhile time.process_time() < 0.3: pass"
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
spin = subprocess.run([sys.executable, "-I", "-S", "-c", {SPIN!r}])
print("ready", flush=True)
input()
child.communicate(b"\\n")
"""


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    """A process with one living child and one that has used 0.3 s and was reaped."""
    with subprocess.Popen(
        [sys.executable, "-I", "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.communicate("\n", timeout=20)


def test_the_tree_counts_living_and_reaped_children(parent: subprocess.Popen[str]) -> None:
    assert len(processes.tree(parent.pid)) == 2
    used = processes.cpu(parent.pid)
    assert 280 <= used.below < 2000
    assert used.tree == used.main + used.below
    assert processes.run_time(processes.tree(parent.pid)) > 0


def test_memory_is_told_in_megabytes(parent: subprocess.Popen[str]) -> None:
    assert 3 < processes.resident(parent.pid) < 100
    assert processes.peak(parent.pid) >= processes.resident(parent.pid)
    assert 0 < processes.pss(processes.tree(parent.pid)) < 200


def test_a_process_that_waits_is_not_woken(parent: subprocess.Popen[str]) -> None:
    tree = processes.tree(parent.pid)
    before = processes.switches(tree)
    assert before > 0
    assert processes.switches(tree) - before <= 2


def test_a_process_that_is_gone_adds_nothing() -> None:
    gone = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
    gone.wait(20)
    assert processes.cpu(gone.pid).tree == 0
    assert processes.pss([gone.pid]) == 0
    with pytest.raises(OSError, match=str(gone.pid)):
        processes.resident(gone.pid)
