"""From what the program returned to JSON bytes.

In `compat` the rules are the reference's (`json.dumps(default=str)`, runner-behaviour 10) where that is of any use: NaN
and infinities become null, because n8n cannot parse them and the task would hang, and what would be an address or be
refused by n8n comes as in `friendly`. Plain values go to msgspec as they are; anything else is first rebuilt by
`plain`. What a type means beyond JSON is `friendly`'s.
"""

from __future__ import annotations

import gc
import re
from contextlib import suppress
from itertools import compress, repeat
from operator import is_not
from types import CoroutineType
from typing import Any

import msgspec

from trio_runner.sandbox import friendly as rules
from trio_runner.sandbox.friendly import UnsendableError
from trio_runner.sandbox.items import AttrDict
from trio_runner.sandbox.tracebacks import type_name

_LEAVES = frozenset({str, int, float, bool, type(None)})
_CONTAINERS = frozenset({dict, list, tuple, AttrDict})
_ITEM = re.compile(r"\[(\d+)\]")
_KNOWN = _LEAVES | _CONTAINERS
_MAX_LEVELS = 200
_MANY = 4096
_TOO_WIDE = 65_536
_BLOCK = 256
"""Elements of the outermost list that are looked at together: their objects stay in the processor's cache."""
_MAX_STEP = 100


class TooLargeError(UnsendableError):
    """A result that is larger than n8n takes."""


def encode(value: object, *, friendly: bool = False, items: bool = False, trail: list[str] | None = None) -> bytes:
    """JSON bytes of any value. ``items``: n8n takes only lists and objects for it, as from all nodes but tools.

    Raises `UnsendableError`, or what code of the author's raises: a ``__str__``, a generator. ``trail`` is then told
    where that was, innermost step first.
    """
    with suppress(TypeError):  # a metaclass that claims to be equal to a JSON type
        if _ready(value):
            return _to_json(value)
    if items and not friendly and (made := rules.as_items(value)) is not value:
        return encode(made, trail=trail)
    return _to_json(plain(value, friendly=friendly, trail=trail))


def shape_item(value: object, index: int) -> dict[str, object] | None:
    """One returned value as one output item of the each-item mode (runner-behaviour 10); None filters it out."""
    if value is None:
        return None
    paired = {"item": index}
    if not isinstance(value, dict):
        return {"json": value, "pairedItem": paired}
    if "json" in value:
        item = {"json": value["json"], "pairedItem": paired}
    elif "binary" in value:
        item = {"json": {key: entry for key, entry in value.items() if key != "binary"}, "pairedItem": paired}
    else:
        return {"json": value, "pairedItem": paired}
    if "binary" in value:
        item["binary"] = value["binary"]
    return item


def split_path(path: str) -> tuple[int | None, str]:
    """The number of the item that a path begins with, and the rest: ``[3].json.a`` is 3 and ``json.a``."""
    if (found := _ITEM.match(path)) is None:
        return None, path.removeprefix(".")
    return int(found[1]), path[found.end() :].removeprefix(".")


def _ready(value: object) -> bool:
    try:
        return is_plain(value)
    except Exception:  # a metaclass with a __hash__ or __eq__ of its own
        return False


def is_plain(value: object) -> bool:
    """Whether msgspec's own rules are the reference's for everything inside: exact JSON types, text keys.

    Goes level by level, so that the work per value is done by C (a set of types, the garbage collector's list of what a
    container holds) instead of by a Python frame: 10 MB in 20,000 items of four containers each take about 20 ms this
    way and 200 ms with a recursive walk.
    """
    if type(value) is list and len(value) > _BLOCK:
        return all(_is_plain(value[start : start + _BLOCK]) for start in range(0, len(value), _BLOCK))
    return _is_plain([value])


def _is_plain(level: list[Any]) -> bool:
    seen: set[int] = set()
    for _ in range(_MAX_LEVELS):
        kinds = list(map(type, level))
        found = set(kinds)
        if not found <= _KNOWN:
            return False
        if found.isdisjoint(_CONTAINERS):
            return True
        containers = level if found <= _CONTAINERS else list(compress(level, map(_CONTAINERS.__contains__, kinds)))
        inside = sum(map(len, containers))
        if len(containers) > _MANY or inside > _TOO_WIDE:
            # looked at once each: a value that contains itself, often or twice, would grow with each level
            containers = list({id(v): v for v in containers}.values())
            here = set(map(id, containers))
            if not seen.isdisjoint(here):
                return False  # met at two depths: a cycle, as a rule, which `plain` is better at
            seen |= here
            inside = sum(map(len, containers))
        level = gc.get_referents(*containers)
        if AttrDict in found:  # an instance of a class made in Python refers to its class, too
            level = list(compress(level, map(is_not, level, repeat(AttrDict))))
        # of a dictionary all of whose keys are texts the collector lists the values only
        if len(level) != inside:
            return False
    return False


