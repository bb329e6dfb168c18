"""The report of the layers tells the truth: what is switched off is not active, and nothing else changes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.containment.lab import Case, Lab
from trio_runner.sandbox.policy import Confinement
from trio_runner.sandbox.records import ACTIVE, OFF, PROBED_LAYERS, UNAVAILABLE

pytestmark = pytest.mark.e2e

STRICT = Confinement()
NETWORK = Confinement(mode="network")


def report(lab: Lab, off: tuple[str, ...] = (), confinement: Confinement = STRICT, **about: Any) -> dict[str, str]:
    case = Case(attack="probe", off=off, confinement=confinement, about=about, as_user=about.get("as_user", False))
    return {name: status for name, status, _ in lab.run(case)}


def details(lab: Lab, confinement: Confinement = STRICT, **about: Any) -> dict[str, str]:
    return {name: detail for name, _, detail in lab.run(Case(attack="probe", confinement=confinement, about=about))}


def test_every_layer_is_reported_once_and_in_order(lab: Lab) -> None:
    assert [name for name, _, _ in lab.run(Case(attack="probe"))] == list(PROBED_LAYERS)


def test_all_layers_hold_here(lab: Lab) -> None:
    holds = report(lab)
    assert holds.pop("landlock-network") == OFF
    holds.pop("uid")  # depends on who we are and where Python is
    assert set(holds.values()) == {ACTIVE}, holds
    assert report(lab, confinement=NETWORK)["landlock-network"] == ACTIVE


@pytest.mark.parametrize(
    ("off", "confinement", "lost"),
    [
        ("session", STRICT, {"session"}),
        ("prctl:1", STRICT, {"parent-death-signal"}),
        ("limit:DATA", Confinement(memory=1 << 28), set()),  # known only from the list: it is not on it any more
        ("restrict", STRICT, {"landlock-files", "landlock-signals"}),
        ("restrict", NETWORK, {"landlock-files", "landlock-signals", "landlock-network"}),
        ("landlock", STRICT, {"landlock-files", "landlock-signals"}),
        ("seccomp", STRICT, {"seccomp"}),
        ("prctl:22", STRICT, {"seccomp"}),
        ("unlimited", STRICT, {"limits"}),
        ("raised", STRICT, {"limits"}),
        ("become-nobody", STRICT, set()),
    ],
)  # fmt: skip
def test_a_layer_that_is_off_is_not_active(off: str, confinement: Confinement, lost: set[str], lab: Lab) -> None:
    before, after = report(lab, confinement=confinement), report(lab, (off,), confinement)
    gone = {name for name in PROBED_LAYERS if before[name] == ACTIVE and after[name] != ACTIVE}
    assert gone == lost


def test_a_probe_that_hangs_holds_nobody_up_and_finds_nothing(lab: Lab) -> None:
    assert set(report(lab, ("answer",)).values()) == {UNAVAILABLE}


def test_files_left_open_are_noticed_whatever_their_number(lab: Lab) -> None:
    for number in (3, 77, 900):
        after = report(lab, ("closing",), fds=[number])
        assert after["closed-files"] == UNAVAILABLE


def test_being_dumpable_is_noticed(lab: Lab) -> None:
    assert report(lab, ("zygote-dumpable",), as_user=True)["not-dumpable"] == ACTIVE
    assert report(lab, ("zygote-dumpable", "prctl:4"), as_user=True)["not-dumpable"] == UNAVAILABLE


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to keep")
def test_a_root_that_stays_root_is_noticed(lab: Lab) -> None:
    kept = report(lab, ("keep-root",))
    assert kept["uid"] == kept["capabilities"] == UNAVAILABLE
    assert report(lab, ("uid",))["capabilities"] == ACTIVE
    assert report(lab, ("uid",))["uid"] == UNAVAILABLE
    assert report(lab, ("become-nobody",))["uid"] == ACTIVE


def test_a_runner_that_is_no_root_has_tasks_without_rights(lab: Lab) -> None:
    holds = report(lab, as_user=True)
    assert holds["uid"] == holds["capabilities"] == ACTIVE


def test_an_environment_that_was_left_is_noticed(lab: Lab) -> None:
    assert report(lab, environment=True)["empty-environment"] == OFF
    assert "N8N_BLOCK_RUNNER_ENV_ACCESS" in details(lab, environment=True)["empty-environment"]


def test_the_sealed_mode_is_reported(lab: Lab) -> None:
    sealed = {"no-landlock": True}
    holds, why = report(lab, **sealed), details(lab, **sealed)
    assert holds["landlock-files"] == holds["landlock-signals"] == UNAVAILABLE
    assert holds["seccomp"] == ACTIVE
    assert why["seccomp"] == "sealed: no file can be opened"
    assert "not implemented" in why["landlock-files"]


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6])
def test_what_an_older_kernel_lacks_is_not_reported(version: int, lab: Lab) -> None:
    holds = report(lab, confinement=NETWORK, abi=version)
    assert holds["landlock-files"] == ACTIVE
    assert (holds["landlock-network"] == ACTIVE) == (version >= 4)
    assert (holds["landlock-signals"] == ACTIVE) == (version >= 6)


def test_a_file_that_could_be_made_is_removed(lab: Lab) -> None:
    before = probe_files()
    report(lab, ("restrict",))
    report(lab, confinement=Confinement(mode="off"))
    deadline = time.monotonic() + 5
    while (left := probe_files() - before) and time.monotonic() < deadline:
        time.sleep(0.01)  # other runners probe, too: theirs go by themselves
    assert not left


def probe_files() -> set[Path]:
    return {path for folder in ("/tmp", "/var/tmp") for path in Path(folder).glob(".trio-runner-probe-*")}


def test_grants_do_not_confuse_the_probe(lab: Lab, targets: dict[str, Any]) -> None:
    generous = Confinement(read=("/etc", "/var"), write=("/tmp", targets["granted"]))
    assert report(lab, confinement=generous)["landlock-files"] == ACTIVE
    assert report(lab, ("restrict",), generous)["landlock-files"] == UNAVAILABLE


def test_without_confinement_nothing_of_it_is_active(lab: Lab) -> None:
    holds = report(lab, confinement=Confinement(mode="off"))
    kernel = {name for name in PROBED_LAYERS if name.startswith(("landlock", "seccomp"))}
    assert {holds[name] for name in (*kernel, "limits")} == {OFF}
    assert holds["session"] == holds["closed-files"] == ACTIVE


def test_the_portable_mode_has_what_every_system_has(lab: Lab) -> None:
    holds = report(lab, portable=True)
    active = {name for name, status in holds.items() if status == ACTIVE}
    assert {"session", "closed-files", "empty-environment"} <= active
    assert not active & {"seccomp", "landlock-files", "limits", "parent-death-signal", "not-dumpable"}


def test_a_probe_that_cannot_confine_itself_reports_nothing_as_active(lab: Lab) -> None:
    assert set(report(lab, ("prctl:38",), as_user=True).values()) == {UNAVAILABLE}
