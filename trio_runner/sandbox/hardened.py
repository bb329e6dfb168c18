"""Functions that user code may call, and objects that it may ask, but not look into.

`print`, `__import__` and the guards are closures over things that user code must not reach. A plain Python function
would hand out its globals and closure; these objects answer like a builtin without attributes (runner-behaviour 15.4).
An object of ours with attributes is a `facade`: it has the attributes that it names, and nothing behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType, MethodType
from typing import Any, NoReturn

from trio_runner.sandbox.alike import closest


def harden(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """``function`` behind an object whose attributes cannot be read, set or deleted, and whose repr is a builtin's."""
    rename(function, name)
    return _Hardened(function, name)


def rename(function: Callable[..., Any], name: str) -> None:
    """Has the interpreter say ``name`` where it complains about arguments: ours says nothing to users."""
    code = function.__func__ if isinstance(function, MethodType) else function
    if isinstance(code, FunctionType):
        code.__qualname__ = name


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
            if "all" in known:
                _refuse_list(name)
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
        if (meant := closest(attribute, (*known, *getters), cutoff=0.7)) is not None:
            raise AttributeError(f"{name} has no '{attribute[:100]}'; did you mean '{meant}'?")
        raise AttributeError(f"{name} has no '{attribute[:100]}'; it has {', '.join(_distinct(values, getters))}")

    return _Facade(name, look_up, (*known, *getters))


def _refuse_list(name: str) -> NoReturn:
    raise TypeError(f"{name} is not a list; {name}.all() is one")


def _distinct(*named: Mapping[str, object]) -> list[str]:
    """The names without others for the same thing, and without the twins for coroutines."""
    first = {id(value): name for names in reversed(named) for name, value in reversed(list(names.items()))}
    return sorted(name for name in first.values() if not name.endswith(("_async", "Async")))


_FUNCTIONS = (FunctionType, MethodType)


class _Facade:
    __slots__ = ("_look_up", "_name", "_names")

    def __init__(self, name: str, look_up: Callable[[object], object], names: tuple[str, ...]) -> None:
        _set_name(self, name)
        _set_look_up(self, look_up)
        _set_names(self, names)

    def __getattribute__(self, attribute: str) -> Any:
        return _look_up_of(self)(attribute)

    def __getitem__(self, key: object) -> Any:
        return _look_up_of(self)(key)

    def __setattr__(self, attribute: str, value: object) -> None:
        raise AttributeError(f"{_name_of(self)}.{attribute} cannot be set")

    def __delattr__(self, attribute: str) -> None:
        raise AttributeError(f"{_name_of(self)}.{attribute} cannot be deleted")

    def __setitem__(self, key: object, value: object) -> None:
        raise AttributeError(f"{_name_of(self)}.{key} cannot be set")

    def __iter__(self) -> NoReturn:  # or its brackets would make it a sequence
        if "all" in _names_of(self):
            _refuse_list(_name_of(self))
        raise TypeError(f"{_name_of(self)} cannot be iterated over")

    __len__ = __iter__

    def __bool__(self) -> bool:  # or it would be asked for its length
        return True

    def __dir__(self) -> list[str]:
        return sorted(_names_of(self))

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
_names_of, _set_names = _hide(_Facade, "_names")
