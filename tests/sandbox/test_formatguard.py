"""The format guard: what templates may not reach, and that nobody can show it another text than is formatted."""

from __future__ import annotations

import ast
import string
import sys
import time
import types
import weakref
from collections import UserString
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trio_runner.sandbox.formatguard import (
    BLOCKED_ATTRIBUTES,
    BLOCKED_NAMES,
    FORMAT_METHODS,
    GUARD_NAME,
    field_violation,
    guard_format_calls,
    make_format_guard,
    template_violation,
)


class RefusedError(Exception):
    """What the guard is told to raise."""


guard = make_format_guard(RefusedError)
REFUSAL = "String pattern accessing '__class__' is disallowed, because it can be used to bypass security restrictions."


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{x.__class__}", "__class__"),
        ("{.__class__}", "__class__"),
        ("{0.a.__class__.b}", "__class__"),
        ("{x[__globals__]}", "__globals__"),
        ("{x['__globals__']}", "__globals__"),
        ('{x["__globals__"]}', "__globals__"),
        ("{x[a].b[__dict__]}", "__dict__"),
        ("{x.obj}", "obj"),
        ("{x.__name__}", "__name__"),
        ("{x.__class__!r:>10}", "__class__"),
        ("{x:{y.__class__}}", "__class__"),
        ("{x:{y:{z.__class__}}}", "__class__"),
        ("{x:a{y}b{z.__class__}}", "__class__"),
        ("{a:{b.__mro__}} {c.__class__}", "__mro__"),
        ("{{{x.__class__}}}", "__class__"),
        ("{x.__class__} }", "__class__"),
        ("{{x.__class__}}", None),
        ("{__class__}", None),
        ("{obj}", None),
        ("{x.object}", None),
        ("{x.__class__", None),
        ("} {x.__class__}", None),
        ("{x.y} __class__", None),
        ("{x!__class__}", None),
        ("{x:__class__}", None),
        ("{x..__class__}", None),
        ("{x[]__class__}", None),
        ("", None),
        ("{} {a} {b[0]} {c:>{w}}", None),
    ],
)
def test_template(template: str, found: str | None) -> None:
    assert template_violation(template) == found


@pytest.mark.parametrize("name", sorted(BLOCKED_NAMES | BLOCKED_ATTRIBUTES))
def test_every_blocked_word_is_found(name: str) -> None:
    assert template_violation(f"{{x.{name}}}") == template_violation(f"{{x[{name}]}}") == name
    assert field_violation(f"x.{name}") == field_violation(f"x[{name}]") == name
    assert field_violation(name) is None


@given(
    st.text()
    | st.text("{}[].:!'\"_0ax")
    | st.lists(st.sampled_from(["{", "}", "__class__", ".", "[", "]", ":"])).map("".join)
)
@settings(deadline=None)
@example("{0[99999999999999999999].__class__}")
@example("\ud800{x.__class__}")
@example("{" * 5000 + "__class__" + "}" * 5000)
@example("{x:" * 2000 + "{x.__class__}" + "}" * 2000)
def test_any_text_has_an_answer(text: str) -> None:
    assert template_violation(text) in {None, *BLOCKED_NAMES, *BLOCKED_ATTRIBUTES}
    assert field_violation(text) in {None, *BLOCKED_NAMES, *BLOCKED_ATTRIBUTES}


def test_reading_takes_time_in_proportion() -> None:
    def seconds(size: int) -> float:
        start = time.thread_time()  # of the processor: others may be busy, too
        template_violation("obj" + "{x:{y:{z:{a}" * size)
        template_violation("obj" + "{x:{y:{z}}}" * size)
        template_violation("obj" + "{x:" * size + "}" * size)
        template_violation("obj {x" + ".a" * size + "}")
        return time.thread_time() - start

    small = min(seconds(2_000) for _ in range(3))
    assert seconds(20_000) < 10 * small * 5


class Spy:
    """Answers every attribute and key with itself, and remembers what was reached."""

    def __init__(self) -> None:
        object.__setattr__(self, "reached", [])

    def __getattribute__(self, name: str) -> Any:
        if name == "reached":
            return object.__getattribute__(self, name)
        self.reached.append(name)
        return self

    def __getitem__(self, key: object) -> Spy:
        self.reached.append(str(key).strip("'\""))
        return self

    def __format__(self, spec: str) -> str:
        return "5"

    __str__ = __repr__ = lambda _self: "spy"


