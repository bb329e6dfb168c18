"""The static rules: what is refused, in which words and order, and that nothing ordinary is."""

from __future__ import annotations

import ast
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trio_runner.sandbox.analysis import BLOCKED_ATTRIBUTES, BLOCKED_NAMES, Violation, analyse, describe, parse
from trio_runner.sandbox.policy import Policy

BYPASS = "is disallowed, because it can be used to bypass security restrictions."
OPEN = Policy(stdlib_allow=frozenset({"*"}))
CLOSED = Policy()

VECTORS: list[dict[str, Any]] = [
    vector
    for vector in json.loads(Path(__file__).parents[1].joinpath("vectors.json").read_text("utf-8"))["execution"]
    if vector["holds"] != "dec2025"
]


def policy_of(config: dict[str, Any]) -> Policy:
    def names(key: str) -> frozenset[str]:
        return frozenset(name.strip() for name in config.get(key, "").split(",") if name.strip())

    return Policy(stdlib_allow=names("stdlibAllow"), external_allow=names("externalAllow"))


def texts(source: str, policy: Policy = OPEN) -> list[str]:
    return [violation.text for violation in analyse(parse(source), policy)]


def is_refused_by_analysis(vector: dict[str, Any]) -> bool:
    return bool(vector["expect"].get("message") == "Security violations detected")


def is_refused_by_parser(vector: dict[str, Any]) -> bool:
    return any("(<unknown>, line" in text for text in vector["expect"].get("messageContains", []))


def chosen(condition: Any) -> list[Any]:
    return [pytest.param(vector, id=f"{vector['id']} {vector['title']}") for vector in VECTORS if condition(vector)]


@pytest.mark.parametrize("vector", chosen(is_refused_by_analysis))
def test_vector_is_refused_in_the_same_words(vector: dict[str, Any]) -> None:
    description = describe(analyse(parse(vector["settings"]["code"]), policy_of(vector["config"])))
    expect = vector["expect"]
    if "description" in expect:
        assert description == expect["description"]
    else:
        assert expect["descriptionContains"]
        assert all(text in description for text in expect["descriptionContains"])


@pytest.mark.parametrize("vector", chosen(is_refused_by_parser))
def test_vector_is_no_python_and_says_so_in_the_same_words(vector: dict[str, Any]) -> None:
    with pytest.raises(SyntaxError) as caught:
        parse(vector["settings"]["code"])
    assert all(text in str(caught.value) for text in vector["expect"]["messageContains"])


def is_taken(vector: dict[str, Any]) -> bool:
    checked = policy_of(vector["config"]).source_checks
    return checked and not is_refused_by_analysis(vector) and not is_refused_by_parser(vector)


@pytest.mark.parametrize("vector", chosen(is_taken))
def test_vector_that_gets_as_far_as_running_has_no_violation(vector: dict[str, Any]) -> None:
    assert analyse(parse(vector["settings"]["code"]), policy_of(vector["config"])) == ()


@pytest.mark.parametrize("name", sorted(BLOCKED_NAMES))
def test_blocked_name_is_refused_wherever_a_name_can_be_bound(name: str) -> None:
    access = f"Access to name '{name}' {BYPASS}"
    function = f"Function named '{name}' {BYPASS}"
    parameter = f"Parameter named '{name}' {BYPASS}"
    for source, text in {
        name: access,
        f"{name} = 1": access,
        f"del {name}": access,
        f"for {name} in []: pass": access,
        f"[0 for {name} in []]": access,
        f"with a as {name}: pass": access,
        f"({name} := 1)": access,
        f"{name}: int": access,
        f"import json as {name}": access,
        f"from json import loads as {name}": access,
        f"from json import {name}": access,
        f"from json import {name} as x": access,
        f"try: pass\nexcept E as {name}: pass": access,
        f"try: pass\nexcept* E as {name}: pass": access,
        f"match a:\n case {name}: pass": access,
        f"match a:\n case int() as {name}: pass": access,
        f"match a:\n case [*{name}]: pass": access,
        f"match a:\n case {{**{name}}}: pass": access,
        f"def f():\n nonlocal {name}": access,
        f"global a, {name}": f"Global declaration of '{name}' {BYPASS}",
        f"def {name}(): pass": function,
        f"async def {name}(): pass": function,
        f"class {name}: pass": f"Class named '{name}' {BYPASS}",
        f"def f({name}, /): pass": parameter,
        f"def f({name}): pass": parameter,
        f"def f(*{name}): pass": parameter,
        f"def f(*, {name}): pass": parameter,
        f"def f(**{name}): pass": parameter,
        f"lambda {name}: 1": parameter,
        f"lambda *, {name}=1: 1": parameter,
    }.items():
        assert texts(source) == [text], source
    assert texts(f"f({name}=1)") == []


