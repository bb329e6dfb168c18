"""Coverage-guided fuzzing of every target, a moment each: FUZZ_SECONDS=600 makes it ten minutes each.

uv run --group fuzz pytest -m fuzz
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS

pytestmark = pytest.mark.fuzz

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = float(os.environ.get("FUZZ_SECONDS", "1"))
SEED = os.environ.get("FUZZ_SEED", "1")
LONGEST_INPUT = 60  # seconds of wall clock on whatever else the machine does; of processor time it is 2
MEMORY = 1024  # MiB


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_crashes_hangs_or_bloats(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus, left = tmp_path / "corpus", tmp_path / "left"
    for folder in (corpus, left):
        folder.mkdir()
    for number, data in enumerate(seeds(name)):
        (corpus / str(number)).write_bytes(data)
    options = [
        f"-max_total_time={max(1, round(SECONDS))}",
        f"-timeout={LONGEST_INPUT}",
        f"-rss_limit_mb={MEMORY}",
        f"-seed={SEED}",
        f"-artifact_prefix={left}/",
        "-max_len=600",
        "-print_final_stats=1",
    ]
    done = subprocess.run(  # noqa: PLW1510
        [sys.executable, "-m", "tests.fuzz.harness", name, *options, str(corpus)],
        cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=SECONDS + 120,
    )  # fmt: skip
    crashes = {path.name: path.read_bytes() for path in left.iterdir()}
    crashes = {name: data for name, data in crashes.items() if not name.startswith("slow-unit")}  # by the wall clock
    assert (done.returncode, crashes) == (0, {}), done.stderr[-5000:]
    stats = dict(
        line.removeprefix("stat::").split(":") for line in done.stderr.splitlines() if line.startswith("stat::")
    )
    with capsys.disabled():
        print(f"{name:22} {int(stats['number_of_executed_units']):8d} inputs, {stats['peak_rss_mb'].strip()} MiB")
