"""What values beyond JSON become: the tables of docs/values.md, row by row, and the corners that they leave out."""

from __future__ import annotations

import json
import re
from collections import ChainMap, deque, namedtuple
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sandbox.test_values import anything
from trio_runner.sandbox.friendly import UnsendableError, duration
from trio_runner.sandbox.values import encode

DOCS = Path(__file__).parent.parent.parent / "docs" / "values.md"
checked = settings(deadline=None, derandomize=True)


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Size(Enum):
    LARGE = Decimal("1.5")


Point = namedtuple("Point", "x y")


@dataclass
class Person:
    name: str
    born: Any
    friends: list[Person] = field(default_factory=list, repr=False)


STANDARD = {
    **{
        kind.__name__: kind
        for kind in (ChainMap, deque, date, datetime, time, timedelta, Decimal, Fraction, Path, UUID)
    },
    "UTC": UTC,
    "Colour": Colour,
    "Level": Level,
    "Point": Point,
}


@dataclass
class Human:
    """`Person` of the table: it has no friends."""

    name: str
    born: date


Human.__qualname__ = Human.__name__ = "Person"


def rows(part: str) -> list[tuple[str, str, str]]:
    found = []
    text = DOCS.read_text().partition(f"<!-- {part} -->")[2].partition(f"<!-- /{part} -->")[0]
    for line in text.strip().splitlines()[2:]:
        value, compat, friendly = (cell.strip() for cell in line.strip("|").split(" | "))
        found.append((value.strip("`"), compat, friendly))
    return found


def outcome(value: object, *, friendly: bool) -> str:
    """What the table says of a value."""
    try:
        sent = encode({"v": value}, friendly=friendly)
    except UnsendableError as error:
        return f"error: `{error}`"
    text = json.dumps(json.loads(sent)["v"], ensure_ascii=False)
    return f"`{re.sub(r' at 0x[0-9a-f]+', ' at …', text)}`"


@pytest.mark.parametrize(("value", "compat", "friendly"), rows("values"), ids=[row[0] for row in rows("values")])
def test_each_row_of_the_table_is_so(value: str, compat: str, friendly: str) -> None:
    names = {**STANDARD, "Person": Human}
    assert outcome(eval(value, names), friendly=False) == compat
    assert outcome(eval(value, names), friendly=True) == friendly


@pytest.mark.packages
@pytest.mark.parametrize(("value", "compat", "friendly"), rows("packages"), ids=[row[0] for row in rows("packages")])
def test_each_row_about_packages_is_so(value: str, compat: str, friendly: str) -> None:
    import numpy as np
    import pandas as pd
    import pydantic

    names = {"np": np, "pd": pd, "Decimal": Decimal}
    names["Customer"] = pydantic.create_model("Customer", name=str, spent=Decimal)
    assert outcome(eval(value, names), friendly=False) == compat
    assert outcome(eval(value, names), friendly=True) == friendly


def friendly(value: object) -> Any:
    return json.loads(encode(value, friendly=True))


@pytest.mark.packages
def test_odd_arrays_and_tables() -> None:
    import numpy as np
    import pandas as pd

    assert friendly([np.array(5), np.float32(0.5), np.longdouble(0.5), np.str_("a"), np.bytes_(b"a")]) == [
        *(5, 0.5, 0.5, "a", "YQ=="),
    ]
    assert friendly([np.datetime64("NaT", "s"), np.timedelta64(90, "s"), np.timedelta64("NaT", "s")]) == [
        None,
        "PT1M30S",
        None,
    ]
    assert friendly(np.ma.masked_array([1, 2], mask=[False, True])) == [1, None]
    assert friendly(np.array([date(2024, 1, 2), {1}], dtype=object)) == ["2024-01-02", [1]]
    assert friendly([np.array([0.5], np.longdouble), np.array([1j]), np.clongdouble(2)]) == [[0.5], ["1j"], "(2+0j)"]
    assert friendly(pd.DataFrame({"n": pd.array([1, None], "Int64"), "c": pd.Categorical(["x", "y"])})) == [
        {"n": 1, "c": "x"},
        {"n": None, "c": "y"},
    ]
    assert friendly(pd.DataFrame(index=[1, 2])) == [{}, {}]
    assert friendly(pd.DataFrame({0: [1], date(2024, 1, 2): [2]})) == [{"0": 1, "2024-01-02": 2}]
    assert friendly(pd.DataFrame({"a": [1, 2]}).iloc[1]) == {"a": 2}
    assert friendly(pd.Series([1, 2, 3])[lambda s: s > 1]) == [2, 3]
    assert friendly(pd.Series(["x", "x"], name="k").value_counts()) == {"x": 2}
    assert friendly([pd.Index([1, 2]), pd.array([1, None], "Int64"), pd.interval_range(0, 1)]) == [
        *([1, 2], [1, None], ["(0, 1]"]),
    ]
    with pytest.raises(UnsendableError, match="index of the Series has 'a' more than once") as caught:
        friendly({"s": [pd.Series([1, 2], index=["a", "a"])]})
    assert caught.value.path == ".s[0]"