@pytest.mark.skipif(sys.version_info < (3, 12), reason="syntax of 3.12")
@pytest.mark.parametrize(
    "source", ["def f[{}](): pass", "def f[*{}](): pass", "class A[**{}]: pass", "type {} = int", "type A[{}] = int"]
)
def test_blocked_name_is_refused_as_type_parameter_and_alias(source: str) -> None:
    assert texts(source.format("__name__")) == [f"Access to name '__name__' {BYPASS}"]


@pytest.mark.parametrize("name", sorted(BLOCKED_ATTRIBUTES))
def test_blocked_attribute_is_refused_wherever_it_can_be_reached(name: str) -> None:
    access = f"Access to attribute '{name}' {BYPASS}"
    word = f"Access to name '{name}' {BYPASS}" if name in BLOCKED_NAMES else access
    for source, text in {
        f"x.{name}": access,
        f"x.{name} = 1": access,
        f"del x.{name}": access,
        f"x().{name}()": access,
        f"f'{{x.{name}}}'": access,
        f"import json as {name}": word,
        f"from json import {name}": word,
        f"'{name}'": word,
        f"x['{name}']": word,
        f"{{'{name}': 1}}": word,
        f"match x:\n case a({name}=1): pass": f"Match pattern extracting attribute '{name}' {BYPASS}",
    }.items():
        assert texts(source) == [text], source
    assert texts(f"f({name}=1); import a.{name}", Policy(external_allow=frozenset({"a"}))) == []


def test_identifiers_are_judged_in_their_normal_form() -> None:
    assert texts("x.__ｃlass__") == [f"Access to attribute '__class__' {BYPASS}"]
    assert texts("__ｎame__") == [f"Access to name '__name__' {BYPASS}"]
    assert texts("match x:\n case a(ｏbj=1): pass") == [f"Match pattern extracting attribute 'obj' {BYPASS}"]
    assert texts("x.ｆormat")[0].startswith("Extracting 'format'")
    tree = parse("x.a")
    tree.body[0].value.attr = "__ｃlass__"  # type: ignore[attr-defined]  # a tree that no parser made
    assert [violation.text for violation in analyse(tree, OPEN)] == [f"Access to attribute '__class__' {BYPASS}"]


MANGLED = "Access to name-mangled attributes (pattern: _ClassName__attr) is disallowed for security reasons."


@pytest.mark.parametrize(
    ("attribute", "mangled"),
    [
        *((name, True) for name in ("_Foo__bar", "_a__b__c", "_foo__")),
        *((name, False) for name in ("__foo", "_foo", "___foo", "a__b", "_", "__", "_foo_")),
        *((name, False) for name in ("__init__", "__len__", "__doc__", "__name__")),
    ],
)
def test_name_mangled_attributes_are_refused_and_their_lookalikes_are_not(attribute: str, mangled: bool) -> None:
    assert texts(f"x.{attribute}") == ([MANGLED] if mangled else [])


def stdlib(name: str, allowed: str = "none") -> str:
    return f"Import of standard library module '{name}' is disallowed. Allowed stdlib modules: {allowed}"


