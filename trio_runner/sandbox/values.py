"""From what the program returned to JSON bytes.

The rules are the reference's (`json.dumps(default=str)`, runner-behaviour 10) with one difference: NaN and infinities
become null, because n8n cannot parse them and the task would hang. Plain values go to msgspec as they are; anything
else is first rebuilt by `plain`, which is the one place where the rules are written.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import msgspec

_LEAVES = frozenset({str, int, float, bool, type(None)})
_CONTAINERS = frozenset({dict, list, tuple})
_KNOWN = _LEAVES | _CONTAINERS
_MAX_LEVELS = 200


class UnsendableError(Exception):
    """A value that JSON cannot carry: ``str()`` is the reference's text, ``path`` says where it stands."""

    def __init__(self, text: str, path: str = "") -> None:
        super().__init__(text)
        self.path = path


def encode(value: object) -> bytes:
    """JSON bytes of any value. Raises `UnsendableError`, or what the value's own ``__str__`` raises."""
    try:
        return msgspec.json.encode(value if is_plain(value) else plain(value))
    except RecursionError:
        # a cycle through plain containers, or real depth; `plain` tells which
        try:
            return msgspec.json.encode(plain(value))
        except RecursionError:
            raise UnsendableError("The result is nested too deeply to be sent as JSON") from None
    except UnicodeEncodeError as error:
        raise UnsendableError(str(error), _find_surrogate(value)) from None


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


def is_plain(value: object) -> bool:
    """Whether msgspec's own rules are the reference's for everything inside: exact JSON types, text keys.

    Goes level by level, so that the work per value is done by C (a set of types) instead of by a Python frame:
    10 MB of items take about 15 ms this way and 90 ms with a recursive walk.
    """
    level: list[Any] = [value]
    for _ in range(_MAX_LEVELS):
        types = set(map(type, level))
        if not types <= _KNOWN:
            return False
        if types.isdisjoint(_CONTAINERS):
            return True
        dicts = [v for v in level if type(v) is dict] if dict in types else []
        lists = [v for v in level if type(v) is list or type(v) is tuple] if types & {list, tuple} else []
        if len(dicts) + len(lists) > 4096:
            # shared containers are looked at once; without this a value that contains itself twice grows for ever
            dicts = list({id(v): v for v in dicts}.values())
            lists = list({id(v): v for v in lists}.values())
        if not set(map(type, chain.from_iterable(dicts))) <= {str}:
            return False
        level = [*chain.from_iterable(map(dict.values, dicts)), *chain.from_iterable(lists)]
    return False


def plain(value: object) -> object:
    """The value rebuilt of exact JSON types, by the rules of ``json.dumps(default=str)``."""
    return _plain(value, "", set())


def _plain(value: object, path: str, above: set[int]) -> object:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__index__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if not isinstance(value, dict | list | tuple):
        return str(value)
    if id(value) in above:
        raise UnsendableError("Circular reference detected", path)
    above.add(id(value))
    try:
        if isinstance(value, dict):
            return {_key(key, path): _plain(entry, f"{path}.{key}", above) for key, entry in value.items()}
        return [_plain(entry, f"{path}[{index}]", above) for index, entry in enumerate(value)]
    finally:
        above.discard(id(value))


def _key(key: object, path: str) -> str:
    if isinstance(key, str):
        return str.__str__(key)
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, int):
        return int.__repr__(key)
    if isinstance(key, float):
        text = float.__repr__(key)
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text, text)
    raise UnsendableError(f"keys must be str, int, float, bool or None, not {type(key).__name__}", path)


def _find_surrogate(value: object, path: str = "") -> str:
    """Where the text stands that UTF-8 cannot carry; only called once that is known."""
    try:
        if isinstance(value, str):
            value.encode()
        elif isinstance(value, dict):
            for key, entry in value.items():
                if found := (_find_surrogate(key, f"{path} (a key)") or _find_surrogate(entry, f"{path}.{key}")):
                    return found
        elif isinstance(value, list | tuple):
            for index, entry in enumerate(value):
                if found := _find_surrogate(entry, f"{path}[{index}]"):
                    return found
    except UnicodeEncodeError:
        return path.encode(errors="replace").decode()
    except RecursionError:
        return ""
    return ""
