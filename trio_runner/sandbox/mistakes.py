"""What an author can do about a failure of the program: one sentence for each of the usual mistakes, with its code.

Owns that advice; what an operator can do stands in `hints`. All of it is made after a failure, so time matters little
and nothing here may make matters worse: exceptions and their texts are the user's, and only values of exact built-in
types are looked into.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, Final, NamedTuple

from trio_runner.sandbox import hints, n8nmistakes, tracebacks
from trio_runner.sandbox.alike import LONGEST as _LONGEST_NAME
from trio_runner.sandbox.alike import closest

_LONGEST_TEXT: Final = 500
_MOST_KEYS: Final = 8
MARK: Final = "▸"
"""Stands before the character at which the interpreter gave up."""

Advice = Callable[["_Case"], str] | str


class Mistake(NamedTuple):
    """A kind of failure, found by the name of its exception and the beginning of its text."""

    code: str
    kind: str
    pattern: str
    advice: Advice


def _each(code: str, *said: tuple[str, str], advice: Advice) -> Iterator[Mistake]:
    """One mistake that the interpreter tells in several ways: names of exceptions, and beginnings of their texts."""
    return (Mistake(code, kind, pattern, advice) for kind, pattern in said)


class _Case(NamedTuple):
    """One failure: what was said, where, and the groups of the pattern that fitted."""

    error: BaseException
    source: str
    each_item: bool
    groups: tuple[str, ...]


def for_error(error: BaseException, source: str, *, each_item: bool) -> str:
    """The advice for an exception of the program, ending in its code; empty when there is none to give."""
    kind, text = tracebacks.type_name(error), tracebacks.text_of(error)[:_LONGEST_TEXT]
    for mistake in MISTAKES:
        if mistake.kind == kind and (found := re.match(mistake.pattern, text, re.DOTALL)):
            case = _Case(error, source, each_item, found.groups(""))
            advice = mistake.advice if isinstance(mistake.advice, str) else mistake.advice(case)
            return advice and f"{advice} [{mistake.code}]"
    return ""


def for_syntax(error: SyntaxError, source: str) -> str:
    """The line that is no Python, with a mark before the place, and what is probably meant.

    The mark stands in the line: n8n's panel shows texts in a proportional type.
    """
    line, column = error.lineno or 1, error.offset or 0
    lines = tracebacks.LINE_END.split(source)
    code = lines[line - 1] if 0 < line <= len(lines) else ""
    at = max(column - 1, len(code) - len(code.lstrip()))
    marked = f"{code[:at]}{MARK}{code[at:]}" if 0 < column <= len(code) else code
    shown = tracebacks.clip(marked.strip(), 120)
    place = [f"Line {line}: {shown}"] if shown else []
    return "\n".join([*place, _syntax_advice(str(error.msg), code)])


def _syntax_advice(said: str, code: str) -> str:
    for pattern, advice in SYNTAX:
        if re.search(pattern, said):
            return advice
    return JAVASCRIPT if re.search(_LIKE_JAVASCRIPT, code) else NOT_PYTHON


def for_result(said: str) -> str:
    """What to do about a value that cannot be sent, by what was said about it."""
    return next(advice for beginning, advice in RESULTS if said.startswith(beginning))


RESULTS: Final = (
    ("keys must be str", "Use texts as keys, like str(key) or '-'.join(key). [TR421]"),
    ("Circular reference", "It holds itself: return a copy without that entry. [TR422]"),
    ("A value of the type coroutine", "It is a call that was not waited for: write await in front of it. [TR426]"),
    ("A value of the type", "Return its parts, or a text made of it: str(value). [TR426]"),
    ("The DataFrame has", "Rename its columns first. [TR427]"),
    ("The index of the", "Records need names of their own. [TR427]"),
    ("The result is nested", "Return fewer levels of lists and dictionaries. [TR423]"),
    ("", "Clean the text first, like text.encode('utf-8', 'replace').decode(). [TR424]"),
)
"""By the beginning of the text; the first that fits."""

_LIKE_JAVASCRIPT: Final = (
    r"\$(json|input|node|items|\()|^\s*(const|let|var|function|new|switch)\s|=>|===|!==|&&|\|\||^\s*//|;\s*$|\+\+"
)
JAVASCRIPT: Final = (
    "This looks like JavaScript; the node's language is Python: _items and _item['json'], and, or, not, # for comments."
    " [TR202]"
)
NOT_PYTHON: Final = "Python cannot read this line, or the one before it. [TR201]"
SYNTAX: Final = (
    (
        r"indent|unindent|inconsistent use of tabs",
        "Lines of one block begin in the same column, and the first ones at the left margin; use spaces only. [TR203]",
    ),
    (
        r"never closed|unterminated|unmatched|does not match|EOF",
        "A bracket or a quote is opened and not closed, or closed and not opened. [TR204]",
    ),
    (r"expected ':'", "if, else, for, while, def, try and with end in a colon. [TR205]"),
    (
        r"invalid (non-printable )?character",
        "Type this character anew: quotes must be straight ones (' or \"). [TR206]",
    ),
    (r"nested too deeply|half of a surrogate|null byte", "The text of the code itself cannot be read. [TR208]"),
)
"""By what the interpreter says; the first that fits."""


def _close(name: str, names: Iterable[str]) -> str | None:
    return closest(name, names, cutoff=0.7)


def _missing_key(case: _Case) -> str:
    key = tracebacks.text_of(case.error)
    text = f"There is no key {tracebacks.clip(key, _LONGEST_NAME)}"
    names = _keys_there(case)
    if names:
        close = _close(key.strip("'\""), names)
        more = ", …" if len(names) > _MOST_KEYS else ""
        shown = ", ".join(repr(tracebacks.clip(name, _LONGEST_NAME)) for name in names[:_MOST_KEYS])
        text += f"; did you mean {close!r}?" if close else f"; there are {shown}{more}."
    else:
        text += " here."
    return f"{text} A key that may be missing is read with .get(…)."


def _unknown_name(case: _Case) -> str:
    name = case.groups[0]
    if name in ("_items", "_item"):
        other = "_item" if case.each_item else "_items"
        mode = "each item" if case.each_item else "all items"
        return f"This node runs once for {mode}, where the input is {other}: use that, or change the node's mode."
    if name in ("items", "item"):
        return f"The input of this node is {'_item' if case.each_item else '_items'}."
    if name in n8nmistakes.OTHER_WORDS:
        return f"In Python this is {n8nmistakes.OTHER_WORDS[name]}."
    if name in _SHORT_NAMES or name in sys.stdlib_module_names:
        return f"Begin the code with: {_SHORT_NAMES.get(name, f'import {name}')}"
    if n8ns := hints.for_name(name):
        return n8ns
    frame = _last_frame(case.error)
    close = _close(name, _names_in(frame)) if frame is not None else None
    return f"Did you mean {close}?" if close else "Check its spelling; a name must be assigned before it is used."


_SHORT_NAMES: Final = {
    "pd": "import pandas as pd",
    "np": "import numpy as np",
    "dt": "import datetime as dt",
    "timedelta": "from datetime import timedelta",
    "defaultdict": "from collections import defaultdict",
    "Counter": "from collections import Counter",
    "Decimal": "from decimal import Decimal",
    "requests": "import requests",
    "pandas": "import pandas",
    "numpy": "import numpy",
}


def _unknown_attribute(case: _Case) -> str:
    kind, name = case.groups
    known = {each.__name__: each for each in (str, list, dict, int, float, tuple, set, bytes)}
    close = _LIKE_THAT.get(name) or (_close(name, dir(known[kind])) if kind in known else None)
    if close and kind in known and hasattr(known[kind], close):
        return f"Did you mean .{close}()?"
    if name in n8nmistakes.METHODS:
        return f"In Python this is {n8nmistakes.METHODS[name]}."
    return f"A value of the type {tracebacks.clip(kind, _LONGEST_NAME)} has nothing of this name."


_LIKE_THAT: Final = {
    "push": "append",
    "toUpperCase": "upper",
    "toLowerCase": "lower",
    "trim": "strip",
    "startsWith": "startswith",
    "endsWith": "endswith",
    "replaceAll": "replace",
    "indexOf": "index",
}


MISTAKES: Final[tuple[Mistake, ...]] = (
    Mistake("TR101", "ZeroDivisionError", "", "Test the divisor first, like: total / count if count else 0"),
    Mistake("TR102", "KeyError", "", _missing_key),
    Mistake(
        "TR103",
        "IndexError",
        "(list|tuple|string) index out of range",
        "It has fewer elements than that; _items is empty when the node gets no items. Test len(…) first.",
    ),
    Mistake("TR104", "NameError", r"name '(\w+)' is not defined", _unknown_name),
    Mistake(
        "TR105",
        "UnboundLocalError",
        "",
        "The function assigns this name, so it is one of its own, which has no value yet here. Give it one first, or "
        "hand it to the function as an argument.",
    ),
    Mistake(
        "TR444",
        "AttributeError",
        "(?:there is )?no field '(.*?)'(?:; there are: (.*))?$",
        lambda case: n8nmistakes.missing_field(case.groups[0], case.groups[1], case.source),
    ),
    Mistake(
        "TR441",
        "AttributeError",
        r"_execution\.customData\..* cannot be set",
        "Entries are set by _execution.customData.set('key', 'value').",
    ),
    Mistake("TR447", "HttpError", "", lambda case: n8nmistakes.refused_request(case.error)),
    Mistake("TR448", "HelperError", "", lambda case: n8nmistakes.failed_request(tracebacks.text_of(case.error))),
    *_each(
        "TR127",
        ("AttributeError", "'(builtin_function_or_method|function|method)' object has no attribute"),
        ("TypeError", "'(builtin_function_or_method|function|method)' object is not (iterable|subscriptable)"),
        ("TypeError", "object of type '(builtin_function_or_method|function|method)' has no len"),
        advice="This is a function: it is called with () behind its name.",
    ),
    *_each(
        "TR128",
        ("AttributeError", "'coroutine' object has no attribute"),
        ("TypeError", "('|object of type ')coroutine'|unsupported operand .*'coroutine'"),
        advice="It was not waited for: write await in front of the call that made it.",
    ),
    Mistake(
        "TR129",
        "TypeError",
        r"(object (\w+)|'(\w+)' object) can't be (used in 'await' expression|awaited)",
        "Take await away: this call gives its value at once. Helpers that are awaited end in _async, like "
        "http_request_async(…).",
    ),
    Mistake(
        "TR130",
        "TypeError",
        "can't (compare|subtract) offset-naive and offset-aware",
        "_now and _today have a time zone and the other date has none: give it one, like datetime.now(_now.tzinfo) or "
        "date.replace(tzinfo=_now.tzinfo).",
    ),
    Mistake(
        "TR106",
        "AttributeError",
        r"'dict' object has no attribute '(\w+)'",
        lambda case: f"An entry of a dictionary is read with brackets: ['{case.groups[0][:_LONGEST_NAME]}']",
    ),
    *_each(
        "TR107",
        ("AttributeError", "'NoneType' object has no attribute"),
        ("TypeError", "'NoneType' object is not (subscriptable|iterable|callable)|argument of type 'NoneType'"),
        ("TypeError", r"unsupported operand type\(s\) for .*'NoneType'"),
        advice="The value is None, which is null in n8n: test it first, like: if value is not None",
    ),
    Mistake("TR108", "AttributeError", r"'(\w+)' object has no attribute '(\w+)'", _unknown_attribute),
    Mistake(
        "TR109",
        "TypeError",
        "list indices must be integers",
        "This is a list: take one element first, like _items[0]['json'], or go through it with for.",
    ),
    Mistake(
        "TR110",
        "TypeError",
        "string indices must be integers",
        "This is a text, not a dictionary. Is one ['json'] too many in front of it, or is it JSON for json.loads(…)?",
    ),
    Mistake(
        "TR111",
        "TypeError",
        "can only concatenate list",
        "A list is joined with a list, like rows + [row]; rows.append(row) adds one more.",
    ),
    *_each(
        "TR111",
        ("TypeError", r"can only concatenate (\w+) \(not \"(\w+)\"\)"),
        ("TypeError", r"unsupported operand type\(s\) for .*: '(.*)' and '(.*)'"),
        ("TypeError", "must be str, not"),
        ("TypeError", "not all arguments"),
        advice=lambda case: n8nmistakes.do_not_mix(case.groups),
    ),
    Mistake(
        "TR112",
        "TypeError",
        ".* not supported between instances",
        "Values of two types cannot be compared; convert one, like float(value), and see to None first.",
    ),
    Mistake(
        "TR113",
        "TypeError",
        "(cannot use .*)?unhashable type",
        "Lists and dictionaries cannot be keys or members of a set: use a text, a number or a tuple.",
    ),
    Mistake(
        "TR114",
        "TypeError",
        r"'\w+' object is not callable",
        "There are round brackets behind something that is no function: elements are read with [ ].",
    ),
    Mistake(
        "TR115",
        "TypeError",
        r".*\(\) (missing|takes|got)",
        "The function is called with other arguments than it has.",
    ),
    *_each(
        "TR116",
        ("ValueError", "invalid literal for int"),
        ("ValueError", "could not convert string to float"),
        advice="The text is no number; look at it with print(repr(…)), and see to empty ones first.",
    ),
    *_each(
        "TR117",
        ("ValueError", "(too many|not enough) values to unpack"),
        ("TypeError", "cannot unpack"),
        advice="The number of names on the left is not the number of values on the right.",
    ),
    *_each(
        "TR118",
        ("JSONDecodeError", ""),
        ("TypeError", "the JSON object must be str"),
        advice="The text is not JSON. What n8n hands over is parsed already: items need no json.loads(…).",
    ),
    *_each(
        "TR119",
        ("ValueError", "time data"),
        ("ValueError", "unconverted data remains"),
        ("ValueError", "Invalid isoformat string"),
        advice="The text has another form than this; look at it with print(repr(…)).",
    ),
    Mistake(
        "TR120",
        "RecursionError",
        "",
        "A function calls itself too often: see to the case in which it stops, or use a loop.",
    ),
    Mistake(
        "TR121",
        "ModuleNotFoundError",
        "",
        "The module may be imported, but is not installed where the runner runs: its operator installs it.",
    ),
    Mistake("TR122", "ImportError", "cannot import name", "The module is there and has nothing of this name."),
    Mistake(
        "TR123",
        "TypeError",
        ".* is not JSON serializable",
        "Returned items need no json.dumps(…); where it is wanted: json.dumps(value, default=str)",
    ),
    Mistake(
        "TR124",
        "SystemExit",
        "",
        "A program is ended with return; sys.exit() makes the task fail.",
    ),
    Mistake(
        "TR125",
        "FileNotFoundError",
        r".*No usable temporary directory",
        "A task has no folder to write to: keep the file in memory, in io.BytesIO(). The runner's operator can grant "
        "one with N8N_RUNNERS_SANDBOX_WRITE.",
    ),
    Mistake(
        "TR125",
        "FileNotFoundError",
        "",
        "Files are looked for on the runner's machine, not on n8n's and not on yours.",
    ),
    Mistake("TR126", "UnicodeDecodeError", "", "The bytes are no text in this encoding; see where they come from."),
)
"""The first that fits counts."""


# Looking into the frame of a failure. Nothing of the user's is called: only exact built-in types are followed.


def _last_frame(error: BaseException) -> FrameType | None:
    """The frame in which it happened, if that is one of the program's own."""
    last = _last_traceback(error)
    return last.tb_frame if last is not None else None


