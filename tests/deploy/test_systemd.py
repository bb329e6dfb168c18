"""The unit: what it starts, how it stops, and what systemd itself says about it where that is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.deploy_kit import made, sections, unit_environment
from trio_runner.config import load

ANALYZE = shutil.which("systemd-analyze")
with_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed")


def service(*args: str, **environ: str) -> dict[str, list[str]]:
    """What the unit's [Service] says, all values of each name."""
    found: dict[str, list[str]] = {}
    for name, value in sections(made("systemd", *args, **environ).text)["Service"]:
        found.setdefault(name, []).append(value)
    return found


def test_the_environment_is_one_that_the_runner_starts_with_without_a_warning(tmp_path: Path) -> None:
    environment = unit_environment(made("systemd").text)
    token = tmp_path / "auth-token"
    token.write_text("secret\n")
    assert environment["N8N_RUNNERS_AUTH_TOKEN_FILE"] == "%d/auth-token"
    loaded = load({**environment, "N8N_RUNNERS_AUTH_TOKEN_FILE": str(token)})
    assert loaded.warnings == ()
    assert loaded.config.auth_token == "secret"
    assert loaded.config.health is not None
    assert environment["N8N_RUNNERS_TASK_BROKER_URI"] == "http://127.0.0.1:5679"


def test_settings_with_spaces_quotes_and_percent_signs_arrive() -> None:
    value = 'a "quoted" 100% path\\'
    assert unit_environment(made("systemd", "-e", f"DEPLOYMENT_NAME={value}").text)["DEPLOYMENT_NAME"] == value


def test_a_stop_lets_tasks_finish_and_a_killed_task_does_not_end_the_service() -> None:
    found = service("-e", "N8N_RUNNERS_GRACEFUL_SHUTDOWN_TIMEOUT=90")
    assert found["KillMode"] == ["mixed"]
    assert found["TimeoutStopSec"] == ["100"]
    assert found["OOMPolicy"] == ["continue"]
    assert "ProtectControlGroups" not in found  # workers get control groups of their own
    assert found["Delegate"]


def test_exit_codes_that_need_a_person_do_not_restart() -> None:
    from trio_runner import errors

    found = service()
    assert found["Restart"] == ["always"]
    codes = {int(code) for code in found["RestartPreventExitStatus"][0].split()}
    assert errors.AuthRefusedError.exit_code in codes
    assert codes == {1, 3, 6}


def test_a_command_in_a_home_folder_is_reachable_and_said() -> None:
    file = made("systemd", "--command", "/home/ada/venv/bin/trio-runner")
    assert "ProtectHome=read-only" in file.text
    assert "/home/ada/venv/bin/trio-runner is in a home folder" in file.said
    file = made("systemd", "--command", "/opt/trio-runner/bin/trio-runner")
    assert "ProtectHome=yes" in file.text
    assert "home folder" not in file.said


def test_a_command_with_odd_characters_is_one_word() -> None:
    assert service("--command", "/opt/a b/100%/$x")["ExecStart"] == ['"/opt/a b/100%%/$$x" start']


@with_systemd
def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    assert ANALYZE is not None
    unit = tmp_path / "trio-runner.service"
    unit.write_text(made("systemd", "-e", "DEPLOYMENT_NAME=a 'b' \"c\" 100%").text)
    done = subprocess.run(
        [ANALYZE, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=30, check=False
    )
    about = [line for line in (done.stdout + done.stderr).splitlines() if "trio-runner" in line]
    assert about == []


@with_systemd
def test_systemd_rates_its_exposure_as_low(tmp_path: Path) -> None:
    """2.x is what it calls OK; a unit without any hardening has 9.6."""
    assert ANALYZE is not None
    unit = tmp_path / "trio-runner.service"
    unit.write_text(made("systemd").text)
    done = subprocess.run(
        [ANALYZE, "security", "--offline=true", "--threshold=25", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if "unrecognized option" in done.stderr or "--offline" in done.stderr:
        pytest.skip("this systemd cannot rate a file")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_runner_that_installs_packages_has_a_place_for_them() -> None:
    args = ("-e", "N8N_RUNNERS_INLINE_DEPENDENCIES=allow")
    (folder,) = service(*args)["CacheDirectory"]
    assert unit_environment(made("systemd", *args).text)["N8N_RUNNERS_INLINE_CACHE"].startswith(f"/var/cache/{folder}/")
    assert "CacheDirectory" not in service()