WORDS = st.sampled_from(["__class__", "obj", "__globals__", "a", "0", "_x", "'__dict__'", "real"])
STEPS = st.lists(st.one_of(WORDS.map(".{}".format), WORDS.map("[{}]".format)), max_size=3).map("".join)
SPECS = st.recursive(
    st.sampled_from(["", ":", ":>3", ":{0.obj}", ":{{", ":{x.a}"]),
    lambda inner: inner.map(":{{0{}}}".format),
    max_leaves=3,
)
FIELDS = st.builds("{{{}{}{}{}}}".format, st.sampled_from(["", "0", "x"]), STEPS, st.sampled_from(["", "!r"]), SPECS)
TEMPLATES = st.lists(FIELDS | st.sampled_from(["{{", "}}", "{", "}", "text", " "]), max_size=5).map("".join)


@pytest.mark.parametrize("real", [str.format, string.Formatter().format])
def test_whatever_formatting_reaches_is_found(real: Any) -> None:
    @given(TEMPLATES)
    @settings(deadline=None)
    def check(template: str) -> None:
        spy = Spy()
        try:
            real(template, spy, spy, x=spy)
            valid = True
        except (ValueError, IndexError, KeyError):
            valid = False
        reached = (BLOCKED_NAMES | BLOCKED_ATTRIBUTES).intersection(spy.reached)
        found = template_violation(template)
        if reached:
            assert found in reached
        elif valid:
            assert found is None

    check()


class Text(str):
    """A text that lies about itself in every way."""

    __slots__ = ()

    def __str__(self) -> str:
        return "harmless"

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __contains__(self, item: object) -> bool:
        return False

    def __iter__(self) -> Any:
        return iter("harmless")

    def __len__(self) -> int:
        return 0

    def __getitem__(self, key: Any) -> str:
        return ""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return int


class OwnFormat(str):
    __slots__ = ()

    def format(self, *args: object, **kwargs: object) -> str:
        return "own"


class OwnUserFormat(UserString):
    def format(self, *args: object, **kwargs: object) -> str:
        return "own"


class Turning(UserString):
    """Shows a harmless text at first."""

    reads = 0

    @property
    def data(self) -> str:
        self.reads += 1
        return "harmless" if self.reads == 1 else "{0.__class__}"

    @data.setter
    def data(self, value: str) -> None:
        pass


