"""When a runner refuses to start because of what its zygote's probe found."""

from __future__ import annotations

import pytest

from tests.shell.shell_kit import our_records
from trio_runner.demands import check_layers
from trio_runner.errors import SandboxError
from trio_runner.sandbox.policy import Confinement, Policy
from trio_runner.sandbox.records import ACTIVE, LAYERS, UNAVAILABLE, Layer, Report, Setup


def report(*missing: str, sealed: bool = False) -> Report:
    layers = tuple(
        Layer(name, UNAVAILABLE, "not on this kernel") if name in missing else Layer(name, ACTIVE) for name in LAYERS
    )
    return Report(pid=1, layers=layers, sealed=sealed, pidfds=True, not_preloaded={})


def setup(*, relaxed: bool = False, **confinement: object) -> Setup:
    return Setup(Policy(relaxed=relaxed), Confinement(**confinement), 1000, ())  # type: ignore[arg-type]


def test_all_layers_are_enough() -> None:
    check_layers(report(), setup(mode="strict", require=LAYERS))


def test_a_required_layer_that_is_missing_ends_the_start_with_its_name_and_reason() -> None:
    with pytest.raises(SandboxError, match=r"landlock-files is required .* unavailable: not on this kernel"):
        check_layers(report("landlock-files"), setup(mode="strict", require=("landlock-files",)))
    assert SandboxError.exit_code == 6


def test_a_path_for_tasks_that_is_not_there_is_named() -> None:
    with our_records() as records:
        check_layers(report(), setup(mode="strict", read=("/", "/not/there"), write=("/nor/this",)))
    told = "does not exist, so no task can use it (N8N_RUNNERS_SANDBOX_READ or _WRITE)"
    assert records.having("exist") == [f"/not/there {told}", f"/nor/this {told}"]


def test_without_landlock_the_sealed_mode_is_enough_unless_more_was_required() -> None:
    check_layers(report("landlock-files", "landlock-signals", sealed=True), setup(mode="strict"))


@pytest.mark.parametrize("relaxed", [False, True])
def test_without_seccomp_it_starts_only_when_the_sandbox_is_off_and_never_relaxed(relaxed: bool) -> None:
    with pytest.raises(SandboxError, match="cannot be contained on this machine"):
        check_layers(report("seccomp"), setup(mode="strict", relaxed=relaxed))
    if relaxed:
        with pytest.raises(SandboxError, match="relaxed needs the sandbox"):
            check_layers(report("seccomp"), setup(mode="off", relaxed=True))
    else:
        check_layers(report("seccomp"), setup(mode="off"))
