"""Fills the templates. Owns their syntax, ``@{name}``, and how a value is quoted in each language they are written in.

Not ``$``: compose files and shells have that themselves. A name alone on its line stands for a block: each line of it
is indented like the name, and an empty one takes its line with it. A name without a value, or a value that nothing
takes, is a mistake of ours and raises.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

import msgspec

_NAME: Final = re.compile(r"@\{([a-z0-9_]+)\}")
_PLAIN: Final = re.compile(r"[a-z]([a-z0-9._/:@-]*[a-z0-9])?")
_YAML_WORDS: Final = frozenset("true false yes no on off null y n".split())
_BLOCK: Final = re.compile(r"^([ ]*)@\{([a-z0-9_]+)\}\n", re.MULTILINE)


def template(name: str) -> str:
    """The text of a file in ``templates``."""
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8")


def render(name: str, values: Mapping[str, str]) -> str:
    """The template with its names replaced. Raises KeyError and ValueError when names and values do not fit."""
    text = template(name)
    unused = set(values) - set(_NAME.findall(text))
    if unused:
        raise ValueError(f"{name} does not use {', '.join(sorted(unused))}")

    def block(match: re.Match[str]) -> str:
        indent, lines = match[1], values[match[2]].splitlines()
        return "".join(f"{indent}{line}".rstrip() + "\n" for line in lines)

    # one pass for each kind of place, and never over what was put in: a value may hold anything
    parts, end = [], 0
    for match in _BLOCK.finditer(text):
        parts += [_NAME.sub(lambda name: values[name[1]], text[end : match.start()]), block(match)]
        end = match.end()
    parts.append(_NAME.sub(lambda name: values[name[1]], text[end:]))
    return "".join(parts)


def yaml_word(value: str) -> str:
    """A name as it is where YAML takes it for a text, else quoted: ``on`` and ``12`` would be something else."""
    plain = _PLAIN.fullmatch(value) and value not in _YAML_WORDS
    return value if plain else yaml_text(value)


def yaml_text(value: str) -> str:
    """A double-quoted scalar: what JSON quotes YAML reads, but for characters that must not stand in its files."""
    quoted = msgspec.json.encode(value).decode()
    return quoted if quoted.isprintable() else "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)


def compose_text(value: str) -> str:
    """The same in a compose file, where a dollar would begin a variable."""
    return yaml_text(value.replace("$", "$$"))


def kubernetes_text(value: str) -> str:
    """The same in a container's environment, where ``$(NAME)`` would be replaced."""
    return yaml_text(value.replace("$(", "$$("))


def systemd_text(assignment: str) -> str:
    """An ``Environment=`` assignment: C-like escapes, and percent signs would be specifiers."""
    escaped = assignment.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return '"' + escaped.replace("\n", "\\n").replace("\t", "\\t") + '"'


def docker_text(value: str) -> str:
    """A double-quoted word of a Dockerfile's ENV. A line break would end the instruction: it becomes a space."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return '"' + " ".join(escaped.splitlines()) + '"'
