"""Items as the earlier Python node had them: dicts whose fields can also be read with dots; and an input read lazily.

Owns how JSON becomes such values. They are dicts and lists for everybody else, encoders included. Must not know where
JSON comes from or who reads it.
"""

from __future__ import annotations

import gc
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn, TypeAlias

import msgspec

from trio_runner.sandbox import frames

_SMALL: Final = 262_144
"""Bytes up to which an input is decoded at once: looking for one item in it is not worth the trouble."""
_PREFIX: Final = 65_536
_MAX_NAMED: Final = 12
_MANY: Final = 32
_CONTAINERS: Final = frozenset({dict, list})


class AttrDict(dict[str, Any]):
    """A dict whose entries are attributes as well. A method of dicts goes before a field of the same name."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        # A protocol asks for `__deepcopy__` or `__array_interface__`, not a person: data from outside must not answer.
        if name[:2] == "__":
            raise AttributeError(f"'dict' object has no attribute '{name}'")
        try:
            return self[name]
        except KeyError:
            _refuse(self, name)

    __setattr__ = dict.__setitem__  # no Python frame between `item.json.a = 1` and the dict

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            _refuse(self, name)

    def copy(self) -> AttrDict:
        """A shallow copy that can be read with dots, too."""
        return AttrDict(self)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> AttrDict:
        """With dots at every depth. By itself, ``copy.deepcopy`` would ask how it is pickled."""
        from copy import deepcopy

        memo[id(self)] = made = AttrDict()
        made.update((deepcopy(key, memo), deepcopy(entry, memo)) for key, entry in self.items())
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as a dict: what reads it may be another program, which finds no module of ours."""
        return dict, (), None, None, iter(self.items())

    def to_py(self, **_options: object) -> dict[str, Any]:
        """A deep copy of plain dicts and lists, as the earlier Python node gave."""
        return plain(self)  # type: ignore[no-any-return]

    def as_object_map(self, **_options: object) -> AttrDict:
        """Itself: it is a mapping already."""
        return self

    def object_keys(self) -> list[str]:
        """The names of the fields."""
        return list(self)

    def object_values(self) -> list[Any]:
        """The values of the fields."""
        return list(self.values())

    def object_entries(self) -> list[list[Any]]:
        """The fields as pairs."""
        return [[name, value] for name, value in self.items()]


