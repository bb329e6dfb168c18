"""What the operator can do about a refusal: a line below the reference's own texts, which stay as they are.

Owns that advice and its codes; what the author can do stands in `mistakes`. The texts of the rules themselves are facts
that users match on (runner-behaviour 16).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from trio_runner.sandbox.mentions import NAMES
from trio_runner.sandbox.policy import RELAXED_BUILTINS_DENY, Confinement, Policy

_BY_PREFIX: Final = {
    "Import of external package 'micropip'": (
        "Programs do not install packages. Name them in a comment '# /// script' at the top, if the runner's operator "
        "sets N8N_RUNNERS_INLINE_DEPENDENCIES, or have them installed. [TR302]"
    ),
    **dict.fromkeys(
        ("Import of external package 'js'", "Import of external package 'pyodide'"),
        "There is no browser here: _helpers.http_request(…) sends requests, _now has the time. [TR302]",
    ),
    "Import of standard": (
        "To allow a standard module, the runner's operator adds it to N8N_RUNNERS_STDLIB_ALLOW "
        "(@safe there stands for all that need no files or network). [TR301]"
    ),
    "Import of external": (
        "To allow a package, the runner's operator installs it for the runner and adds it to "
        "N8N_RUNNERS_EXTERNAL_ALLOW. [TR302]"
    ),
    "Relative imports": "A Code node is one file: there is nothing beside it to import from. [TR304]",
    "Dynamic __import__": "Name the module in an import statement. [TR305]",
}
_LONGEST_CHAIN: Final = 8
_LANGUAGE: Final = (
    "To allow the whole language, the runner's operator sets N8N_RUNNERS_POLICY=relaxed; "
    "the kernel then is the boundary. [TR303]"
)


def for_refusals(texts: Iterable[str], where: str = "") -> str:
    """The advice for these texts, ready to stand below them; ``where`` is said first if they do not say so."""
    hints = dict.fromkeys(
        next((hint for prefix, hint in _BY_PREFIX.items() if text.startswith(prefix)), _LANGUAGE) for text in texts
    )
    return "".join(f"\n\n{where}{hint}" for hint in hints)


def for_name(name: str) -> str:
    """For a name that is not defined: n8n's, when it lacks its underscore."""
    return f"n8n's name for it in Python is _{name}." if f"_{name}" in NAMES else ""


def for_error(error: BaseException, policy: Policy, confinement: Confinement) -> str:
    """The advice for an exception that stems from a setting, or nothing."""
    if isinstance(error, NameError):
        name = error.name if isinstance(error.name, str) else ""
        if "__build_class__" in str(error):
            name = "__build_class__"
        if name in policy.builtins_deny:
            what = "classes" if name == "__build_class__" else name
            relaxed = "" if name in RELAXED_BUILTINS_DENY else " or sets N8N_RUNNERS_POLICY=relaxed"
            how = f"takes {name} out of N8N_RUNNERS_BUILTINS_DENY{relaxed}"
            n8ns = f"{found} " if (found := for_name(name)) else ""
            return f"{n8ns}To allow {what}, the runner's operator {how}. [TR306]"
    if confinement.mode != "off" and any(map(_refused_by_kernel, _chain(error))):
        return (
            f"The sandbox ({confinement.mode}) refused this. To allow it, the runner's operator grants paths with "
            "N8N_RUNNERS_SANDBOX_READ or _WRITE, or network with N8N_RUNNERS_SANDBOX=network and "
            "N8N_RUNNERS_SANDBOX_CONNECT. New processes are never allowed. [TR307]"
        )
    return ""


def _refused_by_kernel(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (1, 13)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it: packages put their own in front of the kernel's."""
    current: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if current is None:
            return
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
