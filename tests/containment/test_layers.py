"""Each layer is proved by an attack that it refuses, and that succeeds as soon as this one layer is switched off.

Where several layers refuse the same thing, each of them is shown to do so alone. All attacks aim at canaries.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.containment.lab import Case, Lab
from trio_runner.sandbox.policy import Confinement

pytestmark = pytest.mark.e2e

ROOT = os.geteuid() == 0
STRICT = Confinement()
NETWORK = Confinement(mode="network", connect_ports=(9,))
SMALL = Confinement(memory=64 * 1024 * 1024)
WRITING = "writing"
"""Stands for a confinement with a writable folder, which is known only when there is one."""
root_only = pytest.mark.skipif(not ROOT, reason="needs root to drop from")
x86_only = pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code of x86-64")

# what is common to all attacks of the row: (confinement, layers that are off in both runs)
_FREE = ("seccomp", "landlock")
SINGLE = {
    # Landlock
    "reading a file": ("read_secret", STRICT, (), "landlock", "EACCES"),
    "listing a folder": ("list_folder", STRICT, (), "landlock", "EACCES"),
    "making a file": ("create_file", STRICT, (), "landlock", "EACCES"),
    "writing outside of the grant": ("write_file", WRITING, (), "landlock", "EACCES"),
    "connecting to a port": ("connect", NETWORK, (), "landlock", "EACCES"),
    "binding a port": ("bind_port", NETWORK, ("seccomp",), "landlock", "EACCES"),
    "a signal": ("signal_canary", STRICT, ("seccomp", "become-nobody"), "landlock", "EPERM"),
    "an abstract socket": ("connect_abstract", STRICT, ("seccomp",), "landlock", "EPERM"),
    # seccomp
    "a process": ("fork", STRICT, (), "seccomp", "EPERM"),
    "files in memory": ("memfd", STRICT, (), "seccomp", "EPERM"),
    "shared memory": ("shared_memory", STRICT, (), "seccomp", "EPERM"),
    "a mapping that grows down": ("grow_a_stack", STRICT, (), "seccomp", "EPERM"),
    "a larger queue of a socket": ("enlarge_a_queue", STRICT, (), "seccomp", "EPERM"),
    "the rights of a file": ("change_mode", STRICT, (), "seccomp", "EPERM"),
    "the times of a file": ("change_times", STRICT, (), "seccomp", "EPERM"),
    "another's niceness": ("renice_canary", STRICT, ("become-nobody",), "seccomp", "EPERM"),
    "being dumpable again": ("become_dumpable", STRICT, (), "seccomp", "EPERM"),
    "another personality": ("personality", STRICT, (), "seccomp", "EPERM"),
    "watching files": ("watch", STRICT, (), "seccomp", "EPERM"),
    "a key": ("keyring", STRICT, (), "seccomp", "EPERM"),
    "listening without a port": ("listen", NETWORK, (), "seccomp", "EPERM"),
    "connecting with the first packet": ("fast_open", NETWORK, (), "seccomp", "EPERM"),
    "connecting over several paths": ("multipath", NETWORK, (), "seccomp", "EACCES"),
    "sending to a path": ("send_to_path", STRICT, (), "seccomp", "EPERM"),
    # limits
    "memory": ("allocate", SMALL, (), "limit:DATA", "MemoryError"),
    "the stack": ("raise_the_stack_limit", SMALL, (), "limit:STACK", "EPERM"),
    "page tables": ("reserve_page_tables", SMALL, (), "limit:AS", "ENOMEM"),
    "a write where files are open": ("write_file", STRICT, _FREE, "limit:FSIZE", "EFBIG"),
    "descriptors": ("open_files", STRICT, (), "limit:NOFILE", "EMFILE"),
    "dumps": ("dump_core", STRICT, (), "limit:CORE", "ValueError"),
    # what is inherited
    "a descriptor left open": ("read_inherited", STRICT, (), "closing", "EBADF"),
    "the first three descriptors": ("read_stdin", STRICT, (), "null", "nothing"),
    "the group of processes": ("signal_own_group", STRICT, _FREE, "session", "the zygote lives"),
    "the killer of memory": ("oom_adjustment", STRICT, (), "oom", "1000"),
}  # fmt: skip
_LEFT = {"session": "the zygote ended: SIGUSR1", "oom": "0"}
"""What an attack comes to without the layer, where it is not OK."""


def confinement(given: Confinement | str, targets: dict[str, Any]) -> Confinement:
    return Confinement(write=(targets["granted"],)) if isinstance(given, str) else given


@pytest.mark.parametrize("name", SINGLE)
def test_an_attack_is_refused_and_succeeds_without_its_layer(name: str, lab: Lab, targets: dict[str, Any]) -> None:
    attack, given, off, layer, refusal = SINGLE[name]
    confined = confinement(given, targets)
    assert lab.run(Case(attack=attack, off=off, confinement=confined, about=targets)) == refusal
    without = lab.run(Case(attack=attack, off=(*off, layer), confinement=confined, about=targets))
    assert without == _LEFT.get(layer, "OK")


TOGETHER = {
    "a signal to another process": ("signal_canary", {"seccomp": "EPERM", "landlock": "EPERM"}),
    "a connection": ("connect", {"seccomp": "EACCES", "landlock": "EACCES"}),
    "removing a file": ("remove_file", {"landlock": "EACCES", "seccomp": "EPERM"}),
    "a file by creat": ("create_by_creat", {"landlock": "EACCES", "seccomp": "EPERM"}),
    "a file in a foreign folder": ("write_file", {"landlock": "EACCES", "limit:FSIZE": "EFBIG"}),
}
"""Attacks that two layers refuse, and with which word each does so when the other one and the filter are off."""


@pytest.mark.parametrize("name", TOGETHER)
def test_each_of_two_layers_refuses_alone_and_none_does_not(name: str, lab: Lab, targets: dict[str, Any]) -> None:
    attack, layers = TOGETHER[name]
    everything = {"become-nobody", "seccomp", "landlock", *layers}
    for only, word in layers.items():
        others = tuple(sorted(everything - {only}))
        assert lab.run(Case(attack=attack, off=others, about=targets)) == word, only
    assert lab.run(Case(attack=attack, off=tuple(sorted(everything)), about=targets)) == "OK"


@root_only
@pytest.mark.parametrize(
    ("attack", "off", "layer", "refusal"),
    [
        ("take_ownership", (*_FREE, "uid"), "capabilities", "EPERM"),
        ("read_foreign_file", (*_FREE, "uid"), "capabilities", "EACCES"),
        ("read_roots_file", (*_FREE, "become-nobody"), "uid", "EACCES"),
        ("lock_memory", (*_FREE, "become-nobody"), "limit:MEMLOCK", "EPERM"),
        ("message_queue", (*_FREE, "become-nobody"), "limit:MSGQUEUE", "EMFILE"),
    ],
)
def test_a_root_that_drops_its_rights_is_no_root(
    attack: str, off: tuple[str, ...], layer: str, refusal: str, lab: Lab, targets: dict[str, Any]
) -> None:
    assert lab.run(Case(attack=attack, off=off, about=targets)) == refusal
    assert lab.run(Case(attack=attack, off=(*off, layer), about=targets)) == "OK"


@root_only
def test_a_program_with_roots_bit_gives_no_privileges(lab: Lab, targets: dict[str, Any]) -> None:
    shutil.copy("/usr/bin/id", targets["setuid"])
    Path(targets["setuid"]).chmod(0o4755)
    off = (*_FREE, "become-nobody")
    assert lab.run(Case(attack="gain_root", off=off, about=targets)) == "EPERM"
    assert lab.run(Case(attack="gain_root", off=(*off, "prctl:38"), about=targets)) == "OK"


@pytest.mark.parametrize(("off", "left"), [((), "gone"), (("prctl:1",), "OK")])
def test_a_child_ends_with_its_zygote(off: tuple[str, ...], left: str, lab: Lab, targets: dict[str, Any]) -> None:
    answer = Path(targets["answer"])
    answer.unlink(missing_ok=True)
    assert lab.run(Case(attack="outlive_the_zygote", off=off, about=targets)) == "the zygote ended: SIGKILL"
    for _ in range(200):
        if answer.exists() and answer.read_text():
            break
        time.sleep(0.01)
    assert answer.read_text() == left


def test_a_few_threads_are_fine(lab: Lab, targets: dict[str, Any]) -> None:
    assert lab.run(Case(attack="a_few_threads", confinement=Confinement(memory=1 << 28), about=targets)) == "OK"


@x86_only
def test_a_call_by_the_32_bit_table_ends_the_process(lab: Lab, targets: dict[str, Any]) -> None:
    assert lab.run(Case(attack="int80", about=targets)) == "SIGSYS"
    assert lab.run(Case(attack="int80", off=("seccomp",), about=targets)) == "OK"


@pytest.mark.parametrize("broken", ["prctl:38", "prctl:22"])
def test_a_child_without_a_prepared_layer_runs_nothing(broken: str, lab: Lab, targets: dict[str, Any]) -> None:
    """Without no-new-privileges neither Landlock nor seccomp can be had; and a filter that was not loaded is noticed
    by the probe (see test_probe), since the call itself said that all was well."""
    word = lab.run(Case(attack="time_of_apply", off=(broken,), about=targets))
    assert word.startswith("not confined") if broken == "prctl:38" else word == "OK"


@pytest.mark.parametrize("off", [(), ("zygote-dumpable",)])
def test_the_zygotes_memory_is_out_of_reach_by_landlock_alone(
    off: tuple[str, ...], lab: Lab, targets: dict[str, Any]
) -> None:
    assert lab.run(Case(attack="read_zygote_memory", off=("seccomp", *off), about=targets)) == "EACCES"


def test_the_zygotes_memory_is_out_of_reach_by_its_not_being_dumpable_alone(lab: Lab, targets: dict[str, Any]) -> None:
    case = Case(attack="read_zygote_memory", off=_FREE, about=targets, as_user=True)
    assert lab.run(case) == "EACCES"
    assert lab.run(replace(case, off=(*_FREE, "zygote-dumpable"))) == "OK"


def test_a_childs_memory_is_out_of_reach_for_others_of_its_user(lab: Lab, targets: dict[str, Any]) -> None:
    # it is born not dumpable, by its zygote; what it says of itself is a second layer
    case = Case(attack="read_the_childs_memory", off=("zygote-dumpable",), about=targets, as_user=True)
    assert lab.run(case) == "EACCES"
    assert lab.run(replace(case, off=("zygote-dumpable", "prctl:4"))) == "OK"
