"""PEP 723: what a program says about the packages that it needs, and whether the operator allows them.

Text in, a `Plan` out: owns the metadata block, the strict grammar of requirements and the words for what is refused.
Must not read files, start processes or know how a plan is carried out. Sources come from anybody: every text is
bounded, one pass over it is all, and only lines of our own making leave this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

MARK: Final = "# /// script"
"""A program without this text has no metadata: the one test that every program meets."""
_END: Final = "# ///"
_PLACE: Final = re.compile(r" \(at line (\d+), column \d+\)$")
_MAX_BLOCK: Final = 16_384
_MAX_BLANKS: Final = 100  # behind the mark: what is read there again and again must not be the whole of a long line
_MAX_REQUIREMENT: Final = 300
_MAX_REQUIREMENTS: Final = 50
_MAX_VERSION: Final = 40
_OPERATORS: Final = ("==", "~=", ">=", ">", "!=", "<=", "<")
"""In the order in which people write them."""
_FIELDS: Final = ("dependencies", "requires-python", "tool")
_FORBIDDEN: Final = re.compile(r"===|[@$\\{}/#%`|&?]")
"""What no name, version or marker needs: URLs, paths, options of files, environment variables, arbitrary equality."""
_LINE: Final = re.compile(
    r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\[[a-z0-9,-]+\])?((==|!=|<=|>=|<|>|~=)[0-9a-z!.+*_-]+(,(?=[=!<>~])|$))*"
)
"""What an installer is told, one requirement a line: nothing that it could take for something else."""


class InlineError(Exception):
    """The metadata is wrong, or more than the operator allows. The text is for the program's author."""

    def __init__(self, text: str, *, line: int | None = None) -> None:
        super().__init__(text)
        self.line = line


class Metadata(msgspec.Struct, frozen=True):
    """What the block says, as it says it; ``line`` is where it begins, from 1."""

    dependencies: tuple[str, ...] = ()
    requires_python: str = ""
    line: int = 1


class Plan(msgspec.Struct, frozen=True):
    """What an environment is made of: canonical requirements in order, and ranges that hold for everything in it."""

    requirements: tuple[str, ...]
    constraints: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """Canonical names of the packages that are asked for."""
        return frozenset(re.split(r"[\[=!<>~]", line, maxsplit=1)[0] for line in self.requirements)

    def __str__(self) -> str:
        return ", ".join(self.requirements)


def read(source: str) -> Metadata | None:
    """The metadata of a program, None when it has none. Raises `InlineError`."""
    block = _block(source.replace("\r\n", "\n"))
    if block is None:
        return None
    import tomllib

    text, line = block
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers with more digits than Python reads
        said = str(error)
        if at := _PLACE.search(said):  # in the block: the author counts from the first line of the program
            said, line = said[: at.start()], line + int(at[1])
        raise InlineError(f"The metadata block is not valid TOML: {_clip(said)}", line=line) from None
    for field in table:
        if field not in _FIELDS:
            known = ", ".join(_FIELDS)
            raise InlineError(f"The metadata block holds {_clip(repr(field))}, which is none of {known}", line=line)
    tools = table.get("tool", {})
    if not isinstance(tools, dict):
        raise InlineError("tool must be a table", line=line)
    if "uv" in tools:
        text = "[tool.uv] has no effect here: the runner's operator decides where packages come from. Remove it."
        raise InlineError(text, line=line)
    dependencies, requires = table.get("dependencies", []), table.get("requires-python", "")
    if not isinstance(dependencies, list) or not all(isinstance(entry, str) for entry in dependencies):
        raise InlineError('dependencies must be a list of texts, like ["pandas>=2"]', line=line)
    if not isinstance(requires, str):
        raise InlineError('requires-python must be a text, like ">=3.11"', line=line)
    if len(dependencies) > _MAX_REQUIREMENTS:
        raise InlineError(f"A program may name at most {_MAX_REQUIREMENTS} dependencies", line=line)
    return Metadata(tuple(dependencies), requires, line)


