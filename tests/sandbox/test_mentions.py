"""What a source mentions: names and nodes for the requests, dots for the items."""

from __future__ import annotations

import pytest

from trio_runner.sandbox import analysis, compiling, mentions
from trio_runner.sandbox.mentions import DOTS, LISTS, NONE, Mentions


def find(source: str, *, each_item: bool = False, guard: bool = True) -> Mentions:
    tree = analysis.parse(source)
    return mentions.find(compiling.compile_tree(tree, each_item=each_item, guard_formats=guard), tree, source)


def uses(source: str) -> set[str]:
    return set(find(source).uses)


@pytest.mark.parametrize(
    "source",
    [
        "return [{'json': {'n': len(_items)}}]",
        "out = []\nfor item in _items:\n    out.append(item['json']['a'].upper())\nreturn out",
        "import requests\nreturn requests.get('x').json()",
        "for _ in range(3): pass\nreturn []",
        "return [_ for _ in range(3)]",
        "_vars = {}\ndef f():\n    return _vars\nreturn f()",
        "def f(_json):\n    return _json\nreturn f(1)",
        "import _json\nreturn _json",
        "try:\n    pass\nexcept Exception as _now:\n    print(_now)\nreturn 1",
    ],
)
def test_a_program_with_names_of_its_own_uses_none_of_ours(source: str) -> None:
    assert find(source) == NONE


@pytest.mark.parametrize(
    "source",
    [
        "return _now",
        "def f():\n    return lambda: _now\nreturn f()()",
        "return [x for x in range(3) if _now]",
        "class A:\n    then = _now\nreturn A",
        "async def f():\n    return _now\nreturn 1",
        "return f'{_now}'",
        "return '{}'.format(_now)",
    ],
)
def test_a_name_counts_wherever_the_program_reads_it(source: str) -> None:
    assert "_now" in uses(source)


@pytest.mark.parametrize("name", sorted(mentions.NAMES))
def test_every_name_of_ours_is_found(name: str) -> None:
    assert uses(f"return [{name}]") == {name}


def test_nodes_are_found_by_their_literal_names_in_the_order_of_the_source() -> None:
    source = """
x = _("B one").all()
if x:
    y = _node["A"].json
z = "{}".format(_("C").first()) + f'{_("D").last()}' + str(_node.E.json)
return _(x["name"]).all(), _("B one").first()
"""
    assert find(source).nodes == ("B one", "A", "E", "C", "D")


def test_nodes_of_a_function_of_the_program_are_not_nodes() -> None:
    assert find('def _(text):\n    return text\nreturn _("Hello")') == NONE


@pytest.mark.parametrize("name", ["_execution.resumeUrl", "_execution.resumeFormUrl"])
def test_a_secret_is_named_only_when_the_source_names_it(name: str) -> None:
    attribute = name.partition(".")[2]
    assert name in uses(f"return {name}")
    assert name in uses(f"return _execution['{attribute}']")
    assert name not in uses("return _execution.id")


@pytest.mark.parametrize(
    "source",
    [
        "return _json.name",
        "_input.item.json.x = 1\nreturn _input.item",
        "return [i.json for i in _input.all()]",
        "return _input.first().json",
        "return _('A').first().json",
        "return _node['A'].json.body.name",
        "return _('A').item.json.all",
        "return getattr(_json, 'x')",
        "import operator\nreturn list(map(operator.attrgetter('json'), _input.all()))",
        "return '{0.json}'.format(_input.first())",
        "return text.format(_json)",
        "match _json:\n    case dict(name=n): return n",
        "return [item.json for item in _items]",
        "return _item.json.name",
        "return [i.binary for i in _items]",
        "return _query.city",
        "return _query.city.name.upper()",
        "del _json.password\nreturn _json",
        # fields that are called like methods of texts, dates, matches
        "return [_json.title, _json['a'].upper()]",
        "row = _input.first()['json']\nreturn row.date",
        "_json.count = 1\nreturn _json",
        "return _query.start",
    ],
)
def test_reading_fields_with_dots_is_seen(source: str) -> None:
    assert DOTS in uses(source)
    assert LISTS not in uses(source)


@pytest.mark.parametrize(
    "source",
    [
        "return _json['name'].strip().lower()",
        "return [i['json'].get('a') for i in _input.all()]",
        "from datetime import datetime\nreturn [datetime.now().isoformat(), _json['a']]",
        "import json\nreturn json.dumps(_json)",
        "return _input.first()['json']",
        "return _('A').all()",
        "return _('A').itemMatching(0)['json']",
        "return _node['A'].first()",
        "return [_execution.id, _execution.customData.get('a'), _workflow.name, _prevNode.outputIndex, _vars.x]",
        "return _helpers.http_request('https://example.com').body",
        "return '{:.2f} {}'.format(_json['price'], 1)",
        "return _now.plus(days=1).toISO()",
        "return [response.json() for response in _items]",
        "return _query.strip().lower()",
        "return [_json.get, _json.items(), list(map(str.title, _json))]",
    ],
)
def test_without_dots_items_stay_as_they_are(source: str) -> None:
    assert DOTS not in uses(source)


@pytest.mark.parametrize("source", ["return _input.all().to_py()", "return _input.all().length", "x.push(_json)"])
def test_the_extras_of_lists_are_seen(source: str) -> None:
    assert uses(source) >= {DOTS, LISTS}


def test_the_input_is_read_as_a_whole_only_by_who_says_so() -> None:
    assert uses("return _input.first()") == {"_input"}
    assert uses("return [_input.first(), len(_items)]") == {"_input", "_items"}
    assert "_items" in uses("return [_input.first(), locals()]")


def test_a_source_as_deep_as_the_compiler_takes_does_no_harm() -> None:
    assert uses("return " + "+".join(["_json.a"] * 900)) == {"_json", DOTS}
    assert uses("return _json" + ".a" * 900) == {"_json", DOTS}
