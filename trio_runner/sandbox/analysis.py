"""What is wrong with a source before it runs: text in, syntax tree and violations out.

Owns parsing, the static rules of runner-behaviour 14 and their texts (16). Must not run or change code, and must not
decide what may be imported (policy) or what a template may reach (formatguard).

The rules serve compatibility, early refusal and friendly texts; the kernel is the boundary. Where the rules of n8n
leave a place open in which a blocked name can hide (captures of match patterns, nonlocal, type parameters), it is
refused with the text for names.
"""

from __future__ import annotations

import ast
import threading
import unicodedata
import warnings
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from trio_runner.sandbox.formatguard import (
    BLOCKED_ATTRIBUTES,
    BLOCKED_NAMES,
    FORMAT_METHODS,
    string_refusal,
    template_violation,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_runner.sandbox.policy import Policy

__all__ = ["BLOCKED_ATTRIBUTES", "BLOCKED_NAMES", "Violation", "analyse", "describe", "parse"]

_MAX_TEXT: Final = 8 * 1024
_MAX_LINES: Final = 100
_MAX_DESCRIPTION: Final = 16 * 1024

_BYPASS: Final = "is disallowed, because it can be used to bypass security restrictions."
_BUILTINS: Final = ("builtins", "__builtins__")

_parsing = threading.Lock()


class Violation(msgspec.Struct, frozen=True):
    """One broken rule. ``line`` and ``column`` count from 1; columns count UTF-8 bytes, as the interpreter does."""

    line: int
    column: int
    text: str


def parse(source: str) -> ast.Module:
    """The syntax tree of ``source``.

    Raises SyntaxError only: the interpreter's own, and one of ours where it would give up in another way.
    """
    try:
        # A strange escape in user code is not worth a line in our logs. The lock: filters belong to the whole process.
        with _parsing, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (RecursionError, MemoryError):
        raise SyntaxError("source is nested too deeply", ("<unknown>", 1, 1, None)) from None
    except UnicodeEncodeError as error:
        line = source.count("\n", 0, error.start) + 1
        message = f"source holds half of a surrogate pair (U+{ord(source[error.start]):X})"
        raise SyntaxError(message, ("<unknown>", line, 1, None)) from None
    except ValueError as error:  # a NUL byte, which some versions do not report as a SyntaxError
        raise SyntaxError(str(error)) from None


def analyse(tree: ast.Module, policy: Policy) -> tuple[Violation, ...]:
    """Every rule that ``tree`` breaks, parents before children and in source order; empty when ``policy`` skips checks.

    Reads the tree once and never recurses, so that depth costs nothing. A relaxed policy has rules for imports only.
    """
    if not policy.source_checks:
        return ()
    inspection = _Inspection(policy)
    stack: list[Any] = [tree]
    while stack:
        node = stack.pop()
        plan = _PLANS.get(type(node))
        if plan is None:
            continue  # the fields of a node hold texts, numbers and gaps as well
        rule, fields = plan
        if rule is not None and (not policy.relaxed or type(node) in _IMPORTS):
            rule(inspection, node)
        for field in fields:
            value = getattr(node, field)
            if type(value) is list:
                stack.extend(reversed(value))
            else:
                stack.append(value)
    return tuple(inspection.violations)


def describe(violations: Sequence[Violation]) -> str:
    """What the user sees, one line per violation: at most 100 lines and 16 KiB, then how many are left."""
    lines: list[str] = []
    size = 0
    for violation in violations[:_MAX_LINES]:
        line = f"Line {violation.line}: {violation.text}"
        size += len(line.encode()) + 1
        if size > _MAX_DESCRIPTION:
            break
        lines.append(line)
    left = len(violations) - len(lines)
    if left:
        lines.append(f"… and {left} more violations.")
    return "\n".join(lines)


class _Inspection:
    """What is known in the middle of one walk: what was found, and what the walk must remember from node to node."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.violations: list[Violation] = []
        self.modules: set[str] = set()  # top-level modules that were refused: one line for each is enough
        self.callee: ast.expr | None = None  # what is called by the call that was visited last
        self.literal: dict[ast.expr, bool] = {}  # for additions: whether they are to be read as one literal

    def report(self, node: Any, text: str) -> None:
        # Names of modules are as long as users make them, and a literal may hold what no message can carry.
        raw = text.encode("utf-8", "backslashreplace")
        if len(raw) > _MAX_TEXT:
            raw = raw[:_MAX_TEXT] + "…".encode()
        self.violations.append(Violation(node.lineno, node.col_offset + 1, raw.decode("utf-8", "ignore")))

    def report_word(self, node: Any, word: str) -> bool:
        """Whether ``word`` is blocked as a name or as an attribute; says so if it is."""
        if self.policy.relaxed:
            return False
        if word in BLOCKED_NAMES:
            self.report(node, f"Access to name '{word}' {_BYPASS}")
        elif word in BLOCKED_ATTRIBUTES:
            self.report(node, f"Access to attribute '{word}' {_BYPASS}")
        else:
            return False
        return True

    def report_name(self, node: Any, name: str | None, text: str = "Access to name") -> None:
        if name is not None and (name := _normal(name)) in BLOCKED_NAMES:
            self.report(node, f"{text} '{name}' {_BYPASS}")

    def check_module(self, node: Any, module: str) -> None:
        top = module.partition(".")[0]
        if top not in self.modules and not self.policy.allows_import(module):
            self.modules.add(top)
            self.report(node, self.policy.import_refusal(module))

    def check_text(self, node: Any, text: str) -> None:
        if not self.report_word(node, text) and "{" in text and (name := template_violation(text)):
            self.report(node, string_refusal(name))

    def import_(self, node: ast.Import) -> None:
        for alias in node.names:
            self.check_module(alias, alias.name)
            if alias.asname is not None:
                self.report_word(alias, _normal(alias.asname))

    def import_from(self, node: ast.ImportFrom) -> None:
        if node.level:
            self.report(node, "Relative imports are disallowed.")
        elif node.module is not None:
            self.check_module(node, node.module)
        for alias in node.names:
            if alias.asname is None or not self.report_word(alias, _normal(alias.asname)):
                self.report_word(alias, _normal(alias.name))

    def call(self, node: ast.Call) -> None:
        self.callee = node.func
        if not _is_import_function(node.func):
            return
        name = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        if isinstance(name, str):
            self.check_module(node, name)
        elif not self.policy.relaxed:
            self.report(node, "Dynamic __import__() calls are not allowed for security reasons.")

    def attribute(self, node: ast.Attribute) -> None:
        name = _normal(node.attr)
        if name in BLOCKED_ATTRIBUTES:
            self.report(node, f"Access to attribute '{name}' {_BYPASS}")
        elif name in FORMAT_METHODS:
            # The function of a call is visited right after the call.
            if node is not self.callee:
                text = f"Extracting '{name}' as a bound method is disallowed; call it directly on its receiver instead."
                self.report(node, text)
        elif name[0] == "_" and "__" in name and name.partition("__")[0][:1] == "_":
            text = "Access to name-mangled attributes (pattern: _ClassName__attr) is disallowed for security reasons."
            self.report(node, text)

    def subscript(self, node: ast.Subscript) -> None:
        key = node.slice.value if isinstance(node.slice, ast.Constant) else None
        if isinstance(key, str) and key in BLOCKED_ATTRIBUTES and _last_name(node.value) in _BUILTINS:
            self.report(node, f"Access to attribute '{key}' {_BYPASS}")

    def constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.check_text(node, node.value)

    def addition(self, node: ast.BinOp) -> None:
        if node not in self.literal:
            self._find_literals(node)
        if not self.literal[node]:
            return
        parts: list[str] = []
        stack: list[Any] = [node]
        while stack:
            part = stack.pop()
            if isinstance(part, ast.BinOp):
                self.literal[part] = False
                stack += (part.right, part.left)
            else:
                parts.append(part.value)
        self.check_text(node, "".join(parts))

    def _find_literals(self, root: ast.BinOp) -> None:
        """Settle for every addition in a chain at once whether it adds literals only: one by one would be quadratic."""
        chain = [root]
        for node in chain:
            chain += [side for side in (node.left, node.right) if isinstance(side, ast.BinOp)]
        for node in reversed(chain):
            sides = (_is_text(side) or self.literal.get(side, False) for side in (node.left, node.right))
            self.literal[node] = type(node.op) is ast.Add and all(sides)

    def match_class(self, node: ast.MatchClass) -> None:
        if node.patterns:
            self.report(node, "Positional match patterns are disallowed for security reasons.")
        for name in map(_normal, node.kwd_attrs):
            if name in BLOCKED_ATTRIBUTES:
                self.report(node, f"Match pattern extracting attribute '{name}' {_BYPASS}")

    def global_(self, node: ast.Global) -> None:
        for name in node.names:
            self.report_name(node, name, "Global declaration of")

    def nonlocal_(self, node: ast.Nonlocal) -> None:
        for name in node.names:
            self.report_name(node, name)

    def function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.report_name(node, node.name, "Function named")

    def class_(self, node: ast.ClassDef) -> None:
        self.report_name(node, node.name, "Class named")

    def parameter(self, node: ast.arg) -> None:
        self.report_name(node, node.arg, "Parameter named")

    def name(self, node: ast.Name) -> None:
        self.report_name(node, node.id)

    def binding(self, node: Any) -> None:
        """Nodes that bind a ``name`` which is no node of its own."""
        self.report_name(node, node.name)

    def match_mapping(self, node: ast.MatchMapping) -> None:
        self.report_name(node, node.rest)


def _normal(name: str) -> str:
    """The form in which the interpreter looks an identifier up; the parser did this already, this is insurance."""
    return name if name.isascii() else unicodedata.normalize("NFKC", name)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _last_name(node: ast.expr) -> str | None:
    """``b`` of the expressions ``b`` and ``a.b``."""
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else None


def _is_import_function(node: ast.expr) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr == "__import__" and isinstance(node.value, ast.Name) and node.value.id in _BUILTINS
    return isinstance(node, ast.Name) and node.id == "__import__"


_Rule: TypeAlias = "Callable[[_Inspection, Any], None]"

_RULES: Final[dict[str, _Rule]] = {
    "Import": _Inspection.import_,
    "ImportFrom": _Inspection.import_from,
    "Call": _Inspection.call,
    "Attribute": _Inspection.attribute,
    "Subscript": _Inspection.subscript,
    "Constant": _Inspection.constant,
    "BinOp": _Inspection.addition,
    "Name": _Inspection.name,
    "Global": _Inspection.global_,
    "Nonlocal": _Inspection.nonlocal_,
    "FunctionDef": _Inspection.function,
    "AsyncFunctionDef": _Inspection.function,
    "ClassDef": _Inspection.class_,
    "arg": _Inspection.parameter,
    "ExceptHandler": _Inspection.binding,
    "MatchAs": _Inspection.binding,
    "MatchStar": _Inspection.binding,
    "TypeVar": _Inspection.binding,
    "ParamSpec": _Inspection.binding,
    "TypeVarTuple": _Inspection.binding,
    "MatchClass": _Inspection.match_class,
    "MatchMapping": _Inspection.match_mapping,
}
"""By name, because older versions lack some kinds."""

_IMPORTS: Final = frozenset({ast.Import, ast.ImportFrom, ast.Call})

_NO_NODES: Final = ("ctx", "op", "ops", "id", "attr", "kind", "asname", "level", "module", "conversion", "is_async")
"""Fields not worth a visit. Others hold no nodes either at times, which only costs time."""

_PLANS: Final[dict[type, tuple[_Rule | None, tuple[str, ...]]]] = {
    kind: (_RULES.get(kind.__name__), tuple(field for field in reversed(kind._fields) if field not in _NO_NODES))
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
}
"""For every kind of node: its rule, and the fields to visit, last one first because a stack turns them round."""
