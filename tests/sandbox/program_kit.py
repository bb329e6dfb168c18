"""User programs run in this process, the way a child runs them: examined, compiled, called. For tests."""

from __future__ import annotations

import marshal
from typing import Any

from trio_runner.sandbox import child
from trio_runner.sandbox.compiling import examine, user_function
from trio_runner.sandbox.frames import Failure
from trio_runner.sandbox.policy import ALL, Policy

OPEN = Policy(stdlib_allow=frozenset({ALL}), external_allow=frozenset({ALL}), builtins_deny=frozenset())
"""Everything is allowed and nothing is analysed."""
CLASSES = Policy(builtins_deny=frozenset())
"""The language is whole, and source code is analysed."""


def allowing(*stdlib: str, external: tuple[str, ...] = (), deny: frozenset[str] = frozenset()) -> Policy:
    """A policy that allows these modules by name."""
    return Policy(stdlib_allow=frozenset(stdlib), external_allow=frozenset(external), builtins_deny=deny)


class RefusedError(Exception):
    """The program may not run or cannot."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.message}\n{failure.description or ''}")
        self.failure = failure


def refusal(source: str, policy: Policy = OPEN, *, each_item: bool = False) -> Failure | None:
    """Why a program may not run, or None."""
    return examine(source, each_item, policy).failure


def run(source: str, policy: Policy = OPEN, **inputs: Any) -> Any:
    """What a program returns. Inputs are ``items`` and ``query``, or ``item``. Raises what the program raises."""
    each_item = "item" in inputs
    verdict = examine(source, each_item, policy)
    if verdict.failure is not None:
        raise RefusedError(verdict.failure)
    names = {"_item": inputs["item"]} if each_item else {"_items": inputs.get("items"), "_query": inputs.get("query")}
    body = user_function(marshal.loads(verdict.code))
    return child._call(child.Prepared(policy, 1 << 20).globals(), body, names, verdict.loop)
