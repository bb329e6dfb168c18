"""What user code may do: the operator's decision, as one frozen value that travels to the zygote.

Owns the import rules and their texts. Must not look at source code (analysis) or patch anything (imports, userapi).
"""

from __future__ import annotations

import sys

import msgspec

ALL = "*"
"""An allowlist that holds this single entry allows everything."""

DEFAULT_BUILTINS_DENY = frozenset(
    "eval exec compile open input breakpoint getattr object type vars setattr delattr hasattr dir memoryview "
    "__build_class__ globals locals license help credits copyright".split()
)
"""Builtins that user code does not get unless the operator says otherwise (runner-behaviour 15.1)."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's rules for user code.

    ``stdlib_allow`` and ``external_allow`` hold exact top-level module names, or only ``*``. An entry with a dot never
    matches, as in the reference (runner-behaviour 14.1).
    """

    stdlib_allow: frozenset[str] = frozenset()
    external_allow: frozenset[str] = frozenset()
    builtins_deny: frozenset[str] = DEFAULT_BUILTINS_DENY
    block_env: bool = True

    @property
    def source_checks(self) -> bool:
        """Whether source code is analysed at all: not when both allowlists are open (runner-behaviour 14)."""
        return not (ALL in self.stdlib_allow and ALL in self.external_allow)

    def allows_import(self, name: str) -> bool:
        """Whether user code may import the absolute module ``name``; only its top-level part counts."""
        top = name.partition(".")[0]
        allowed = self.stdlib_allow if top in sys.stdlib_module_names else self.external_allow
        return ALL in allowed or top in allowed

    def import_refusal(self, name: str) -> str:
        """The text that says why ``name`` may not be imported (runner-behaviour 16: users and tests match on it)."""
        if name.partition(".")[0] in sys.stdlib_module_names:
            allowed = ", ".join(sorted(self.stdlib_allow)) or "none"
            return f"Import of standard library module '{name}' is disallowed. Allowed stdlib modules: {allowed}"
        allowed = ", ".join(sorted(self.external_allow)) or "none"
        return f"Import of external package '{name}' is disallowed. Allowed external packages: {allowed}"
