"""What user code can import: the guarded ``__import__``, its view of importlib, and what ``sys.modules`` shows it.

Packages keep the real import, so their own dependencies load freely; only user code meets the guard. Owns run-time
import rules; the rules themselves are `policy`'s.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Final

from trio_runner.sandbox.hardened import harden
from trio_runner.sandbox.policy import ALL, Policy

RUNTIME_IMPORTS: Final = frozenset(
    "_strptime _pydatetime _pydecimal _pylong _compat_pickle copyreg collections.abc linecache locale numbers time "
    "traceback unicodedata warnings weakref".split()
)
"""Modules that C code imports for itself through the calling frame's ``__import__`` (``datetime.strptime`` does).

The C API ignores what ``__import__`` returns and looks in ``sys.modules``: the guard loads these and returns nothing.
"""

_ALWAYS_SHOWN: Final = frozenset({"builtins", "__main__", "sys", "traceback", "linecache", "importlib"})


class SecurityViolationError(Exception):
    """A rule met at run time. ``description`` says which; the message is fixed (runner-behaviour 16)."""

    def __init__(self, description: str) -> None:
        super().__init__("Security violation detected")
        self.description = description


def make_import(policy: Policy) -> Callable[..., Any]:
    """The ``__import__`` of user code: the real one behind the policy's rules."""
    real = builtins.__import__
    importlib_view = _importlib_view(policy)

    def guarded(
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002 - the signature of __import__
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Any = (),
        level: int = 0,
    ) -> Any:
        if type(name) is not str or type(level) is not int:
            raise TypeError("__import__() argument 1 must be str")
        if level:
            raise SecurityViolationError("Relative imports are disallowed.")
        if not policy.allows_import(name):
            if name in RUNTIME_IMPORTS:
                real(name)
                return None
            raise SecurityViolationError(policy.import_refusal(name))
        if name == "importlib" and policy.source_checks:
            return importlib_view
        return real(name, globals, locals, fromlist, 0)

    return harden(guarded, "__import__")


def _importlib_view(policy: Policy) -> ModuleType:
    """importlib as user code sees it: functions that import check the policy, whatever they are handed to."""

    def import_module(name: str, package: str | None = None) -> Any:
        absolute = importlib.util.resolve_name(name, package) if str(name).startswith(".") else str(name)
        if not policy.allows_import(absolute):
            raise SecurityViolationError(policy.import_refusal(absolute))
        return importlib.import_module(absolute)

    view = ModuleType("importlib", importlib.__doc__)
    hidden = {"import_module", "__import__", "reload", "_bootstrap", "_bootstrap_external", "sys", "_imp"}
    view.__dict__.update({key: value for key, value in vars(importlib).items() if key not in hidden})
    view.__dict__["import_module"] = harden(import_module, "import_module")

    def dunder_import(name: str, *args: Any) -> Any:
        if not policy.allows_import(str(name)) or (len(args) > 3 and args[3]):
            raise SecurityViolationError(policy.import_refusal(str(name)))
        return importlib.__import__(str(name), *args)

    view.__dict__["__import__"] = harden(dunder_import, "__import__")
    return view


def make_builtins(policy: Policy, print_: Callable[..., Any]) -> dict[str, Any]:
    """The ``__builtins__`` of user code: without what is denied, with our print and import."""
    names = {name: value for name, value in vars(builtins).items() if name not in policy.builtins_deny}
    if "print" not in policy.builtins_deny:
        names["print"] = harden(print_, "print")
    names["__import__"] = make_import(policy)
    return names


def hide_modules(policy: Policy) -> None:
    """Empties ``sys.modules`` of what user code may not import; only worth it when it can look, through ``sys``.

    What is removed stays alive in the modules that use it. Packages that import lazily load it again.
    """
    if not policy.allows_import("sys") or (ALL in policy.stdlib_allow and ALL in policy.external_allow):
        return
    keep = {name for name in sys.modules if name.partition(".")[0] in _ALWAYS_SHOWN or policy.allows_import(name)}
    for name in [name for name in sys.modules if name not in keep]:
        del sys.modules[name]
