"""What an author is told of an exception: the type, their own lines, nothing of ours, and never too much of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sandbox.program_kit import OPEN, allowing, run
from trio_runner.sandbox.tracebacks import clip, let_go, summary, text_of, type_name, user_frames


def failing(source: str, **inputs: Any) -> BaseException:
    """The exception with which a program ends."""
    try:
        run(source, OPEN, **inputs)
    except BaseException as error:
        return error
    raise AssertionError("the program does not fail")


def told(source: str, **inputs: Any) -> list[str]:
    """The summary of a program's failure, line by line."""
    return summary(failing(source, **inputs), source).splitlines()


HEAD = "Traceback (most recent call last):"


def test_the_line_its_text_and_the_type_are_told() -> None:
    assert told("x = 0\n  \nreturn 1 / x") == [HEAD, "  line 3: return 1 / x", "ZeroDivisionError: division by zero"]


def test_each_call_of_the_authors_own_functions_has_a_line() -> None:
    source = "def outer():\n    return inner(0)\ndef inner(n):\n    return 1 / n\n\nreturn outer()"
    assert told(source) == [
        HEAD,
        "  line 6: return outer()",
        "  line 2, in outer: return inner(0)",
        "  line 4, in inner: return 1 / n",
        "ZeroDivisionError: division by zero",
    ]


def test_what_happens_in_a_library_is_told_at_the_line_that_called_it() -> None:
    assert told("import json\nreturn json.loads('{')")[1:] == [
        "  line 2: return json.loads('{')",
        "JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
    ]


def test_lambdas_methods_and_comprehensions_have_names() -> None:
    source = "class A:\n    def go(self):\n        return (lambda: 1/0)()\nreturn A().go()"
    assert told(source)[2:4] == [
        "  line 3, in go: return (lambda: 1/0)()",
        "  line 3, in <lambda>: return (lambda: 1/0)()",
    ]


def test_nothing_of_ours_is_told() -> None:
    error = failing("class A:\n    def __str__(self): return 1/0\nprint(A())")
    text = summary(error, "class A:\n    def __str__(self): return 1/0\nprint(A())")
    for ours in ("trio_runner", "_user_function", "hardened", "userapi", "/"):
        assert ours not in text.replace("1/0", "")
    assert [line for line, _ in user_frames(error)] == [3, 2]


@pytest.mark.parametrize(("calls", "lines"), [(7, 7), (8, 8), (9, 9), (500, 9)])
def test_many_calls_are_shortened_to_the_first_two_and_the_last_six(calls: int, lines: int) -> None:
    source = f"def f(n):\n    return f(n - 1) if n else 1/0\nreturn f({calls - 2})"
    shown = told(source)[1:-1]
    assert len(shown) == lines
    assert shown[0] == f"  line 3: return f({calls - 2})"
    assert ("  … " + str(calls - 8) + " more calls …" in shown) is (calls > 8)
    if calls > 8:
        assert shown[2] == f"  … {calls - 8} more calls …"


def test_endless_recursion_is_told_shortly() -> None:
    lines = told("def f(): return f()\nreturn f()")
    assert lines[-1].startswith("RecursionError: maximum recursion depth exceeded")
    assert len(lines) == 11


# Which line is which: the tokenizer ends lines at \n, \r\n and \r, and at nothing else


@pytest.mark.parametrize(
    "before",
    [
        "x = 'a\x0bb'",
        "x = 1\x0c",
        "\x0c",
        "# a\u2028b\u2029c\x85d\x1ce\x1df\x1eg",
        "x = '''\n\u2028\x0c\n'''",
        "x = 1\r",
        "x = 1\r\n",
        "",
    ],
    ids=ascii,
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=ascii)
def test_the_line_that_is_shown_is_the_line_that_failed(before: str, end: str) -> None:
    source = f"{before}{end}y = 0{end}return 1/y # this one{end}z = 3"
    error = failing(source)
    assert "return 1/y # this one" in summary(error, source)
    assert "z = 3" not in summary(error, source)


def test_a_source_that_is_not_the_one_that_ran_does_not_break_the_summary() -> None:
    error = failing("\n\n\n1/0")
    assert summary(error, "x").splitlines() == [HEAD, "  line 4", "ZeroDivisionError: division by zero"]
    assert summary(error, "").splitlines()[1] == "  line 4"


def test_long_lines_names_and_texts_are_cut() -> None:
    name = "f" * 5_000
    source = f"def {name}():\n    raise ValueError('x' * 10_000_000){' ' * 10}# {'y' * 10_000}\nreturn {name}()"
    text = summary(failing(source), source)
    assert len(text) < 4_000
    assert "more characters]" in text


def test_an_exception_without_a_text_is_its_type() -> None:
    assert told("raise ValueError()")[-1] == "ValueError"
    assert told("raise KeyError('x')")[-1] == "KeyError: 'x'"


# What led to it

TRIED = "try:\n    1/0\nexcept Exception as e:\n    raise ValueError('v')"
DIVISION = "Caused by ZeroDivisionError: division by zero (line 2)"


@pytest.mark.parametrize(
    ("source", "because"),
    [
        (TRIED + " from e", DIVISION),
        (TRIED, DIVISION),
        (TRIED + " from None", None),
        ("raise ValueError('v') from KeyError('k')", "Caused by KeyError: 'k'"),
        ("raise ValueError('v')", None),
    ],
)
def test_the_cause_is_told_unless_the_author_hides_it(source: str, because: str | None) -> None:
    lines = told(source)
    assert lines[-1] == (because or "ValueError: v")
    assert "ValueError: v" in lines


