"""The script for n8n's internal mode, run by a shell as n8n runs it, and where n8n would look for it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.deploy.deploy_kit import invoke, made, refusal


def started(script: Path, **environ: str) -> dict[str, str]:
    """The script as n8n runs it, with a command that shows its arguments and variables instead of a runner."""
    done = subprocess.run(
        [str(script), "-m", "src.main"],
        env={"PATH": "/usr/bin:/bin", **environ},
        cwd=script.parent,
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    first, *variables = done.stdout.splitlines()
    return {"arguments": first, **dict(line.partition("=")[::2] for line in variables)}


@pytest.fixture
def shim(tmp_path: Path):
    show = tmp_path / "it's a runner"
    show.write_text('#!/bin/sh\necho "$*"\nenv\n')
    show.chmod(0o755)

    def write(*args: str, **environ: str) -> Path:
        place = tmp_path / "python"
        assert invoke("internal", "-o", str(place), "--force", "--command", str(show), *args, **environ).exit_code == 0
        return place

    return write


def test_it_is_executable_and_starts_our_command_whatever_the_arguments(shim) -> None:
    place = shim()
    assert os.access(place, os.X_OK)
    assert started(place)["arguments"] == "start"


def test_what_n8n_passes_on_wins_and_what_it_does_not_pass_on_is_ours(shim) -> None:
    place = shim("--stdlib", "json", "--external", "it's", "-e", "N8N_RUNNERS_TASK_MEMORY=300")
    alone = started(place)
    assert alone["N8N_RUNNERS_STDLIB_ALLOW"] == "json"
    assert alone["N8N_RUNNERS_EXTERNAL_ALLOW"] == "it's"
    assert alone["N8N_RUNNERS_TASK_MEMORY"] == "300"
    told = started(place, N8N_RUNNERS_STDLIB_ALLOW="", N8N_RUNNERS_EXTERNAL_ALLOW="pandas")
    assert told["N8N_RUNNERS_STDLIB_ALLOW"] == ""
    assert told["N8N_RUNNERS_EXTERNAL_ALLOW"] == "pandas"


def test_what_n8n_always_says_is_not_said_again_unless_asked_for(shim) -> None:
    found = started(shim(N8N_RUNNERS_TASK_BROKER_URI="http://elsewhere:1"), N8N_RUNNERS_TASK_BROKER_URI="http://n8n:1")
    assert found["N8N_RUNNERS_TASK_BROKER_URI"] == "http://n8n:1"
    assert "N8N_RUNNERS_MAX_CONCURRENCY" not in found


@pytest.fixture
def n8n(tmp_path: Path) -> Path:
    """The package of an n8n that npm has installed, with its command on a PATH."""
    package = tmp_path / "prefix" / "lib" / "node_modules" / "n8n"
    (package / "bin").mkdir(parents=True)
    (package / "package.json").write_text(json.dumps({"name": "n8n"}))
    (package / "bin" / "n8n").write_text("#!/bin/sh\n")
    (package / "bin" / "n8n").chmod(0o755)
    (tmp_path / "prefix" / "bin").mkdir()
    (tmp_path / "prefix" / "bin" / "n8n").symlink_to(package / "bin" / "n8n")
    return package


@pytest.mark.parametrize("start", ["bin/n8n", "lib/node_modules/n8n", "lib/node_modules", ".", "lib"])
def test_n8n_is_found_from_its_command_its_package_and_its_folder(n8n: Path, start: str) -> None:
    place = n8n.parent / "@n8n" / "task-runner-python" / ".venv" / "bin" / "python"
    said = made("internal", "--n8n", str(n8n.parents[2] / start)).said
    assert f"again with -o {place} " in said


def test_without_an_option_it_is_the_n8n_on_path_or_a_gap_to_fill_in(n8n: Path, tmp_path: Path) -> None:
    found = made("internal", PATH=str(n8n.parents[2] / "bin")).said
    assert f"{n8n.parent}/@n8n/task-runner-python" in found
    (tmp_path / "empty").mkdir()
    assert "<folder with n8n>" in made("internal", PATH=str(tmp_path / "empty")).said


def test_a_folder_without_n8n_is_refused(tmp_path: Path) -> None:
    assert "there is no n8n in" in refusal("internal", "--n8n", str(tmp_path))
