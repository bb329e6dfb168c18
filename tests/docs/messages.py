"""Every text of an error that the code makes, found by reading the code: what the catalogue must know.

A text is what stands where an error is made: the first argument of an exception, a failure's message and description, a
problem with the configuration, a line of the log from WARNING up, a refusal of the source rules. What is filled in at
run time is written as `…`. Names are followed to the texts that they stand for, in the function and in the modules.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec

PACKAGE = Path(__file__).parent.parent.parent / "trio_runner"
GAP = "…"

_CONSTRUCTORS = ("Error", "Refused", "UsageError", "ClickException", "BadParameter")
_BOTH = ("Failure", "ErrorBody")
_LEVELS = ("warning", "error", "critical", "exception")
_TEXT_AT = {
    "problem": 2,
    "warn": 1,
    "complain": 0,
    "report": 1,
    "report_name": 2,
    "integer": 1,
    "refuse": 0,
    "cut_off": 0,
}
"""Methods that take the text of an error, and where."""
_RETURNED = ("import_refusal", "string_refusal", "_out_of_memory", "_reason", "for_refusals", "for_error")
"""Functions whose result is such a text."""


class Message(msgspec.Struct, frozen=True):
    """One text, and where it is made."""

    module: str
    line: int
    text: str

    @property
    def place(self) -> str:
        """For the report of a test."""
        return f"{self.module}:{self.line}"


@cache
def all_messages() -> tuple[Message, ...]:
    """Of the whole package."""
    return tuple(message for path in sorted(PACKAGE.rglob("*.py")) for message in messages_of(path))


def messages_of(path: Path) -> Iterator[Message]:
    """Of one module."""
    module = str(path.relative_to(PACKAGE))
    tree = _tree(path)
    everywhere = {**_imported(tree), **_assigned(tree.body)}
    for scope in _scopes(tree):
        own = list(_own_nodes(scope))
        names = {**everywhere, **_assigned(own)}
        for node in own:
            for expression in _texts(node, scope):
                for text in sorted(_templates(expression, names)):
                    if text.strip(f"{GAP} .:;,()-\n[]'\"") and " " in text.strip():
                        yield Message(module, expression.lineno, text)


def _texts(node: ast.AST, scope: ast.AST) -> Iterator[ast.expr]:
    """The expressions of the texts of an error that this node makes."""
    if isinstance(node, ast.Return) and getattr(scope, "name", "") in _RETURNED and node.value is not None:
        yield node.value
    if isinstance(node, ast.Yield) and getattr(scope, "name", "") == "_unknown_variables" and node.value is not None:
        yield node.value
    if not isinstance(node, ast.Call):
        return
    called = _name(node.func)
    keywords = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
    if called in _BOTH:
        yield from (keywords[name] for name in ("message", "description") if name in keywords)
    elif called == "__init__" and getattr(scope, "name", "") == "__init__":
        yield from node.args[:1]
    elif called.endswith(_CONSTRUCTORS) and called[:1].isupper():
        yield from node.args[:2] if called == "WorkerError" else node.args[:1]
    elif called in _LEVELS and isinstance(node.func, ast.Attribute) and "log" in ast.unparse(node.func.value).lower():
        yield from node.args[:1]
    elif called == "Note" and isinstance(node.args[0], ast.Constant) and node.args[0].value in _LEVELS:
        yield node.args[1]
    elif called == "Finding" and isinstance(node.args[2], ast.Constant) and node.args[2].value in ("bad", "note"):
        yield node.args[3]
    elif called == "append" and ast.unparse(node.func) == "self.problems.append":
        yield node.args[0]
    elif called in _TEXT_AT and isinstance(node.func, ast.Attribute) and len(node.args) > _TEXT_AT[called]:
        yield node.args[_TEXT_AT[called]]


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _scopes(tree: ast.Module) -> Iterator[ast.AST]:
    yield tree
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """What belongs to this function, class or module and not to one inside it."""
    pending = list(ast.iter_child_nodes(scope))
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            pending.extend(ast.iter_child_nodes(node))


def _assigned(nodes: list[ast.stmt] | list[ast.AST]) -> dict[str, list[ast.expr]]:
    """What each name stands for, as far as it is written down."""
    found: dict[str, list[ast.expr]] = {}
    for node in nodes:
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets, value = [node.target], node.value
        for target in targets:
            if isinstance(target, ast.Name):
                found.setdefault(target.id, []).append(value)
            elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                for one, its in zip(target.elts, value.elts, strict=True):
                    if isinstance(one, ast.Name):
                        found.setdefault(one.id, []).append(its)
    return found


def _imported(tree: ast.Module) -> dict[str, list[ast.expr]]:
    """Texts that come from other modules of ours."""
    found: dict[str, list[ast.expr]] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trio_runner."):
            path = PACKAGE.joinpath(*(node.module or "").split(".")[1:])
            theirs = _assigned(_tree(path.with_suffix(".py")).body) if path.with_suffix(".py").exists() else {}
            found |= {alias.asname or alias.name: theirs[alias.name] for alias in node.names if alias.name in theirs}
            for alias in node.names:
                if (module := path / f"{alias.name}.py").exists():
                    found |= {f"{alias.name}.{name}": value for name, value in _assigned(_tree(module).body).items()}
    return found


def _templates(node: ast.expr, names: dict[str, list[ast.expr]], depth: int = 3) -> set[str]:
    """The texts that an expression can be, with gaps for what is only known at run time."""
    match node:
        case ast.Constant(value=str() as text):
            return {re.sub(r"%[-#0-9.]*[sdrf]|\{\}", GAP, text)}
        case ast.JoinedStr(values=values):
            return _joined(
                [{GAP} if isinstance(value, ast.FormattedValue) else _templates(value, names) for value in values]
            )
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return _joined([_templates(left, names, depth), _templates(right, names, depth)])
        case ast.IfExp(body=body, orelse=other):
            return _templates(body, names, depth) | _templates(other, names, depth)
        case ast.BoolOp(values=values):
            return set().union(*(_templates(value, names, depth) for value in values))
        case ast.Name(id=name) if depth and name in names:
            return set().union(*(_templates(value, names, depth - 1) for value in names[name]))
        case ast.Attribute(value=ast.Name(id=module), attr=name) if depth and f"{module}.{name}" in names:
            return set().union(*(_templates(value, names, depth - 1) for value in names[f"{module}.{name}"]))
        case (
            ast.Call(func=ast.Attribute(value=inner, attr="format"))
            | ast.Call(func=ast.Attribute(attr="clip"), args=[inner, *_])
        ):
            return _templates(inner, names, depth)
        case _:
            return {GAP}


def _joined(parts: list[set[str]]) -> set[str]:
    whole = {""}
    for part in parts:
        whole = {f"{left}{right}" for left in whole for right in part}
    return {re.sub(f"{GAP}+", GAP, text) for text in whole}


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
