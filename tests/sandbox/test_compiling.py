"""The wrapper around user programs: it changes nothing that an author can see, and nothing gets out of it."""

from __future__ import annotations

import ast
import sys
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sandbox.program_kit import CLASSES, OPEN, RefusedError, allowing, refusal, run
from trio_runner.sandbox.compiling import ALL_ITEMS_FILE, EACH_ITEM_FILE, examine
from trio_runner.sandbox.policy import Policy

DEFAULT = Policy()


def line_of(error: BaseException) -> int | None:
    """The line of the user's program in which it failed."""
    found = None
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename in (ALL_ITEMS_FILE, EACH_ITEM_FILE):
            found = traceback.tb_lineno
        traceback = traceback.tb_next
    return found


# Texts keep their bytes


@pytest.mark.parametrize(
    "literal",
    [
        '"""a\n  b\nc"""',
        "'''\n\n  \n\t\n'''",
        '"""a\\\n    b"""',
        'r"""\\n\n\\ """',
        'b"""a\n b"""',
        '"a\\\nb"',
        'f"""{1}\n  {2}\n"""',
        '"""\x0c\n\x0b\x1c\x85\u2028"""',
    ],
    ids=ascii,
)
def test_a_text_over_several_lines_is_what_was_written(literal: str) -> None:
    assert run(f"if True:\n    return {literal}") == eval(literal)


@settings(deadline=None, derandomize=True)
@given(st.text(st.sampled_from("ab \t\n\x0c'\\#é\u2028"), max_size=30))
def test_any_text_over_any_lines_survives(text: str) -> None:
    quoted = text.replace("\\", "\\\\").replace("'", "\\'")
    assert run(f"x = '''{quoted}'''\nreturn x") == text


@pytest.mark.parametrize(
    "source",
    [
        "if _items:\n\treturn 1\n",
        "if _items:\r\n    return 1\r\n",
        "if _items:\r    return 1\r",
        "x = 1\x0c\n\x0cif _items:\n  return x\n",
        "return 1 # no line end",
        "\n\n\nreturn 1\n\n\n",
        "# -*- coding: latin-1 -*-\nreturn len('é')",
        "# coding: no-such-thing\nreturn 1",
        "#!/usr/bin/env python\nreturn 1",
        "return 1;",
        "x = 1; return x",
        "'a docstring'\nreturn 1",
        "(\nreturn_value\n:=\n1\n)\nreturn return_value",
    ],
    ids=ascii,
)
def test_odd_layouts_run(source: str) -> None:
    assert run(source, items=[{}]) == 1


def test_a_byte_order_mark_is_a_syntax_error_of_the_first_line() -> None:
    failure = refusal("\ufeffreturn 1", DEFAULT)
    assert failure is not None
    assert (failure.kind, failure.line, failure.before_start) == ("syntax", 1, True)
    assert "U+FEFF" in failure.message


# Nothing gets out


@pytest.mark.parametrize(
    "source",
    [
        ")\nimport os\n(",
        "pass)\ndef f(:",
        "return 1\n)(",
        '"""\nreturn 1',
        "x = [\nreturn 1",
        "    return 1",
        "return 1\n  return 2",
        "\x00",
        "return '\x00'",
        "return 1\x1a",
        "def f():",
        "return (yield",
        "if True:\n\tx = 1\n        y = 2",
        "return 1 +",
        "0777",
        "return 1 \\\n",
    ],
    ids=ascii,
)
def test_source_that_is_no_program_by_itself_does_not_become_one_inside_the_wrapper(source: str) -> None:
    for policy in (DEFAULT, OPEN):
        failure = refusal(source, policy)
        assert failure is not None
        assert failure.kind == "syntax"
        assert failure.before_start is (policy is DEFAULT)


@pytest.mark.parametrize(
    ("source", "text", "line"),
    [
        ("\ndef f(): await x", "'await' outside", 2),
        ("from m import *", "import * only allowed at module level", 1),
        ("x = 1\nnonlocal x", "nonlocal", 2),
        ("\n\nbreak", "'break' outside loop", 3),
        ("class A:\n    return 1", "'return' outside function", 2),
        ("x = 1\nglobal x", "assigned to before global", 2),
        ("def f(a, a): pass", "duplicate argument", 1),
        ("return\n__debug__ = 1", "cannot assign to __debug__", 2),
        ("from __future__ import braces\nreturn 1", "not a chance", 1),
        ("from __future__ import nothing\nreturn 1", "future feature nothing is not defined", 1),
    ],
)
def test_errors_of_the_compiler_carry_the_users_own_line(source: str, text: str, line: int) -> None:
    failure = refusal(source, OPEN)
    assert failure is not None
    assert failure.kind == "syntax"
    assert text in failure.message
    assert failure.line == line
    assert failure.message.endswith(f"({ALL_ITEMS_FILE}, line {line})")


