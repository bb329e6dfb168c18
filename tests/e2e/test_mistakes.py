"""Each of the usual mistakes, through the broker, a runner and a confined worker: the reference's message, and more.

The table in docs/errors.md is what this finds; `python -m tests.e2e.test_mistakes` writes it.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.docs.mistakes import ITEMS, MISTAKES, SETTINGS, WORKS, Mistake
from tests.runner_kit import running
from trio_runner.executor import unquote

pytestmark = pytest.mark.e2e

ERRORS = Path(__file__).parent.parent.parent / "docs" / "errors.md"
BLOCK = re.compile(r"(<!-- mistakes -->\n).*?(\n<!-- /mistakes -->)", re.DOTALL)
OWN_WORDS = (3, 11)
"""The Python whose words for its own errors stand in the table; others put some of them in another way."""


async def outcomes() -> list[dict[str, Any]]:
    """What comes of each, from one runner."""
    found = []
    async with running(SETTINGS) as bench:
        for mistake in MISTAKES:
            mode = "runOnceForEachItem" if mistake.each else "runOnceForAllItems"
            with trio.fail_after(20):
                found.append(await bench.run(mistake.code, ITEMS, nodeMode=mode))
    return found


async def test_each_mistake_gets_the_message_that_people_know_and_is_told_where_and_what_to_do() -> None:
    found = await outcomes()
    wrong = [
        problem for mistake, outcome in zip(MISTAKES, found, strict=True) for problem in problems(mistake, outcome)
    ]
    assert not wrong, "\n".join(wrong)
    if sys.version_info[:2] == OWN_WORDS:
        shown = BLOCK.search(ERRORS.read_text(encoding="utf-8"))
        assert shown is not None
        assert shown.group(0) == written(found), "run: python -m tests.e2e.test_mistakes"


def problems(mistake: Mistake, outcome: dict[str, Any]) -> list[str]:
    """What is wrong with what is said about a mistake."""
    if mistake.ours == WORKS:
        shown = says(mistake, outcome)
        return [] if shown.startswith(WORKS) and mistake.tells in shown else [f"{mistake.what}: {outcome}"]
    if "error" not in outcome:
        return [f"{mistake.what}: {outcome}"]
    error = outcome["error"]
    context = error.get("context") or {}
    expected = {"message": mistake.message, "lineNumber": mistake.line, "itemIndex": mistake.item}
    got = {name: error.get(name, context.get(name)) for name in expected}
    if sys.version_info[:2] != OWN_WORDS:
        del expected["message"]
    wrong = [f"{mistake.what}: {name} is {got[name]!r}" for name in expected if got[name] != expected[name]]
    description = str(error.get("description"))
    if mistake.tells not in description:
        wrong.append(f"{mistake.what}: {description!r} does not say {mistake.tells!r}")
    return wrong


def says(mistake: Mistake, outcome: dict[str, Any]) -> str:
    """What an author sees of it, in the words of the table."""
    if "error" not in outcome:
        prints = "".join(" prints: " + " ".join(map(unquote, texts)) for texts in outcome["logs"])
        return f"{WORKS} {json.dumps(outcome['result'])}{prints}"
    error = outcome["error"]
    description = str(error["description"])
    if error["message"] == "Security violations detected":
        description = description.replace("\n\n", "\n")
    return f"{error['message']} / {description.partition(chr(10) * 2)[0]}"


def written(found: list[dict[str, Any]]) -> str:
    """The table, between its marks."""
    rows = ["| mistake | the program | n8n's own runner | trio_runner |", "| --- | --- | --- | --- |"]
    for mistake, outcome in zip(MISTAKES, found, strict=True):
        mode = "each item: " if mistake.each else ""
        reference = mistake.reference or "(an empty message)"
        cells = (mistake.what, f"{mode}{_code(mistake.code)}", _text(reference), _text(says(mistake, outcome)))
        rows.append(f"| {' | '.join(cells)} |")
    return "<!-- mistakes -->\n" + "\n".join(rows) + "\n<!-- /mistakes -->"


def _code(text: str) -> str:
    return "<br>".join(f"<code>{_escaped(line).replace('  ', '&nbsp; ')}</code>" for line in text.split("\n"))


def _text(text: str) -> str:
    message, _, description = text.partition(" / ")
    shown = f"**{_escaped(message)}**" if not message.startswith("(") else _escaped(message)
    return shown + (f"<br>{_escaped(description)}" if description else "")


def _escaped(text: str) -> str:
    text = text.replace("&", "&amp;")
    for character in "<>|*_`[":
        text = text.replace(character, f"&#{ord(character)};")
    return text.replace("\n", "<br>")


if __name__ == "__main__":
    results = trio.run(outcomes)
    ERRORS.write_text(BLOCK.sub(lambda _: written(results), ERRORS.read_text(encoding="utf-8")), encoding="utf-8")