def _block(text: str) -> tuple[str, int] | None:
    """The content of the one block and the line on which it begins."""
    found: tuple[str, int] | None = None
    at = 0
    while (at := text.find(MARK, at)) != -1:
        start, end = at, text.find("\n", at)
        at += len(MARK)
        rest = text[at : min(end, at + _MAX_BLANKS) if end != -1 else at + _MAX_BLANKS]
        if (start and text[start - 1] != "\n") or rest.strip():
            continue  # in the middle of a line, or a word that only begins like it
        line = text.count("\n", 0, start) + 1
        if found is not None:
            raise InlineError("There is more than one '# /// script' block. Keep one.", line=line)
        content = _content(text[end + 1 : end + 2 + _MAX_BLOCK] if end != -1 else "", line)
        found = "\n".join(content), line
    return found


def _content(text: str, line: int) -> list[str]:
    """The lines of a block. It ends with the last closing line of one run of comments, as the standard has it."""
    lines: list[str] = []
    closed: int | None = None
    for raw in text.split("\n"):
        comment = raw.rstrip()
        if comment == _END:
            closed = len(lines)
        elif comment != "#" and not comment.startswith("# "):
            break
        lines.append(comment[2:])
    if closed is None:
        size = f" within {_MAX_BLOCK} characters" if len(text) > _MAX_BLOCK else ""
        text = f"The block that begins with '# /// script' is not closed by a line '# ///'{size}"
        raise InlineError(f"{text}; each line between them is a comment.", line=line)
    return lines[:closed]


class Allowance:
    """What the operator allows authors to ask for: everything, or names with ranges of versions."""

    def __init__(self, entries: Iterable[str] | None) -> None:
        """None allows everything. Raises `InlineError` for what is no requirement."""
        self._entries = None if entries is None else _merged(entries, markers=False)

    @property
    def named(self) -> bool:
        """Whether the operator chose the packages."""
        return self._entries is not None

    @property
    def constraints(self) -> tuple[str, ...]:
        """The ranges as lines: they hold for what a package brings along, too."""
        entries = (self._entries or {}).values()
        return tuple(sorted(f"{entry.name}{_ranges(entry.specifier)}" for entry in entries if entry.specifier))

    def check(self, requirement: Requirement) -> None:
        """Raises `InlineError` when this is not allowed. What it leaves open is narrowed by `constraints`."""
        if self._entries is None:
            return
        allowed = self._entries.get(requirement.name)
        listed = ", ".join(line_of(entry) for _, entry in sorted(self._entries.items())) or "none"
        if allowed is None:
            raise InlineError(
                f"The package {requirement.name} is not allowed in dependencies. The runner's operator allows: {listed}"
            )
        if extra := sorted(requirement.extras - allowed.extras):
            raise InlineError(
                f"The extra {requirement.name}[{extra[0]}] is not allowed. The runner's operator allows: {listed}"
            )
        if not _overlap(requirement.specifier, allowed.specifier):
            raise InlineError(
                f"No version of {line_of(requirement)} is allowed. The runner's operator allows: {line_of(allowed)}"
            )


def split_list(text: str) -> tuple[str, ...]:
    """Requirements split by commas, where a piece that begins with a comparison belongs to the one before it."""
    entries: list[str] = []
    for piece in filter(None, (part.strip() for part in text.split(","))):
        if entries and piece[0] in "<>=!~":
            entries[-1] += f",{piece}"
        else:
            entries.append(piece)
    return tuple(entries)


def file_lines(text: str) -> tuple[str, ...]:
    """The requirements of a plain file: one a line, with comments and empty lines."""
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())
    return tuple(filter(None, lines))


def plan(metadata: Metadata, allowance: Allowance, python: str) -> Plan | None:
    """What is to be installed, None when that is nothing. Raises `InlineError` when it may not be.

    ``python`` is the version of the interpreter that is going to run it.
    """
    try:
        _check_python(metadata.requires_python, python)
        wanted = _merged(metadata.dependencies, markers=True)
        for requirement in wanted.values():
            allowance.check(requirement)
    except InlineError as error:
        raise InlineError(str(error), line=metadata.line) from None
    lines = tuple(map(line_of, sorted(wanted.values(), key=lambda requirement: requirement.name)))
    return Plan(lines, allowance.constraints) if lines else None