class Sly(str):
    """Passes for "format" wherever it is looked up."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("format")


class Both(string.Formatter, str):  # type: ignore[misc]
    """Is a text, and formats another."""


class Child(str):
    __slots__ = ("__weakref__",)

    def by_super(self, *args: object) -> object:
        return guard("format", super(), *args)


BAD = "{0.__class__}"
FORMATTER = string.Formatter()
USER_STRING = UserString(BAD)
CHILD = Child(BAD)
BY_KEYWORD = {"field_name": "0.__class__", "args": (1,), "kwargs": {}}


@pytest.mark.parametrize(
    ("method", "receiver", "args", "kwargs"),
    [
        pytest.param("format", BAD, (1,), {}, id="text"),
        pytest.param("format_map", "{x.__class__}", ({"x": 1},), {}, id="text with a mapping"),
        pytest.param("format", str, (BAD, 1), {}, id="str.format"),
        pytest.param("format_map", str, ("{x.__class__}", {"x": 1}), {}, id="str.format_map"),
        pytest.param("format", Text, (BAD, 1), {}, id="format of a subclass of str"),
        pytest.param("format", str, (Text(BAD), 1), {}, id="str.format of a lying text"),
        pytest.param("format", Text(BAD), (1,), {}, id="lying text"),
        pytest.param("format", OwnFormat(BAD), (1,), {}, id="text with a method of its own"),
        pytest.param("format", USER_STRING, (1,), {}, id="UserString"),
        pytest.param("format_map", UserString("{x.__class__}"), ({"x": 1},), {}, id="UserString with a mapping"),
        pytest.param("format", OwnUserFormat(BAD), (1,), {}, id="UserString with a method of its own"),
        pytest.param("format", UserString, (USER_STRING, 1), {}, id="UserString.format"),
        pytest.param("format", UserString, (types.SimpleNamespace(data=BAD), 1), {}, id="UserString.format of a fake"),
        pytest.param("format", UserString(Text(BAD)), (1,), {}, id="UserString of a lying text"),
        pytest.param("format", FORMATTER, (BAD, 1), {}, id="Formatter"),
        pytest.param("format", FORMATTER, (Text(BAD), 1), {}, id="Formatter and a lying text"),
        pytest.param("format", string.Formatter, (FORMATTER, BAD, 1), {}, id="Formatter.format"),
        pytest.param("vformat", FORMATTER, (BAD, (1,), {}), {}, id="vformat"),
        pytest.param("vformat", FORMATTER, (), {"format_string": BAD, "args": (), "kwargs": {}}, id="by keyword"),
        pytest.param("vformat", string.Formatter, (FORMATTER, BAD, (1,), {}), {}, id="Formatter.vformat"),
        pytest.param("get_field", FORMATTER, ("0.__class__", (1,), {}), {}, id="get_field"),
        pytest.param("get_field", FORMATTER, (Text("0.__class__"), (1,), {}), {}, id="get_field and a lying text"),
        pytest.param("get_field", FORMATTER, (), BY_KEYWORD, id="get_field by keyword"),
        pytest.param("get_field", string.Formatter, (FORMATTER, "0.__class__", (1,), {}), {}, id="Formatter.get_field"),
        pytest.param("format", Both("harmless"), (BAD, 1), {}, id="Formatter that is a text"),
        pytest.param("vformat", Both("harmless"), (BAD, (1,), {}), {}, id="vformat of a Formatter that is a text"),
        pytest.param("get_field", Both("0"), ("0.__class__", (1,), {}), {}, id="get_field of a text"),
        pytest.param("format", super(Child, CHILD), (1,), {}, id="super of a text"),
        pytest.param("format", super(Child, Child), (BAD, 1), {}, id="super of a class of texts"),
        pytest.param("format", weakref.proxy(CHILD), (1,), {}, id="proxy of a text"),
        pytest.param("format", weakref.proxy(FORMATTER), (BAD, 1), {}, id="proxy of a Formatter"),
        pytest.param("format", weakref.proxy(string.Formatter), (FORMATTER, BAD, 1), {}, id="proxy of its class"),
        pytest.param("format", types.SimpleNamespace(format=str.format), (BAD, 1), {}, id="namespace"),
    ],
)  # fmt: skip
def test_guard_refuses(method: str, receiver: object, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    with pytest.raises(RefusedError) as caught:
        guard(method, receiver, *args, **kwargs)
    assert str(caught.value) == REFUSAL


def test_guard_refuses_super_inside_of_a_method() -> None:
    with pytest.raises(RefusedError):
        CHILD.by_super(1)


def test_guard_reads_the_text_of_a_user_string_once() -> None:
    assert guard("format", Turning("x"), 1) == "harmless"
    assert guard("format_map", Turning("x"), {}) == "harmless"


@pytest.mark.parametrize(
    ("method", "receiver", "args", "kwargs", "result"),
    [
        pytest.param("format", "{:>5}|{a}", ("x",), {"a": 1}, "    x|1", id="text"),
        pytest.param("format", "{method} {receiver}", (), {"method": 1, "receiver": 2}, "1 2", id="keywords"),
        pytest.param("format", "{}", ("{x.__class__}",), {}, "{x.__class__}", id="data that looks like a template"),
        pytest.param("format_map", "{a.real}", ({"a": 1},), {}, "1", id="mapping"),
        pytest.param("format", "{{x.__class__}}", (), {}, "{x.__class__}", id="escaped"),
        pytest.param("format", str, ("{}", 1), {}, "1", id="str.format"),
        pytest.param("format", OwnFormat("{}"), (1,), {}, "own", id="text with a method of its own"),
        pytest.param("format", UserString("{}"), (1,), {}, "1", id="UserString"),
        pytest.param("format", UserString, (UserString("{}"), 1), {}, "1", id="UserString.format"),
        pytest.param("format", FORMATTER, ("{} {a}", 1), {"a": 2}, "1 2", id="Formatter"),
        pytest.param("format", string.Formatter, (FORMATTER, "{}", 1), {}, "1", id="Formatter.format"),
        pytest.param("vformat", FORMATTER, ("{}", (1,), {}), {}, "1", id="vformat"),
        pytest.param("get_field", FORMATTER, ("0.real", (1,), {}), {}, (1, 0), id="get_field"),
        pytest.param("format", types.SimpleNamespace(format=lambda *a: a), ("{", 2), {}, ("{", 2), id="own method"),
        pytest.param("format", types.SimpleNamespace(format=lambda: "none"), (), {}, "none", id="no arguments"),
        pytest.param("format_map", types.SimpleNamespace(format_map=lambda x: x), ({},), {}, {}, id="no text"),
    ],
)  # fmt: skip
def test_guard_calls_the_real_method(
    method: str, receiver: object, args: tuple[object, ...], kwargs: dict[str, object], result: object
) -> None:
    assert guard(method, receiver, *args, **kwargs) == result


def test_guard_fails_as_the_real_method_fails() -> None:
    for method, receiver, args in (
        ("format", 1, ()),
        ("format", "{", ()),
        ("format", "{}", ()),
        ("format", str, ()),
        ("format", str, (1,)),
        ("format", UserString, ()),
        ("format", string.Formatter, ()),
        ("vformat", FORMATTER, ()),
        ("format_map", datetime.now(UTC), ()),
    ):
        with pytest.raises(Exception) as real:  # noqa: PT011  # whatever it is
            getattr(receiver, method)(*args)
        with pytest.raises(type(real.value)) as guarded:
            guard(method, receiver, *args)
        assert str(guarded.value) == str(real.value)


@pytest.mark.parametrize("method", ["__class__", "real", "", Text("format"), Sly("real"), 1])
def test_guard_is_no_way_to_other_attributes(method: Any) -> None:
    with pytest.raises(TypeError, match="not a format method"):
        guard(method, 1)


def run(source: str, **names: object) -> dict[str, Any]:
    tree = guard_format_calls(ast.parse(source))
    scope: dict[str, Any] = {GUARD_NAME: guard, **names}
    exec(compile(tree, "<user>", "exec"), scope)
    return scope


@pytest.mark.parametrize("method", sorted(FORMAT_METHODS))
def test_rewriting_sends_every_call_of_a_format_method_through_the_guard(method: str) -> None:
    tree = guard_format_calls(ast.parse(f"a.b.{method}(c, *d, e=f, **g)"))
    assert ast.unparse(tree) == f"{GUARD_NAME}('{method}', a.b, c, *d, e=f, **g)"


def test_rewriting_reaches_calls_inside_of_calls_and_leaves_others_alone() -> None:
    tree = guard_format_calls(ast.parse("'{}'.format('{}'.format(x).strip())\nformat(x)\nx.formats(y.format)"))
    inner = f"{GUARD_NAME}('format', '{{}}', x).strip()"
    assert ast.unparse(tree) == f"{GUARD_NAME}('format', '{{}}', {inner})\nformat(x)\nx.formats(y.format)"


def test_rewritten_programs_do_what_they_did() -> None:
    source = "\n".join(
        [
            "class A(str):",
            "    def format(self, *args): return '<' + super().format(*args) + '>'",
            "a = A('{}').format(1)",
            "b = '{1}{0}{k}'.format(*[1, 2], **{'k': 3})",
            "c = [t.format(n) for t in ('{}', '-{}') for n in range(2)]",
        ]
    )
    scope = run(source)
    assert (scope["a"], scope["b"], scope["c"]) == ("<1>", "213", ["0", "1", "-0", "-1"])


def test_rewritten_calls_refuse_templates_that_were_put_together_at_run_time() -> None:
    with pytest.raises(RefusedError) as caught:
        run("d = '_' * 2\n('{0.' + d + 'class' + d + '}').format(1)")
    assert str(caught.value) == REFUSAL


def test_rewriting_keeps_every_position() -> None:
    source = "x = 1\ny = (\n    '{}'\n    .format(\n  1/0))"
    tree = guard_format_calls(ast.parse(source))
    for node in ast.walk(tree):
        if isinstance(node, ast.expr):
            assert node.lineno >= 1
            assert node.end_lineno is not None
    with pytest.raises(ZeroDivisionError) as caught:
        exec(compile(tree, "<user>", "exec"), {GUARD_NAME: guard})
    traceback = caught.value.__traceback__
    assert traceback is not None
    assert traceback.tb_next is not None
    assert traceback.tb_next.tb_lineno == 5


def test_rewriting_does_not_recurse() -> None:
    chain = "x" + ".format(1)" * 500
    limit = sys.getrecursionlimit()
    tree = ast.parse(chain)
    try:
        sys.setrecursionlimit(150)
        guard_format_calls(tree)
    finally:
        sys.setrecursionlimit(limit)
    assert sum(isinstance(node, ast.Name) and node.id == GUARD_NAME for node in ast.walk(tree)) == 500
