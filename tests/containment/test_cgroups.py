"""Control groups: the rules on a tree of plain files, the mechanics on a real one where this machine has it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runner_kit import running
from trio_runner.sandbox import cgroups
from trio_runner.sandbox.cgroups import CgroupError, Groups


def tree(folder: Path, *, controllers: str = "cpu memory pids", members: str = "") -> Path:
    """What a delegated folder looks like."""
    folder.mkdir()
    (folder / "cgroup.procs").write_text(members)
    (folder / "cgroup.controllers").write_text(controllers)
    (folder / "cgroup.subtree_control").write_text("")
    return folder


def test_a_worker_gets_a_group_with_its_limits_and_the_group_is_used_again(tmp_path: Path) -> None:
    groups = Groups(tree(tmp_path / "base"), memory=1 << 20)
    assert (tmp_path / "base" / "cgroup.subtree_control").read_text() == "+memory +pids"
    group = groups.enter(4711)
    assert (group / "cgroup.procs").read_text() == "4711"
    assert (group / "memory.max").read_text() == str(1 << 20)
    assert (group / "memory.swap.max").read_text() == "0"
    assert int((group / "pids.max").read_text()) == 64
    other = groups.enter(4712)
    assert other != group
    groups.leave(4711)
    assert (group / "cgroup.kill").read_text() == "1"
    assert groups.enter(4713) == group


def test_leaving_twice_or_without_a_group_does_nothing(tmp_path: Path) -> None:
    groups = Groups(tree(tmp_path / "base"), memory=0)
    group = groups.enter(1)
    groups.leave(1)
    groups.leave(1)
    groups.leave(99)
    assert groups.enter(2) == group
    assert groups.enter(3) != group


def test_only_controllers_that_are_offered_are_used(tmp_path: Path) -> None:
    groups = Groups(tree(tmp_path / "base", controllers="cpu pids"), memory=1 << 20)
    group = groups.enter(1)
    assert groups.controllers == ("pids",)
    assert not (group / "memory.max").exists()


def test_processes_in_the_base_move_to_a_leaf_of_their_own(tmp_path: Path) -> None:
    base = tree(tmp_path / "base", members="10\n11\n")
    Groups(base, memory=0)
    assert (base / "runner" / "cgroup.procs").read_text() in ("10", "11")


def test_a_group_that_cannot_be_entered_is_not_lost(tmp_path: Path) -> None:
    groups = Groups(tree(tmp_path / "base"), memory=0)
    group = groups.enter(1)
    groups.leave(1)
    (group / "cgroup.procs").unlink()
    (group / "cgroup.procs").mkdir()
    with pytest.raises(OSError, match="directory"):
        groups.enter(2)
    (group / "cgroup.procs").rmdir()
    assert groups.enter(3) == group


def test_a_folder_that_is_no_cgroup_and_an_undelegated_one_are_refused_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(CgroupError, match="No such file"):
        cgroups.open_groups(str(tmp_path / "nowhere"), memory=0)
    with pytest.raises(CgroupError, match="is off"):
        cgroups.open_groups("off", memory=0)


@pytest.mark.parametrize(
    ("membership", "mount", "expected"),
    [
        ("0::/", "31 25 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw", "/sys/fs/cgroup"),
        ("0::/a/x.service", "31 25 0:27 / /sys/fs/cgroup rw - cgroup2 c rw", "/sys/fs/cgroup/a/x.service"),
        ("0::/pod/c", "31 25 0:27 /pod/c /sys/fs/cgroup rw - cgroup2 c rw", "/sys/fs/cgroup"),
        ("4:memory:/x\n0::/y", "1 2 0:1 / /proc rw - proc p\n3 2 0:2 / /sys/fs/cg/u rw - cgroup2 c", "/sys/fs/cg/u/y"),
        ("4:memory:/x", "31 25 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw", None),
        ("0::/", "1 2 0:1 / /sys/fs/cgroup/memory rw - cgroup c rw,memory", None),
    ],
)  # fmt: skip
def test_the_own_folder_is_found_from_membership_and_mounts(
    membership: str, mount: str, expected: str | None, tmp_path: Path
) -> None:
    (tmp_path / "cgroup").write_text(membership + "\n")
    (tmp_path / "mountinfo").write_text(mount + "\n")
    found = cgroups.own_folder(tmp_path / "cgroup", tmp_path / "mountinfo")
    assert found == (Path(expected) if expected else None)


@pytest.fixture
def real() -> Iterator[Path]:
    """A folder of the real tree, if this machine has one that we may write to."""
    own = cgroups.own_folder()
    folder = None if own is None else own / f"trio-runner-test-{os.getpid()}"
    try:
        assert folder is not None
        folder.mkdir()
    except (AssertionError, OSError):
        pytest.skip("no writable cgroup v2 tree on this machine")
    yield folder
    for group in [*folder.iterdir(), folder]:
        if group.is_dir():
            group.rmdir()


def test_on_a_real_tree_a_process_enters_and_leaving_ends_it(real: Path) -> None:
    groups = Groups(real, memory=1 << 30)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        group = groups.enter(process.pid)
        assert str(process.pid) in (group / "cgroup.procs").read_text().split()
        groups.leave(process.pid)
        assert process.wait(10) == -signal.SIGKILL
    groups.remove()


@pytest.mark.e2e
async def test_workers_of_a_runner_live_in_groups_and_the_report_says_so(real: Path) -> None:
    async with running({"N8N_RUNNERS_SANDBOX_CGROUP": str(real)}) as bench:
        assert bench.runner.readiness().sandbox["cgroup"] == "active"
        for _ in range(12):
            assert (await bench.run("return 1"))["result"] == 1
        groups = [folder for folder in real.iterdir() if folder.name.startswith("task-")]
        assert sum(len((group / "cgroup.procs").read_text().split()) for group in groups) >= 1
        assert len(groups) < 15, "groups are used again"
