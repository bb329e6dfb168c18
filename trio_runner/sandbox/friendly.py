"""What values that JSON does not have mean: one step towards JSON at a time.

Owns the rules of ``N8N_RUNNERS_VALUES=friendly``, and which of them hold in ``compat`` as well because the reference's
text would be of no use (docs/values.md says both). Knows types by module and name: it imports none of their packages,
so that a rule costs nothing until a program returns such a value. Must not walk into containers; `values` does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import isfinite
from typing import Any, NoReturn

from trio_runner.sandbox.tracebacks import type_name

Rule = Callable[[Any], object]


class UnsendableError(Exception):
    """A value that JSON cannot carry: ``str()`` says why, ``path`` where it stands in ``place``."""

    place = "the result"

    def __init__(self, text: str, path: str = "") -> None:
        super().__init__(text)
        self.path = path


def rule_for(kind: type) -> Rule | None:
    """How a value of this type comes closer to JSON in `friendly`; None: by its text."""
    # by address: a metaclass may have a hash and an equality of its own
    if (known := _found.get(id(kind))) is not None:
        return known[1]
    rule = _search(kind)
    _found[id(kind)] = (kind, rule)  # kept alive, or another type could come to the same address
    return rule


def is_address(text: str) -> bool:
    """Whether this is what Python says of an object that has no text: nobody can mean to send it."""
    return text.startswith("<") and " at 0x" in text


def refuse(value: object) -> NoReturn:
    """Says what cannot be sent."""
    raise UnsendableError(f"A value of the type {type_name(value)} cannot be sent as JSON")


def key(value: Any) -> object:
    """What stands for a dict's key that JSON does not have; the key itself if nothing does."""
    rule = rule_for(type(value))
    return value if rule is None or rule not in _KEY_RULES else rule(value)


def is_iterator(kind: type) -> bool:
    """Generators, ``map``, ``zip`` and the like: their text is an address."""
    names: set[str] = set()
    for base in _mro(kind):
        names |= _namespace(base).keys()
    return {"__next__", "__iter__"} <= names


def as_items(value: object) -> object:
    """The result where n8n takes only lists and objects: the whole, its elements, their ``json``.

    A text in these places is refused by n8n, so what the reference makes of a table or a dataclass there is never of
    use, and `compat` has no meaning to keep.
    """
    value = _structure(value)
    if type(value) is not list:
        return value
    elements: list[object] = []
    for element in value:
        item = _structure(element)
        if type(item) is dict and "json" in item and (inner := _structure(item["json"])) is not item["json"]:
            item = {**item, "json": inner}
        elements.append(item)
    return elements


def _structure(value: Any) -> object:
    rule = rule_for(type(value))
    if rule in _STRUCTURES:
        assert rule is not None
        return rule(value)
    return value


_found: dict[int, tuple[type, Rule | None]] = {}

# The interpreter's own attributes of a type, past what its metaclass says.
_mro: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_namespace: Callable[[type], Any] = type.__dict__["__dict__"].__get__
_module: Callable[[type], object] = type.__dict__["__module__"].__get__
_qualified: Callable[[type], str] = type.__dict__["__qualname__"].__get__


def _search(kind: type) -> Rule | None:
    for base in _mro(kind):
        namespace = _namespace(base)
        if "__dataclass_fields__" in namespace:
            return _fields_of_dataclass
        if "__attrs_attrs__" in namespace:
            return _fields_of_attrs
        if "__pydantic_validator__" in namespace:
            return _fields_of_model
        if base is not tuple and "_fields" in namespace and tuple in _mro(base):
            return _fields_of_namedtuple
        module = _module(base)
        rule = _RULES.get((module.partition(".")[0], _qualified(base))) if type(module) is str else None
        if rule is not None:
            return rule
    return _yielded if is_iterator(kind) else None


# Dates and times


def _iso(value: Any) -> object:
    return value.isoformat()


