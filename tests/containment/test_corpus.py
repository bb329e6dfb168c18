"""The corpus of programs, hostile and harmless, through real runners: as this user, as a root that becomes nobody, and
as an ordinary user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.containment.canaries import Canaries
from tests.containment.corpus import Contained, load
from tests.containment.harness import SETTINGS, Report, run, run_unconfined
from trio_runner.sandbox import landlock, seccomp

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.usefixtures("quiet"),
    pytest.mark.skipif(landlock.abi() < 6 or not seccomp.supported(), reason="needs a kernel with all layers"),
]

SYSTEM_PYTHON = Path("/usr/bin/python3.11")
USER = 64321
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "setting", [pytest.param(name, marks=pytest.mark.long if name == "network" else ()) for name in SETTINGS]
)
async def test_each_program_ends_as_it_should_and_touches_nothing(setting: str) -> None:
    report = await run(setting)
    assert not report.problems, "\n".join(report.problems)
    assert report.programs >= 290


def test_the_corpus_covers_all_techniques_evenly() -> None:
    programs = load()
    hostile = [program for program in programs if program.hostile]
    assert len(programs) >= 150
    assert 0.4 < len(hostile) / len(programs) < 0.75
    techniques = {technique.partition(":")[0] for technique in Counter(program.technique for program in hostile)}
    assert techniques >= {
        "dunder walk", "denied builtins", "builtins dict", "format strings", "match patterns", "frames",
        "exception attributes", "name mangling", "classes", "import machinery", "unicode source", "scope tricks",
        "injected objects", "result encoder", "resources", "process", "channel forging", "wrapper break-outs",
    }  # fmt: skip
    judged_by_canaries_alone = [p.name for p in hostile if isinstance(p.unchecked, Contained)]
    assert len(judged_by_canaries_alone) < len(hostile) / 2


async def test_without_confinement_the_canaries_tell() -> None:
    """What makes the silence of the other tests worth something: the same programs, and the sandbox off."""
    noticed = {
        "open": "the secret of the file leaked",
        "traceback-frame": "the secret of the file leaked",
        "write-by-symbolic-names": "/dev/shm was []",
        "change-what-is-its-own": "/own was",
        "shared-memory": "System V shm was []",
        "asyncio-subprocess-and-server": "the unix socket was reached",
        "every-way-to-connect": "the tcp socket was reached",
        "foreign-call-tables-int80": "expected an error",
    }
    report = await run_unconfined(noticed)
    for name, text in noticed.items():
        assert any(f"{name}: " in problem and text in problem for problem in report.problems), (name, report.problems)


def test_a_canary_that_is_touched_says_so() -> None:
    with Canaries(os.geteuid(), {}) as canaries:
        assert canaries.problems({"result": 1}) == []
        assert canaries.problems({"error": {"message": f"…{canaries.secrets['file']}…"}})
        os.kill(canaries.targets()["canary_pid"], 15)
        assert canaries.problems(None)
        assert canaries.problems(None) == []
        Path(canaries.targets()["own_file"]).write_text("touched")
        assert canaries.problems(None)


# --- as other users


@pytest.fixture(scope="module")
def open_python() -> Iterator[Path]:
    """An installation that every user can read, with the project in it; the tests are copied next to it."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    if not SYSTEM_PYTHON.exists():
        pytest.skip(f"needs {SYSTEM_PYTHON}, a Python that every user can read")
    if shutil.which("uv") is None:
        pytest.skip("needs uv, to make an environment that every user can read")
    base = Path(tempfile.mkdtemp(prefix="open-python-", dir="/tmp"))
    try:
        base.chmod(0o755)
        python = base / "venv" / "bin" / "python"
        _quietly("uv", "venv", "-q", "--python", str(SYSTEM_PYTHON), str(base / "venv"))
        _quietly("uv", "pip", "install", "-q", "--python", str(python), str(ROOT))
        shutil.copytree(ROOT / "tests", base / "src" / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        _quietly("chmod", "-R", "a+rX", str(base))
        yield python
    finally:
        shutil.rmtree(base)


def _quietly(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
@pytest.mark.parametrize("user", [USER, 65534, None], ids=["ordinary user", "nobody", "root that becomes nobody"])
def test_each_program_ends_as_it_should_for_another_user(user: int | None, open_python: Path) -> None:
    done = subprocess.run(
        [open_python, "-m", "tests.containment.harness"],
        cwd=open_python.parents[2] / "src",
        user=user,
        group=user,
        extra_groups=[] if user else None,
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    reports = msgspec.json.decode(done.stdout.splitlines()[-1], type=list[Report])
    problems = [problem for report in reports for problem in report.problems]
    assert not problems, "\n".join(problems)
    assert [report.setting for report in reports] == list(SETTINGS)
    assert {report.uid for report in reports} == {user or 65534}
    print(json.dumps([msgspec.to_builtins(report) for report in reports]))
