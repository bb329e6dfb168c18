"""Functions that user code may call, and objects that it may ask, but not look into.

`print`, `__import__` and the guards are closures over things that user code must not reach. A plain Python function
would hand out its globals and closure; these objects answer like a builtin without attributes (runner-behaviour 15.4).
An object of ours with attributes is a `facade`: it has the attributes that it names, and nothing behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType, MethodType
from typing import Any, NoReturn


def harden(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """``function`` behind an object whose attributes cannot be read, set or deleted, and whose repr is a builtin's."""
    return _Hardened(function, name)


class _Hardened:
    __slots__ = ("_function", "_name")

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        _set_function(self, function)
        _set_name_of_function(self, name)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return _function_of(self)(*args, **kwargs)

    def __getattribute__(self, attribute: str) -> Any:
        _refuse(attribute)

    def __setattr__(self, attribute: str, value: object) -> None:
        _refuse(attribute)

    def __delattr__(self, attribute: str) -> None:
        _refuse(attribute)

    def __repr__(self) -> str:
        return f"<built-in function {_name_of_function(self)}>"


_Hardened.__name__ = _Hardened.__qualname__ = "builtin_function_or_method"
_Hardened.__module__ = "builtins"


def _refuse(attribute: str) -> NoReturn:
    raise AttributeError(f"'builtin_function_or_method' object has no attribute '{attribute}'")


def facade(
    name: str,
    values: Mapping[str, object],
    properties: Mapping[str, Callable[[], object]] | None = None,
    other: Callable[[str], object] | None = None,
) -> object:
    """An object that has these attributes: ``values`` as they are, functions hardened; ``properties`` when asked.

    ``other`` answers for names that are neither. All can be read in brackets as well; nothing can be set. ``name`` is
    what it is called in errors.
    """
    known = dict(values)
    getters = properties or {}

    def look_up(attribute: object) -> object:
        if type(attribute) is not str:
            raise TypeError(f"{name}[…] takes a text, not {type(attribute).__name__}")
        if attribute in known:
            value = known[attribute]
            if isinstance(value, _FUNCTIONS):  # few of them are ever asked for
                value = known[attribute] = harden(value, attribute)
            return value
        if attribute in getters:
            return getters[attribute]()
        if other is not None and not attribute.startswith("__"):
            return other(attribute)
        raise AttributeError(f"{name} has no '{attribute[:100]}'; it has {', '.join(sorted((*known, *getters)))}")

    return _Facade(name, look_up)


_FUNCTIONS = (FunctionType, MethodType)


class _Facade:
    __slots__ = ("_look_up", "_name")

    def __init__(self, name: str, look_up: Callable[[object], object]) -> None:
        _set_name(self, name)
        _set_look_up(self, look_up)

    def __getattribute__(self, attribute: str) -> Any:
        return _look_up_of(self)(attribute)

    def __getitem__(self, key: object) -> Any:
        return _look_up_of(self)(key)

    def __setattr__(self, attribute: str, value: object) -> None:
        raise AttributeError(f"{_name_of(self)}.{attribute} cannot be set")

    def __delattr__(self, attribute: str) -> None:
        raise AttributeError(f"{_name_of(self)}.{attribute} cannot be deleted")

    def __iter__(self) -> NoReturn:  # or its brackets would make it a sequence
        raise TypeError(f"{_name_of(self)} cannot be iterated over")

    def __repr__(self) -> str:
        return f"<{_name_of(self)}>"


def _hide(owner: type, slot: str) -> tuple[Callable[[object], Any], Callable[[object, object], None]]:
    """How to read and to set a slot; nobody else can: without its descriptor no way leads from an instance to it."""
    descriptor: Any = vars(owner)[slot]
    delattr(owner, slot)
    return descriptor.__get__, descriptor.__set__


_function_of, _set_function = _hide(_Hardened, "_function")
_name_of_function, _set_name_of_function = _hide(_Hardened, "_name")
_look_up_of, _set_look_up = _hide(_Facade, "_look_up")
_name_of, _set_name = _hide(_Facade, "_name")
