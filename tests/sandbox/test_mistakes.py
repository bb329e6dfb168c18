"""What an author is told about a failure: the right thing, and nothing at all rather than a wrong or a harmful one."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.sandbox.program_kit import CLASSES, OPEN, refusal, run
from trio_runner.sandbox import mistakes
from trio_runner.sandbox.mistakes import MISTAKES, for_error


def advice(source: str, **inputs: Any) -> str:
    """What is said of what a program raises."""
    try:
        run(source, OPEN, **inputs)
    except BaseException as error:
        return for_error(error, source, each_item="item" in inputs)
    raise AssertionError("the program raised nothing")


def test_every_kind_of_mistake_has_a_code_and_a_pattern_that_can_be_read() -> None:
    for mistake in MISTAKES:
        re.compile(mistake.pattern)
        assert re.fullmatch(r"TR[14]\d\d", mistake.code)
    assert all(re.search(r"\[TR20\d\]$", text) for text in (*dict(mistakes.SYNTAX).values(), mistakes.NOT_PYTHON))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("return _items[0]['nmae']", "did you mean 'name'?"),
        ("row = _items[0]\nreturn row['x']", "there are 'name', 'b'."),
        ("return list(row['nmae'] for row in _items)", "did you mean 'name'?"),
        ("i = 0\nreturn _items[i]['zzz']", "there are 'name', 'b'."),
        ("return {}['a']", "There is no key 'a' here."),
        ("return _items[0].get('name')['a']['b']", "This is a text, not a dictionary."),
        ("d = {n: n for n in 'abcdefghijkl'}\nreturn d['xyz']", "'h', …"),
        ("return {1: 2}[3]", "There is no key 3 here."),
        ("return [1].push(2)", "Did you mean .append()?"),
        ("return 'a'.toUpperCase()", "Did you mean .upper()?"),
        ("return 'a'.uper()", "Did you mean .upper()?"),
        ("return (5).zzz", "has nothing of this name"),
        ("return console.log(1)", "In Python this is print(…)."),
        ("return pd.DataFrame()", "import pandas as pd"),
        ("lenght = 1\nreturn lengt", "Did you mean lenght?"),
        ("return zzz", "Check its spelling"),
        ("return 1 < 'a'", "cannot be compared"),
        ("return 1 + 'a'", "do not mix"),
        ("return 1 + None", "The value is None"),
        ("return {[]: 1}", "Lists and dictionaries cannot be keys"),
        ("return _items(0)", "elements are read with [ ]"),
        ("a, b = [1]", "The number of names"),
        ("def f(): return f()\nreturn f()", "A function calls itself"),
        ("import json\nreturn json.dumps({1})", "json.dumps(value, default=str)"),
        ("from json import nothing", "has nothing of this name"),
        ("import datetime\nreturn datetime.date.fromisoformat('x')", "another form"),
        ("raise OSError(2, 'no')", "on the runner's machine"),
        ("return b'\\xff'.decode()", "no text in this encoding"),
        ("return (lambda a: a)()", "other arguments"),
    ],
)
def test_the_advice_is_about_this_program(source: str, said: str) -> None:
    assert said in advice(source, items=[{"name": "Ada", "b": 1}])


def test_an_error_of_the_program_s_own_needs_no_advice() -> None:
    assert advice("raise ValueError('13')") == ""
    assert advice("class Own(Exception): pass\nraise Own('x')") == ""
    assert advice("raise TypeError('x')") == ""


def test_nothing_of_the_user_s_is_called_and_nothing_is_looked_up_in_foreign_types() -> None:
    """A dictionary of a class of the user's own could do anything when it is asked for its keys."""
    hostile = "class D(dict):\n    def __iter__(self): raise SystemExit\n    keys = __iter__\nd = D(a=1)\nreturn d['b']"
    assert advice(hostile) == "There is no key 'b' here. A key that may be missing is read with .get(…). [TR102]"
    assert "there is no key" in advice("k = 'x'\ndef f(): return {}['y']\nreturn f()").lower()


def test_long_names_are_cut() -> None:
    assert len(advice(f"return {{}}['{'x' * 5000}']")) < 400
    assert len(advice(f"return {{}}.{'x' * 5000}")) < 400
    assert len(advice("return _items[0]['y']", items=[{"x" * 5000: 1, "z" * 5000: 2}])) < 400


@pytest.mark.parametrize(
    ("source", "description"),
    [
        ("a = 1\n  b = 2", "Line 2: ▸b = 2\nLines of one block"),
        ("if x:\n    y = (1,\n", "Line 2: y = ▸(1,\nA bracket or a quote"),
        ("let x = 1", "Line 1: let ▸x = 1\nThis looks like JavaScript"),
        ("x = 1 2", "Line 1: x = 1 ▸2\nPython cannot read this line"),
        ("return 'a", "Line 1: return ▸'a\nA bracket or a quote"),
        ("a = 1\nnonlocal b", "Line 2: ▸nonlocal b\n"),
        ("x = '\ud800'", "Line 1: ▸x = '?'\nThe text of the code"),
    ],
)
def test_a_syntax_error_shows_its_line_and_marks_the_place(source: str, description: str) -> None:
    for policy in (OPEN, CLASSES):
        failure = refusal(source, policy)
        assert failure is not None
        assert (failure.description or "").startswith(description), failure.description