def test_the_mode_shows_in_the_file_name() -> None:
    failure = refusal("break", OPEN, each_item=True)
    assert failure is not None
    assert EACH_ITEM_FILE in failure.message


@pytest.mark.parametrize("source", ["", "\n\n", "# only a comment", "  \n\t\n", "from __future__ import annotations"])
def test_an_empty_program_is_an_error_that_says_what_to_write(source: str) -> None:
    failure = refusal(source, OPEN)
    assert failure is not None
    assert failure.message == (
        "expected an indented block after function definition on line 1 (<all_items_task_execution>, line 4)"
    )
    assert "return [" in (failure.description or "")


DEEP = {
    "sum": "return " + "+".join(["_items"] * 50_000),
    "calls": "return f" + "()" * 50_000,
    "attributes": "return f" + ".a" * 50_000,
    "signs": "return " + "-" * 50_000 + "1",
    "nots": "return " + "not " * 50_000 + "1",
    "parentheses": "return " + "(" * 50_000 + ")" * 50_000,
    "lambdas": "return " + "lambda: " * 5_000 + "1",
    "conditions": "return " + "1 if 1 else " * 20_000 + "1",
    "branches": "if 0: pass\n" + "elif 0: pass\n" * 20_000,
    "patterns": "match 1:\n case " + "[" * 5_000 + "]" * 5_000 + ": pass",
    "blocks": "".join(" " * n + "for _ in ():\n" for n in range(40)) + " " * 40 + "pass",
    "functions": "".join(" " * n + "def f():\n" for n in range(99)) + " " * 99 + "pass",
    "digits": "return " + "9" * 10_000,
}


@pytest.mark.parametrize("name", DEEP)
def test_source_too_deep_to_compile_is_a_verdict_and_no_crash(name: str) -> None:
    for policy in (DEFAULT, OPEN):
        verdict = examine(DEEP[name], False, policy)
        if verdict.failure is not None:
            assert verdict.failure.kind == "syntax"
            assert len(verdict.failure.message) < 500


def test_a_sum_of_nine_hundred_terms_runs() -> None:
    assert run("x = 1\nreturn " + "+".join(["x"] * 900)) == 900


def test_a_program_of_twenty_thousand_lines_is_compiled_in_reasonable_time() -> None:
    source = "x = 1\n" * 20_000 + "return x"
    started = time.process_time()
    assert refusal(source, DEFAULT) is None
    assert time.process_time() - started < 4


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.text(st.sampled_from("ab =()[]{}:.,+*@\n\t\\'\"#_1\r\x0c\ufeff\ud800"), max_size=40), st.booleans())
def test_examining_any_text_gives_a_verdict(source: str, each_item: bool) -> None:
    for policy in (DEFAULT, OPEN):
        verdict = examine(source, each_item, policy)
        assert bool(verdict.code) is (verdict.failure is None)


# Line numbers


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("1/0", 1),
        ("\n\n1/0", 3),
        ("x = '''\n\n'''\n1/0", 4),
        ("x = 1\x0c\n\x0c1/0", 2),
        ("x = 1\r\n1/0\r\n", 2),
        ("x = 1\r1/0", 2),
        ("# a\u2028b\x85c\n1/0", 2),
        ("from __future__ import annotations\n\n1/0", 3),
        ("def f():\n    return 1/0\nreturn f()", 2),
        ("@(lambda f: 1/0)\ndef f(): pass", 1),
        ("x = [\n 1,\n 1/0,\n]", 3),
        ("assert False", 1),
    ],
    ids=ascii,
)
def test_errors_at_run_time_carry_the_users_own_line(source: str, line: int) -> None:
    with pytest.raises((ZeroDivisionError, AssertionError)) as caught:
        run(source)
    assert line_of(caught.value) == line


# Names


