"""Which of n8n's names a source mentions: syntax tree and code object in, names out.

Decides what is fetched for a task and what its items must be able to do, so it errs on the side of more. Pure; must not
know where the data comes from (workflow) or what is allowed (analysis).

The compiler has settled already which names are the program's own: what it looks up as a global is not assigned,
imported or defined by the function around it.
"""

from __future__ import annotations

import ast
import datetime
import re
from types import CodeType
from typing import Final, NamedTuple

from trio_runner.sandbox.formatguard import GUARD_NAME

ITEMS: Final = frozenset({"_items", "_item", "_query"})
"""Names that every program has; mentioned beside others they tell that the input is read as a whole."""
REQUESTED: Final = frozenset(
    "_ _node _workflow _execution _vars _env _prevNode _runIndex _now _today _getWorkflowStaticData _parameter "
    "_nodeVersion".split()
)
"""Names whose values are asked for."""
LOCAL: Final = frozenset("_input _json _binary _itemIndex _jmespath _ifEmpty _helpers".split())
"""Names that cost no request by themselves."""
NAMES: Final = REQUESTED | LOCAL

RESUME_URLS: Final = frozenset({"resumeUrl", "resumeFormUrl"})
"""Attributes of ``_execution`` that hold a secret: mentioned as such, or not handed out."""

DOTS: Final = "."
"""Stands among the names that are used when items are read with dots."""
LISTS: Final = "[]"
"""The same, when also the lists in them are asked for what only the earlier Python node gave them."""

_LIST_EXTRAS: Final = frozenset({"to_py", "length", "push"})
_ANSWERING: Final = frozenset("_execution _workflow _prevNode _helpers _now _today _vars _env _parameter".split())
"""Names whose values answer to dots anyway: a chain that starts with them says nothing about items."""
_OF_NODES: Final = frozenset("all first last item params context itemMatching item_matching isExecuted".split())
_KINDS: Final = (dict, list, str, bytes, tuple, set, int, float, datetime.datetime, datetime.timedelta, re.Match)
_METHODS: Final = frozenset(name for kind in _KINDS for name in dir(kind))
"""What values have without us. An attribute of another name, or one that is not called, may be meant as a field."""
_OF_DICTS: Final = frozenset(dir(dict))
_TYPES: Final = frozenset(kind.__name__ for kind in _KINDS)
_BY_TEXT: Final = frozenset("getattr hasattr attrgetter methodcaller eval exec".split())
"""Functions that read attributes whose names are data."""
_WHOLE_SCOPE: Final = frozenset("locals vars eval exec".split())
_FIELD: Final = re.compile(r"\{[^{}]*\.[^\W\d]")
"""An attribute in a format template: ``{0.name}``, not ``{:.2f}``."""


class Mentions(NamedTuple):
    """``uses``: our names in the source, and `DOTS` and `LISTS`; empty for a program that uses none.

    ``nodes``: the names of nodes that stand in it as literals.
    """

    uses: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


NONE: Final = Mentions()


def find(code: CodeType, tree: ast.Module, source: str) -> Mentions:
    """What ``source``, compiled to ``code``, mentions. Nearly free for a program that uses none of our names."""
    looked_up = _names(code)
    found = looked_up & NAMES
    if not found and looked_up.isdisjoint(("json", "binary")) and "_query." not in source:
        return NONE
    reading = _Reading()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            reading.imported.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)
    for node in ast.walk(tree):
        reading.look(node)
    found -= reading.imported  # `import _json` looks like a look-up
    if not found and not reading.of_items:
        return NONE
    uses = found | reading.marks | (reading.names & ITEMS) | reading.secrets
    if not reading.names.isdisjoint(_WHOLE_SCOPE):
        uses |= ITEMS
    return Mentions(tuple(sorted(uses)), tuple(reading.nodes))


def _names(code: CodeType) -> frozenset[str]:
    """Every name that the code and the functions in it look up beyond their own: globals, and attributes."""
    names: set[str] = set()
    pending = [code]
    while pending:
        current = pending.pop()
        names.update(current.co_names)
        pending += [const for const in current.co_consts if isinstance(const, CodeType)]
    return frozenset(names)


