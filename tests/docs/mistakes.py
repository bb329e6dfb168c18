"""Thirty mistakes that people make in a Code node, with what n8n's own runner says to each.

The reference's texts follow from its rules (runner-behaviour 10, 11, 14 and 16): the message is what the exception says,
the description is empty, and neither type nor line is told. What ours says is found out by running them.
"""

# ruff: noqa: E501 - a table

from __future__ import annotations

from typing import Any, Final

import msgspec

SETTINGS: Final = {
    "N8N_RUNNERS_STDLIB_ALLOW": "json,datetime",
    "N8N_RUNNERS_EXTERNAL_ALLOW": "not_installed_anywhere",
    "N8N_RUNNERS_TASK_TIMEOUT": "1",
    "N8N_RUNNERS_TASK_MEMORY": "256",
    "N8N_RUNNERS_MAX_PAYLOAD": "1000000",
    "N8N_RUNNERS_MAX_CONCURRENCY": "2",
}
ITEMS: Final[list[dict[str, Any]]] = [
    {"json": {"name": "Ada", "age": 36, "tags": ["a"], "note": None, "price": "12,50"}},
    {"json": {"name": "Alan", "age": None}},
]
WORKS: Final = "(works)"


class Mistake(msgspec.Struct, frozen=True, kw_only=True):
    """One program, and what is said about it."""

    what: str
    code: str
    reference: str
    """What n8n's own runner says: its message, and the description after a slash where there is one."""
    ours: str | None = None
    """The message, where it is another one on purpose."""
    tells: str
    """What our description must hold: the advice."""
    line: int | None = 1
    item: int | None = None
    each: bool = False
    """Whether it is run once for each item."""

    @property
    def message(self) -> str:
        """The message that is expected of us: the same as the reference's, unless there is a reason."""
        return self.reference.partition(" / ")[0] if self.ours is None else self.ours


def _refused(line: int, text: str) -> str:
    return f"Security violations detected / Line {line}: {text}"