def test_every_top_level_module_is_refused_once_however_it_is_imported() -> None:
    source = "import os.path, os\nfrom os import path\n__import__('os')\nimport sys\nimport a.b\nfrom a import c"
    external = "Import of external package 'a.b' is disallowed. Allowed external packages: none"
    found = analyse(parse(source), CLOSED)
    assert [(one.line, one.text) for one in found] == [(1, stdlib("os.path")), (4, stdlib("sys")), (5, external)]


def test_refused_import_and_refused_alias_are_two_lines() -> None:
    assert texts("import os as obj", CLOSED) == [stdlib("os"), f"Access to attribute 'obj' {BYPASS}"]


def test_imported_name_gives_one_line_with_the_alias_first() -> None:
    assert texts("from json import __name__ as __spec__") == [f"Access to name '__spec__' {BYPASS}"]
    assert texts("from json import __name__ as x, obj") == [
        f"Access to name '__name__' {BYPASS}",
        f"Access to attribute 'obj' {BYPASS}",
    ]


def test_relative_imports_are_refused_even_when_every_module_is_allowed() -> None:
    relative = "Relative imports are disallowed."
    assert texts("from . import x\nfrom .json import y\nfrom ..json import z") == [relative] * 3


DYNAMIC = "Dynamic __import__() calls are not allowed for security reasons."


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("__import__('os.path')", [stdlib("os.path")]),
        ("__import__('os', fromlist=['path'])", [stdlib("os")]),
        ("__import__(name)", [DYNAMIC]),
        ("__import__('o' + 's')", [DYNAMIC]),
        ("__import__(f'os')", [DYNAMIC]),
        ("__import__(b'os')", [DYNAMIC]),
        ("__import__(1)", [DYNAMIC]),
        ("__import__(*names)", [DYNAMIC]),
        ("__import__(name='os')", [DYNAMIC]),
        ("__import__()", [DYNAMIC]),
        ("builtins.__import__('os')", [stdlib("os"), f"Access to attribute '__import__' {BYPASS}"]),
        ("builtins.__import__(x)", [DYNAMIC, f"Access to attribute '__import__' {BYPASS}"]),
        (
            "__builtins__.__import__('os')",
            [stdlib("os"), f"Access to attribute '__import__' {BYPASS}", f"Access to name '__builtins__' {BYPASS}"],
        ),
        ("x.__import__(y)", [f"Access to attribute '__import__' {BYPASS}"]),
        ("f = __import__", []),
    ],
)
def test_import_function(call: str, expected: list[str]) -> None:
    assert texts(call, CLOSED) == expected


def test_literal_import_of_an_allowed_module_is_fine() -> None:
    assert texts("__import__('json.decoder')", Policy(stdlib_allow=frozenset({"json"}))) == []


@pytest.mark.parametrize("base", ["builtins", "__builtins__", "x.builtins", "x.__builtins__"])
def test_key_of_the_builtins_gives_an_extra_line(base: str) -> None:
    line = f"Access to attribute '__class__' {BYPASS}"
    assert texts(f"{base}['__class__']").count(line) == 2
    assert texts("x['__class__']").count(line) == 1
    assert texts(f"{base}['len']") == texts(base)


def test_chained_attributes_are_reported_outermost_first_and_statements_in_order() -> None:
    source = "a = x.__class__.__base__.__subclasses__()\nimport os\nb = y.__mro__[x.__dict__]\nreturn __name__"
    found = analyse(parse(source), CLOSED)
    words = ["__subclasses__", "__base__", "__class__", "os", "__mro__", "__dict__", "__name__"]
    assert [one.line for one in found] == [1, 1, 1, 2, 3, 3, 4]
    assert [word for one, word in zip(found, words, strict=True) if f"'{word}'" in one.text] == words


def test_lines_and_columns_count_from_one() -> None:
    assert analyse(parse("x = 1\n  \nif x:\n  y = x.obj"), OPEN) == (
        Violation(4, 7, f"Access to attribute 'obj' {BYPASS}"),
    )


def test_match_patterns_by_position_are_refused_once_per_pattern() -> None:
    positional = "Positional match patterns are disallowed for security reasons."
    assert texts("match x:\n case A(1, 2) | B(3): pass\n case C(x=4): pass") == [positional] * 2


