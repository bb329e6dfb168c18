"""Source texts and format templates: a verdict for each, soon, and never a kind one for what is blocked."""

from __future__ import annotations

import ast
import marshal
import string
import warnings
from types import CodeType
from typing import Any

from tests.fuzz.reader import Reader
from trio_runner.sandbox import formatguard
from trio_runner.sandbox.compiling import examine
from trio_runner.sandbox.formatguard import BLOCKED_ATTRIBUTES, BLOCKED_NAMES
from trio_runner.sandbox.policy import Policy

POLICIES = (
    Policy(),
    Policy(stdlib_allow=frozenset({"json", "os"}), external_allow=frozenset({"*"})),
    Policy(stdlib_allow=frozenset({"*"}), external_allow=frozenset({"*"})),
    Policy(relaxed=True),
)
TOKENS = (
    "return ", "_items", "_item", "x", "\n", "\n    ", "\n        ", " = ", ":", "(", ")", "[", "]", "{", "}", ",",
    ".", "if ", "else", "for ", " in ", "while ", "def f", "class A", "lambda ", "yield ", "await ", "async ",
    "import ", "from ", " as ", "global ", "nonlocal ", "try", "except ", "finally", "with ", "match ", "case ",
    "del ", "*", "**", "->", ":=", "@", "~", "not ", "is ", "1", "1e999", "0x_f", "9" * 40, "'a'", '"b"', "'''c\n'''",
    "f'{x}'", "f'{x!r:{x}}'", "rb'\\x'", "b'\\xff'", "'{.__class__}'", "...", "__class__", "__globals__",
    "__builtins__", "__import__", ".format(", "'os'", "os", "json", "#", "\\\n", "\t", "\x0c", "\x00", "\ud800",
    "\u00b5", "\u2028", "type ", "_A__b", "eval", "obj", "print(", "\ufeff", "# coding: utf-7\n",
    "from __future__ import annotations\n",
)  # fmt: skip


def program(data: bytes) -> None:
    """A source: analysed and compiled under some policy."""
    read = Reader(data)
    policy, each_item = read.pick(POLICIES), read.flag()
    source = _source(read)
    verdict = examine(source, each_item, policy)
    if verdict.failure is not None:
        assert not verdict.code
        assert verdict.failure.message
        verdict.failure.message.encode()
        return
    assert isinstance(marshal.loads(verdict.code), CodeType)
    if policy.source_checks and not policy.relaxed:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert not _blocked(ast.parse(source)), f"{source!r} was let through"


STATEMENTS = (
    "return {}\n", "x = {}\n", "{}\n", "if {}: pass\n", "for x in {}: print(x)\n", "def f(a={}):\n    return a\n",
    "class A:\n    y = {}\n", "with {} as x: pass\n", "match {}:\n    case x: pass\n", "del {}\n", "global _items\n",
    "import os\n", "from os import path as obj\n", "try:\n    {}\nexcept {}: pass\n", "async def g():\n    await {}\n",
    "def __builtins__(): pass\n", "nonlocal x\n", "from __future__ import annotations\n", "@{}\nclass B: pass\n",
)  # fmt: skip
EXPRESSIONS = (
    "x", "1", "'a'", "_items", "x.{a}", "x.{a}({})", "{}[{}]", "({} + {})", "f'{{{}}}'", "lambda: {}",
    "[{} for x in {}]", "not {}", "{}.format({})",
    "'{{0.{a}}}'.format({})", "{{{}: {}}}", "(yield {})", "(x := {})", "getattr({}, '{a}')", "{a}",
    "'{a}' + '{a}'", "__import__({})", "b'x' * {}", "*{}", "{}, {}",
)  # fmt: skip
NAMES = (
    "y",
    "__class__",
    "__globals__",
    "obj",
    "_A__b",
    "format",
    "f_back",
    "__builtins__",
    "__name__",
    "join",
    "__len__",
)
PREFIXES = ("not ", "-", "(", "[", "x if ", "lambda: ", "f(", "{1:", "x.y(", "~", "await ", "1+", "x=")
MAX_DEPTH = 6


