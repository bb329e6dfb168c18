"""The wheel as it is given to other people: built from this checkout, installed where nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 300  # seconds; building and installing take two or three, downloads come on top once


def run(*command: str | Path, cwd: Path = ROOT, **environ: str) -> str:
    """Standard output of a command that succeeds; what it said otherwise is the failure."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("N8N_", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**clean, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def build(into: Path) -> tuple[Path, Path]:
    """The wheel and the sdist; the wheel is made from the sdist, as an index would."""
    run("uv", "build", "--quiet", "--out-dir", into)
    (wheel,), (sdist,) = into.glob("*.whl"), into.glob("*.tar.gz")
    return wheel, sdist


def install(wheel: Path, into: Path) -> Path:
    """What is pinned, each checked against its hash, and the wheel; nothing else. Returns the folder of commands."""
    run("uv", "venv", "--quiet", "--python", sys.executable, into)
    python = into / "bin" / "python"
    pip = ("uv", "pip", "install", "--quiet", "--python", python)
    run(*pip, "--require-hashes", "-r", ROOT / "constraints.txt")
    run(*pip, "--no-deps", wheel)
    return into / "bin"