@pytest.mark.packages
def test_a_large_table_takes_no_more_than_its_size_asks_for() -> None:
    import time as clock

    import numpy as np
    import pandas as pd

    table = pd.DataFrame({f"c{n}": np.arange(20_000) * 0.5 for n in range(10)})
    started = clock.process_time()
    assert len(friendly(table)) == 20_000
    assert clock.process_time() - started < 3


@pytest.mark.packages
def test_models_within_models_are_friendly_all_through() -> None:
    import pydantic

    class Inner(pydantic.BaseModel):
        when: datetime
        tags: set[str]

    class Outer(pydantic.BaseModel):
        inner: Inner
        price: Decimal

    outer = Outer(inner=Inner(when=datetime(2024, 1, 2), tags={"b", "a"}), price=Decimal("0.10"))
    assert friendly([outer]) == [{"inner": {"when": "2024-01-02T00:00:00", "tags": ["a", "b"]}, "price": 0.1}]
    outer.inner.tags.remove("b")
    as_item = {"inner": {"when": "2024-01-02 00:00:00", "tags": "{'a'}"}, "price": "0.10"}
    assert json.loads(encode([outer], items=True)) == [as_item]
    assert friendly(pydantic.RootModel[list[int]]([1])) == [1]


# The standard library


@checked
@given(st.timedeltas())
def test_a_duration_is_read_back_as_what_it_was(value: timedelta) -> None:
    found = re.fullmatch(
        r"(-?)P(?:(\d+)D)?(?:T(?=\d)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)(?:\.(\d{1,6}))?S)?)?", duration(value)
    )
    assert found is not None
    days, hours, minutes, seconds = (int(group or 0) for group in found.groups()[1:5])
    read = timedelta(days, seconds, int((found[6] or "0").ljust(6, "0")), minutes=minutes, hours=hours)
    assert (-read if found[1] else read) == value
    assert duration(value) not in ("P", "-P")


@checked
@given(st.decimals())
def test_a_decimal_keeps_its_value_whether_as_number_or_as_text(value: Decimal) -> None:
    sent = json.loads(encode([value], friendly=True))[0]
    if not value.is_finite():
        assert sent is None
    else:
        assert Decimal(str(sent)) == value


json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@checked
@given(json_values)
def test_what_is_json_is_the_same_under_both(value: object) -> None:
    def outcome_of(**rules: bool) -> object:
        try:
            return encode(value, **rules)
        except UnsendableError as error:
            return str(error)

    assert outcome_of(friendly=True) == outcome_of() == outcome_of(items=True)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(anything, st.booleans())
def test_whatever_is_returned_the_outcome_is_strict_json(value: object, items: bool) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads(encode(value, friendly=True).decode(), parse_constant=refuse)
    json.loads(encode(value, items=items).decode(), parse_constant=refuse)


def test_a_whole_decimal_that_n8n_would_round_is_a_text() -> None:
    assert friendly([Decimal(2**53 - 1), Decimal(2**53 + 1), Decimal("-1E+3"), Decimal("1E+400")]) == [
        2**53 - 1,
        str(2**53 + 1),
        -1000,
        "1E+400",
    ]


