"""`trio-runner init` as a person calls it, and what its files mean to who reads them."""

from __future__ import annotations

import dataclasses
import re
import shlex
from typing import Any

import click.testing
import yaml

from trio_runner.cli import cli


@dataclasses.dataclass(frozen=True)
class Made:
    text: str
    said: str

    @property
    def yaml(self) -> Any:
        return yaml.safe_load(self.text)

    @property
    def documents(self) -> list[Any]:
        return list(yaml.safe_load_all(self.text))


def invoke(*args: str, **environ: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(cli, ["init", *args], env=environ, prog_name="trio-runner")


def made(*args: str, **environ: str) -> Made:
    """What was printed, and what was said beside it."""
    result = invoke(*args, **environ)
    assert result.exit_code == 0, result.output
    return Made(result.stdout, result.stderr)


def refusal(*args: str, **environ: str) -> str:
    result = invoke(*args, **environ)
    assert result.exit_code in (1, 2), result.output
    assert result.stdout == ""
    return " ".join(result.stderr.split())


def sections(unit: str) -> dict[str, list[tuple[str, str]]]:
    """A systemd unit: the assignments of each section, in order."""
    found: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for line in unit.splitlines():
        if not line or line.startswith("#"):
            continue
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            current = found.setdefault(heading[1], [])
        else:
            name, _, value = line.partition("=")
            current.append((name, value))
    return found


def unit_environment(unit: str) -> dict[str, str]:
    """The variables of a unit, unquoted as systemd does (its escapes are those of a shell's double quotes, and %%)."""
    assignments = [value for name, value in sections(unit)["Service"] if name == "Environment"]
    words = [word for value in assignments for word in shlex.split(value)]
    return {name: value.replace("%%", "%") for name, _, value in (word.partition("=") for word in words)}


def without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