@pytest.mark.parametrize("method", ["format", "format_map", "vformat", "get_field"])
def test_format_method_that_is_not_called_on_the_spot_is_refused(method: str) -> None:
    text = f"Extracting '{method}' as a bound method is disallowed; call it directly on its receiver instead."
    assert texts(f"x.{method}(1)(2)\nx().{method}()") == []
    for source in (
        f"f = x.{method}",
        f"map(x.{method}, y)",
        f"(x.{method},)[0](1)",
        f"x.{method}.y()",
        f"@x.{method}\ndef f(): 1",
    ):
        assert texts(source) == [text], source
    assert texts(f"x.{method}(x.{method})") == [text]


def pattern(name: str) -> str:
    return f"String pattern accessing '{name}' {BYPASS}"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("'{x.__class__}'", [pattern("__class__")]),
        ("'{x[__globals__]}'", [pattern("__globals__")]),
        ("'{0:{1.obj}}'", [pattern("obj")]),
        ("'{{x.__class__}}'", []),
        ("'{x.__class__'", []),
        ("'see {x.y} and obj'", []),
        ("b'__class__'", []),
        ("' __class__'", []),
        ("'''__class__'''", [f"Access to attribute '__class__' {BYPASS}"]),
        ("'__cla' 'ss__'", [f"Access to attribute '__class__' {BYPASS}"]),
        ("'__cla' + 'ss__'", [f"Access to attribute '__class__' {BYPASS}"]),
        ("'__' + ('cla' + 'ss') + '__'", [f"Access to attribute '__class__' {BYPASS}"]),
        ("'__na' + 'me__'", [f"Access to name '__name__' {BYPASS}"]),
        ("'{x.__cla' + 'ss__}'", [pattern("__class__")]),
        ("'__cla' + 'ss__' + x", [f"Access to attribute '__class__' {BYPASS}"]),
        ("x + ('__cla' + 'ss__')", [f"Access to attribute '__class__' {BYPASS}"]),
        ("x + '__cla' + 'ss__'", []),
        ("'__cla' + x + 'ss__'", []),
        ("'__cla' + f'ss__'", []),
        ("'__cla' + 1 * 'ss__'", []),
        ("'__class__' % ()", [f"Access to attribute '__class__' {BYPASS}"]),
        ("'__cla' - 'ss__'", []),
        ("'__cla' * 'ss__' + ''", []),
        ("'ob' + 'j' + '1'", []),
        ("f'__class__'", [f"Access to attribute '__class__' {BYPASS}"]),
        ("f'__cla{x}ss__'", []),
        ("f'{x}__class__'", [f"Access to attribute '__class__' {BYPASS}"]),
        ("f'{{x.__class__}}'", [pattern("__class__")]),
        ("f'{x:{y.obj}}'", [f"Access to attribute 'obj' {BYPASS}"]),
        ("'obj' + ''", [f"Access to attribute 'obj' {BYPASS}"] * 2),
    ],
)
def test_text_literals(expression: str, expected: list[str]) -> None:
    assert texts(f"return {expression}") == expected


def test_docstrings_and_annotations_are_literals_too() -> None:
    assert len(texts("def f(x: '__class__'):\n '__dict__'")) == 2


def test_nothing_is_analysed_when_everything_may_be_imported() -> None:
    both = Policy(stdlib_allow=frozenset({"*"}), external_allow=frozenset({"*"}))
    assert texts("from . import x\nx.__class__", both) == []