def test_values_are_friendly_at_any_depth_in_any_container() -> None:
    value = [({"a": [Person("x", {Size.LARGE})]},), MappingProxyType({"p": Point({1}, map(str, [1]))})]
    assert friendly(value) == [
        [{"a": [{"name": "x", "born": [1.5], "friends": []}]}],
        {"p": {"x": [1], "y": ["1"]}},
    ]
    assert friendly({Level.HIGH: 1, Size.LARGE: 2, UUID(int=0): 3, Decimal(2): 4}) == {
        "3": 1,
        "1.5": 2,
        "00000000-0000-0000-0000-000000000000": 3,
        "2": 4,
    }


def test_a_record_in_itself_is_a_cycle_that_says_where() -> None:
    person = Person("x", None)
    person.friends.append(person)
    with pytest.raises(UnsendableError, match="Circular reference") as caught:
        encode([{"json": {"p": person}}], friendly=True)
    assert caught.value.path == "[0].json.p.friends[0]"


def test_rules_that_give_the_next_value_for_ever_end() -> None:
    class Endless:
        def __iter__(self) -> Iterator[object]:
            return self

        def __next__(self) -> object:
            raise AssertionError

    class Nested(Endless):
        def __iter__(self) -> Iterator[object]:
            return iter([Nested()])

    for rules in (False, True):
        with pytest.raises(UnsendableError, match="nested too deeply"):
            encode(Nested(), friendly=rules)


@pytest.mark.parametrize("value", [object(), Person.__init__], ids=type)
def test_what_only_has_an_address_is_refused_with_its_place(value: object) -> None:
    with pytest.raises(UnsendableError, match=r"of the type (object|function) cannot be sent") as caught:
        encode([1, {"a": value}], friendly=True)
    assert caught.value.path == "[1].a"
    assert friendly([int, len]) == ["<class 'int'>", "<built-in function len>"]


@pytest.mark.parametrize("rules", [False, True])
def test_a_coroutine_that_nobody_awaited_is_refused_in_both(rules: bool) -> None:
    async def price() -> int:
        raise AssertionError

    forgotten = price()
    try:
        with pytest.raises(UnsendableError, match="type coroutine") as caught:
            encode([{"json": {"price": forgotten}}], friendly=rules, items=True)
    finally:
        forgotten.close()
    assert caught.value.path == "[0].json.price"


def test_an_iterator_with_a_text_of_its_own_keeps_it_in_compat() -> None:
    class Reader:
        def __iter__(self) -> Iterator[int]:
            return iter([1])

        def __next__(self) -> int:
            return 1

        def __str__(self) -> str:
            return "a reader"

    assert json.loads(encode([Reader()])) == ["a reader"]
    assert friendly([Reader()]) == [[1]]


def test_classes_that_lie_about_where_they_come_from_harm_only_themselves() -> None:
    class Meta(type):
        def __hash__(cls) -> int:
            raise ZeroDivisionError

        __eq__ = type.__eq__

        @property
        def __mro__(cls) -> tuple[type, ...]:  # type: ignore[override]
            raise ZeroDivisionError

    class Odd(metaclass=Meta):
        __module__ = 5  # type: ignore[assignment]

        def __str__(self) -> str:
            return "odd"

    assert friendly([Odd()]) == ["odd"]


# Items


def test_in_compat_only_what_n8n_takes_for_items_is_a_record() -> None:
    ada = Person("Ada", {1})
    record = {"name": "Ada", "born": "{1}", "friends": []}
    assert json.loads(encode(ada, items=True)) == record
    assert json.loads(encode([ada, {"json": ada}, {"json": {"p": ada}}, {"p": ada}], items=True)) == [
        record,
        {"json": record},
        {"json": {"p": str(ada)}},
        {"p": str(ada)},
    ]
    assert json.loads(encode([{"json": (n for n in range(2))}, iter("a")], items=True)) == [{"json": [0, 1]}, ["a"]]
    assert json.loads(encode([{1}, {"json": {1}}], items=True)) == ["{1}", {"json": "{1}"}]
    assert json.loads(encode([ada])) == [str(ada)]


def test_what_is_returned_is_not_changed_on_the_way() -> None:
    ada = Person("Ada", None)
    item = {"json": ada}
    encode([item], items=True)
    assert item == {"json": ada}