def plain(value: object, *, friendly: bool = False, trail: list[str] | None = None) -> object:
    """The value rebuilt of exact JSON types, by the rules of ``json.dumps(default=str)``, or by the friendly ones.

    Goes by real types: what an object says in ``__class__`` does not count, as it does not for the json module.
    """
    trail = [] if trail is None else trail
    try:
        return _plain(value, set(), friendly, trail)
    except RecursionError:
        raise UnsendableError(_TOO_DEEP) from None
    except UnsendableError as error:
        error.path = "".join(reversed(trail))
        raise


_TOO_DEEP = "The result is nested too deeply to be sent as JSON"


def _plain(value: Any, above: set[int], friendly: bool, trail: list[str]) -> object:
    kind = type(value)
    if value is None or kind is bool:
        return value
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, int):
        return int.__index__(value)
    if issubclass(kind, float):
        return float.__float__(value)
    container = issubclass(kind, dict | list | tuple)
    # of the containers, only tuples with names for their fields have a rule
    with_rule = friendly and (not container or (kind is not tuple and issubclass(kind, tuple)))
    rule = rules.rule_for(kind) if with_rule else None
    if rule is None and not container:
        text = str.__str__(str(value))
        if not rules.is_address(text):
            return text
        if not rules.is_iterator(kind):
            # a coroutine is a call that somebody forgot to await: nobody relies on its text
            return rules.refuse(value) if friendly or kind is CoroutineType else text
        rule = list
    if id(value) in above:
        raise UnsendableError("Circular reference detected")
    above.add(id(value))
    # the path is put together only when something goes wrong: for each value it would cost more than all the rest
    step = ""
    try:
        if rule is not None:
            made = rule(value)
            if type(made) is list and len(made) > _BLOCK and _ready(made):  # a table of numbers, as a rule
                return made
            return _plain(made, above, friendly, trail)
        if issubclass(kind, dict):
            entries: dict[str, object] = {}
            for key, entry in value.items():
                step = ""
                name = _key(key, friendly)
                step = f".{name[:_MAX_STEP]}"
                entries[name] = _plain(entry, above, friendly, trail)
            return entries
        elements: list[object] = []
        for element in value:
            step = f"[{len(elements)}]"
            elements.append(_plain(element, above, friendly, trail))
        return elements
    except BaseException:
        trail.append(step)
        raise
    finally:
        above.discard(id(value))


def _key(key: Any, friendly: bool) -> str:
    kind = type(key)
    if issubclass(kind, str):
        return str.__str__(key)
    if key is None or kind is bool:
        return {None: "null", True: "true", False: "false"}[key]
    if issubclass(kind, int):
        return int.__repr__(key)
    if issubclass(kind, float):
        text = float.__repr__(key)
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text, text)
    if friendly and (known := rules.key(key)) is not key:
        return _key(known, friendly)
    raise UnsendableError(f"keys must be str, int, float, bool or None, not {type_name(key)}")


def _to_json(sendable: object) -> bytes:
    try:
        return msgspec.json.encode(sendable)
    except RecursionError:
        raise UnsendableError(_TOO_DEEP) from None
    except ValueError as error:  # half a surrogate pair, or more digits than the interpreter writes out
        raise UnsendableError(str(error), _where(sendable)) from None


def _where(value: object) -> str:
    """The path of the first text or number that cannot be written; of exact JSON types only, and known to be there."""
    pending: list[tuple[object, str]] = [(value, "")]
    while pending:
        current, path = pending.pop()
        try:
            if isinstance(current, str):
                current.encode()
            elif isinstance(current, int):
                str(current)
        except ValueError:
            return path
        if isinstance(current, dict):
            for key, entry in reversed(current.items()):
                pending += ((entry, f"{path}.{key[:_MAX_STEP]}"), (key, f"{path} (a key)"))
        elif isinstance(current, list | tuple):
            pending += [(entry, f"{path}[{index}]") for index, entry in enumerate(current)][::-1]
    return ""
