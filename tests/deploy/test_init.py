"""What is the same for every kind: flags, environment, secrets, files, and what is said beside them."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.deploy_kit import invoke, made, refusal, without_comments
from trio_runner import __version__
from trio_runner.deploy.commands import COMMANDS
from trio_runner.deploy.kinds import N8N_VERSION
from trio_runner.deploy.settings import DEFAULTS, settle

SECRET = "s3cr3t-Zq8vLw"
KINDS = sorted(COMMANDS)


def test_every_kind_that_is_promised_is_there_and_has_a_help_of_its_own() -> None:
    assert KINDS == ["compose", "docker", "internal", "kubernetes", "launcher", "systemd"]
    listed = invoke("--help").output
    for kind in KINDS:
        assert f"\n  {kind} " in listed
        help_text = invoke(kind, "--help").output
        assert help_text.startswith(f"Usage: trio-runner init {kind} ")
        assert "--output" in help_text


def test_the_n8n_that_files_name_is_the_one_that_tests_run() -> None:
    import json

    kit = Path(__file__).parent.parent / "n8n_kit" / "package.json"
    assert json.loads(kit.read_text())["dependencies"]["n8n"] == N8N_VERSION


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_prints_its_file_for_this_version_and_says_beside_it_what_comes_next(kind: str) -> None:
    file = made(kind)
    assert "\nNext:\n" in file.said
    assert "Next:" not in file.text
    assert file.text.endswith("\n")
    if kind != "launcher":  # JSON: no comments
        assert file.text.count("#") > 5
        assert __version__ in file.text
        assert f"trio-runner init {kind}" in file.text


@pytest.mark.parametrize("kind", KINDS)
def test_no_secret_of_the_environment_is_printed(kind: str) -> None:
    names = ("N8N_RUNNERS_AUTH_TOKEN", "N8N_RUNNERS_GRANT_TOKEN", "N8N_SENTRY_DSN", "N8N_OTEL_EXPORTER_OTLP_HEADERS")
    file = made(kind, **dict.fromkeys(names, SECRET))
    assert SECRET not in file.text + file.said


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "launcher"])
def test_a_setting_comes_from_an_option_or_else_from_the_environment_or_else_from_the_defaults(kind: str) -> None:
    def settings(*args: str, **environ: str) -> str:
        return without_comments(made(kind, *args, **environ).text)

    assert "@safe" in settings()
    text = settings(N8N_RUNNERS_STDLIB_ALLOW="json", N8N_RUNNERS_TASK_MEMORY="333")
    assert "json" in text
    assert "333" in text
    assert "@safe" not in text
    text = settings("--stdlib", "math", "-e", "N8N_RUNNERS_TASK_MEMORY=334", N8N_RUNNERS_STDLIB_ALLOW="json")
    assert "math" in text
    assert "334" in text
    assert "json" not in text


@pytest.mark.parametrize("kind", KINDS)
def test_what_would_not_start_is_refused_with_every_problem(kind: str) -> None:
    text = refusal(kind, "-e", "N8N_RUNNERS_MAX_CONCURRENCY=many", "-e", "N8N_RUNNERS_SANDBOX=tight")
    assert "N8N_RUNNERS_MAX_CONCURRENCY='many'" in text
    assert "N8N_RUNNERS_SANDBOX='tight'" in text


@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        ("N8N_RUNNERS_AUTH_TOKEN=x", "is a secret"),
        ("N8N_RUNNERS_TASK_TIMOUT=3", "is not a variable of this runner"),
        ("N8N_SENTRY_DSN_FILE=/run/x", "by hand"),
        ("N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT=99", "is decided by the file itself"),
        ("N8N_RUNNERS_ID=one", "is decided by the file itself"),
        ("N8N_RUNNERS_PRELOAD", "has no value"),
    ],
)
def test_variables_that_do_not_belong_into_a_file_are_refused(assignment: str, reason: str) -> None:
    assert reason in refusal("compose", "-e", assignment)


def test_what_is_odd_is_said_and_does_not_stop() -> None:
    assert "Warning: N8N_RUNNERS_STDLIB_ALLOW: 'pandas' never matches" in made("systemd", "--stdlib", "pandas").said


def test_memory_processes_and_the_time_to_stop_follow_from_the_settings() -> None:
    given = {"N8N_RUNNERS_MAX_CONCURRENCY": "8", "N8N_RUNNERS_TASK_MEMORY": "256"}
    settings = settle(given, {"N8N_RUNNERS_GRACEFUL_SHUTDOWN_TIMEOUT": "60"}, DEFAULTS)
    assert settings.memory == 512 + 8 * 256
    assert settings.threads == 128 + 8 * 64
    assert settings.grace == 70
    assert settings.target == "5600m"
    assert not settings.networked
    assert settle({}, {"N8N_RUNNERS_EXTERNAL_ALLOW": "requests"}, DEFAULTS).networked


# Files


def test_a_file_is_written_with_its_folders_and_never_over_another_without_force(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b" / "unit.service"
    result = invoke("systemd", "-o", str(place))
    assert result.exit_code == 0
    assert f"Wrote {place}\n" in result.stdout
    assert "Next:" in result.stdout
    first = place.read_text()
    place.write_text("mine")
    assert "Already there" in refusal("systemd", "-o", str(place))
    assert place.read_text() == "mine"
    assert invoke("systemd", "-o", str(place), "--force").exit_code == 0
    assert place.read_text() == first


def test_an_existing_folder_gets_the_file_under_its_usual_name(tmp_path: Path) -> None:
    assert invoke("systemd", "-o", str(tmp_path)).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["trio-runner.service"]


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = invoke("systemd", "-o", str(tmp_path / "file" / "below"))
    assert result.exit_code == 1
    assert "Cannot write" in result.stderr


def test_what_does_not_fit_on_the_disk_is_named_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    # a limit of the size of files stands for a full disk
    (tmp_path / "kept").write_text("mine")
    script = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); from trio_runner.cli import main; main()"
    )
    for target in ("new", "kept"):
        command = [sys.executable, "-c", script, "init", "launcher", "--force", "-o", str(tmp_path / target)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr == f"Error: Cannot write {tmp_path / target}: File too large\n"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("compose", "--workers", "3"), "--workers: only queue mode has workers. Give --queue, too."),
        (
            ("kubernetes", "--runners", "5", "--max-runners", "2"),
            "--max-runners: 2 is less than the 5 that there are at least.",
        ),
        (("systemd", "--command", "no/where"), "--command: 'no/where' is not on the PATH. Give its whole path."),
    ],
)
def test_options_that_would_do_nothing_or_not_work_are_refused(arguments: tuple[str, ...], reason: str) -> None:
    assert refusal(*arguments).endswith(f"Error: {reason}")


def test_the_commands_of_a_unit_have_their_whole_path() -> None:
    assert f"\nExecStart={shutil.which('sh')} start\n" in made("systemd", "--command", "sh").text


def test_more_runners_than_usual_at_least_are_as_many_at_most() -> None:
    assert "\n  minReplicas: 12\n  maxReplicas: 12\n" in made("kubernetes", "--runners", "12").text


def test_compose_writes_a_whole_folder_with_new_secrets_for_its_owner_only_and_keeps_them(tmp_path: Path) -> None:
    os.umask(os.umask(0o22))
    result = invoke("compose", "-o", str(tmp_path / "n8n"))
    assert result.exit_code == 0
    names = {path.name for path in (tmp_path / "n8n").iterdir()}
    assert {"compose.yaml", ".env", "Dockerfile", "requirements.txt", "constraints.txt", ".dockerignore"} <= names
    secrets = tmp_path / "n8n" / ".env"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    first = secrets.read_text()
    assert len(first.partition("N8N_RUNNERS_AUTH_TOKEN=")[2].split()[0]) == 64
    again = invoke("compose", "-o", str(tmp_path / "n8n"), "--force")
    assert again.exit_code == 0
    assert f"Kept  {secrets}" in again.stdout
    assert secrets.read_text() == first
    other = invoke("compose", "-o", str(tmp_path / "other"), N8N_RUNNERS_AUTH_TOKEN=SECRET)
    assert SECRET not in other.output
    assert f"N8N_RUNNERS_AUTH_TOKEN={SECRET}\n" in (tmp_path / "other" / ".env").read_text()


def test_requirements_name_the_packages_of_the_modules_that_are_allowed(tmp_path: Path) -> None:
    assert invoke("docker", "-o", str(tmp_path), "--external", "pandas,sklearn").exit_code == 0
    lines = [line for line in (tmp_path / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == ["pandas", "scikit-learn"]


def test_an_image_whose_runner_installs_packages_has_what_it_installs_with(tmp_path: Path) -> None:
    assert invoke("docker", "-o", str(tmp_path), "-e", "N8N_RUNNERS_INLINE_DEPENDENCIES=pandas").exit_code == 0
    assert "\nuv\n" in (tmp_path / "requirements.txt").read_text()
    assert 'ENV N8N_RUNNERS_INLINE_CACHE="/var/cache/trio-runner/packages"' in (tmp_path / "Dockerfile").read_text()


def test_the_commands_of_the_documentation_do_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shlex

    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "deploying.md").read_text()
    shown = [line for line in text.splitlines() if line.startswith("trio-runner init ")]
    assert {shlex.split(line)[2] for line in shown} >= {"compose", "kubernetes", "systemd", "launcher", "internal"}
    for line in shown:
        result = invoke(*shlex.split(line)[2:])
        assert result.exit_code == 0, result.output
    for kind in re.findall(r"`trio-runner init (.*?)(?: -o \w+)?`", text):
        assert invoke(*shlex.split(kind)).exit_code == 0


def test_the_changelog_begins_with_what_is_not_released_or_with_this_version() -> None:
    changelog = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()
    first = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert first is not None
    assert first[1] in ("Unreleased", __version__)
