"""What `trio-runner doctor` finds, on this machine and with a broker that is not there."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.wheel_kit import make_wheel
from trio_runner import doctor
from trio_runner.doctor import Finding

pytestmark = pytest.mark.e2e

TOKEN = "s3cr3t-token"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def find(findings: list[Finding], section: str, name: str) -> Finding:
    (only,) = [finding for finding in findings if (finding.section, finding.name) == (section, name)]
    return only


def test_settings_imports_layers_and_an_absent_broker_are_reported_and_no_secret_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    port = free_port()
    findings = doctor.examine(
        {
            "N8N_RUNNERS_AUTH_TOKEN": TOKEN,
            "N8N_RUNNERS_TASK_BROKER_URI": f"http://127.0.0.1:{port}",
            "N8N_RUNNERS_STDLIB_ALLOW": "json",
            "N8N_RUNNERS_EXTERNAL_ALLOW": "no_such_package",
            "N8N_RUNNERS_TIMOUT": "3",
            "N8N_RUNNERS_SANDBOX_READ": "/not/there",
        }
    )
    assert find(findings, "settings", "N8N_RUNNERS_AUTH_TOKEN").text == "***"
    assert "N8N_RUNNERS_TASK_TIMEOUT" in find(findings, "settings", "ignored or odd").text
    assert find(findings, "imports", "json").mark == "ok"
    assert "No module named" in find(findings, "imports", "no_such_package").text
    assert find(findings, "imports", "no_such_package").mark == "bad"
    broker = find(findings, "broker", f"127.0.0.1:{port}")
    assert (broker.mark, broker.text) == ("bad", "Connection refused")
    assert find(findings, "sandbox", "mode").text.startswith("strict")
    assert find(findings, "sandbox", "session").text == "active"
    assert find(findings, "sandbox", "path").text.startswith("/not/there does not exist")
    doctor.show(findings)
    shown = capsys.readouterr().out
    assert TOKEN not in shown
    assert "2 broken" in shown


def test_without_a_token_the_problem_is_told_and_the_rest_is_still_looked_at() -> None:
    findings = doctor.examine({"N8N_RUNNERS_STDLIB_ALLOW": "json"})
    assert "N8N_RUNNERS_GRANT_TOKEN is required" in find(findings, "settings", "problem").text
    assert find(findings, "imports", "json").mark == "ok"
    assert find(findings, "broker", "127.0.0.1:5679").mark == "note"


def test_a_problem_that_is_of_no_variable_that_is_set_is_told_and_the_rest_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)  # root's cache needs no home
    findings = doctor.examine({"N8N_RUNNERS_AUTH_TOKEN": TOKEN, "N8N_RUNNERS_INLINE_DEPENDENCIES": "six"})
    assert find(findings, "settings", "problem").text.startswith("N8N_RUNNERS_INLINE_CACHE: There is no home folder")
    assert find(findings, "sandbox", "session").text == "active"


def test_packages_are_installed_so_that_their_imports_can_be_tried(tmp_path: Path) -> None:
    make_wheel(tmp_path, "tiny", "1.0")
    (tmp_path / "requirements.txt").write_text("tiny")
    environ = {
        "N8N_RUNNERS_AUTH_TOKEN": TOKEN,
        "N8N_RUNNERS_TASK_BROKER_URI": f"http://127.0.0.1:{free_port()}",
        "N8N_RUNNERS_INLINE_DEPENDENCIES": "tiny<3",
        "N8N_RUNNERS_INLINE_WHEELS": str(tmp_path),
        "N8N_RUNNERS_INLINE_CACHE": str(tmp_path / "cache"),
        "N8N_RUNNERS_REQUIREMENTS": str(tmp_path / "requirements.txt"),
        "N8N_RUNNERS_EXTERNAL_ALLOW": "tiny",
        "PATH": os.environ["PATH"],
    }
    findings = doctor.examine(environ)
    assert find(findings, "packages", "uv").text.endswith(f"uv, into {tmp_path}/cache")
    assert find(findings, "packages", "for all programs").text == "tiny==1.0"
    assert find(findings, "packages", "programs may ask for").text == "tiny<3"
    assert find(findings, "imports", "tiny").mark == "ok"
    findings = doctor.examine({**environ, "N8N_RUNNERS_INLINE_WHEELS": str(tmp_path / "none")})
    assert find(findings, "packages", "environments").text.startswith("There is no folder")


def test_a_required_layer_that_cannot_be_had_is_broken() -> None:
    findings = doctor.examine(
        {
            "N8N_RUNNERS_AUTH_TOKEN": TOKEN,
            "N8N_RUNNERS_TASK_BROKER_URI": f"http://127.0.0.1:{free_port()}",
            "N8N_RUNNERS_SANDBOX": "off",
            "N8N_RUNNERS_SANDBOX_REQUIRE": "seccomp",
        }
    )
    assert any(f.mark == "bad" and "seccomp is required" in f.text for f in findings if f.section == "sandbox")
    assert find(findings, "sandbox", "seccomp").mark == "bad"


@pytest.mark.parametrize(
    ("broken", "step"),
    [
        ((), "trio-runner start"),
        (("settings",), "mend what is broken, and ask again"),
        (("settings", "broker"), "have n8n running with N8N_RUNNERS_MODE=external and the same N8N_RUNNERS_AUTH_TOKEN"),
    ],
)
def test_the_report_ends_with_what_to_do_next(
    broken: tuple[str, ...], step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = [Finding("runner", "trio-runner", "ok", "1"), Finding("sandbox", "uid", "note", "unavailable")]
    doctor.show([*findings, *(Finding(section, "x", "bad", "broken") for section in broken)])
    assert f"\nNext: {step}\n" in capsys.readouterr().out


def test_what_a_broker_s_line_says_is_not_followed_by_other_guesses() -> None:
    refused = Finding("broker", "a", "bad", "refused. N8N_RUNNERS_AUTH_TOKEN must be the same")
    assert doctor.next_steps([refused]) == ["mend what is broken, and ask again"]
    assert len(doctor.next_steps([refused, Finding("broker", "b", "bad", "Connection refused")])) == 3
