"""The fenced blocks of our documents, and what is to be done with each.

What stands behind the language decides: `run` is executed as it is; `node` is a Code node's program, whose result
stands in the next block (`json result`); `test`, `conftest` and `file=NAME` are files of a test suite; `output` is what
the block before it prints. Anything else is only shown.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = (
    *sorted((ROOT / "docs").glob("*.md")),
    *(
        path
        for name in ("README.md", "CHANGELOG.md", "SECURITY.md", "bench/README.md")
        if (path := ROOT / name).exists()
    ),
)
_FENCE = re.compile(r"^( *)```(\S*)[ \t]*(.*?)\n(.*?)^\1```[ \t]*$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!-- (items|settings): ((?:(?!-->).)*?) -->\s*\Z", re.DOTALL)


class Fence(msgspec.Struct, frozen=True):
    """One block. ``items`` and ``settings`` stand in comments right before it."""

    document: Path
    line: int
    language: str
    words: tuple[str, ...]
    text: str
    items: str
    settings: str

    @property
    def place(self) -> str:
        """For the report of a test."""
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def fences(document: Path) -> list[Fence]:
    """All blocks of a document, in order."""
    text = document.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        before, comments = text[: match.start()], {}
        while comment := _COMMENT.search(before):
            comments[comment.group(1)] = comment.group(2)
            before = before[: comment.start()]
        line = text.count("\n", 0, match.start()) + 1
        body = re.sub(f"^{match.group(1)}", "", match.group(4), flags=re.MULTILINE)
        words = tuple(match.group(3).split())
        items, settings = comments.get("items", "[]"), comments.get("settings", "")
        found.append(Fence(document, line, match.group(2), words, body, items, settings))
    return found


def without_fences(text: str) -> str:
    """A document's prose: lines keep their numbers."""
    return _FENCE.sub(lambda match: "\n" * match.group(0).count("\n"), text)
