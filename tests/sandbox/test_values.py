"""Results: what reaches n8n is what ``json.dumps(default=str)`` would say, with null for NaN, whatever comes along."""

from __future__ import annotations

import enum
import json
import math
import subprocess
import sys
import time
from collections import ChainMap, Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trio_runner.sandbox.friendly import UnsendableError
from trio_runner.sandbox.values import encode, is_plain, plain, shape_item

checked = settings(deadline=None, derandomize=True)


def nan_is_null(value: Any) -> Any:
    """A parsed document in which what n8n cannot parse is null. Keys keep their spelling."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: nan_is_null(entry) for key, entry in value.items()}
    return [nan_is_null(entry) for entry in value] if isinstance(value, list) else value


def expected(value: object) -> Any:
    """The reference's result as n8n would read it."""
    return nan_is_null(json.loads(json.dumps(value, default=str, ensure_ascii=False)))


def strictly_equal(left: Any, right: Any) -> bool:
    """Equal as JSON: 1, 1.0 and true are three values, and the order of keys counts."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(strictly_equal(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(strictly_equal, left, right))
    return bool(left == right)


class Colour(enum.Enum):
    RED = "r"


class Level(enum.IntEnum):
    LOW = 1


class Word(str, enum.Enum):  # noqa: UP042 - StrEnum has another str()
    A = "a"


class Flag(enum.IntFlag):
    X = 4


class Text(str):
    def __str__(self) -> str:
        return "another"

    def __repr__(self) -> str:
        return "another"


class Number(int):
    def __repr__(self) -> str:
        return "another"

    __str__ = __repr__


class Measure(float):
    def __repr__(self) -> str:
        return "another"

    __str__ = __repr__


class Listing(list[Any]):
    pass


class Table(dict[Any, Any]):
    pass


class Thing:
    def __str__(self) -> str:
        return "a thing"


Point = namedtuple("Point", "x y")

no_surrogates = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.integers() | st.floats() | st.booleans() | st.sampled_from([10**40, -(2**63), 2**64, -0.0, 1e308, 5e-324])
leaves = st.one_of(
    st.none(),
    numbers,
    no_surrogates,
    st.binary(max_size=4),
    st.decimals(),
    st.datetimes(),
    st.sampled_from([Colour.RED, Level.LOW, Word.A, Flag.X, Flag(0), Thing(), range(3), 1j, frozenset({1}), ...]),
    st.builds(Text, no_surrogates),
    st.builds(Number, st.integers()),
    st.builds(Measure, st.floats()),
)
keys = st.one_of(
    no_surrogates, st.none(), numbers, st.builds(Text, no_surrogates), st.builds(Number, st.integers()),
    st.builds(Measure, st.floats()), st.sampled_from([Level.LOW, Word.A]),
)  # fmt: skip


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(inner, max_size=4)
    dicts = st.dictionaries(keys, inner, max_size=4)
    return st.one_of(
        lists,
        dicts,
        st.builds(tuple, lists),
        st.builds(Listing, lists),
        st.builds(Table, dicts),
        st.builds(OrderedDict, dicts),
        st.builds(lambda entries: defaultdict(list, entries), dicts),
        st.builds(Point, inner, inner),
        st.builds(Counter, st.dictionaries(no_surrogates, st.integers(), max_size=3)),
        st.builds(lambda shared: [shared, {"again": shared}, (shared, shared)], inner),
    )


anything = st.recursive(leaves, containers, max_leaves=25)
plain_values = st.recursive(
    st.none() | numbers | no_surrogates,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(no_surrogates, inner, max_size=4),
    max_leaves=25,
)


@checked
@given(anything)
@example({float("nan"): 1, None: 2, True: 3, 1.5: 4, -0.0: 5, float("-inf"): float("inf")})
@example({1: "a", "1": "b", 0: "c", "0": "d", None: "e", "null": "f"})
@example({"nested": [Point(1, {"deep": (Level.LOW, Text("x"))})]})
def test_a_result_is_what_json_dumps_makes_of_it(value: object) -> None:
    assert strictly_equal(json.loads(encode(value)), expected(value))


@checked
@given(anything)
def test_a_result_is_strict_json_in_utf8(value: object) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads(encode(value).decode(), parse_constant=refuse)


@checked
@given(plain_values)
def test_plain_values_are_plain_and_rebuilding_them_changes_nothing(value: object) -> None:
    assert is_plain(value)
    assert msgspec.json.encode(plain(value)) == encode(value)


@checked
@given(anything)
def test_what_is_plain_is_encoded_the_same_with_and_without_rebuilding(value: object) -> None:
    if is_plain(value):
        assert msgspec.json.encode(value) == msgspec.json.encode(plain(value))
    assert is_plain(plain(value))


@pytest.mark.parametrize(
    "value",
    [
        *[Text("a"), Number(1), Measure(1.5), Level.LOW, Listing(), Table(), Point(1, 2), OrderedDict(), {1, 2}, b""],
        *[{1: 2}, {None: 1}, [[[Number(1)]]], {"a": {"b": ({},), "c": [Text("x")]}}, Counter("aa")],
    ],
    ids=repr,
)
def test_subclasses_and_other_types_are_not_plain_wherever_they_stand(value: object) -> None:
    assert not is_plain(value)
    assert not is_plain([{"deep": [value]}])


def test_keys_are_their_own_characters_whatever_their_class_says() -> None:
    assert str(Text("k")) != "k"
    assert encode({Text("k"): 1, "l": [{Text("m"): 2}]}) == plain_json({Text("k"): 1, "l": [{Text("m"): 2}]})


def plain_json(value: object) -> bytes:
    """By the slow way alone."""
    return msgspec.json.encode(plain(value))


def test_what_contains_itself_twice_is_given_up_in_bounded_time() -> None:
    value: list[object] = []
    value += [value, value]
    assert not is_plain(value)
    assert not is_plain([value] * 1000)


@pytest.mark.parametrize("odd", [0, 255, 256, 257, 999])
def test_every_block_of_a_long_list_is_looked_at(odd: int) -> None:
    values: list[object] = [{"json": {"a": [1, "b", None]}} for _ in range(1000)]
    assert is_plain(values)
    values[odd] = {"json": {"a": [Number(1)]}}
    assert not is_plain(values)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC), '"2024-01-02 03:04:05+00:00"'),
        (Decimal("1.10"), '"1.10"'),
        (Fraction(1, 3), '"1/3"'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (b"\xff", "\"b'\\\\xff'\""),
        (deque([1]), '"deque([1])"'),
        (ChainMap({"a": 1}), "\"ChainMap({'a': 1})\""),
        ({"a": 1}.keys(), "\"dict_keys(['a'])\""),
        (ValueError("no"), '"no"'),
        (Colour.RED, '"Colour.RED"'),
        (10**40, "1" + "0" * 40),
        (-0.0, "-0.0"),
        ("é\u2028\x00", '"é\u2028\\u0000"'),
    ],
    ids=repr,
)
def test_some_results_in_full(value: object, text: str) -> None:
    assert encode(value).decode() == text


# Cycles and depth


def self_containing() -> Iterator[tuple[str, object, str]]:
    once: list[Any] = []
    once.append(once)
    yield "a list in itself", once, "[0]"
    twice: list[Any] = [1]
    twice += [twice, twice]
    yield "a list twice in itself", twice, "[1]"
    table: dict[str, Any] = {"a": 1}
    table["self"] = table
    yield "a dict in itself", table, ".self"
    widely: list[Any] = []
    widely.extend([widely] * 10_000)
    yield "a list ten thousand times in itself", widely, "[0]"
    ring: list[Any] = [{"in": ({"on": None},)}]
    ring[0]["in"][0]["on"] = ring
    yield "a ring of all containers", ring, "[0].in[0].on"
    ordered: OrderedDict[int, Any] = OrderedDict()
    ordered[1] = [ordered]
    yield "a subclass in itself", ordered, ".1[0]"
    late: list[Any] = [{"n": number} for number in range(100)]
    late[99]["up"] = late
    yield "a cycle at the end", late, "[99].up"


@pytest.mark.parametrize(
    ("value", "path"), [case[1:] for case in self_containing()], ids=[c[0] for c in self_containing()]
)
def test_a_cycle_is_an_error_that_says_where(value: object, path: str) -> None:
    with pytest.raises(UnsendableError, match=r"^Circular reference detected$") as caught:
        encode(value)
    assert caught.value.path == path


def test_a_huge_cycle_is_found_quickly() -> None:
    huge: list[Any] = []
    huge.extend([huge] * 300_000)
    started = time.process_time()
    with pytest.raises(UnsendableError, match="Circular reference"):
        encode(huge)
    assert time.process_time() - started < 3


def test_a_container_that_is_shared_but_not_in_itself_is_no_cycle() -> None:
    shared = {"a": [1]}
    value = [shared] * 6000 + [[shared, {"again": shared}]]
    assert json.loads(encode(value)) == value
    assert json.loads(encode((value, Thing()))) == [value, "a thing"]


def test_shared_at_every_depth_is_no_cycle_either() -> None:
    value: Any = [0, 0]
    for _ in range(14):
        value = [value, value]
    assert len(encode([value, value])) > 2**15


@pytest.mark.parametrize("depth", [100, 198, 250, 450])
def test_deep_results_are_sent(depth: int) -> None:
    lists: Any = 1
    dicts: Any = 1
    for _ in range(depth):
        lists, dicts = [lists], {"a": dicts}
    assert encode(lists) == b"[" * depth + b"1" + b"]" * depth
    assert encode(dicts) == b'{"a":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize("depth", [3_000, 100_000])
@pytest.mark.parametrize("leaf", [1, Thing()])
def test_deeper_ones_are_an_error_and_no_crash(depth: int, leaf: object) -> None:
    value: Any = leaf
    for _ in range(depth):
        value = [value]
    with pytest.raises(UnsendableError, match="nested too deeply"):
        encode(value)


# What cannot be written


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("\ud800", ""),
        (["ok", {"a": ["x", "b\udfffc"]}], "[1].a[1]"),
        ({"\ud800": 1}, " (a key)"),
        ({"a": {"k\ud800": 1}}, ".a (a key)"),
        ((1, Text("\ud800")), "[1]"),
        ({1: {None: "\ud800"}}, ".1.null"),
        ([OrderedDict(a=["\ud800"])], "[0].a[0]"),
    ],
    ids=ascii,
)
def test_half_a_surrogate_pair_is_an_error_that_says_where(value: object, path: str) -> None:
    with pytest.raises(
        UnsendableError, match=r"'utf-8' codec can't encode character .* surrogates not allowed"
    ) as caught:
        encode(value)
    assert caught.value.path == path


def test_a_surrogate_in_the_text_of_an_object_has_a_place_too() -> None:
    class Odd:
        def __str__(self) -> str:
            return "\ud800"

    with pytest.raises(UnsendableError) as caught:
        encode({"a": [Odd()]})
    assert caught.value.path == ".a[0]"


def test_more_digits_than_python_writes_are_an_error_that_says_where() -> None:
    with pytest.raises(UnsendableError, match="4300 digits") as caught:
        encode({"a": [1, 10**5000]})
    assert caught.value.path == ".a[1]"


@pytest.mark.parametrize(
    ("key", "name"), [((1,), "tuple"), (b"a", "bytes"), (frozenset(), "frozenset"), (Colour.RED, "Colour")]
)
def test_keys_that_json_does_not_have_are_an_error_in_the_words_of_the_reference(key: Any, name: str) -> None:
    with pytest.raises(UnsendableError) as caught:
        encode([{"a": {key: 1}}])
    assert str(caught.value) == f"keys must be str, int, float, bool or None, not {name}"
    assert caught.value.path == "[0].a"


def test_long_keys_do_not_make_long_paths() -> None:
    with pytest.raises(UnsendableError) as caught:
        encode({"k" * 1_000_000: {"x": ["\ud800"]}})
    assert len(caught.value.path) < 200


# Objects that lie


class ClassLiar:
    """Claims to be whatever ``__class__`` is asked for."""

    def __init__(self, claims: type) -> None:
        self._claims = claims

    @property
    def __class__(self) -> type:  # type: ignore[override]
        return self._claims

    def __str__(self) -> str:
        return "caught"


@pytest.mark.parametrize("claims", [str, int, float, bool, dict, list, tuple, type(None)])
def test_what_an_object_says_about_its_class_does_not_count(claims: type) -> None:
    assert encode([ClassLiar(claims)]) == b'["caught"]'
    with pytest.raises(UnsendableError, match="keys must be"):
        encode({ClassLiar(claims): 1})


def equal_to_everything(model: type) -> type:
    """A class whose metaclass claims that it is ``model``."""

    class Meta(type):
        def __eq__(cls, other: object) -> bool:
            return True

        def __hash__(cls) -> int:
            return hash(model)

    class Impostor(metaclass=Meta):
        def __str__(self) -> str:
            return "an impostor"

    return Impostor


@pytest.mark.parametrize("model", [str, int, dict, list, tuple])
def test_a_metaclass_that_claims_to_be_a_json_type_changes_nothing(model: type) -> None:
    impostor = equal_to_everything(model)()
    assert encode([impostor, "a", 1, {"b": impostor}]) == b'["an impostor","a",1,{"b":"an impostor"}]'


def test_a_metaclass_that_raises_changes_nothing() -> None:
    class Meta(type):
        def __hash__(cls) -> int:
            raise ZeroDivisionError

        __eq__ = type.__eq__

        @property
        def __name__(cls) -> str:  # type: ignore[override]
            raise ZeroDivisionError

    class Awkward(metaclass=Meta):
        def __str__(self) -> str:
            return "awkward"

    assert encode([Awkward()]) == b'["awkward"]'
    with pytest.raises(UnsendableError, match="not Awkward"):
        encode({Awkward(): 1})


def test_what_the_own_str_of_a_value_raises_is_the_authors_to_see() -> None:
    class Broken:
        def __str__(self) -> str:
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        encode([1, Broken()])


def test_a_str_subclass_as_the_text_of_a_value_is_sent_as_what_it_is() -> None:
    class Odd:
        def __str__(self) -> str:
            return Text("inner")

    assert encode([Odd()]) == b'["inner"]'


class LyingItems(dict[Any, Any]):
    def items(self) -> Any:
        return [("from", "items"), (1, [2])]


class BadItems(dict[Any, Any]):
    def items(self) -> Any:
        return [("three", "of", "them")]


class Growing(dict[Any, Any]):
    def items(self) -> Any:
        for key in dict.keys(self):
            dict.__setitem__(self, str(key) + "x", 1)
            yield key, 1


class LyingList(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(["from", "iter"])

    def __len__(self) -> int:
        return 10**6


def test_containers_of_the_authors_own_show_what_they_want_to_show() -> None:
    assert json.loads(encode(LyingItems(a=1))) == {"from": "items", "1": [2]}
    assert json.loads(encode([LyingList([0])])) == [["from", "iter"]]


def test_containers_that_misbehave_fail_cleanly() -> None:
    with pytest.raises(ValueError, match="too many values to unpack"):
        encode(BadItems(a=1))
    with pytest.raises(RuntimeError, match="changed size during iteration"):
        encode(Growing(a=1))


def test_a_text_that_changes_the_result_while_it_is_written_cannot_break_it() -> None:
    result: list[Any] = []

    class Saboteur:
        def __str__(self) -> str:
            result.append(object)
            return "s"

    result += [Saboteur(), 1]
    assert json.loads(encode(result[:]))[:2] == ["s", 1]
    clear_me: dict[str, Any] = {}

    class Clearer:
        def __str__(self) -> str:
            clear_me.clear()
            return "c"

    clear_me |= {"a": Clearer(), "b": 1}
    with pytest.raises(RuntimeError, match="changed size"):
        encode(clear_me)


# Items


@pytest.mark.parametrize(
    ("returned", "item"),
    [
        (None, None),
        ({"json": {"a": 1}}, {"json": {"a": 1}, "pairedItem": {"item": 3}}),
        ({"json": 5, "pairedItem": 9, "x": 1}, {"json": 5, "pairedItem": {"item": 3}}),
        ({"json": 5, "binary": {"f": 1}}, {"json": 5, "pairedItem": {"item": 3}, "binary": {"f": 1}}),
        ({"a": 1, "binary": {}}, {"json": {"a": 1}, "pairedItem": {"item": 3}, "binary": {}}),
        ({}, {"json": {}, "pairedItem": {"item": 3}}),
        ({"a": 1}, {"json": {"a": 1}, "pairedItem": {"item": 3}}),
        ([1], {"json": [1], "pairedItem": {"item": 3}}),
        ("x", {"json": "x", "pairedItem": {"item": 3}}),
        (0, {"json": 0, "pairedItem": {"item": 3}}),
        (OrderedDict(json=1), {"json": 1, "pairedItem": {"item": 3}}),
    ],
    ids=repr,
)
def test_what_was_returned_for_an_item_becomes_an_item(returned: object, item: object) -> None:
    assert shape_item(returned, 3) == item


# Speed


def big_result(rows: int) -> list[dict[str, Any]]:
    return [
        {
            "json": {"id": n, "name": f"n{n}", "price": 1.5, "tags": ["a", "b"], "o": {"x": None}},
            "pairedItem": {"item": n},
        }
        for n in range(rows)
    ]


def test_a_plain_result_of_twenty_thousand_items_takes_a_fraction_of_a_second() -> None:
    items = big_result(20_000)
    started = time.process_time()
    assert len(encode(items)) > 1_000_000
    assert time.process_time() - started < 1.5


def test_a_result_with_other_types_costs_time_in_proportion_even_below_long_keys() -> None:
    """A path for each value, put together ahead of need, copies the long key twenty thousand times."""
    value = {"k" * 1_000_000: [{"when": Decimal(n)} for n in range(20_000)]}
    started = time.process_time()
    assert len(encode(value)) > 1_000_000
    assert time.process_time() - started < 3


def test_a_program_that_lifts_the_recursion_limit_gets_an_answer_too() -> None:
    """In a process of its own: a crash of the interpreter must not take the test run along."""
    code = (
        "import sys\n"
        "sys.setrecursionlimit(10**6)\n"
        "from trio_runner.sandbox.friendly import UnsendableError\n"
        "from trio_runner.sandbox.values import encode\n"
        "value = 1\n"
        "for _ in range(5000): value = [value]\n"
        "try: encode(value)\n"
        "except UnsendableError: pass\n"
        "print('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "alive\n", done.stderr


def test_what_an_instance_holds_is_looked_at_wherever_the_interpreter_keeps_it() -> None:
    class Order:
        def __init__(self, day: object) -> None:
            self.number, self.day = 1, day

    assert encode([vars(Order("monday"))]) == b'[{"number":1,"day":"monday"}]'
    day = datetime(2026, 1, 2, tzinfo=UTC)
    assert encode([vars(Order(day))]) == b'[{"number":1,"day":"2026-01-02 00:00:00+00:00"}]'
    assert encode([vars(Order(b"x"))]) == b'[{"number":1,"day":"b\'x\'"}]'


def test_a_dictionary_that_had_other_keys_once_is_written_as_any() -> None:
    mixed: dict[object, object] = {1.5: 1, "a": 2}
    assert encode([mixed]) == b'[{"1.5":1,"a":2}]'
    mixed[1e16] = 0
    assert encode([mixed]) == b'[{"1.5":1,"a":2,"1e+16":0}]'
    del mixed[1.5], mixed[1e16]
    assert encode([mixed]) == b'[{"a":2}]'
