"""Functions that user code may call but not look into.

`print`, `__import__` and the guards are closures over things that user code must not reach. A plain Python function
would hand out its globals and closure; these objects answer like a builtin without attributes (runner-behaviour 15.4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn


def harden(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """``function`` behind an object whose attributes cannot be read, set or deleted, and whose repr is a builtin's."""

    def refuse(attribute: str) -> NoReturn:
        raise AttributeError(f"'builtin_function_or_method' object has no attribute '{attribute}'")

    class Hardened:
        __slots__ = ()

        def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        def __getattribute__(self, attribute: str) -> Any:
            refuse(attribute)

        def __setattr__(self, attribute: str, value: object) -> None:
            refuse(attribute)

        def __delattr__(self, attribute: str) -> None:
            refuse(attribute)

        def __repr__(self) -> str:
            return f"<built-in function {name}>"

    Hardened.__name__ = Hardened.__qualname__ = "builtin_function_or_method"
    Hardened.__module__ = "builtins"
    return Hardened()
