"""Hardened functions: they do their work and show nothing of what they are made of."""

from __future__ import annotations

import copy
import functools
import json
import pickle
from typing import Any

import pytest

from tests.sandbox.program_kit import allowing, run
from trio_runner.sandbox.child import Prepared
from trio_runner.sandbox.formatguard import BLOCKED_ATTRIBUTES, GUARD_NAME
from trio_runner.sandbox.hardened import facade, harden
from trio_runner.sandbox.imports import make_import
from trio_runner.sandbox.policy import Policy

SECRET = object()


def made(name: str = "print") -> Any:
    """A hardened function that closes over a secret."""

    def function(*args: object, **kwargs: object) -> object:
        return (args, kwargs) if SECRET else None

    return harden(function, name)


ALL_OF_OURS = [
    Prepared(Policy(), 100).builtins["print"],
    Prepared(Policy(), 100).builtins["__import__"],
    Prepared(Policy(), 100).globals()[GUARD_NAME],
    make_import(allowing("importlib"))("importlib").import_module,
    vars(make_import(allowing("importlib"))("importlib"))["__import__"],
]


def test_a_call_goes_through_with_all_arguments() -> None:
    assert made()(1, *[2], a=3, b=4) == ((1, 2), {"a": 3, "b": 4})
    assert made()() == ((), {})


def test_what_the_function_raises_comes_out() -> None:
    def broken() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        harden(broken, "broken")()


@pytest.mark.parametrize(
    "attribute",
    sorted(BLOCKED_ATTRIBUTES)
    + "__call__ __init__ __new__ __doc__ __dir__ __subclasshook__ __repr__ __defaults__ __kwdefaults__ __name__ "
    "__text_signature__ __slots__ __reduce__ __hash__ __eq__ __weakref__ function name x".split(),
)
def test_no_attribute_can_be_read_set_or_deleted(attribute: str) -> None:
    refused = f"^'builtin_function_or_method' object has no attribute '{attribute}'$"
    for function in [made(), *ALL_OF_OURS]:
        with pytest.raises(AttributeError, match=refused):
            getattr(function, attribute)
        with pytest.raises(AttributeError, match=refused):
            setattr(function, attribute, 1)
        with pytest.raises(AttributeError, match=refused):
            delattr(function, attribute)
        assert not hasattr(function, attribute)


def test_nothing_that_lists_attributes_gets_any() -> None:
    for function in [made(), *ALL_OF_OURS]:
        with pytest.raises(TypeError):
            vars(function)
        assert dir(function) == []


@pytest.mark.parametrize("name", ["print", "__import__", "format"])
def test_it_looks_like_a_builtin_function(name: str) -> None:
    function = made(name)
    for text in (repr(function), str(function), f"{function}", f"{function!s}", "%s" % function, ascii(function)):  # noqa: UP031
        assert text == f"<built-in function {name}>"
    assert repr(type(function)) == "<class 'builtin_function_or_method'>"


def test_ours_look_like_what_they_stand_for() -> None:
    names = ["print", "__import__", "format", "import_module", "__import__"]
    assert [repr(function) for function in ALL_OF_OURS] == [f"<built-in function {name}>" for name in names]


def test_it_can_be_used_where_functions_are_used() -> None:
    function = made()
    assert callable(function)
    assert list(map(function, [1, 2])) == [((1,), {}), ((2,), {})]
    assert functools.partial(function, 1)(2) == ((1, 2), {})
    assert {function: 1}[function] == 1
    assert function == function
    assert function != made()
    assert [value for value in (function,) if value]
    assert not isinstance(function, (str, dict, BaseException))
    assert json.dumps({"a": function}, default=str) == '{"a": "<built-in function print>"}'


def test_it_cannot_be_copied_or_pickled() -> None:
    for function in [made(), *ALL_OF_OURS]:
        for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises((copy.Error, pickle.PicklingError)) as caught:
                attempt(function)
            assert "trio_runner" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "return getattr(print, ''.join(['__cl', 'osure__']))",
        "return getattr(print, ''.join(['__se', 'lf__']))",
        "return getattr(__import__, ''.join(['__glo', 'bals__']))",
        "n = ['__c', 'all__']\nreturn getattr(print, ''.join(n))",
        "f = print\nreturn f.func",
        "match print:\n    case x if x.y: pass",
        "print.x = 1",
        "del print.x",
    ],
)
def test_user_code_with_all_builtins_gets_nothing_out_of_them(source: str) -> None:
    with pytest.raises(AttributeError, match="'builtin_function_or_method' object has no attribute"):
        run(source, allowing())


def test_wrong_arguments_are_type_errors() -> None:
    with pytest.raises(TypeError):
        run("print('a', nope=1)")
    with pytest.raises(TypeError):
        run("__import__()")
    with pytest.raises(TypeError):
        run("__import__(5)")


@pytest.mark.parametrize("shown", [harden(len, "len"), facade("_x", {"a": 1})], ids=["function", "facade"])
def test_no_slot_leads_from_an_instance_to_what_is_behind_it(shown: object) -> None:
    for name in ("_function", "_name", "_look_up", "__dict__"):
        with pytest.raises(AttributeError):
            object.__getattribute__(shown, name)
        assert name not in vars(type(shown))


def test_a_facade_has_what_it_names_and_nothing_else() -> None:
    shown: Any = facade("_x", {"a": 1, "f": lambda n: n + 1}, {"p": lambda: 2}, other=None)
    assert (shown.a, shown["a"], shown.f(1), shown.p, shown["p"], repr(shown)) == (1, 1, 2, 2, 2, "<_x>")
    assert repr(shown.f) == "<built-in function f>"
    assert shown.f is shown.f
    with pytest.raises(AttributeError, match="_x has no 'b'; it has a, f, p"):
        _ = shown.b
    with pytest.raises(TypeError, match="takes a text, not int"):
        _ = shown[0]
    for change in ("shown.a = 2", "del shown.a", "shown['a'] = 2", "list(shown)"):
        with pytest.raises((AttributeError, TypeError)):
            exec(change, {"shown": shown})


def test_a_facade_that_holds_a_list_says_how_to_get_it() -> None:
    shown: Any = facade("_x", {"all": list})
    for use in ("shown[0]", "list(shown)", "len(shown)"):
        with pytest.raises(TypeError, match=r"^_x is not a list; _x\.all\(\) is one$"):
            eval(use, {"shown": shown})
    assert shown
    assert dir(shown) == ["all"]
    with pytest.raises(TypeError, match="_y cannot be iterated over"):
        list(facade("_y", {}))  # type: ignore[call-overload]


def test_a_facade_names_what_was_meant_or_each_thing_once() -> None:
    def first() -> int:
        return 1

    def later() -> int:
        return 2

    shown: Any = facade("_x", {"first": first, "head": first, "first_async": later}, {"item": first})
    with pytest.raises(AttributeError, match=r"^_x has no 'frist'; did you mean 'first'\?$"):
        _ = shown.frist
    assert shown.head() == 1
    with pytest.raises(AttributeError, match=r"^_x has no 'zzz'; it has first$"):
        _ = shown.zzz


def test_complaints_about_arguments_name_the_function_as_users_know_it() -> None:
    with pytest.raises(TypeError, match=r"^_input_of\(\) missing 1 required positional argument"):
        harden(lambda a: a, "_input_of")()


def test_a_facade_may_answer_for_any_name_but_a_special_one() -> None:
    shown: Any = facade("_x", {}, other=str.upper)
    assert (shown.abc, shown["a b"]) == ("ABC", "A B")
    assert not hasattr(shown, "__deepcopy__")
