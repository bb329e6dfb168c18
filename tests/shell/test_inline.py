"""What programs may ask for (PEP 723), and what they are told when it is wrong, too much, or an attack."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wheel_kit import program
from trio_runner.inline import Allowance, InlineError, Metadata, Plan, file_lines, plan, read, split_list

PYTHON = "3.12.4"
ANYTHING = Allowance(None)


def asked(*dependencies: str, allowed: str | None = None) -> Plan | None:
    allowance = Allowance(split_list(allowed)) if allowed is not None else ANYTHING
    return plan(Metadata(dependencies, line=3), allowance, PYTHON)


def lines(*dependencies: str, allowed: str | None = None) -> tuple[str, ...]:
    found = asked(*dependencies, allowed=allowed)
    return found.requirements if found is not None else ()


def refusal(*dependencies: str, allowed: str | None = None) -> str:
    with pytest.raises(InlineError) as caught:
        asked(*dependencies, allowed=allowed)
    assert caught.value.line == 3
    return str(caught.value)


# The block


def test_the_block_is_found_wherever_it_stands_and_says_what_the_standard_says() -> None:
    block = '# /// script\n# requires-python = ">=3.11"\n# dependencies = [\n#   "a",\n#\n#   "b>=1",\n# ]\n# ///\n'
    assert read(f"{block}return 1") == Metadata(("a", "b>=1"), ">=3.11", 1)
    assert read(f"x = 1\n\n{block}return x".replace("\n", "\r\n")) == Metadata(("a", "b>=1"), ">=3.11", 3)


@pytest.mark.parametrize(
    "source", ["return 1", "x = '# /// script'\nreturn x", "# /// scripts\n# a = 1\n# ///", "# /// pyproject\n# ///"]
)
def test_a_program_without_a_block_has_no_metadata(source: str) -> None:
    assert read(source) is None


def test_the_last_closing_line_of_a_run_of_comments_ends_the_block() -> None:
    source = "# /// script\n# dependencies = ['a']\n# x = '''\n# ///\n# '''\n# ///\n# a comment\nreturn 1"
    with pytest.raises(InlineError, match="holds 'x', which is none of dependencies"):
        read(source)
    assert read("# /// script\n# dependencies = ['a']\n# ///\n# a comment\nreturn 1") == Metadata(("a",))


@pytest.mark.parametrize(
    ("source", "message", "line"),
    [
        ("# /// script\n# dependencies = [\n# ///\n", "is not valid TOML", 1),
        ("\n# /// script\n# requires-python = ''\n# dependencies = [a]\n# ///\n", "TOML: Invalid value$", 4),
        ("# /// script\n# tool = " + "1" * 5000 + "\n# ///\n", "is not valid TOML", 1),
        ("\n# /// script\n# dependencies = ['a']\nreturn 1", "is not closed by a line '# ///'", 2),
        ("# /// script", "is not closed by a line '# ///'", 1),
        ("# /// script\n" + "# x\n" * 10_000 + "# ///", "within 16384 characters", 1),
        ("# /// script\n# ///\nx = 1\n# /// script\n# ///\n", "more than one", 4),
        ("# /// script\n# dependencies = 'a'\n# ///\n", "must be a list of texts", 1),
        ("# /// script\n# dependencies = [1]\n# ///\n", "must be a list of texts", 1),
        ("# /// script\n# requires-python = 3\n# ///\n", "must be a text", 1),
        ("# /// script\n# dependancies = []\n# ///\n", "holds 'dependancies', which is none of", 1),
        ("# /// script\n# [tool.uv]\n# index = []\n# ///\n", "the runner's operator decides", 1),
        ("# /// script\n# tool = 1\n# ///\n", "tool must be a table", 1),
        ("# /// script\n# x = " + "[" * 8000 + "\n# ///\n", "is not valid TOML", 1),
        (program("", *["a"] * 51), "at most 50", 1),
    ],
)
def test_a_block_that_cannot_be_used_is_an_error_with_its_line(source: str, message: str, line: int) -> None:
    with pytest.raises(InlineError, match=message) as caught:
        read(source)
    assert caught.value.line == line


def test_a_hostile_source_costs_no_more_than_its_length() -> None:
    started = time.perf_counter()
    for source in ("# /// script\n" * 50_000, "# /// script " * 50_000, "x# /// script\n" * 50_000):
        with suppress(InlineError):
            read(source)
    assert time.perf_counter() - started < 2


@given(st.text() | st.lists(st.sampled_from(["# /// script", "# ///", "# a = 1", "#", "\n", "\r\n", "x"])).map("".join))
def test_any_source_has_metadata_none_or_an_error(source: str) -> None:
    with suppress(InlineError):
        found = read(source)
        assert found is None or isinstance(found, Metadata)


# Requirements


def test_requirements_come_out_in_one_spelling_and_order() -> None:
    assert lines("Pandas >= 2 , <3", "Foo_Bar[X.y, a]==1.*") == ("foo-bar[a,x-y]==1.*", "pandas>=2,<3")
    assert lines("a>=1", "A<2", "a[x]") == ("a[x]>=1,<2",)
    assert asked() is None
    assert Plan(("a[x]>=1", "b")).names == {"a", "b"}


def test_what_its_condition_leaves_out_is_left_out() -> None:
    assert lines("a; python_version >= '3'", "b; os_name == 'nt'") == ("a",)


MALICIOUS = [
    *("evil @ https://evil.test/x.whl", "https://evil.test/x.whl", "git+https://evil.test/x", "file:///etc/passwd"),
    *("-r /etc/passwd", "--index-url=https://evil.test", "-e .", "--extra-index-url https://evil.test a", "-"),
    *("./evil", "../evil", "/tmp/evil", "~/evil", ".", "..", "evil/../x", "C:\\evil"),
    *("${HOME}", "$HOME", "a==${HOME}", "a==`id`", "a; import os", "a|sh", "a&&b", "a;b", "a b"),
    *("a\nb", "a\n-r x", "a\\\n-r x", "a\0", "a # b", "a --hash=sha256:0", "a>=1 -r x", "a>=1,-r x", "a[-r]"),
    *("a===../x", "a===1", "p\u0430ndas", "\uff41", "a\u202eb", "", " ", "a" * 400, "a==" + "1" * 60, "_a", "a-", "-a"),
]


@pytest.mark.parametrize("text", MALICIOUS)
def test_anything_but_a_name_with_versions_is_refused(text: str) -> None:
    assert refusal(text)
    with pytest.raises(InlineError):
        Allowance([text])


def test_a_name_that_looks_like_a_file_is_none_any_more() -> None:
    assert lines("evil.whl", "x.tar.gz") == ("evil-whl", "x-tar-gz")


@given(st.text(max_size=30) | st.text("abc-_.[]<>=!~;,@/$ 12*", max_size=30))
def test_whatever_is_accepted_is_one_harmless_line(text: str) -> None:
    with suppress(InlineError):
        for line in lines(text):
            assert line[0].isalnum()
            assert set(line) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.[],<>=!~*+_")


# What the operator allows


def test_a_list_of_requirements_is_split_where_a_new_one_begins() -> None:
    assert split_list(" pandas>=2,<3, requests ,,x[y]==1") == ("pandas>=2,<3", "requests", "x[y]==1")


@pytest.mark.parametrize(
    "wanted", ["pandas", "pandas>=2.1", "pandas==2.5", "pandas>=1", "pandas>2.9", "pandas<=2", "pandas!=2.0", "Pandas"]
)
def test_versions_that_meet_the_operator_s_are_left_to_the_resolver_within_them(wanted: str) -> None:
    found = asked(wanted, allowed="pandas>=2,<3,requests")
    assert found is not None
    assert found.constraints == ("pandas>=2,<3",)


@pytest.mark.parametrize(
    "wanted", ["pandas<2", "pandas==3.1", "pandas>=3", "pandas~=1.5", "pandas>2.5,<2.5", "pandas==1.*"]
)
def test_versions_outside_are_refused_before_anything_starts(wanted: str) -> None:
    assert refusal(wanted, allowed="pandas>=2,<3").endswith("The runner's operator allows: pandas>=2,<3")


def test_other_names_and_extras_are_refused() -> None:
    assert refusal("numpy", allowed="pandas>=2,requests") == (
        "The package numpy is not allowed in dependencies. The runner's operator allows: pandas>=2, requests"
    )
    assert "The extra requests[socks] is not allowed" in refusal("requests[socks]", allowed="requests")
    assert lines("requests[socks]", allowed="requests[socks]") == ("requests[socks]",)


# Python


def test_the_python_that_a_program_asks_for_is_compared_with_the_runner_s() -> None:
    assert plan(Metadata(("a",), ">=3.11,<3.13"), ANYTHING, PYTHON) == Plan(("a",))
    with pytest.raises(InlineError, match=r"asks for Python >=3\.13; the runner has 3\.12\.4"):
        plan(Metadata((), ">=3.13"), ANYTHING, PYTHON)
    with pytest.raises(InlineError, match="no range of versions"):
        plan(Metadata((), "three"), ANYTHING, PYTHON)


def test_a_file_of_requirements_may_hold_comments() -> None:
    assert file_lines("# all\n\npandas>=2  # for reports\n  requests\n") == ("pandas>=2", "requests")