MISTAKES: Final = (
    Mistake(
        what="a field is spelled wrongly",
        code="return [{'json': {'n': _items[0]['json']['nmae']}}]",
        reference="'nmae'",
        tells="did you mean 'name'?",
    ),
    Mistake(
        what="a field that one item lacks",
        code="note = _item['json']['note']\nreturn {'note': note}",
        reference="'note'",
        tells="Line 1, item 1: There is no key 'note'; there are 'name', 'age'.",
        item=1,
        each=True,
    ),
    Mistake(
        what="dots instead of brackets",
        code="for item in _items:\n    print(item.json.name)\nreturn [{'json': {'n': 1}}]",
        reference="'dict' object has no attribute 'json'",
        ours=WORKS,
        tells="prints: Ada prints: Alan",
        line=None,
    ),
    Mistake(
        what="a name from another mode",
        code="return {'n': len(_items)}",
        reference="name '_items' is not defined",
        tells="This node runs once for each item, where the input is _item",
        item=0,
        each=True,
    ),
    Mistake(
        what="`items` as in other nodes",
        code="return [item for item in items]",
        reference="name 'items' is not defined",
        tells="The input of this node is _items.",
    ),
    Mistake(
        what="a name is spelled wrongly",
        code="total = 0\nfor item in _items:\n    totl += 1\nreturn {'total': total}",
        reference="cannot access local variable 'totl' where it is not associated with a value",
        tells="Give it one first",
        line=3,
    ),
    Mistake(
        what="another name is spelled wrongly",
        code="total = len(_items)\nreturn {'total': totl}",
        reference="name 'totl' is not defined",
        tells="Line 2: Did you mean total?",
        line=2,
    ),
    Mistake(
        what="a module is used and not imported",
        code="return {'text': json.dumps(_items)}",
        reference="name 'json' is not defined",
        tells="Begin the code with: import json",
    ),
    Mistake(
        what="`true`, `null` of JavaScript",
        code="return [{'json': {'ok': true}}]",
        reference="name 'true' is not defined",
        tells="In Python this is True.",
    ),
    Mistake(
        what="JavaScript in a Python node",
        code="const name = $json.name;\nreturn {'name': name}",
        reference="invalid syntax (<unknown>, line 1)",
        tells="This looks like JavaScript",
    ),
    Mistake(
        what="a colon is missing",
        code="if _items\n    return _items",
        reference="expected ':' (<unknown>, line 1)",
        tells="if, else, for, while, def, try and with end in a colon.",
    ),
    Mistake(
        what="a bracket is not closed",
        code="rows = [{'json': {'a': 1}}\nreturn rows",
        reference="'[' was never closed (<unknown>, line 1)",
        tells="A bracket or a quote is opened and not closed",
    ),
    Mistake(
        what="pasted code is indented",
        code="    return _items",
        reference="unexpected indent (<unknown>, line 1)",
        tells="the first ones at the left margin",
    ),
    Mistake(
        what="typographic quotes",
        code="return [{“json”: {}}]",
        reference="invalid character '“' (U+201C) (<unknown>, line 1)",
        tells="quotes must be straight ones",
    ),
    Mistake(
        what="no code at all",
        code="# to do",
        reference="expected an indented block after function definition on line 1 (<all_items_task_execution>, line 4)",
        tells="The code is empty.",
        line=None,
    ),
    Mistake(
        what="division by zero",
        code="total = 0\nreturn {'mean': 10 / total}",
        reference="division by zero",
        tells="Line 2: Test the divisor first",
        line=2,
    ),
    Mistake(
        what="a value is null",
        code="return {'first': _items[0]['json']['note'][0]}",
        reference="'NoneType' object is not subscriptable",
        tells="The value is None, which is null in n8n",
    ),
    Mistake(
        what="no items came",
        code="rows = [item for item in _items if 'x' in item['json']]\nreturn rows[0]",
        reference="list index out of range",
        tells="_items is empty when the node gets no items",
        line=2,
    ),
    Mistake(
        what="a list where one item is meant",
        code="return {'name': _items['json']['name']}",
        reference="list indices must be integers or slices, not str",
        tells="take one element first, like _items[0]['json']",
    ),
    Mistake(
        what="text and number are added",
        code="return {'text': 'age: ' + _items[0]['json']['age']}",
        reference='can only concatenate str (not "int") to str',
        tells="convert with str(…), int(…) or float(…)",
    ),
    Mistake(
        what="a text that is no number",
        code="return {'price': float(_items[0]['json']['price'])}",
        reference="could not convert string to float: '12,50'",
        tells="The text is no number",
    ),
    Mistake(
        what="JSON is parsed that is none",
        code="import json\nreturn json.loads(str(_items))",
        reference="Expecting property name enclosed in double quotes: line 1 column 3 (char 2)",
        tells="items need no json.loads",
        line=2,
    ),
    Mistake(
        what="an exception without a text",
        code="def check(item):\n    if not item['json'].get('email'):\n        raise ValueError\nfor item in _items:\n    check(item)",
        reference="",
        ours="ValueError",
        tells="line 3, in check: raise ValueError",
        line=3,
    ),
    Mistake(
        what="a standard module that is not allowed",
        code="import os\nreturn [{'json': {'home': os.getcwd()}}]",
        reference=_refused(
            1, "Import of standard library module 'os' is disallowed. Allowed stdlib modules: datetime, json"
        ),
        tells="the runner's operator adds it to N8N_RUNNERS_STDLIB_ALLOW",
    ),
    Mistake(
        what="a package that is not allowed",
        code="import pandas as pd\nreturn [{'json': {}}]",
        reference=_refused(
            1, "Import of external package 'pandas' is disallowed. Allowed external packages: not_installed_anywhere"
        ),
        tells="installs it for the runner and adds it to N8N_RUNNERS_EXTERNAL_ALLOW",
    ),
    Mistake(
        what="a package that is allowed and not installed",
        code="import not_installed_anywhere\nreturn []",
        reference="No module named 'not_installed_anywhere'",
        tells="is not installed where the runner runs",
    ),
    Mistake(
        what="a class, where classes are not allowed",
        code="class Row:\n    pass\nreturn []",
        reference="__build_class__ not found",
        tells="To allow classes, the runner's operator",
    ),
    Mistake(
        what="a file is opened",
        code="with open('/data/list.csv') as file:\n    return {'text': file.read()}",
        reference="name 'open' is not defined",
        tells="To allow open, the runner's operator",
    ),
    Mistake(
        what="keys that are no text",
        code="counts = {(item['json']['name'], 1): 1 for item in _items}\nreturn [{'json': counts}]",
        reference="keys must be str, int, float, bool or None, not tuple",
        tells="The value stands at json in item 0 of the result. Use texts as keys",
        line=None,
        item=0,
    ),
    Mistake(
        what="an endless loop",
        code="while True:\n    pass",
        reference="Task execution timed out after 1 second",
        tells="raise N8N_RUNNERS_TASK_TIMEOUT for the runner",
        line=None,
    ),
    Mistake(
        what="more memory than there is",
        code="return {'n': len('x' * 2_000_000_000)}",
        reference="Process was forcefully killed (SIGKILL)",
        ours="Out of memory: a task may use 256 MiB (N8N_RUNNERS_TASK_MEMORY)",
        tells="Let the program hold less at a time",
    ),
    Mistake(
        what="a result beyond the limit",
        code="return [{'json': {'text': 'x' * 2_000_000}}]",
        reference="Node execution failed",
        ours="The result is too large: 2000022 bytes of JSON, and n8n takes at most 998976",
        tells="Return less, or in several runs.",
        line=None,
    ),
    Mistake(
        what="the program ends itself",
        code="if len(_items) < 3:\n    raise SystemExit('too few')\nreturn _items",
        reference="Process exited with code too few",
        tells="A program is ended with return",
        line=2,
    ),
    Mistake(
        what="NaN in the result",
        code="return [{'json': {'mean': float('nan')}}]",
        reference="Task execution timed out after 60 seconds",
        ours=WORKS,
        tells="null",
        line=None,
    ),
    Mistake(
        what="print with `end` or `sep`",
        code="print('a', 'b', sep=', ')\nreturn []",
        reference="_SafePrint.__call__() got an unexpected keyword argument 'sep'",
        ours=WORKS,
        tells="prints: a, b",
        line=None,
    ),
    Mistake(
        what="the input is assigned anew",
        code="_items = [item for item in _items if item['json']['age']]\nreturn len(_items)",
        reference="cannot access local variable '_items' where it is not associated with a value",
        ours=WORKS,
        tells="1",
        line=None,
    ),
)