class JsList(list[Any]):
    """A list with what the earlier Python node gave to lists. Made only for programs that ask for it."""

    __slots__ = ()

    @property
    def length(self) -> int:
        """How many."""
        return len(self)

    def push(self, *values: Any) -> int:
        """Appends, and says how many there are now."""
        self.extend(values)
        return len(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> JsList:
        """A copy of the same kind."""
        from copy import deepcopy

        memo[id(self)] = made = JsList()
        made.extend(deepcopy(entry, memo) for entry in self)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as a list."""
        return list, (), None, iter(self)

    def to_py(self, **_options: object) -> list[Any]:
        """A deep copy of plain dicts and lists."""
        return plain(self)  # type: ignore[no-any-return]


def _refuse(fields: AttrDict, name: str) -> NoReturn:
    known = ", ".join(str(key)[:60] for key in list(fields)[:_MAX_NAMED])
    more = ", …" if len(fields) > _MAX_NAMED else ""
    raise AttributeError(
        f"there is no field '{name}'; there are: {known}{more}" if known else f"no field '{name}'"
    ) from None


def dotted(value: Any) -> Any:
    """``value``, fresh from a decoder, with every dict an `AttrDict`. Lists are kept and changed in place.

    Does what `_rebuilt` could do, in half the time: 100 MB of items are worth the lines.
    """
    root = [value]
    pending: list[Any] = [root]
    while pending:
        container = pending.pop()
        if type(container) is list:
            if len(container) > _MANY and _CONTAINERS.isdisjoint(map(type, container)):
                continue  # a long list of texts or numbers is seen through by C alone
            entries: Any = enumerate(container)
        else:
            entries = container.items()
        for key, entry in entries:
            kind = type(entry)
            if kind is dict:
                container[key] = made = AttrDict(entry)
                pending.append(made)
            elif kind is list:
                pending.append(entry)
    return root[0]


def dotted_lists(value: Any) -> Any:
    """The same, with every list a `JsList`."""
    return _rebuilt(value, AttrDict, JsList)


def plain(value: Any) -> Any:
    """A deep copy of exact dicts and lists."""
    return _rebuilt({"": value}, dict, list, copy=True)[""]


def _rebuilt(value: Any, dict_type: type[dict[str, Any]], list_type: type[list[Any]], *, copy: bool = False) -> Any:
    """Every dict and list of another type, without recursion, so that depth is no matter.

    ``copy``: of what a program may have made, so that a container may stand in several places, or in itself.
    """
    root = [value]
    pending: list[Any] = [root]
    dicts, lists = ((dict, AttrDict), (list, JsList)) if copy else ((dict,), (list,))
    seen: dict[int, Any] = {}
    while pending:
        container = pending.pop()
        for key, entry in container.items() if isinstance(container, dict) else enumerate(container):
            kind = type(entry)
            if kind not in dicts and kind not in lists:
                continue
            made: Any = seen.get(id(entry)) if copy else None
            if made is None:
                made = dict_type(entry) if kind in dicts else list_type(entry)
                pending.append(made)
                if copy:
                    seen[id(entry)] = made
            container[key] = made
    return root[0]


@contextmanager
def _no_collection() -> Iterator[None]:
    """While much is built that stays: the collector would look at all of it again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.freeze()
            gc.enable()


Shape: TypeAlias = Callable[[Any], Any]
"""What is done to a decoded value before a program sees it."""


def unshaped(value: Any) -> Any:
    """For programs that read with brackets only: exact dicts, at no cost."""
    return value


class Input:
    """The input items, decoded as far as they are asked for. An item is one object, however it is asked for."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self._data = data
        self.shape: Shape = unshaped
        self._known: dict[int, Any] = {}
        self._raw: list[msgspec.Raw] | None = None
        self._all: list[Any] | None = None

    def all(self) -> list[Any]:
        """All of them; the same list each time."""
        if self._all is None:
            with _no_collection():
                decoded = frames.parse(self._data)
                for index, item in self._known.items():
                    decoded[index] = item
                self._all = self.shape(decoded)
        return self._all

    def at(self, index: int) -> Any:
        """The item at ``index``, which may count from the end. Raises IndexError."""
        if self._all is not None or len(self._data) <= _SMALL:
            return self.all()[index]
        if index == 0 and 0 not in self._known and (found := self._first()) is not None:
            self._known[0] = self.shape(found)
        if index not in self._known or index < 0:
            if self._raw is None:
                self._raw = msgspec.json.decode(self._data, type=list[msgspec.Raw])
            index = range(len(self._raw))[index]
            if index not in self._known:
                self._known[index] = self.shape(frames.parse(self._raw[index]))
        return self._known[index]

    def index_of(self, item: object) -> int | None:
        """Where ``item`` stands, as the object that it is; None when it is not one of these."""
        for index, known in self._known.items() if self._all is None else enumerate(self._all):
            if known is item:
                return index
        return None

    def __len__(self) -> int:
        if self._all is None and len(self._data) > _SMALL:
            if self._raw is None:
                self._raw = msgspec.json.decode(self._data, type=list[msgspec.Raw])
            return len(self._raw)
        return len(self.all())

    def _first(self) -> Any:
        """The first item by itself, without a look at what follows; None when that takes more than it saves."""
        import json

        scan = json.JSONDecoder().raw_decode
        size = _PREFIX
        while size < len(self._data) // 2:
            # a character that is cut in two at the end belongs to a text that is not complete either
            text = bytes(self._data[:size]).decode("utf-8", "ignore")
            start = text.find("{")
            if text[:start].strip() != "[":  # nothing, or nothing that n8n would send
                return None
            try:
                return scan(text, start)[0]
            except ValueError:
                size *= 4
        return None
