"""Coverage-guided fuzzing of every target, a moment each: FUZZ_SECONDS=600 makes it ten minutes each.

uv run --group fuzz pytest -m fuzz
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

pytestmark = pytest.mark.fuzz

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = float(os.environ.get("FUZZ_SECONDS", "1"))
LONGEST_INPUT = 30  # seconds of wall clock on whatever else the machine does; of processor time it is 2
MEMORY = 1024  # MiB


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_crashes_hangs_or_bloats(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = tmp_path / "found"
    found.mkdir()
    corpora = [str(found)] + [str(folder) for folder in [ROOT / "tests/fuzz/corpus" / name] if folder.exists()]
    options = [
        f"-max_total_time={max(1, round(SECONDS))}", f"-timeout={LONGEST_INPUT}", f"-rss_limit_mb={MEMORY}", "-max_len=600",
        f"-artifact_prefix={tmp_path}/", "-print_final_stats=1", f"-seed={os.environ.get('FUZZ_SEED', '1')}",
    ]  # fmt: skip
    done = subprocess.run(  # noqa: PLW1510
        [sys.executable, "-m", "tests.fuzz.harness", name, *options, *corpora],
        cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=SECONDS + 120,
    )  # fmt: skip
    crashes = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert (done.returncode, crashes) == (0, {}), done.stderr[-5000:]
    stats = dict(
        line.removeprefix("stat::").split(":") for line in done.stderr.splitlines() if line.startswith("stat::")
    )
    with capsys.disabled():
        print(f"{name:22} {int(stats['number_of_executed_units']):8d} inputs, {stats['peak_rss_mb'].strip()} MiB")
