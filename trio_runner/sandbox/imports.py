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
from trio_runner.sandbox.policy import ALL, SAFE_STDLIB, Policy

RUNTIME_IMPORTS: Final = frozenset(
    "_strptime _pydatetime _pydecimal _pylong _compat_pickle copyreg collections.abc linecache locale numbers re time "
    "traceback typing unicodedata warnings weakref".split()
)
"""Modules that C code imports for itself through the calling frame's ``__import__`` (``datetime.strptime`` does).

The C API ignores what ``__import__`` returns and looks in ``sys.modules``: the guard loads these and returns nothing.
It tells itself by an empty list as ``fromlist``, where an import statement has None or a tuple.
"""

_ALWAYS_SHOWN: Final = frozenset({"builtins", "__main__", "sys", "traceback", "linecache", "importlib"})
_OURS: Final = frozenset({"trio_runner", "msgspec"})
_HARMLESS: Final = SAFE_STDLIB | RUNTIME_IMPORTS | {"encodings"}


VIOLATION: Final = "Security violation detected"
"""What n8n and its users look for (runner-behaviour 16)."""


class SecurityViolationError(Exception):
    """A rule met at run time. ``description`` says which; the message is fixed."""

    def __init__(self, description: str) -> None:
        super().__init__(VIOLATION)
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
            if name in RUNTIME_IMPORTS and type(fromlist) is list and not fromlist:
                real(name)
                return None
            raise SecurityViolationError(policy.import_refusal(name))
        if policy.source_checks and (name == "importlib" or (name.startswith("importlib.") and not fromlist)):
            # `import importlib.util` hands out the package as well
            real(name)
            return _refreshed(importlib_view, fromlist)
        return real(name, globals, locals, fromlist, 0)

    return harden(guarded, "__import__")


_NOT_IN_VIEW: Final = frozenset(
    {"__import__", "import_module", "reload", "_bootstrap", "_bootstrap_external", "sys", "_imp"}
)


def _importlib_view(policy: Policy) -> ModuleType:
    """importlib as user code sees it: functions that import check the policy, whatever they are handed to."""

    def import_module(name: str, package: str | None = None) -> Any:
        _check_text(name)
        if name.startswith("."):
            if package is None:
                raise TypeError(f"the 'package' argument is required to perform a relative import for {name!r}")
            name = importlib.util.resolve_name(name, _check_text(package))
        if not policy.allows_import(name):
            raise SecurityViolationError(policy.import_refusal(name))
        return importlib.import_module(name)

    def dunder_import(name: str, *args: Any) -> Any:
        if not policy.allows_import(_check_text(name)) or (len(args) > 3 and args[3]):
            raise SecurityViolationError(policy.import_refusal(name))
        return importlib.__import__(name, *args)

    view = ModuleType("importlib", importlib.__doc__)
    view.__dict__["import_module"] = harden(import_module, "import_module")
    view.__dict__["__import__"] = harden(dunder_import, "__import__")
    return _refreshed(view, ())


def _refreshed(view: ModuleType, fromlist: Any) -> ModuleType:
    """The view with the submodules that are loaded by now, and those that are asked for."""
    for name in fromlist or ():
        if not hasattr(view, _check_text(name)) and importlib.util.find_spec(f"importlib.{name}") is not None:
            importlib.import_module(f"importlib.{name}")
    view.__dict__.update({name: value for name, value in vars(importlib).items() if name not in _NOT_IN_VIEW})
    return view


def _check_text(name: object) -> str:
    """``name`` if it is an exact str: a subclass could show the policy another text than the import machinery."""
    if type(name) is not str:
        raise TypeError("the name of a module must be str")
    return name


def make_builtins(policy: Policy, print_: Callable[..., Any]) -> dict[str, Any]:
    """The ``__builtins__`` of user code: without what is denied, with our print and import."""
    names = {name: value for name, value in vars(builtins).items() if name not in policy.builtins_deny}
    if "print" not in policy.builtins_deny:
        names["print"] = harden(print_, "print")
    names["__import__"] = make_import(policy)
    return names


def hides_modules(policy: Policy) -> bool:
    """Whether `hide_modules` is worth its time: when user code can look, through ``sys``, and may not have all."""
    return policy.allows_import("sys") and not (ALL in policy.stdlib_allow and ALL in policy.external_allow)


def hide_modules(policy: Policy) -> None:
    """Empties ``sys.modules`` of what user code may not import. Must not run in the zygote.

    What is removed stays alive in the modules that use it, and packages that import lazily load it again. That does no
    harm to files, sockets and processes. It would to modules that look themselves up (``warnings``) or that must exist
    once (native code of packages): what only computes stays, and so does what allowed packages have brought along.
    """
    for name in list(sys.modules):
        top = name.partition(".")[0]
        companion = policy.external_allow and top not in sys.stdlib_module_names and top not in _OURS
        if not (top in _ALWAYS_SHOWN or top in _HARMLESS or companion or policy.allows_import(name)):
            del sys.modules[name]
