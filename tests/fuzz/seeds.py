"""The corpus: for each target a file of inputs, one a line, as bytes literals that may be added and repeated."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus"


def seeds(name: str) -> list[bytes]:
    """The inputs of one target."""
    path = CORPUS / f"{name}.txt"
    lines = path.read_text("ascii").splitlines() if path.exists() else []
    return [_value(ast.parse(line, mode="eval").body) for line in lines if line.strip() and not line.startswith("#")]


def _value(node: ast.expr) -> Any:
    match node:
        case ast.BinOp(left, ast.Mult(), right):
            return _value(left) * _value(right)
        case ast.BinOp(left, ast.Add(), right):
            return _value(left) + _value(right)
        case _:
            return ast.literal_eval(node)
