"""Landlock: what is granted works, the rest does not, and older kernels get what they can have.

The kernel's answers come from confined children (`lab`); what is asked of older kernels is checked on the calls.
"""

from __future__ import annotations

import ctypes
import errno
import mimetypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.containment.lab import Case, Lab
from trio_runner.sandbox import landlock, lockdown
from trio_runner.sandbox.policy import Confinement

pytestmark = pytest.mark.e2e

FREE = ("seccomp",)
"""Without the filter, so that what refuses can only be Landlock."""


# --- grants


@pytest.mark.parametrize(
    ("attack", "read", "write", "word"),
    [
        ("read_granted", (), (), "EACCES"),
        ("read_granted", ("granted_file",), (), "OK"),
        ("read_secret", ("granted_file",), (), "EACCES"),
        ("list_folder", ("granted_file",), (), "EACCES"),
        ("list_folder", ("folder",), (), "OK"),
        ("create_file", ("folder",), (), "EACCES"),
        ("create_file", (), ("folder",), "OK"),
        ("create_file", ("granted",), ("granted",), "EACCES"),
        ("write_in_grant", (), (), "EACCES"),
        ("write_in_grant", ("granted",), (), "EACCES"),
        ("write_in_grant", (), ("granted",), "OK"),
        ("write_through_a_link", (), ("granted",), "EACCES"),
        ("change_mode", (), ("granted",), "EPERM"),
        ("read_python", (), (), "OK"),
        ("import_a_module", (), (), "OK"),
    ],
)
def test_a_child_reaches_what_is_granted_and_no_more(
    attack: str, read: tuple[str, ...], write: tuple[str, ...], word: str, lab: Lab, targets: dict[str, Any]
) -> None:
    confinement = Confinement(read=tuple(targets[name] for name in read), write=tuple(targets[name] for name in write))
    about = {**targets, "module": "wsgiref.handlers"}
    assert lab.run(Case(attack=attack, confinement=confinement, about=about)) == word


def test_paths_that_do_not_exist_are_left_out(lab: Lab, targets: dict[str, Any]) -> None:
    missing = Confinement(
        read=("/nowhere/at/all", f"{targets['secret']}/below-a-file", targets["granted_file"]), write=("/nowhere/else",)
    )
    assert lab.run(Case(attack="read_granted", confinement=missing, about=targets)) == "OK"
    assert lab.run(Case(attack="read_secret", confinement=missing, about=targets)) == "EACCES"