def _last_traceback(error: BaseException) -> TracebackType | None:
    last: TracebackType | None = None
    for traceback in tracebacks.chain(error):
        last = traceback
    return last if last is not None and tracebacks.is_users(last.tb_frame.f_code) else None


def _keys_there(case: _Case) -> list[str]:
    """The keys of the dictionary that was asked for one that it lacks, as far as the expression can be followed."""
    import ast

    last = _last_traceback(case.error)
    if last is None:
        return []
    try:
        where = list(last.tb_frame.f_code.co_positions())[last.tb_lasti // 2]
        line, end_line, start, end = where
        if line is None or line != end_line or start is None or end is None:
            return []
        text = tracebacks.LINE_END.split(case.source)[line - 1].encode()[start:end].decode()
        expression = ast.parse(text.strip(), mode="eval").body
        if isinstance(expression, ast.Subscript):
            container = _value_of(expression.value, last.tb_frame)
            if _is_dict(container):
                return [key for key in list(container)[:200] if type(key) is str]
    except (SyntaxError, ValueError, LookupError):
        pass
    return []


def _is_dict(value: object) -> bool:
    return type(value) is dict


def _value_of(node: Any, frame: FrameType) -> Any:
    """What names and constant subscripts of lists and dictionaries stand for; None for everything else."""
    import ast

    if isinstance(node, ast.Name):
        return frame.f_locals.get(node.id, frame.f_globals.get(node.id))
    if isinstance(node, ast.Subscript):
        container = _value_of(node.value, frame)
        key = node.slice.value if isinstance(node.slice, ast.Constant) else _value_of(node.slice, frame)
        if type(container) in (list, tuple) and type(key) is int:
            return container[key]
        if type(container) is dict and type(key) in (str, int):
            return container.get(key)
    return None


def _names_in(frame: FrameType) -> list[str]:
    return [name for name in (*frame.f_locals, *frame.f_globals) if not name.startswith("__")]