def test_a_false_cause_is_a_cause() -> None:
    source = (
        "class Empty(Exception):\n    def __bool__(self): raise KeyError\n    def __len__(self): raise KeyError\n"
        "raise ValueError('v') from Empty('e')"
    )
    assert told(source)[-1] == "Caused by Empty: e"


# Exceptions that do not want to be described

HOSTILE = {
    "str raises": "class E(Exception):\n    def __str__(self): raise E()\n",
    "str exits": "class E(Exception):\n    def __str__(self): raise SystemExit(3)\n",
    "str recurses": "class E(Exception):\n    def __str__(self): return str(self)\n",
    "str is no text": "class E(Exception):\n    def __str__(self): return 5\n",
    "str is huge": "class E(Exception):\n    def __str__(self): return 'x' * 50_000_000\n",
    "str is half a pair": "class E(Exception):\n    def __str__(self): return '\\ud800'\n",
    "str lies about itself": (
        "class S(str):\n"
        "    def __len__(self): return 0\n"
        "    def __getitem__(self, i): raise KeyError\n"
        "    def __format__(self, spec): raise KeyError\n"
        "    def encode(self, *a, **k): raise KeyError\n"
        "    def __add__(self, other): raise KeyError\n"
        "class E(Exception):\n    def __str__(self): return S('x' * 100_000)\n"
    ),
    "the class has no name": (
        "class M(type):\n    @property\n    def __name__(cls): raise KeyError\nclass E(Exception, metaclass=M): pass\n"
    ),
    "the name is no text": "class M(type):\n    __name__ = 5\nclass E(Exception, metaclass=M): pass\n",
    "the name is huge": "class E(Exception): pass\nE.__name__ = 'n' * 10_000_000\n",
    "attributes raise": (
        "def no(self): raise KeyError\n"
        "class E(Exception):\n"
        "    __traceback__ = property(no)\n    __cause__ = property(no)\n    __context__ = property(no)\n"
        "    __suppress_context__ = property(no)\n    args = property(no)\n    __class__ = property(no)\n"
        "    def __getattribute__(self, name): raise KeyError(name)\n"
        "    def __str__(self): return 'text'\n"
    ),
    "attributes lie": (
        "class E(Exception):\n"
        "    __traceback__ = 5\n    __cause__ = 'x'\n    __context__ = 1\n    __class__ = SystemExit\n"
        "    code = 7\n    def __bool__(self): raise KeyError\n    def __eq__(self, other): raise KeyError\n"
    ),
    "the function's name is odd": (
        "E = ValueError\n"
        "class S(str):\n    def __format__(self, spec): raise KeyError\n    __hash__ = None\n"
        "def f(): raise E('from f')\n"
        "f.__code__ = f.__code__.replace(co_name=S('\\ud800' * 100_000))\n"
        "try: f()\nexcept E as e: raise\n"
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_exception_that_does_not_want_to_be_described_is_described(name: str) -> None:
    source = HOSTILE[name] + "raise E()"
    error = failing(source)
    text = summary(error, source)
    assert len(text) < 5_000
    text.encode()
    frames = user_frames(error)
    assert frames
    assert f"line {frames[-1][0]}" in text
    assert len(text_of(error)) < 70_000
    assert type_name(error).isprintable()


@pytest.mark.parametrize("name", HOSTILE)
def test_such_an_exception_is_described_as_a_cause_too(name: str) -> None:
    source = HOSTILE[name] + "try:\n    raise E()\nexcept BaseException as e:\n    raise ValueError('v') from e"
    text = summary(failing(source), source)
    assert len(text) < 5_000
    text.encode()
    assert "Caused by" in text or name == "the function's name is odd"


def test_a_text_that_lies_about_itself_is_told_as_it_is() -> None:
    assert told(HOSTILE["str lies about itself"] + "raise E()")[-1].startswith("E: " + "x" * 1000)


def test_an_unreadable_text_says_so() -> None:
    assert told(HOSTILE["str raises"] + "raise E()")[-1] == "E: <the text of this E could not be read: E>"


@settings(deadline=None, derandomize=True)
@given(st.text(st.characters(), max_size=30), st.integers(1, 20))
def test_clipped_texts_can_be_sent_and_start_as_they_did(text: str, limit: int) -> None:
    clipped = clip(text, limit)
    clipped.encode()
    assert clipped.startswith(text[:limit].encode(errors="replace").decode())
    assert len(clipped) <= limit + 40
    if len(text) > limit:
        assert clipped.endswith(f"… [{len(text) - limit} more characters]")


def test_letting_go_frees_what_the_frames_hold_and_keeps_the_lines() -> None:
    source = "def f():\n    big = _query()\n    raise MemoryError\nf()"
    dead: list[str] = []

    class Big:
        def __del__(self) -> None:
            dead.append("freed")

    error = failing(source, query=Big)
    assert dead == []
    let_go(error)
    assert dead == ["freed"]
    assert user_frames(error) == [(4, ""), (3, "f")]


def test_letting_go_in_the_middle_of_it_does_no_harm() -> None:
    here = "still here"
    try:
        raise ValueError
    except ValueError as error:
        let_go(error)
    assert here == "still here"


def test_a_violation_is_told_with_its_line_like_any_other() -> None:
    source = "i = __import__\ni('os')"
    with pytest.raises(Exception, match="Security violation detected") as caught:
        run(source, allowing())
    assert user_frames(caught.value) == [(2, "")]
