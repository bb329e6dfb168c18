"""Items that can be read with dots, and an input that is decoded as far as it is asked for."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

from trio_runner.sandbox import values
from trio_runner.sandbox.items import AttrDict, Input, JsList, dotted, dotted_lists, plain

ITEM: dict[str, Any] = {
    "json": {"name": "Ada", "tags": [{"a": 1}, [], "x"], "address": {"city": {"zip": 1}}, "items": 3}
}


def item() -> Any:
    return dotted(copy.deepcopy(ITEM))


def large(count: int = 2000) -> bytes:
    """More than an input that is decoded at once."""
    rows = [{"json": {"n": n, "text": "ü {[" * 60}, "pairedItem": {"item": n}} for n in range(count)]
    return json.dumps(rows, ensure_ascii=False).encode()


def test_fields_are_read_with_dots_and_brackets_alike_however_deep() -> None:
    found = item()
    assert found.json.address.city.zip == found["json"]["address"].city["zip"] == 1
    assert found.json.tags[0].a == 1
    assert found.json.get("name") == "Ada"


def test_it_is_a_dict_for_everybody() -> None:
    found = item()
    assert found == ITEM
    assert isinstance(found, dict)
    assert json.loads(json.dumps(found)) == ITEM
    assert {**found.json, "name": 1}["tags"] is found.json.tags


def test_fields_are_set_and_deleted_with_dots() -> None:
    found = item()
    found.json.age = 36
    del found.json.tags, found.json["items"]
    assert found == {"json": {"name": "Ada", "address": {"city": {"zip": 1}}, "age": 36}}


def test_a_method_of_dicts_goes_before_a_field() -> None:
    found = item()
    assert dict(found.json.items())["items"] == 3


def test_a_field_that_is_missing_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(
        AttributeError, match="there is no field 'nme'; there are: name, tags, address, items"
    ) as caught:
        _ = item().json.nme
    assert caught.value.__suppress_context__, "or its KeyError would be told as the cause"
    with pytest.raises(AttributeError, match="there is no field 'nme'"):
        del item().json.nme
    with pytest.raises(AttributeError, match=r"f11, …$"):
        _ = AttrDict({f"f{n}": n for n in range(13)}).missing
    with pytest.raises(AttributeError, match=r"^no field 'a'$"):
        _ = AttrDict().a


def test_protocols_that_look_for_special_names_find_none() -> None:
    assert not hasattr(item(), "__array__")
    hostile = AttrDict({"__array_interface__": {"data": [1, False]}, "__float__": 1, "__fspath__": "x"})
    assert not any(hasattr(hostile, name) for name in hostile)


def test_copies_can_be_read_with_dots_and_share_what_copies_share() -> None:
    found = item()
    deep = copy.deepcopy({"a": found, "b": found})
    assert deep["a"] == ITEM
    assert deep["a"] is deep["b"]
    assert deep["a"].json.tags is not found.json.tags
    assert [type(each) for each in (deep["a"].json.address, copy.copy(found), found.json.copy())] == [AttrDict] * 3
    lists = dotted_lists(copy.deepcopy(ITEM))
    lists.itself = lists
    assert copy.deepcopy(lists).itself.itself.json.tags.length == 3


def test_what_is_pickled_needs_no_module_of_ours_to_be_read() -> None:
    """A task finds none of them, and what it pickles may be read by another program: it is kept in static data."""
    for made in (item(), dotted_lists(copy.deepcopy(ITEM))):
        pickled = pickle.dumps(made)
        assert b"trio_runner" not in pickled
        assert pickle.loads(pickled) == ITEM


def test_a_copy_of_plain_dicts_shares_nothing() -> None:
    found = item()
    copied = found.to_py()
    assert type(copied) is dict
    assert type(copied["json"]["address"]["city"]) is dict
    copied["json"]["tags"][0]["a"] = 2
    assert found.json.tags[0].a == 1


def test_a_copy_of_something_that_contains_itself_ends() -> None:
    found: Any = AttrDict(a=1)
    found.me = found
    copied = plain(found)
    assert copied["me"] is copied


def test_the_names_of_the_earlier_node_work_on_dicts_and_lists() -> None:
    found = dotted_lists([copy.deepcopy(ITEM)])
    assert type(found) is JsList
    assert found.length == 1
    assert found[0].json.tags.length == 3
    assert found[0].json.tags.push(1, 2) == 5
    assert type(found.to_py()) is list
    assert type(found.to_py()[0]["json"]["tags"]) is list
    assert found[0].json.object_keys() == ["name", "tags", "address", "items"]
    assert AttrDict(a=1).object_entries() == [["a", 1]]
    assert AttrDict(a=1).object_values() == [1]
    assert AttrDict(a=1).as_object_map() == {"a": 1}


def test_depth_is_no_matter() -> None:
    deep: Any = []
    for _ in range(50_000):
        deep = [{"a": deep}]
    found = dotted(deep)
    for _ in range(50_000):
        found = found[0].a
    assert found == []


@pytest.mark.parametrize("count", [1, 32, 33, 1000])
def test_lists_of_any_length_are_seen_through(count: int) -> None:
    found = dotted([[1] * count, [{"a": n} for n in range(count)], [*range(count), [{"b": 2}]]])
    assert found[0] == [1] * count
    assert [row.a for row in found[1]] == list(range(count))
    assert found[2][-1][0].b == 2


def test_lists_that_need_nothing_are_the_same_lists() -> None:
    rows = [{"a": [1]}]
    numbers = rows[0]["a"]
    assert dotted(rows) is rows
    assert dotted(rows)[0]["a"] is numbers


@pytest.mark.parametrize("value", [item(), [item(), 1, {"a": item()}], AttrDict(), {"a": AttrDict(b=None)}])
def test_they_are_sent_as_fast_as_dicts(value: Any) -> None:
    assert values.is_plain(value)
    assert values.encode(value) == values.encode(json.loads(json.dumps(value)))


@pytest.mark.parametrize("value", [AttrDict({1: 2}), AttrDict(a=AttrDict), [AttrDict(a={1})], AttrDict(a=(AttrDict,))])
def test_what_is_no_json_is_found_in_them(value: Any) -> None:
    assert not values.is_plain(value)


@pytest.mark.parametrize("data", [large(), large(3)], ids=["large", "small"])
def test_an_item_is_one_object_however_it_is_asked_for(data: bytes) -> None:
    found = Input(data)
    found.shape = dotted
    count = len(json.loads(data))
    first, last, second = found.at(0), found.at(-1), found.at(1)
    first.json.changed = True
    assert len(found) == count
    everything = found.all()
    assert everything is found.all()
    assert everything[0] is first is found.at(0)
    assert everything[1] is second
    assert everything[-1] is last is found.at(count - 1)
    assert [row.json.n for row in everything] == list(range(count))
    assert found.index_of(last) == count - 1
    assert found.index_of({}) is None


def test_the_first_of_a_large_input_is_found_without_reading_on() -> None:
    data = large().removesuffix(b"]") + b", this is no JSON]"
    found = Input(data)
    assert found.at(0)["json"]["n"] == 0
    assert found.index_of(found.at(0)) == 0
    with pytest.raises(ValueError, match=r"."):
        found.all()


def test_a_first_item_that_is_nearly_everything_is_found_too() -> None:
    data = json.dumps([{"json": {"text": "x" * 1_000_000}}, {"json": {"n": 1}}]).encode()
    assert len(Input(data).at(0)["json"]["text"]) == 1_000_000


@pytest.mark.parametrize("data", [b"[]", b"[]" + b" " * 300_000, b"[" + b" " * 300_000 + b"]"])
def test_an_empty_input_has_no_items(data: bytes) -> None:
    assert Input(data).all() == []
    for index in (0, -1, 1):
        with pytest.raises(IndexError):
            Input(data).at(index)


def test_what_stands_before_the_first_item_is_not_skipped() -> None:
    data = json.dumps([None, *json.loads(large())]).encode()
    assert Input(data).at(0) is None