@pytest.mark.parametrize(
    ("source", "result"),
    [
        ("_items = [i for i in _items if i]\nreturn _items", [1, 2]),
        ("_items += [3]\nreturn _items", [0, 1, 2, 3]),
        ("for _items in _items: pass\nreturn _items", 2),
        ("del _items\ntry:\n    return _items\nexcept NameError:\n    return 'gone'", "gone"),
        ("global _items\n_items = [9]\nreturn _items", [9]),
        ("global _items\ndef f():\n    return _items\n_items = 5\nreturn f()", 5),
        ("def f():\n    global _items\n    _items = 7\nf()\nreturn _items", [0, 1, 2]),
        ("def f():\n    nonlocal _items\n    _items = 7\nf()\nreturn _items", 7),
        ("def f():\n    return _items\nreturn f()", [0, 1, 2]),
        ("return [(lambda: _items)() for _ in range(1)]", [[0, 1, 2]]),
        ("if 0:\n    global _items\nreturn _items", [0, 1, 2]),
        ("_query = 1\nreturn _query", 1),
        ("return _query", "q"),
        ("_items: list = []\nreturn _items", []),
        ("with_items = (_items := 4)\nreturn _items", 4),
        ("try:\n    1/0\nexcept ZeroDivisionError as _items:\n    pass\nreturn 'x'", "x"),
        ("def _items(): return 1\nreturn _items()", 1),
    ],
)
def test_the_inputs_can_be_read_rebound_deleted_and_declared_global(source: str, result: object) -> None:
    assert run(source, items=[0, 1, 2], query="q") == result


@pytest.mark.parametrize(
    ("source", "result"),
    [
        ("_item['x'] = 1\nreturn _item", {"a": 0, "x": 1}),
        ("_item = 5\nreturn _item", 5),
        ("global _item\n_item = 6\nreturn _item", 6),
    ],
)
def test_the_same_goes_for_the_item(source: str, result: object) -> None:
    assert run(source, item={"a": 0}) == result


def test_each_mode_knows_its_own_inputs_only() -> None:
    for source in ("return _item", "return _index"):
        with pytest.raises(NameError):
            run(source, items=[])
    for source in ("return _items", "return _query"):
        with pytest.raises(NameError):
            run(source, item={})


@pytest.mark.parametrize(
    ("source", "result"),
    [
        ("_user_function = 5\nreturn _user_function", 5),
        ("def _user_function(): return 6\nreturn _user_function()", 6),
        ("global _user_function\n_user_function = 7\nreturn _user_function", 7),
        ("class _user_function: x = 8\nreturn _user_function.x", 8),
        ("import sys as _user_function\nreturn 9", 9),
    ],
)
def test_the_wrappers_own_name_is_free_for_the_author(source: str, result: object) -> None:
    assert run(source) == result


def test_a_global_is_shared_by_the_functions_of_one_run_and_gone_in_the_next() -> None:
    source = "global n\ndef add():\n    global n\n    n += 1\ntry: n\nexcept NameError: n = 0\nadd(); add()\nreturn n"
    assert [run(source), run(source)] == [2, 2]


# The language


LANGUAGE: list[tuple[str, Any]] = [
    ("def fib(n): return n if n < 2 else fib(n-1) + fib(n-2)\nreturn fib(10)", 55),
    ("def gen():\n    yield 1\n    yield from [2, 3]\nreturn list(gen())", [1, 2, 3]),
    ("x = 1\nreturn [x + y for y in range(3) if (z := y) >= x]", [2, 3]),
    ("return [y for x in [[1], [2]] for y in x]", [1, 2]),
    ("total = 0\ndef add(n):\n    nonlocal total\n    total += n\nfor n in range(4): add(n)\nreturn total", 6),
    ("def deco(f): return lambda *a: ['d', f(*a)]\n@deco\ndef g(a): return a\nreturn g(1)", ["d", 1]),
    ("try:\n    try: 1/0\n    finally: x = 1\nexcept ZeroDivisionError: x += 1\nelse: x = 9\nreturn x", 2),
    ("match {'a': [1, 2]}:\n    case {'a': [1, *rest]}: return rest", [2]),
    ("for i in range(3):\n    if i == 1: break\nelse: i = 9\nreturn i", 1),
    ("a, *b, c = range(5)\nreturn [a, b, c]", [0, [1, 2, 3], 4]),
    ("f = lambda x, *y, z=3, **k: [x, y, z, k]\nreturn f(1, 2, k=4)", [1, (2,), 3, {"k": 4}]),
    ("return f'{1!r:>3}' '-' f'{{{2}}}'", "  1-{2}"),
    ("return {**{'a': 1}, 'b': [*range(2)]}", {"a": 1, "b": [0, 1]}),
    ("x: int = 1\ndef f(a: 'no such name') -> None: pass\nreturn x", 1),
    ("import datetime\nreturn datetime.date(2024, 1, 2).isoformat()", "2024-01-02"),
    ("async def f(): return 1\nc = f()\nc.close()\nreturn 2", 2),
    (
        "async def f():\n    return 5\nc = f()\ntry:\n    c.send(None)\nexcept StopIteration as e:\n    return e.value",
        5,
    ),
    (
        "try: raise ExceptionGroup('g', [ValueError(1)])\nexcept* ValueError as g: n = len(g.exceptions)\nreturn n",
        1,
    ),
    ("with memoryview(b'ab') as m: return m[0]", 97),
    ("return (lambda: (yield))().__next__()", None),
    ("assert True, 'x'\nreturn __debug__", True),
    ("if (n := 3) > 2: return n", 3),
    ("return\n1/0", None),
    ("pass", None),
]