HARMLESS = [
    "return _items",
    "return [{'json': {**item['json'], 'seen': True}} for item in _items]",
    "return [item for item in _items if item['json'].get('status') == 'active']",
    "_item['json']['total'] = _item['json']['price'] * _item['json']['quantity']\nreturn _item",
    "return [{'json': {'count': len(_items), 'sum': sum(i['json']['n'] for i in _items)}}]",
    "names = sorted({i['json']['name'].strip().title() for i in _items})\nreturn [{'json': {'names': names}}]",
    "groups = {}\nfor i in _items:\n    groups.setdefault(i['json']['k'], []).append(i['json'])\nreturn groups",
    "import json\nreturn [{'json': json.loads(i['json']['body'])} for i in _items]",
    "from datetime import datetime, timedelta\nreturn {'t': (datetime.now() + timedelta(days=1)).isoformat()}",
    "import re\nreturn [{'json': {'mail': re.findall(r'[\\w.]+@[\\w.]+', i['json']['text'])}} for i in _items]",
    "import hashlib, base64\nreturn base64.b64encode(hashlib.sha256(b'x').digest()).decode()",
    "return 'Hello {name}, you owe {amount:>10.2f} {0[currency]}'.format(_item, name='x', amount=3.5)",
    "return '{user.name}: {data[key]}'.format_map(_item)",
    "name = _item['json']['name']\nreturn f'Dear {name!r}, {_item[\"json\"][\"total\"]:,.2f} {{braces}}'",
    "return '%s has %d' % (_item['json']['a'], 3)",
    "def clean(value, *, default=None, **rest):\n    '''Text or default.'''\n    return str(value) or default\n"
    "return [clean(i) for i in _items]",
    "try:\n    return int(_item['json']['n'])\nexcept (ValueError, KeyError) as e:\n    return {'error': str(e)}",
    "match _item['json']:\n    case {'type': 'a', 'v': v, **rest}: return v\n    case [first, *others]: return first\n"
    "    case int() | str(): return 1\n    case _: return None",
    "import math, statistics\nxs = [i['json']['x'] for i in _items]\nreturn [statistics.mean(xs), math.sqrt(2)]",
    "key = lambda item: (item['json']['a'], -item['json']['b'])\nreturn sorted(_items, key=key)",
    "from collections import defaultdict, Counter\nc = Counter(i['json']['t'] for i in _items)\nreturn dict(c)",
    "global total\ntotal = 0\ndef add(n):\n    global total\n    total += n\nadd(1)\nreturn total",
    "print('items:', len(_items))\nreturn _items[:10]",
    "html = '<style>.a { color: red; }</style>' + '<p>' + _item['json']['p'] + '</p>'\nreturn html",
    "query = '{\"query\": {\"match\": {\"name\": \"x\"}}}'\nreturn {'q': query, 'sql': 'select ' + 'a' + ' from b'}",
    "import csv, io\nout = io.StringIO()\ncsv.DictWriter(out, fieldnames=['a']).writeheader()\nreturn out.getvalue()",
    "total: float = 0.0\nwhile total < 3:\n    total += 1.5\nelse:\n    assert total, 'none'\nreturn total",
    "import itertools as it\nreturn [list(g) for _, g in it.groupby(_items, key=lambda i: i['json']['k'])]",
    "rows = _items[0]['json']['rows']\nhead, *tail = rows\nreturn [dict(zip(head, row)) for row in tail]",
    "objects = [o for o in _items]\nreturn {'object': objects[0]['json']['object_id'], '_id': 1}",
]


@pytest.mark.parametrize("source", HARMLESS)
def test_ordinary_programs_are_not_refused(source: str) -> None:
    assert describe(analyse(parse(source), OPEN)) == ""


HOSTILE = {
    "parentheses": "(" * 10_000,
    "closed parentheses": "(" * 10_000 + ")" * 10_000,
    "addition": " + ".join(["'a'"] * 100_000),
    "attributes": "x" + ".__class__" * 100_000,
    "calls": "f" + "()" * 100_000,
    "negations": "-" * 100_000 + "1",
    "lambdas": "lambda: " * 50_000 + "1",
    "powers": "**".join(["1"] * 50_000),
    "branches": "if a: pass\n" + "elif b: pass\n" * 20_000,
    "digits": "1" * 5_000,
    "NUL": "x = 1\0",
    "half a surrogate pair": "x = 1\ny = '\ud800'",
}