def test_the_folder_that_the_runner_was_started_in_is_not_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m` puts it on the path; everything else there is somebody's decision."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend("/chosen/by/somebody")
    granted = lockdown.readable_by_default("strict")
    assert str(tmp_path) not in granted
    assert "/chosen/by/somebody" in granted
    assert "/" not in granted
    assert not [place for place in granted if place.startswith(("/proc", "/sys", "/root/.ssh", "/run"))]


def test_the_tables_that_mimetypes_looks_for_may_be_read() -> None:
    """Or `mimetypes.guess_type("a.pdf")` is refused on machines that have one, and openpyxl cannot be imported."""
    granted = set(lockdown.readable_by_default("strict"))
    known = {path for path in mimetypes.knownfiles if not path.startswith("/usr/local/lib/")}
    assert known <= granted


def test_the_networks_own_files_are_readable_only_with_the_network() -> None:
    strict, network = map(set, map(lockdown.readable_by_default, ("strict", "network")))
    assert strict < network
    assert {"/etc/resolv.conf", "/etc/ssl"} <= network - strict


# --- ports


@pytest.mark.parametrize(
    ("attack", "ports", "off", "word"),
    [
        ("connect", "own", (), "OK"),
        ("connect", "other", (), "EACCES"),
        ("connect", "none", (), "EACCES"),
        ("fast_open", "other", (), "EPERM"),
        ("bind_port", "own", (), "EPERM"),
        ("bind_port", "own", FREE, "EACCES"),
        ("connect_abstract", "own", FREE, "EPERM"),
    ],
)
def test_only_the_ports_of_the_grant_are_reached(
    attack: str, ports: str, off: tuple[str, ...], word: str, lab: Lab, targets: dict[str, Any]
) -> None:
    port = targets["port"]
    granted = {"own": (port,), "other": (port + 1 if port < 65535 else 1024,), "none": ()}[ports]
    confinement = Confinement(mode="network", connect_ports=granted)
    assert lab.run(Case(attack=attack, confinement=confinement, off=off, about=targets)) == word


def test_ports_mean_nothing_in_strict(lab: Lab, targets: dict[str, Any]) -> None:
    confinement = Confinement(connect_ports=(targets["port"],))
    assert lab.run(Case(attack="connect", confinement=confinement, off=FREE, about=targets)) == "EACCES"


# --- older kernels


class Calls:
    """Stands between `landlock` and the kernel and notes what is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, version: int) -> None:
        self.made: list[tuple[int, tuple[Any, ...]]] = []
        real = landlock._call

        def call(number: int, *arguments: Any) -> int:
            self.made.append((number, arguments))
            return real(number, *arguments)

        monkeypatch.setattr(landlock, "abi", lambda: version)
        monkeypatch.setattr(landlock, "_call", call)

    @property
    def attributes(self) -> tuple[int, ...]:
        data = next(arguments[0] for number, arguments in self.made if number == 444)
        return struct.unpack(f"<{len(data) // 8}Q", data)

    def rules(self, kind: int) -> list[tuple[int, int]]:
        found = [arguments for number, arguments in self.made if number == 445 and arguments[1] == kind]
        return [struct.unpack("<Qi" if kind == 1 else "<QQ", arguments[2]) for arguments in found]


def _open_files() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Fails the test that leaves one open."""
    before = _open_files()
    yield
    assert _open_files() == before


@pytest.mark.skipif(landlock.abi() < 6, reason="needs a kernel that knows all that is asked for")
@pytest.mark.parametrize("version", range(1, 8))
def test_a_kernel_is_asked_only_for_what_its_version_knows(
    version: int, monkeypatch: pytest.MonkeyPatch, descriptors: None, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    calls = Calls(monkeypatch, version)
    os.close(
        landlock.make_ruleset(
            landlock.Grants(read=("/usr", str(tmp_path / "file")), write=(str(tmp_path),), connect_ports=(443, 53))
        )
    )
    refer, truncate, ioctl = 1 << 13, 1 << 14, 1 << 15
    handled = calls.attributes[0]
    assert handled & 0x1FFF == 0x1FFF
    assert bool(handled & refer) == (version >= 2)
    assert bool(handled & truncate) == (version >= 3)
    assert bool(handled & ioctl) == (version >= 5)
    assert len(calls.attributes) == (3 if version >= 6 else 2 if version >= 4 else 1)
    assert calls.attributes[1:2] == ((3,) if version >= 4 else ())
    assert calls.attributes[2:] == ((3,) if version >= 6 else ())
    rights = [right for right, _ in calls.rules(1)]
    assert rights[0] == 0b1100  # read, list
    assert rights[1] == 0b0100  # a file cannot be listed
    assert rights[2] & 1 == 0  # nothing may be executed,
    assert not rights[2] & (ioctl | refer)  # no device talked to, nothing moved in from elsewhere
    assert all(right & ~handled == 0 for right in rights)
    assert [port for _, port in calls.rules(2)] == ([443, 53] if version >= 4 else [])


def test_without_landlock_making_a_ruleset_fails(monkeypatch: pytest.MonkeyPatch, descriptors: None) -> None:
    class Library:
        @staticmethod
        def syscall(number: int, *arguments: Any) -> int:
            ctypes.set_errno(errno.ENOSYS)
            return -1

    monkeypatch.setattr(landlock, "_library", Library())
    assert landlock.abi() == 0
    with pytest.raises(OSError, match="not implemented") as caught:
        landlock.make_ruleset(landlock.Grants(read=("/usr",)))
    assert caught.value.errno in landlock.UNSUPPORTED


@pytest.mark.skipif(landlock.abi() < 1, reason="needs Landlock")
def test_a_ruleset_that_fails_halfway_is_closed(
    monkeypatch: pytest.MonkeyPatch, descriptors: None, tmp_path: Path
) -> None:
    real = landlock._call

    def call(number: int, *arguments: Any) -> int:
        if number == 445:
            raise OSError(errno.EINVAL, "no")
        return real(number, *arguments)

    monkeypatch.setattr(landlock, "_call", call)
    with pytest.raises(OSError, match="no"):
        landlock.make_ruleset(landlock.Grants(read=("/usr",)))


# --- without Landlock: sealed


def test_sealed_a_child_opens_nothing_and_changes_nothing(lab: Lab, targets: dict[str, Any]) -> None:
    about = {**targets, "no-landlock": True}
    for confinement in (Confinement(), Confinement(write=(targets["granted"], targets["folder"]))):
        for attack in (
            "read_secret", "list_folder", "create_file", "write_file", "write_in_grant", "read_granted", "read_python",
            "create_by_creat", "remove_file", "change_mode", "signal_canary", "fork",
        ):  # fmt: skip
            assert lab.run(Case(attack=attack, confinement=confinement, about=about)) == "EPERM", attack
        assert lab.run(Case(attack="connect", confinement=confinement, about=about)) == "EACCES"


def test_sealed_what_was_imported_before_works_and_the_rest_cannot_be_loaded(lab: Lab, targets: dict[str, Any]) -> None:
    about = {**targets, "no-landlock": True}
    assert lab.run(Case(attack="import_a_module", about={**about, "module": "json"})) == "OK"
    assert lab.run(Case(attack="import_a_module", about={**about, "module": "wsgiref.handlers"})) in (
        "EPERM",
        "ModuleNotFoundError",
    )
