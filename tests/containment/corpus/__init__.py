"""Programs that attack, and programs that only look as if they did.

Each says what is to become of it under `compat` (source checks on, the default), under `relaxed` (the whole language,
imports checked), under `unchecked` (no source checks, every builtin, every module: only the kernel's layers are left)
and under `network` (the same, in the mode that has sockets). What an attack may know (paths, ports, pids of canaries)
it is told in its first item; see `canaries`.
"""

from __future__ import annotations

import json
import math
import textwrap
from typing import Any

import msgspec

ITEMS: list[dict[str, Any]] = [{"json": {"n": 3, "name": "Zoë"}}, {"json": {"n": 1, "name": "obj"}}]
"""What harmless programs get."""

SAFE = {"N8N_RUNNERS_STDLIB_ALLOW": "@safe"}
LOOK = {"N8N_RUNNERS_STDLIB_ALLOW": "sys,importlib,builtins,io,os,asyncio,pkgutil,typing"}
"""Modules through which all the others can be had: what an operator should not allow, and may have."""
CLASSES = {"N8N_RUNNERS_STDLIB_ALLOW": "@safe", "N8N_RUNNERS_BUILTINS_DENY": "eval,exec,compile,open,input,breakpoint"}


class Gives(msgspec.Struct, frozen=True):
    """The program returns exactly this."""

    value: Any

    def problem(self, outcome: dict[str, Any]) -> str:
        if "result" not in outcome:
            return f"expected a result, got {outcome!r:.600}"
        return "" if _text(outcome["result"]) == _text(self.value) else f"returned {outcome['result']!r:.600}"


class Ends(msgspec.Struct, frozen=True):
    """The program ends in an error whose message or description holds one of the texts."""

    texts: tuple[str, ...]

    def problem(self, outcome: dict[str, Any]) -> str:
        if "error" not in outcome:
            return f"expected an error, got {outcome!r:.600}"
        said = f"{outcome['error'].get('message')}\n{outcome['error'].get('description')}"
        return "" if any(text in said for text in self.texts) else f"error {said!r:.600}"


class Blocked(msgspec.Struct, frozen=True):
    """The program returns its attempts by name, each with the word with which it was refused."""

    words: tuple[str, ...]

    def problem(self, outcome: dict[str, Any]) -> str:
        attempts = outcome.get("result")
        if not isinstance(attempts, dict) or not attempts:
            return f"expected attempts, got {outcome!r:.600}"
        through = {name: word for name, word in attempts.items() if word not in self.words}
        return f"not refused: {through!r:.600}" if through else ""


class Contained(msgspec.Struct, frozen=True):
    """The program ends somehow, in an error of its own task or in a result; the canaries judge."""

    def problem(self, outcome: dict[str, Any]) -> str:
        return "" if outcome.keys() & {"result", "error"} else f"neither a result nor an error: {outcome!r:.600}"


Expectation = Gives | Ends | Blocked | Contained


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """One program. ``allow`` holds variables of the runner for the settings with source checks."""

    name: str
    technique: str
    code: str
    compat: Expectation
    unchecked: Expectation
    relaxed: Expectation
    network: Expectation
    hostile: bool
    allow: dict[str, str] = {}
    each_item: bool = False
    machine: str = ""

    def expectation(self, setting: str) -> Expectation:
        """By the name of the setting."""
        return getattr(self, setting)


PROGRAMS: list[Program] = []


def harmless(
    name: str,
    technique: str,
    code: str,
    value: Any,
    *,
    allow: dict[str, str] | None = None,
    compat: Expectation | None = None,
    unchecked: Expectation | None = None,
    each_item: bool = False,
) -> None:
    """A program that must work, or (``compat``) that n8n's own rules refuse although nothing is wrong with it."""
    gives = Gives(value)
    _add(
        Program(
            name=name,
            technique=technique,
            code=_source(code),
            compat=compat or gives,
            unchecked=unchecked or gives,
            relaxed=unchecked or gives,
            network=unchecked or gives,
            hostile=False,
            allow=allow or {},
            each_item=each_item,
        )
    )


def hostile(
    name: str,
    technique: str,
    code: str,
    *,
    compat: Expectation,
    unchecked: Expectation | None = None,
    relaxed: Expectation | None = None,
    network: Expectation | None = None,
    allow: dict[str, str] | None = None,
    machine: str = "",
) -> None:
    """A program that wants what it must not have. Without a word on a setting, the canaries alone judge there."""
    _add(
        Program(
            name=name,
            technique=technique,
            code=_source(code),
            compat=compat,
            unchecked=unchecked or Contained(),
            relaxed=relaxed or Contained(),
            network=network or unchecked or Contained(),
            hostile=True,
            allow=allow or {},
            machine=machine,
        )
    )


def refused(*texts: str) -> Ends:
    """Refused by a source check or a guard, whose text names one of these."""
    return Ends(tuple(f"'{text}'" if text.isidentifier() else text for text in texts))


DENIED = Ends(("Permission denied", "Operation not permitted"))
"""What Python makes of a refusal of the kernel."""


def _source(code: str) -> str:
    return textwrap.dedent(code).strip("\n") if code.startswith("\n") else code


def _add(program: Program) -> None:
    if any(other.name == program.name for other in PROGRAMS):
        raise ValueError(f"two programs are called {program.name}")
    PROGRAMS.append(program)


def _text(value: Any) -> str:
    """1 is not true and 1.0 is not 1 for a reader of JSON."""
    if isinstance(value, float) and math.isnan(value):
        value = None
    return json.dumps(value, sort_keys=True)


def load() -> list[Program]:
    """All programs."""
    from tests.containment.corpus import channel, everyday, kernel, language, modules, names  # noqa: F401 - they register

    return PROGRAMS