@pytest.mark.parametrize("source", [pytest.param(source, id=name) for name, source in HOSTILE.items()])
def test_sources_that_no_parser_takes_are_syntax_errors(source: str) -> None:
    with pytest.raises(SyntaxError) as caught:
        parse(source)
    str(caught.value).encode()
    assert str(caught.value)


def test_refusals_of_our_own_name_the_line() -> None:
    with pytest.raises(SyntaxError, match=r"^source is nested too deeply \(<unknown>, line 1\)$"):
        parse(HOSTILE["negations"])
    with pytest.raises(SyntaxError, match=r"^source holds half of a surrogate pair \(U\+D800\) \(<unknown>, line 2\)$"):
        parse(HOSTILE["half a surrogate pair"])
    with pytest.raises(SyntaxError, match="null bytes"):
        parse(HOSTILE["NUL"])


def deepest(make: Any) -> str:
    """The deepest source of this kind that the parser still takes, to within a tenth."""
    size, source = 200, ""
    while size < 20_000:
        candidate = make(size)
        try:
            parse(candidate)
        except SyntaxError:
            break
        source, size = candidate, size * 11 // 10
    return source


def test_trees_as_deep_as_the_parser_makes_them_are_analysed() -> None:
    chain = deepest(lambda size: "x" + ".obj" * size)
    assert chain.count(".obj") >= 200
    assert len(texts(chain)) == chain.count(".obj")
    for operand in ("''", "x", "'a' * 2"):
        sums = deepest(lambda size, operand=operand: " + ".join([operand] * size) + " + ('ob' + 'j')")
        assert texts(sums)[-1:] == [f"Access to attribute 'obj' {BYPASS}"]


def test_a_huge_line_takes_time_in_proportion() -> None:
    def seconds(size: int) -> float:
        tree = parse("x = [" + "{'a': 'b' + 'c' + d, 'e': '{f.g}'}, " * size + "]")
        start = time.perf_counter()
        assert analyse(tree, OPEN) == ()
        return time.perf_counter() - start

    small = min(seconds(500) for _ in range(3))
    assert seconds(10_000) < 20 * small * 5


@given(st.text())
@example("'\\d'")
@settings(max_examples=200, deadline=None)
def test_any_text_is_analysed_or_a_syntax_error(source: str) -> None:
    try:
        tree = parse(source)
    except SyntaxError:
        return
    describe(analyse(tree, CLOSED)).encode()


def test_strange_escapes_raise_no_warning_and_leave_no_filter_behind() -> None:
    filters = list(warnings.filters)
    assert isinstance(parse(r"x = '\d'; x is 1"), ast.Module)
    assert warnings.filters == filters


def test_description_is_one_line_per_violation() -> None:
    assert describe([Violation(1, 1, "a"), Violation(3, 5, "b")]) == "Line 1: a\nLine 3: b"
    assert describe([]) == ""


def test_description_ends_after_a_hundred_lines_with_what_is_left() -> None:
    exactly = describe([Violation(n, 1, "x") for n in range(100)]).split("\n")
    assert len(exactly) == 100
    assert exactly[-1] == "Line 99: x"
    more = describe([Violation(n, 1, "x") for n in range(142)]).split("\n")
    assert more[99:] == ["Line 99: x", "… and 42 more violations."]


def test_description_ends_after_sixteen_kibibytes_with_what_is_left() -> None:
    description = describe([Violation(n, 1, "é" * 1000) for n in range(50)])
    assert 14_000 < len(description.encode()) < 16 * 1024 + 100
    assert description.endswith("\n… and 42 more violations.")


def test_one_endless_module_name_is_cut() -> None:
    description = describe(analyse(parse(f"import {'é' * 100_000}\nimport os"), CLOSED))
    first, second = description.split("\n")
    assert len(first.encode()) < 9_000
    assert first.endswith("é…")
    assert second == f"Line 2: {stdlib('os')}"


def test_a_module_name_that_cannot_be_encoded_can_still_be_reported() -> None:
    assert "'\\ud800'" in describe(analyse(parse(r"__import__('\ud800')"), CLOSED))
