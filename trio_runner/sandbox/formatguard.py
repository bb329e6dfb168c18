"""What a format template may not reach, for the analysis of source code and for the guard at run time.

Owns the blocked names and attributes (runner-behaviour 14.2, 14.3), the reading of templates (14.4) and the guard
around the format methods (15.3). Must not know imports or policy, and must not choose an exception: the caller says
what a refusal is.

Templates arrive as data, so the analysis alone cannot judge them. The guard goes by the text that the interpreter will
really format, not by what a value says about itself. It cannot follow a ``string.Formatter`` whose ``parse`` was
replaced by user code: that one makes up its own fields. The kernel, not this module, is the boundary.
"""

from __future__ import annotations

import ast
from _string import (  # type: ignore[import-not-found]  # what string.Formatter itself is made of
    formatter_field_name_split,
    formatter_parser,
)
from collections import UserString
from string import Formatter
from types import BuiltinMethodType, MethodType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

GUARD_NAME: Final = "__n8n_internal_safe_format__"
"""The global under which user code finds the guard; the name itself is blocked in source code."""

FORMAT_METHODS: Final = frozenset({"format", "format_map", "vformat", "get_field"})

BLOCKED_NAMES: Final = frozenset({"__loader__", "__builtins__", "__globals__", "__spec__", "__name__", GUARD_NAME})
"""Names that source code may not use (runner-behaviour 14.2)."""

BLOCKED_ATTRIBUTES: Final = frozenset(
    """
    __subclasses__ __globals__ __builtins__ __traceback__ tb_frame tb_next f_back f_globals f_locals f_code f_builtins
    __getattribute__ __qualname__ __module__ gi_frame gi_code gi_yieldfrom cr_frame cr_code ag_frame ag_code
    __thisclass__ __self_class__ __base__ __class__ __bases__ __code__ __closure__ __loader__ __cached__ __dict__
    __import__ __mro__ __init_subclass__ __getattr__ __setattr__ __delattr__ __self__ __func__ __wrapped__
    __annotations__ __spec__ obj __objclass__ __reduce__ __reduce_ex__ __prepare__ __instancecheck__ __subclasscheck__
    __match_args__
    """.split()
)
"""Attributes that source code may not use (runner-behaviour 14.3)."""

_BLOCKED: Final = BLOCKED_NAMES | BLOCKED_ATTRIBUTES

_TEMPLATE_KEYWORDS: Final = {"vformat": "format_string", "get_field": "field_name"}
"""Methods of ``string.Formatter`` that take their template by keyword as well."""

_MAX_NESTING: Final = 8
"""Levels of format specs that are read. The interpreter gives up after 2 (``str.format``) or 3 (``Formatter``)."""


def string_refusal(name: str) -> str:
    """The text that refuses a template which reaches ``name`` (runner-behaviour 16)."""
    return f"String pattern accessing '{name}' is disallowed, because it can be used to bypass security restrictions."


def field_violation(field_name: str) -> str | None:
    """The first blocked attribute or key in a field name such as ``0.a[b]``; None when there is none. Never raises."""
    try:
        for is_attribute, key in formatter_field_name_split(field_name)[1]:
            # Quotes belong to a key, but nobody means them. A key of digits comes as an int.
            name = key if is_attribute else str(key).strip("'\"")
            if name in _BLOCKED:
                return str(name)
    except ValueError:
        pass  # no valid field name, so formatting gets no further than here either
    return None


def template_violation(template: str) -> str | None:
    """The first blocked name that a replacement field of ``template`` reaches; None when there is none. Never raises.

    Fields in front of a mistake count, although the whole is no valid template: formatting gets to them before it
    fails.
    """
    return _scan(template, _MAX_NESTING)


def _scan(template: str, nesting: int) -> str | None:
    try:
        for _, field_name, spec, _ in formatter_parser(template):
            if field_name and (name := field_violation(field_name)):
                return name
            if spec and nesting and "{" in spec and (name := _scan(spec, nesting - 1)):
                return name
    except ValueError:
        pass  # the rest is no template
    return None


def guard_format_calls(tree: ast.Module) -> ast.Module:
    """Turn every call ``x.format(…)`` and the like into a call of the guard, in place, and return ``tree``.

    Not a NodeTransformer: that one recurses, and fails on expressions which the interpreter compiles without trouble.
    """
    for node in ast.walk(tree):
        if type(node) is ast.Call and type(node.func) is ast.Attribute and node.func.attr in FORMAT_METHODS:
            method = ast.copy_location(ast.Constant(node.func.attr), node.func)
            node.args = [method, node.func.value, *node.args]
            node.func = ast.copy_location(ast.Name(GUARD_NAME, ast.Load()), node.func)
    return tree


def make_format_guard(refuse: Callable[[str], BaseException]) -> Callable[..., object]:
    """A function ``guard(method, receiver, *args, **kwargs)`` that calls a format method after looking at its template.

    Raises ``refuse(text)`` for a template that reaches a blocked name; otherwise the call does what it always did.
    """

    def guard(method: str, receiver: object, /, *args: object, **kwargs: object) -> object:
        # The exact type: without it the guard would be a getattr() for every attribute.
        if type(method) is not str or method not in FORMAT_METHODS:
            raise TypeError("not a format method")
        target = getattr(receiver, method)
        # A bound method names its real receiver, also behind super() and proxies.
        bound = type(target) in (MethodType, BuiltinMethodType)
        arguments = (target.__self__, *args) if bound else args
        function = target.__func__ if type(target) is MethodType else target
        if arguments and (function is UserString.format or function is UserString.format_map):
            # What UserString itself would do, with one read of ``data``: a second one could give another text.
            data = arguments[0].data  # type: ignore[union-attr]  # anything with ``data`` works, as in UserString
            return guard(method, data, *arguments[1:], **kwargs)
        violation = field_violation if method == "get_field" else template_violation
        for template in _templates(method, function, arguments, kwargs):
            if (text := _real_text(template)) is not None and (name := violation(text)) is not None:
                raise refuse(string_refusal(name))
        return target(*args, **kwargs)

    return guard


def _templates(
    method: str, function: object, arguments: tuple[object, ...], kwargs: Mapping[str, object]
) -> Iterator[object]:
    """What may be the template (runner-behaviour 15.3); ``arguments`` start with the receiver of a bound method."""
    # A text that is its own Formatter is not formatted by these two: they format what they are given.
    takes_template = method == "get_field" or function is Formatter.format or function is Formatter.vformat
    if arguments and not takes_template:
        first = arguments[0]
        if _real_text(first) is None and issubclass(type(first), UserString):
            first = first.data  # type: ignore[attr-defined]
        if _real_text(first) is not None:
            yield first
            return
    yield from arguments[1:2]
    yield kwargs.get(_TEMPLATE_KEYWORDS.get(method, ""))


def _real_text(value: object) -> str | None:
    """The characters that the interpreter sees in ``value``, whatever a subclass of str claims; None for no text."""
    return str.__str__(value) if issubclass(type(value), str) else None
