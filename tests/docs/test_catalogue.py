"""The catalogue of errors is whole: the code is read for texts, and docs/errors.md is what the registry says.

`python -m tests.docs.test_catalogue` writes the document.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.messages import GAP, all_messages, messages_of
from trio_runner import catalogue

ERRORS = Path(__file__).parent.parent.parent / "docs" / "errors.md"
BLOCK = re.compile(r"(<!-- catalogue -->\n).*?(\n<!-- /catalogue -->)", re.DOTALL)
CODE = re.compile(r"\[(TR\d{3})\]")

OURS_ALONE = {
    "capacity must be at least 1, got …": "the configuration is checked before",
    "released a slot that was not taken": "a defect of the program that calls it",
    "task … was never started": "a defect of the program that calls it",
    "not a format method": "only code that found the hidden guard can call it so",
    "the body is too large": "answered with 413; clients of the health server send no bodies",
    "a Buffer is missing": "the embedded broker, which tells the program what was wrong with its call",
    "A data request has no answer, as with n8n: …": "the embedded broker, and only a foreign runner asks so",
    "… (line …)": "the text of a failure, which has an entry of its own",
    "Warning: …": "what follows is a warning with an entry of its own",
}
"""Texts that neither authors nor operators meet, and why."""

AREAS = {
    "1": "Exceptions of the program",
    "2": "The source of the program",
    "3": "Rules",
    "4": "Results, limits and workers",
    "5": "Texts of n8n itself",
    "6": "Settings",
    "7": "The connection with n8n",
    "8": "Sandbox and workers",
    "9": "The command line",
}


def test_every_text_of_an_error_that_the_code_makes_is_in_the_catalogue() -> None:
    known = {text for entry in catalogue.entries() for text in entry.texts} | OURS_ALONE.keys()
    codes = {entry.code for entry in catalogue.entries()}
    missing = [
        f"{message.place}: {message.text!r}"
        for message in all_messages()
        if (
            not set(CODE.findall(message.text)) <= codes
            if CODE.search(message.text)
            else message.text.strip() not in known
        )
    ]
    assert not missing, "give each an entry in trio_runner/catalogue.toml:\n" + "\n".join(missing)


def test_the_catalogue_holds_no_text_that_the_code_does_not_make() -> None:
    made = {message.text.strip() for message in all_messages()}
    gone = [f"{entry.code}: {text!r}" for entry in catalogue.entries() for text in entry.texts if text not in made]
    assert not gone, "\n".join(gone)
    assert OURS_ALONE.keys() <= made


def test_codes_are_unique_and_every_entry_says_what_and_why_and_what_to_do() -> None:
    codes = [entry.code for entry in catalogue.entries()]
    assert len(set(codes)) == len(codes)
    for entry in catalogue.entries():
        assert re.fullmatch(r"TR[1-9]\d\d", entry.code)
        assert entry.cause.endswith(".")
        assert entry.remedy.endswith((".", ")"))
        assert len(entry.title) < 80


def test_a_new_error_is_found_wherever_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "new.py"
    module.write_text(
        "WORDS = 'from a name'\n"
        "class NewError(Exception):\n"
        "    def __init__(self, n):\n"
        "        super().__init__(f'made inside, {n} times')\n"
        "def a(log, x):\n"
        "    text = f'in a variable: {x}' if x else 'or another'\n"
        "    log.warning('in the log: %s', x)\n"
        "    if x: raise ValueError(text)\n"
        "    raise NewError(WORDS)\n"
        "def b(self, read):\n"
        "    self.problem(V, 'v', 'a problem of ' + x)\n"
        "    return Failure(message='a message', description='a ' + 'description', kind='error')\n"
    )
    monkeypatch.setattr("tests.docs.messages.PACKAGE", tmp_path)
    assert {message.text for message in messages_of(module)} == {
        "from a name",
        f"made inside, {GAP} times",
        f"in a variable: {GAP}",
        "or another",
        f"in the log: {GAP}",
        f"a problem of {GAP}",
        "a message",
        "a description",
    }


def test_a_text_from_a_log_or_from_n8n_is_looked_up() -> None:
    def codes(text: str) -> list[str]:
        return [entry.code for entry in catalogue.find(text)]

    assert codes("tr401") == ["TR401"]
    assert codes("Task request timed out") == ["TR501"]
    assert codes("n8n:5679: Connection refused") == ["TR701"]
    assert codes("nothing of the kind") == []
    assert codes("Task subprocess exited with code -11")[0] == "TR406"
    assert codes("Task subprocess exited with code -1")[0] == "TR408"
    assert codes("KeyError: 'x'") == ["TR102"]
    assert codes("Import of standard library module 're' is disallowed") == ["TR301"]
    assert "TR405" in codes("SIGKILL")
    assert codes("Failed to connect to broker: n8n:5679: Connection refused - retrying in 0.3s...") == ["TR701"]
    assert codes("name 'getattr' is not defined") == ["TR104"]
    line = 'Task x failed for node "a" (b) in workflow "c" (d): division by zero'
    assert "TR101" in codes(line)
    assert codes("  Import of standard library module 'os'\n is disallowed. Allowed stdlib modules: none ") == ["TR301"]


def test_what_is_shown_fits_a_terminal_and_has_no_markup_of_links() -> None:
    shown = catalogue.show(catalogue.find("TR714"), width=60)
    assert shown.startswith("TR714  An offer of this runner was rejected or lapsed\n  Cause:  A line")
    assert "the rejections (docs/operations.md)." in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 60


def test_the_document_is_what_the_catalogue_says() -> None:
    found = BLOCK.search(ERRORS.read_text(encoding="utf-8"))
    assert found is not None
    assert found.group(0) == written(), "run: python -m tests.docs.test_catalogue"


def written() -> str:
    """The catalogue as Markdown, between its marks."""
    parts = []
    for area, title in AREAS.items():
        parts.append(f"## {title}")
        parts += [_section(entry) for entry in catalogue.entries() if entry.code[2] == area]
    return "<!-- catalogue -->\n" + "\n\n".join(parts) + "\n<!-- /catalogue -->"


def _section(entry: catalogue.Entry) -> str:
    shown = "\n".join(f"- `{text}`" for text in (*entry.texts, *entry.others))
    who = "for the author" if entry.who == "author" else "for the operator"
    return (
        f"### {entry.heading}\n\n"
        + (f"{shown}\n\n" if shown else "")
        + (f"**Cause** ({who}). {entry.cause}\n\n**Remedy.** {entry.remedy}")
    )


if __name__ == "__main__":
    ERRORS.write_text(BLOCK.sub(lambda _: written(), ERRORS.read_text(encoding="utf-8")), encoding="utf-8")