def duration(value: Any) -> str:
    """A timedelta as ISO 8601 has it: P1DT2H3M4.5S, with one sign for the whole."""
    microseconds = (value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds
    sign, microseconds = ("-", -microseconds) if microseconds < 0 else ("", microseconds)
    seconds, fraction = divmod(microseconds, 1_000_000)
    (days, rest), parts = divmod(seconds, 86_400), ""
    for size, unit in ((3600, "H"), (60, "M")):
        amount, rest = divmod(rest, size)
        parts += f"{amount}{unit}" if amount else ""
    if rest or fraction:
        parts += f"{rest}.{fraction:06}".rstrip("0").rstrip(".") + "S"
    if not days and not parts:
        return "PT0S"
    return f"{sign}P{f'{days}D' if days else ''}{f'T{parts}' if parts else ''}"


# Numbers


def _decimal(value: Any) -> object:
    """A number if a double holds it to the last digit, else its text: a price must not change on the way."""
    if not value.is_finite():
        return None
    if value == value.to_integral_value():
        return int(value) if abs(value) < 2**53 else str(value)
    number = float(value)
    return number if isfinite(number) and type(value)(repr(number)) == value else str(value)


# Texts and collections


def _base64(value: Any) -> str:
    from binascii import b2a_base64

    return b2a_base64(value, newline=False).decode()


def _set(value: Any) -> list[object]:
    elements = list(value)
    with suppress(Exception):  # texts have another order in each process; what cannot be sorted comes as it comes
        elements.sort()
    return elements


def _mapping(value: Any) -> dict[object, object]:
    return {key: value[key] for key in value}


def _enum(value: Any) -> object:
    return value.value


def _yielded(value: Any) -> list[object]:
    return list(value)


def _nothing(value: Any) -> None:  # noqa: ARG001 - a rule like the others
    return None


# Records


def _fields_of_dataclass(value: Any) -> dict[str, object]:
    from dataclasses import fields

    return {field.name: getattr(value, field.name) for field in fields(value)}


def _fields_of_attrs(value: Any) -> dict[str, object]:
    return {field.name: getattr(value, field.name) for field in type(value).__attrs_attrs__}


def _fields_of_model(value: Any) -> object:
    return value.model_dump()


def _fields_of_namedtuple(value: Any) -> dict[str, object]:
    return dict(zip(value._fields, value, strict=True))


# numpy


def _numpy_scalar(value: Any) -> object:
    if value.dtype.kind in "mM" or value.dtype.names is not None:
        return _numpy_array(value)
    plain = value.item()
    if type(plain) is not type(value):
        return plain
    return str(value) if value.dtype.kind == "c" else float(plain)  # a long double is its own item


def _numpy_array(value: Any) -> object:
    kind = value.dtype.kind
    if kind == "M":
        import numpy

        return _no_dates(numpy.datetime_as_string(value).tolist())
    if kind == "m":
        return value.astype("timedelta64[us]").tolist()
    if value.dtype.names is not None:  # one object a record
        return [{name: row[name] for name in value.dtype.names} for row in value] if value.ndim else _row(value)
    return value.tolist()


def _row(value: Any) -> dict[str, object]:
    return {name: value[name] for name in value.dtype.names}


def _no_dates(value: Any) -> object:
    if isinstance(value, list):
        return [_no_dates(element) for element in value]
    return None if value == "NaT" else value


# pandas


def _frame(value: Any) -> list[dict[str, object]]:
    """One object a row. What the index is called comes first; an index without a name is only a number of the row."""
    columns: list[tuple[str, list[object]]] = []
    for level in range(value.index.nlevels):
        labels = value.index.get_level_values(level)
        if labels.name is not None:
            columns.append((_column(labels.name), labels.tolist()))
    for number, name in enumerate(value.columns.tolist()):
        columns.append((_column(name), value.iloc[:, number].tolist()))
    names = [name for name, _ in columns]
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise UnsendableError(f"The DataFrame has more than one column called '{double[:100]}'")
    if not columns:
        return [{} for _ in range(len(value))]
    return [dict(zip(names, row, strict=True)) for row in zip(*(cells for _, cells in columns), strict=True)]


def _series(value: Any) -> object:
    """The values; an object when the index says more than their numbers: a row of a table, counts, a time series."""
    index = value.index
    if index.name is None and index.nlevels == 1 and index.dtype.kind in "iu":
        return value.tolist()
    names = [_column(label) for label in index.tolist()]
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise UnsendableError(
            f"The index of the Series has '{double[:100]}' more than once; reset_index() makes a table"
        )
    return dict(zip(names, value.tolist(), strict=True))


def _listed(value: Any) -> object:
    return value.tolist()


def _column(name: Any) -> str:
    """A label as a key. Those of several levels are put together as people do it: price_mean."""
    if type(name) is tuple:
        return "_".join(part for part in map(_column, name) if part)
    rule = rule_for(type(name))
    lowered = name if rule is None else rule(name)
    return str.__str__(lowered if isinstance(lowered, str) else str(lowered))


_RULES: dict[tuple[str, str], Rule] = {
    ("datetime", "datetime"): _iso,
    ("datetime", "date"): _iso,
    ("datetime", "time"): _iso,
    ("datetime", "timedelta"): duration,
    ("decimal", "Decimal"): _decimal,
    ("_decimal", "Decimal"): _decimal,
    ("_pydecimal", "Decimal"): _decimal,
    ("uuid", "UUID"): str,
    ("enum", "Enum"): _enum,
    ("builtins", "bytes"): _base64,
    ("builtins", "bytearray"): _base64,
    ("builtins", "memoryview"): _base64,
    ("builtins", "set"): _set,
    ("builtins", "frozenset"): _set,
    ("builtins", "range"): list,
    ("builtins", "dict_keys"): list,
    ("builtins", "dict_values"): list,
    ("builtins", "dict_items"): list,
    ("builtins", "mappingproxy"): _mapping,
    ("collections", "deque"): list,
    ("collections", "ChainMap"): _mapping,
    ("collections", "UserDict"): _mapping,
    ("collections", "UserList"): list,
    ("array", "array"): list,
    ("numpy", "generic"): _numpy_scalar,
    ("numpy", "ndarray"): _numpy_array,
    ("pandas", "DataFrame"): _frame,
    ("pandas", "Series"): _series,
    ("pandas", "Index"): _listed,
    ("pandas", "ExtensionArray"): _listed,
    ("pandas", "NaTType"): _nothing,
    ("pandas", "NAType"): _nothing,
}

_STRUCTURES: frozenset[Rule | None] = frozenset(
    {_frame, _fields_of_dataclass, _fields_of_attrs, _fields_of_model, _yielded}
)
"""Rules that hold in `compat` too where n8n takes only items."""

_KEY_RULES: frozenset[Rule] = frozenset({_iso, duration, _decimal, str, _enum, _numpy_scalar})
