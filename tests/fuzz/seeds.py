"""The corpus: for each target a file of inputs, one bytes literal a line, with whatever has crashed it once on top."""

from __future__ import annotations

import ast
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def seeds(name: str) -> list[bytes]:
    """The inputs of one target."""
    path = CORPUS / f"{name}.txt"
    lines = path.read_text("ascii").splitlines() if path.exists() else []
    return [ast.literal_eval(line) for line in lines if line.strip() and not line.startswith("#")]