def _source(read: Reader) -> str:
    parts: list[str] = []
    for _ in range(1 + read.below(5)):  # few: one mistake costs all of it
        match read.below(8):
            case 0 | 1 | 2 | 3 | 4:
                parts.append(_filled(read.pick(STATEMENTS), read, 0))
            case 5:
                parts.append(read.pick(PREFIXES) * (1 + read.byte() * read.byte() // 8) + read.pick(["", "1\n", "x"]))
            case 6:
                parts.append(read.pick(TOKENS))
            case _:
                parts.append(read.text())
    return "".join(parts)


def _filled(template: str, read: Reader, depth: int) -> str:
    """The template with an expression in each gap, and a name in each gap for names."""
    pieces = template.replace("{a}", read.pick(NAMES)).replace("{{", "\x01").replace("}}", "\x02").split("{}")
    made = pieces[0]
    for piece in pieces[1:]:
        expression = read.pick(EXPRESSIONS if depth < MAX_DEPTH else EXPRESSIONS[:4])
        made += _filled(expression, read, depth + 1) + piece
    return made.replace("\x01", "{").replace("\x02", "}")


def _blocked(tree: ast.AST) -> list[str]:
    """Blocked words where nobody could miss them. (The rules themselves see more.)"""
    pending, found = [tree], []
    while pending:
        node = pending.pop()
        pending.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Attribute) and node.attr in BLOCKED_ATTRIBUTES:
            found.append(node.attr)
        elif isinstance(node, ast.Name) and node.id in BLOCKED_NAMES:
            found.append(node.id)
    return found


PIECES = (
    "{", "}", "{{", "}}", ".", "[", "]", ":", "!", "!r", "0", "x", "'", '"', "{0.", "{x[", "{:{", "}}}", " ",
    "__class__", "obj", "__globals__", "__name__", "a", "{0[9999999999999999999999]", "\x00", "\ud800",
)  # fmt: skip


class _Spy:
    """Remembers what was asked of it, and answers with another one."""

    def __init__(self, reached: set[str]) -> None:
        object.__setattr__(self, "_reached", reached)

    def __getattribute__(self, name: str) -> Any:
        reached = object.__getattribute__(self, "_reached")
        reached.add(name)
        return _Spy(reached)

    def __getitem__(self, key: object) -> Any:
        reached = object.__getattribute__(self, "_reached")
        reached.add(str(key).strip("'\""))
        return _Spy(reached)

    def __format__(self, spec: str) -> str:
        return ""

    def __str__(self) -> str:
        return ""

    __repr__ = __str__


def template(data: bytes) -> None:
    """A template: what the guard lets through reaches nothing that is blocked, however it is formatted."""
    read = Reader(data)
    text = "".join(read.pick(PIECES) if read.below(6) else read.text() for _ in range(read.below(60))) + read.text()
    found = formatguard.template_violation(text)
    assert found is None or found in BLOCKED_NAMES | BLOCKED_ATTRIBUTES
    formatguard.field_violation(text)
    for formatting in (str.format, string.Formatter().vformat):
        reached: set[str] = set()
        spy = _Spy(reached)
        try:
            if formatting is str.format:
                text.format(spy, spy, x=spy, a=spy)
            else:
                string.Formatter().vformat(text, (spy, spy), {"x": spy, "a": spy})
        except (ValueError, IndexError, KeyError, OverflowError):
            pass  # fields in front of a mistake were formatted all the same
        if blocked := reached & (BLOCKED_NAMES | BLOCKED_ATTRIBUTES) - {"__class__", "__format__"}:
            assert found is not None, f"{text!r} reaches {blocked}"


TARGETS = {"program": program, "template": template}
