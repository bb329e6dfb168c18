"""The programs that runners are given, their items, and what must come back.

Owns payloads and the check of results. Must not know sockets or runners.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final, Literal

import msgspec

from bench import numerals

Mode = Literal["all", "each"]
MODES: Final[tuple[Mode, ...]] = ("all", "each")
LARGEST_IN_BOTH_MODES: Final = 1_000_000
_NODE_MODES: Final = {"all": "runOnceForAllItems", "each": "runOnceForEachItem"}
_ITEM_BYTES: Final = 500
_PUNCTUATION: Final = 1  # the comma between two items


class WrongResultError(Exception):
    """The runner answered, but not with what the program returns."""


class Task(msgspec.Struct, frozen=True):
    """One program with its items, encoded once: a payload of 100 MB is not built again for every task."""

    name: str
    settings_tail: bytes
    check: Callable[[bytes], None]
    payload: int = 0
    """Bytes of the items."""

    def settings_head(self, task_id: str) -> bytes:
        """What stands before `settings_tail` in the message to the runner."""
        return f'{{"type":"broker:tasksettings","taskId":"{task_id}","settings":'.encode()


def make(name: str, code: str, items: bytes, check: Callable[[Any], bool], mode: Mode = "all") -> Task:
    """A task whose parsed result must satisfy ``check``."""

    def checked(result: bytes) -> None:
        if not result or not check(msgspec.json.decode(result)):
            raise WrongResultError(f"{name}: the result is not what the program returns: {result[:200]!r}")

    settings = (
        b'{"code":%b,"nodeMode":"%b","workflowMode":"webhook","continueOnFail":false,"items":%b,"nodeId":"n-py",'
        b'"nodeName":"Code","workflowId":"zwL7dF2BBNq5sJ25","workflowName":"Benchmark","canLog":false}}'
        % (msgspec.json.encode(code), _NODE_MODES[mode].encode(), items)
    )
    return Task(name, settings, checked, len(items))


ONE_ITEM: Final = b'[{"json":{"a":1},"pairedItem":{"item":0}}]'
TRIVIAL: Final = make("trivial", "return [{'json': {'n': len(_items)}}]", ONE_ITEM, lambda r: r == [{"json": {"n": 1}}])
PANDAS: Final = make(
    "pandas",
    "import pandas as pd\n"
    "frame = pd.DataFrame({'group': ['a', 'b', 'a'], 'value': [1, 2, 3]})\n"
    "return [{'json': {'sum': int(frame['value'].sum())}}]",
    ONE_ITEM,
    lambda r: r == [{"json": {"sum": 6}}],
)


def sleep(seconds: float) -> Task:
    """Occupies a slot and nothing else. The runner must allow ``time``."""
    code = f"import time\ntime.sleep({seconds})\nreturn [{{'json': {{}}}}]"
    return make("sleep", code, ONE_ITEM, lambda r: r == [{"json": {}}])


@cache
def small_items(count: int, mode: Mode) -> Task:
    """Each item gives one, with a field computed: what a Code node usually does."""
    items = [
        {"json": {"id": n, "name": f"item {n}", "price": n * 0.5}, "pairedItem": {"item": n}} for n in range(count)
    ]
    if mode == "all":
        code = "return [{'json': {'id': i['json']['id'], 'double': i['json']['price'] * 2}} for i in _items]"
    else:
        code = "return {'id': _item['json']['id'], 'double': _item['json']['price'] * 2}"

    def check(result: Any) -> bool:
        return len(result) == count and result[-1]["json"] == {"id": count - 1, "double": count - 1}

    return make(f"{count:,} items, {mode}", code, msgspec.json.encode(items), check, mode)


def large_items(size: int) -> bytes:
    """A JSON array of exactly ``size`` bytes, of items of 500 bytes with the usual mixture of values."""
    count = count_of(size)
    parts = []
    for n in range(count):
        item = {
            "json": {
                "id": n,
                "name": f"Customer {n:06d}",
                "email": f"customer.{n}@example.com",
                "active": n % 3 == 0,
                "balance": n * 1.25,
                "tags": ["alpha", "beta", None],
                "address": {"street": "Ada-Lovelace-Straße 12", "city": "Köln", "zip": "50667"},
                "note": "",
            },
            "pairedItem": {"item": n},
        }
        last = n == count - 1
        # brackets and commas belong to the size: the first and the last item carry what is left
        room = _ITEM_BYTES - (0 if last else _PUNCTUATION) - (1 if n == 0 else 0) - (1 if last else 0)
        bare = msgspec.json.encode(item)
        item["json"]["note"] = ("the quick brown fox; " * 40)[: room - len(bare)]  # type: ignore[index]
        parts.append(msgspec.json.encode(item))
    return b"[" + b",".join(parts) + b"]"


def count_of(size: int) -> int:
    """How many items a payload of so many bytes has."""
    return size // _ITEM_BYTES


@cache
def echo(size: int, mode: Mode) -> Task:
    """Every item comes back as it is; for ``size`` bytes of items."""
    items = large_items(size)
    expected = msgspec.json.decode(items)
    count, first, last = len(expected), expected[0], expected[-1]
    del expected  # a hundred megabytes of JSON are many more as objects

    def check(result: Any) -> bool:
        return len(result) == count and result[0] == first and result[-1] == last

    code = "return _items" if mode == "all" else "return _item"
    return make(f"echo of {numerals.size(size)}, {mode}", code, items, check, mode)