class _Reading:
    """What one walk over a tree has found."""

    def __init__(self) -> None:
        self.imported: set[str] = set()
        self.names: set[str] = set()
        self.secrets: set[str] = set()
        self.nodes: dict[str, None] = {}  # in the order of the source
        self.marks: set[str] = set()
        self.of_items = False  # whether a field is read that items have: the sign in programs with none of our names
        self._called: set[ast.expr] = set()
        self._roots: dict[ast.expr, str | None] = {}

    def look(self, node: ast.AST) -> None:
        """One node; parents come before their children."""
        match node:
            case ast.Name(id=name):
                self.names.add(name)
                if name in _BY_TEXT:
                    self.marks.add(DOTS)
            case ast.Attribute():
                self._attribute(node)
            case ast.Call():
                self._call(node)
            case ast.Subscript(value=ast.Name(id="_node"), slice=ast.Constant(value=str(name))):
                self.nodes[name] = None
            case ast.Subscript(value=ast.Name(id="_execution"), slice=ast.Constant(value=str(name))):
                self._secret(name)
            case ast.MatchClass(kwd_attrs=[_, *_]):
                self.marks.add(DOTS)
            case _:
                pass

    def _secret(self, name: str) -> None:
        if name in RESUME_URLS:
            self.secrets.add(f"_execution.{name}")

    def _call(self, node: ast.Call) -> None:
        self._called.add(node.func)
        match node:
            case ast.Call(func=ast.Name(id="_"), args=[ast.Constant(value=str(name)), *_]):
                self.nodes[name] = None
            case ast.Call(func=ast.Name(id=name), args=[_, receiver, *_]) if name == GUARD_NAME:
                self._template(receiver)
            case ast.Call(func=ast.Attribute(value=receiver, attr="format" | "format_map")):
                self._template(receiver)
            case _:
                pass

    def _template(self, receiver: ast.expr) -> None:
        text = receiver.value if isinstance(receiver, ast.Constant) else None
        if not isinstance(text, str) or _FIELD.search(text):
            self.marks.add(DOTS)

    def _attribute(self, node: ast.Attribute) -> None:
        name, holder = node.attr, node.value
        if isinstance(holder, ast.Name) and holder.id == "_node":
            self.nodes[name] = None
            return
        self._secret(name)
        if name in _BY_TEXT:
            self.marks.add(DOTS)
        root = self._root(node)
        if name in _LIST_EXTRAS and root not in self.imported:
            self.marks |= {DOTS, LISTS}
            return
        if root in self.imported or root in _ANSWERING:
            return
        # `text.title()` is a method, `_json.title` may be a field; fields of a dict's own method names have no dots
        if name in _METHODS and (node in self._called or name in _OF_DICTS or root in _TYPES):
            return
        if name in _OF_NODES and _is_node(holder):
            return
        self.marks.add(DOTS)
        if root == "_query":
            self.of_items = True
        if name in ("json", "binary", "pairedItem") and node not in self._called:
            self.of_items = True  # `response.json()` is something else

    def _root(self, node: ast.expr) -> str | None:
        """``a`` of ``a.b(c).d``: the name at which a chain of attributes and calls starts."""
        chain: list[ast.expr] = []
        current: ast.expr = node
        while current not in self._roots:
            chain.append(current)
            if isinstance(current, ast.Attribute):
                current = current.value
            elif isinstance(current, ast.Call):
                current = current.func
            else:
                self._roots[current] = current.id if isinstance(current, ast.Name) else None
        root = self._roots[current]
        self._roots.update(dict.fromkeys(chain, root))  # or a long chain would be quadratic
        return root


def _is_node(holder: ast.expr) -> bool:
    """Whether this is the input or a node: ``_input``, ``_("A")``, ``_node["A"]``."""
    match holder:
        case ast.Name(id="_input"):
            return True
        case ast.Call(func=ast.Name(id="_")):
            return True
        case ast.Subscript(value=ast.Name(id="_node")) | ast.Attribute(value=ast.Name(id="_node")):
            return True
        case _:
            return False