@pytest.mark.parametrize(("source", "result"), LANGUAGE)
def test_the_language_works_inside_the_wrapper(source: str, result: object) -> None:
    assert run(source) == result


CLASS_PROGRAMS: list[tuple[str, Any]] = [
    ("class A:\n    x = 1\n    def get(self): return self.x\nreturn A().get()", 1),
    (
        "class A:\n def __init__(s, n): s.n = n\nclass B(A):\n def __init__(s): super().__init__(5)\nreturn B().n",
        5,
    ),
    ("y = 3\nclass A:\n    z = y\n    w = [_items for _ in range(1)]\nreturn [A.z, A.w]", [3, [[1]]]),
    ("class A:\n def __private(self): return 1\n def get(self): return self.__private()\nreturn A().get()", 1),
    (
        "class A:\n @property\n def p(self): return 1\n @staticmethod\n def s(): return 2\nreturn A().p + A.s()",
        3,
    ),
    ("class E(Exception): pass\ntry: raise E('x')\nexcept E as e: return str(e)", "x"),
    ("class A:\n    def __repr__(self): return 'a'\nreturn repr([A()])", "[a]"),
]


@pytest.mark.parametrize(("source", "result"), CLASS_PROGRAMS)
def test_classes_work_when_nothing_is_denied(source: str, result: object) -> None:
    assert run(source, CLASSES, items=[1]) == result
    assert run(source, OPEN, items=[1]) == result


def test_dataclasses_and_enums_work_when_they_are_allowed() -> None:
    policy = allowing("dataclasses", "enum", "typing")
    source = (
        "from dataclasses import dataclass, asdict\nfrom enum import Enum\nfrom typing import NamedTuple\n"
        "class Kind(Enum):\n    A = 'a'\n"
        "class Pair(NamedTuple):\n    x: int\n    y: Kind\n"
        "@dataclass(order=True)\nclass P:\n    x: int\n    y: str = 'd'\n"
        "return [asdict(P(1)), Kind('a').value, Pair(1, Kind.A).x, P(1) < P(2)]"
    )
    assert run(source, policy) == [{"x": 1, "y": "d"}, "a", 1, True]


def test_classes_are_refused_by_name_while_they_are_denied() -> None:
    with pytest.raises(NameError, match="__build_class__"):
        run("class A: pass", DEFAULT)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type parameters came with 3.12")
def test_type_parameters_work() -> None:
    source = (
        "type X = int\ndef f[T](a: T) -> T: return a\n"
        "class A[T]:\n    def get(self, x: T) -> T: return x\nreturn f(A().get(3))"
    )
    assert run(source, CLASSES) == 3


@pytest.mark.parametrize("place", ["", "'docstring'\n", "# comment\n\n", "x = 1\n"])
def test_future_imports_work_wherever_they_stand_at_the_top_level(place: str) -> None:
    source = f"{place}from __future__ import annotations\ndef f(a: no_such_name): return 2\nreturn f(1)"
    assert run(source, OPEN) == 2


def test_a_future_import_is_an_import_like_any_other_for_the_policy() -> None:
    source = "from __future__ import annotations\nreturn 1"
    with pytest.raises(RefusedError, match="Import of standard library module '__future__' is disallowed"):
        run(source, DEFAULT)
    assert run(source, allowing("__future__")) == 1


def test_future_flags_of_ours_do_not_reach_user_code() -> None:
    assert run("def f(a: (1).real): pass\nreturn f.__annotations__", OPEN) == {"a": 1}


def test_the_code_object_names_no_place_of_ours() -> None:
    tree = ast.parse("x = 1\nreturn x")
    assert tree.body
    verdict = examine("x = 1\nreturn x", False, DEFAULT)
    assert b"trio_runner" not in verdict.code
    assert b"/" not in verdict.code