def line_of(requirement: Requirement) -> str:
    """The one way to write it: an installer sees nothing else."""
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    line = f"{requirement.name}{extras}{_ranges(requirement.specifier)}"
    if not _LINE.fullmatch(line):
        raise InlineError(f"{_clip(repr(line))} is no name with versions")
    return line


def _ranges(specifiers: SpecifierSet) -> str:
    ordered = sorted(specifiers, key=lambda one: (_OPERATORS.index(one.operator), one.version))
    return ",".join(f"{one.operator}{one.version.lower()}" for one in ordered)


def _check_python(requires: str, python: str) -> None:
    if not requires:
        return
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        fits = len(requires) <= _MAX_REQUIREMENT and SpecifierSet(requires).contains(python, prereleases=True)
    except InvalidSpecifier:
        raise InlineError(f"requires-python is no range of versions: {_clip(repr(requires))}") from None
    if not fits:
        raise InlineError(f"This program asks for Python {_clip(requires)}; the runner has {python}")


def _merged(entries: Iterable[str], *, markers: bool) -> dict[str, Requirement]:
    """Requirements by canonical name; what is said twice holds twice. What its marker leaves out is left out."""
    merged: dict[str, Requirement] = {}
    for entry in entries:
        requirement = _parsed(entry)
        if requirement.marker is not None:
            if not markers:
                raise InlineError(f"{_clip(repr(entry))} holds a condition (;), which has no meaning here")
            try:
                if not requirement.marker.evaluate():
                    continue
            except ValueError as error:  # versions compared with what is none
                raise InlineError(f"{_clip(repr(entry))} holds a condition without a meaning: {_clip(error)}") from None
            requirement.marker = None
        if (before := merged.get(requirement.name)) is not None:
            requirement.specifier &= before.specifier
            requirement.extras |= before.extras
        merged[requirement.name] = requirement
    return merged


def _parsed(entry: str) -> Requirement:
    """One requirement, with canonical names. Raises `InlineError` for everything but names, extras and versions."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    shown = _clip(repr(entry))
    text = entry.strip()
    if not text or len(text) > _MAX_REQUIREMENT or not text.isascii() or not text.isprintable():
        raise InlineError(f"{shown} is no requirement: a name and versions in plain letters, like pandas>=2,<3")
    if text[0] in "-./~" or _FORBIDDEN.search(text):
        raise InlineError(
            f"{shown} is not allowed: only names and versions are (like pandas>=2,<3), no addresses, paths or options"
        )
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        reason = str(error).partition("\n")[0]
        raise InlineError(f"{shown} is no requirement, which is a name with versions: {_clip(reason)}") from None
    if any(len(one.version) > _MAX_VERSION for one in requirement.specifier):
        raise InlineError(f"{shown} holds a version that is too long")
    requirement.name = canonicalize_name(requirement.name)
    requirement.extras = {canonicalize_name(extra) for extra in requirement.extras}
    line_of(requirement)
    return requirement


def _overlap(one: SpecifierSet, other: SpecifierSet) -> bool:
    """Whether a version can lie in both: one that is named, or one right above it. The resolver has the last word."""
    both = one & other
    return any(both.contains(version, prereleases=True) for version in _candidates(both))


def _candidates(specifiers: SpecifierSet) -> Iterator[Version]:
    from packaging.version import InvalidVersion, Version

    yield Version("0")
    for specifier in specifiers:
        text = specifier.version.removesuffix(".*")
        for candidate in (text, f"{text}.0.0.0.1", f"{text}.0.0.0.1.dev0"):
            try:
                yield Version(candidate)
            except InvalidVersion:  # the one right above a pre-release or a local version cannot be written so
                continue


def _clip(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _MAX_REQUIREMENT else f"{text[:_MAX_REQUIREMENT]}…"
