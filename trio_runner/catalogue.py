"""Every error that the author of a workflow or an operator can meet: code, texts, cause and remedy.

Owns the registry behind docs/errors.md and `trio-runner explain`. A text stands here as the code makes it, with `…` for
what is filled in; the tests read the code and find each text that is not here. A text that holds its code in brackets
is found by that. Must not be imported by what runs tasks.

Codes: 1 exceptions of programs, 2 their source, 3 rules, 4 results, limits and workers, 5 n8n's own texts, 6 settings,
7 the connection with n8n, 8 sandbox and workers, 9 the command line. A code is never used again for something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import resources
from typing import Final, Literal

import msgspec

GAP: Final = "…"
"""Stands in a text for what is only known when it is made."""
_CODE: Final = re.compile(r"\bTR\d{3}\b")
_FILE: Final = "catalogue.toml"
Who = Literal["author", "operator"]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One error. ``texts`` are the wordings that our code has for it, ``others`` those of Python, system and n8n."""

    code: str
    title: str
    cause: str
    remedy: str
    texts: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    who: Who = "author"

    @property
    def heading(self) -> str:
        """As it stands in docs/errors.md."""
        return f"{self.code} {self.title}"

    @property
    def prose(self) -> str:
        """All that is said of it, in small letters."""
        return " ".join((self.title, self.cause, self.remedy, *self.texts, *self.others)).lower()


class _File(msgspec.Struct):
    entry: list[Entry]


@cache
def entries() -> tuple[Entry, ...]:
    """All of them, by code."""
    import tomllib

    text = resources.files("trio_runner").joinpath(_FILE).read_text(encoding="utf-8")
    return tuple(sorted(msgspec.convert(tomllib.loads(text), _File).entry, key=lambda entry: entry.code))


def find(text: str) -> list[Entry]:
    """What a text is about, most likely first: by the code in it, else by the longest wordings that are part of it."""
    codes = set(_CODE.findall(text.upper()))
    if named := [entry for entry in entries() if entry.code in codes]:
        return named
    plain = " ".join(text.split()).lower()
    if found := sorted(_matches(plain), key=lambda match: -match[0]):
        return list(dict.fromkeys(entry for size, entry in found if size * 2 >= found[0][0]))
    return [entry for entry in entries() if len(plain) >= _WORD and plain in entry.prose]


def _matches(text: str) -> Iterator[tuple[int, Entry]]:
    """Entries of which a wording is part of the text, or the text of a wording; with how much of both is the same."""
    for entry in entries():
        for wording in (*entry.texts, *entry.others, entry.title):
            plain = " ".join(wording.split()).lower()
            parts = [part.strip() for part in plain.split(GAP)]
            size = sum(map(len, parts))
            whole = r"(?<!\w)" + ".*?".join(map(re.escape, parts)) + r"(?!\w)"
            if size >= _SHORTEST and re.search(whole, text):
                yield size, entry
            elif pieces := [part for part in parts if len(parts) > 1 and len(part) >= _TELLING and part in text]:
                yield max(map(len, pieces)), entry
            elif len(text) >= _TELLING and text in plain:
                yield len(text), entry


_SHORTEST: Final = 8
"""Characters of a whole wording: of less than that nearly every text is part."""
_TELLING: Final = 12
"""The same for a piece of one."""
_WORD: Final = 4
"""Characters of a word that is looked for in what an entry says, when nothing else is like it."""


def with_code(text: str) -> str:
    """A text with the code of what it is most likely about behind it."""
    found = [] if _CODE.search(text) else find(text)
    return f"{text} [{found[0].code}]" if found else text


def show(found: Iterable[Entry], *, width: int = 100) -> str:
    """For a terminal: links as the names of their documents, lines of this width."""
    return "\n\n".join(
        "\n".join(
            [
                f"{entry.code}  {entry.title}",
                _paragraph("  Cause:  ", entry.cause, width),
                _paragraph("  Remedy: ", entry.remedy, width),
            ]
        )
        for entry in found
    )


def _paragraph(head: str, text: str, width: int) -> str:
    import textwrap

    plain = re.sub(r"\[([^\]]+)\]\(([^)#]+)[^)]*\)", r"\1 (docs/\2)", text)
    return textwrap.fill(plain, width, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False)
