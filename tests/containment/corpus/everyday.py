"""Programs with nothing wrong in them, of the kind that a filter by words or a careless wrapper breaks."""

from __future__ import annotations

from tests.containment.corpus import CLASSES, SAFE, Ends, harmless

# --- the language

harmless("return-a-list", "plain", "return [1, 2]", [1, 2])
harmless("no-return", "plain", "x = 1", None)
harmless(
    "generator-function",
    "generators",
    "def squares(n):\n    for i in range(n):\n        yield i * i\nreturn list(squares(4))",
    [0, 1, 4, 9],
)
harmless("generator-expression", "generators", "return sum(i * i for i in range(10) if i % 2)", 165)
harmless(
    "generator-send",
    "generators",
    "def g():\n    got = yield 1\n    yield got * 2\nh = g()\nnext(h)\nreturn h.send(21)",
    42,
)
harmless("yield-from", "generators", "def g():\n    yield from [1, 2]\n    yield 3\nreturn [*g()]", [1, 2, 3])
harmless(
    "closure-counter",
    "closures",
    """
    def counter():
        n = 0
        def step():
            nonlocal n
            n += 1
            return n
        return step
    step = counter()
    step()
    return step()
    """,
    2,
)
harmless("closures-in-a-loop", "closures", "return [f() for f in [lambda i=i: i for i in range(3)]]", [0, 1, 2])
harmless(
    "decorator",
    "decorators",
    """
    def twice(function):
        def run(*args):
            return function(*args) * 2
        return run
    @twice
    def add(a, b): return a + b
    return add(1, 2)
    """,
    6,
)
harmless(
    "decorator-with-arguments",
    "decorators",
    """
    import functools
    def times(n):
        def wrap(function):
            @functools.wraps(function)
            def run(*a, **k): return function(*a, **k) * n
            return run
        return wrap
    @times(3)
    def name(): return "ab"
    return name()
    """,
    "ababab",
    allow=SAFE,
)
harmless(
    "match-literals",
    "match patterns",
    """
    def kind(value):
        match value:
            case 0 | 1: return "bit"
            case str() as text if text: return text
            case [first, *rest]: return len(rest)
            case {"a": a, **others}: return [a, others]
            case None: return "nothing"
            case _: return "else"
    return [kind(v) for v in (1, "x", [1, 2, 3], {"a": 1, "b": 2}, None, 2.5)]
    """,
    ["bit", "x", 2, [1, {"b": 2}], "nothing", "else"],
)
harmless(
    "match-keyword-class",
    "match patterns",
    """
    match 3 + 4j:
        case complex(real=r, imag=i):
            return [r, i]
    """,
    [3.0, 4.0],
)
harmless(
    "match-positional-class",
    "match patterns",
    "match 7:\n    case int(n): return n",
    7,
    compat=Ends(("Positional match patterns",)),
)
harmless("recursion", "recursion", "def f(n): return 1 if n < 2 else n * f(n - 1)\nreturn f(20)", 2432902008176640000)
harmless(
    "mutual-recursion",
    "recursion",
    "def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - 1)\nreturn even(100)",
    True,
)
harmless(
    "flatten",
    "recursion",
    """
    def flat(value):
        for part in value:
            if isinstance(part, list):
                yield from flat(part)
            else:
                yield part
    return list(flat([1, [2, [3, [4]]]]))
    """,
    [1, 2, 3, 4],
)
harmless(
    "sort-by-key", "sorting", 'return [i["json"]["n"] for i in sorted(_items, key=lambda i: i["json"]["n"])]', [1, 3]
)
harmless(
    "sort-by-two-keys", "sorting", 'return sorted(["bb", "a", "aa"], key=lambda t: (-len(t), t))', ["aa", "bb", "a"]
)
harmless("max-with-default", "sorting", "return [max([], default=0), min([3, 1], key=abs)]", [0, 1])
harmless(
    "exceptions",
    "exceptions",
    """
    seen = []
    try:
        try:
            int("x")
        except ValueError as error:
            raise RuntimeError("wrapped") from error
        finally:
            seen.append("finally")
    except RuntimeError as error:
        seen += [str(error), str(error.__cause__)[:15]]
    else:
        seen.append("else")
    return seen
    """,
    ["finally", "wrapped", "invalid literal"],
)
harmless(
    "exception-group",
    "exceptions",
    """
    got = []
    try:
        raise ExceptionGroup("g", [ValueError("a"), KeyError("b")])
    except* ValueError as group:
        got.append(len(group.exceptions))
    except* KeyError:
        got.append("key")
    return got
    """,
    [1, "key"],
)
harmless(
    "assertion",
    "exceptions",
    'try:\n    assert not _items, "there are items"\nexcept AssertionError as error:\n    return str(error)',
    "there are items",
)
harmless("walrus", "expressions", "return [y for x in range(5) if (y := x * x) > 3]", [4, 9, 16])
harmless(
    "conditional-lambda",
    "expressions",
    "return list(map(lambda x: 'odd' if x % 2 else 'even', [1, 2]))",
    ["odd", "even"],
)
harmless(
    "star-expressions",
    "expressions",
    "a, *b = [1, 2, 3]\nreturn {**{'a': a}, 'b': [*b, *b]}",
    {"a": 1, "b": [2, 3, 2, 3]},
)
harmless("chained-comparison", "expressions", "x = 5\nreturn 1 < x <= 5 != 6", True)
harmless("slices", "expressions", "t = list(range(10))\nt[2:8:2] = 'abc'\nreturn t[::-3]", [9, "c", 3, 0])
harmless(
    "set-and-dict-comprehensions",
    "expressions",
    "return [len({i % 3 for i in range(9)}), {str(k): v for k, v in zip('ab', [1, 2])}]",
    [3, {"a": 1, "b": 2}],
)
harmless("big-integers", "numbers", "return [2 ** 64, -(2 ** 80), 10 ** 30 // 7]", [2**64, -(2**80), 10**30 // 7])
harmless("long-decimal-text", "numbers", "return len(str(10 ** 3000))", 3001)
harmless(
    "bit-tricks",
    "numbers",
    "return [0xFF ^ 0b1010, 1 << 20, ~5, bin(10), hex(255), (255).bit_length()]",
    [245, 1048576, -6, "0b1010", "0xff", 8],
)
harmless(
    "floats",
    "numbers",
    "return [0.1 + 0.2, round(2.675, 2), 1e308 * 10 > 1, 7 // -2, -7 % 3]",
    [0.30000000000000004, 2.67, True, -4, 2],
)
harmless("divmod-and-pow", "numbers", "return [divmod(17, 5), pow(3, 100, 7)]", [[3, 2], 4])
harmless(
    "multi-line-string",
    "strings",
    'text = """first\n  second\n\n    fourth"""\nreturn text.splitlines()',
    ["first", "  second", "", "    fourth"],
)
harmless("multi-line-string-in-a-function", "strings", 'def f():\n    return """a\n    b"""\nreturn f()', "a\n    b")
harmless("backslash-continuation", "strings", "x = 1 + \\\n    2\ny = 'a' \\\n    'b'\nreturn [x, y]", [3, "ab"])
harmless(
    "f-strings",
    "strings",
    'n, w = 3.14159, 10\nreturn f\'{n:{w}.2f}|{n!r:>9}|{{}}|{_items[0]["json"]["name"]}\'',
    "      3.14|  3.14159|{}|Zoë",
)
harmless("f-string-with-equals", "strings", "x = 5\nreturn f'{x=} {x + 1 = }'", "x=5 x + 1 = 6")
harmless("format-positional", "format specs", 'return "{} {1} {0:>5}".replace("{} ", "").format("a", "b")', "b     a")
harmless("format-attribute-of-a-number", "format specs", 'return "{0.real:.1f} {0.imag}".format(2.5)', "2.5 0.0")
harmless(
    "format-attribute-of-a-date",
    "format specs",
    'import datetime\nreturn "{0.year}-{0.month:02d} {0:%d.%m.%Y}".format(datetime.date(2024, 2, 29))',
    "2024-02 29.02.2024",
    allow=SAFE,
)
harmless("format-by-key", "format specs", 'return "{a[x]} {b[0]}".format(a={"x": 1}, b=[2])', "1 2")
harmless("format-map", "format specs", 'return "{name}: {n}".format_map(_items[0]["json"])', "Zoë: 3")
harmless(
    "format-nested-spec",
    "format specs",
    'return "{:{fill}{align}{width}}".format("x", fill="*", align="^", width=5)',
    "**x**",
)
harmless("format-escaped-braces", "format specs", 'return "{{{0}}} {{0.x}}".format(1)', "{1} {0.x}")
harmless("format-conversion", "format specs", 'return "{0!r} {0!s} {0!a}".format("é")', "'é' é '\\xe9'")
harmless("percent-formatting", "format specs", 'return "%(n)05.1f %(name)s %%" % _items[0]["json"]', "003.0 Zoë %")
harmless(
    "string-methods",
    "strings",
    'return ["a-b".partition("-"), "abc".translate({97: "x"}), "ß".upper(), " x ".strip(), "a,b".split(",")]',
    [["a", "-", "b"], "xbc", "SS", "x", ["a", "b"]],
)
harmless(
    "bytes-round-trip",
    "strings",
    'return ["é".encode().hex(), bytes.fromhex("c3a9").decode(), list(bytearray(b"ab"))]',
    ["c3a9", "é", [97, 98]],
)
harmless("unicode-names", "unicode", "größe = 3\nπ = 3.14\n変数 = 'x'\nreturn [größe, π, 変数]", [3, 3.14, "x"])
harmless(
    "emoji-and-combining",
    "unicode",
    'return ["👩‍👩‍👧".encode().hex()[:8], len("e\\u0301"), "🎉" * 2]',
    ["f09f91a9", 2, "🎉🎉"],
)
harmless("unicode-casefold", "unicode", 'return "STRASSE".casefold() == "straße".casefold()', True)

# --- words that look like attacks

harmless(
    "obj-as-a-literal",
    "names that look bad",
    'return [i["json"]["n"] for i in _items if i["json"]["name"] == "obj"]',
    [1],
    compat=Ends(("'obj'",)),  # n8n's own rule, as odd as it is
)
harmless("obj-in-data", "names that look bad", 'return _items[1]["json"]["name"]', "obj")
harmless(
    "object-as-a-key", "names that look bad", 'return {"object": 1, "class": 2, "import": 3, "eval": 4}["eval"]', 4
)
harmless("obj-as-a-variable", "names that look bad", 'obj = {"a": 1}\nreturn [obj["a"], obj.get("b")]', [1, None])
harmless(
    "exec-in-a-text",
    "names that look bad",
    "return \"please exec(open('x')) and __import__('os')\"",
    "please exec(open('x')) and __import__('os')",
)
harmless(
    "dunders-in-a-text",
    "names that look bad",
    'return "see __class__ and __mro__ in the manual"',
    "see __class__ and __mro__ in the manual",
)
harmless(
    "underscored-names", "names that look bad", "_private = 1\n__two = 2\n_x_ = 3\nreturn _private + __two + _x_", 6
)
harmless("method-called-get-field", "names that look bad", 'd = {"get": 1}\nreturn d.get("get")', 1)
harmless(
    "dunder-methods-called",
    "names that look bad",
    'return ["a".__len__(), (3).__add__(4), [1].__contains__(1)]',
    [1, 7, True],
)
harmless("doc-attribute", "names that look bad", 'def f():\n    "what it does"\nreturn f.__doc__', "what it does")
harmless(
    "items-rebound", "names that look bad", '_items = [i for i in _items if i["json"]["n"] > 1]\nreturn len(_items)', 1
)
harmless(
    "type-word-in-keys",
    "names that look bad",
    'return [{"json": {"type": "x", "id": 1, "format": "y"}}]',
    [{"json": {"type": "x", "id": 1, "format": "y"}}],
)
harmless("comment-with-words", "names that look bad", "# __builtins__, eval, os.system('rm')\nreturn 1", 1)

# --- print

harmless("print-with-sep-and-end", "print", 'print(1, "a", sep="-", end="")\nprint([1])\nreturn 1', 1)
harmless("print-many-kinds", "print", 'print(None, 1.5, {"a": 1}, "é", (1, 2), {1})\nreturn 1', 1)
harmless("print-returns-none", "print", "return print(1)", None)

# --- modules of @safe

harmless(
    "json-round-trip",
    "modules",
    "import json\nreturn json.loads(json.dumps(_items, ensure_ascii=False)) == _items",
    True,
    allow=SAFE,
)
harmless(
    "strptime",
    "modules",
    'from datetime import datetime\nreturn datetime.strptime("2024-02-29 13:45", "%Y-%m-%d %H:%M").isoformat()',
    "2024-02-29T13:45:00",
    allow=SAFE,
)
harmless(
    "time-zones",
    "modules",
    "from datetime import datetime\nfrom zoneinfo import ZoneInfo\n"
    'return datetime(2024, 7, 1, tzinfo=ZoneInfo("Europe/Berlin")).utcoffset().total_seconds()',
    7200.0,
    allow=SAFE,
)
harmless(
    "regular-expressions",
    "modules",
    r'import re\nreturn [re.findall(r"\d+", "a1b22"), re.sub(r"(?P<x>a)", r"<\g<x>>", "aba")]'.replace(r"\n", "\n"),
    [["1", "22"], "<a>b<a>"],
    allow=SAFE,
)
harmless(
    "regular-expression-function",
    "modules",
    'import re\nreturn re.sub(r"[a-z]", lambda m: m.group().upper(), "a1b")',
    "A1B",
    allow=SAFE,
)
harmless(
    "counter-and-groupby",
    "modules",
    """
    from collections import Counter
    from itertools import groupby
    runs = [[k, len([*g])] for k, g in groupby("aab")]
    return [Counter("abca").most_common(1), runs]
    """,
    [[["a", 2]], [["a", 2], ["b", 1]]],
    allow=SAFE,
)
harmless(
    "decimal-and-fractions",
    "modules",
    """
    from decimal import Decimal
    from fractions import Fraction
    return [str(Decimal("0.1") * 3), str(Fraction(1, 3) + Fraction(1, 6))]
    """,
    ["0.3", "1/2"],
    allow=SAFE,
)
harmless(
    "hashes-and-base64",
    "modules",
    'import hashlib, base64\nreturn [hashlib.sha256(b"x").hexdigest()[:8], base64.b64encode(b"x").decode()]',
    ["2d711642", "eA=="],
    allow=SAFE,
)
harmless(
    "uuid-and-random",
    "modules",
    "import uuid, random\nrandom.seed(7)\nreturn [len(str(uuid.uuid4())), random.randint(1, 6) in range(1, 7)]",
    [36, True],
    allow=SAFE,
)
harmless(
    "csv-from-text",
    "modules",
    'import csv\nreturn [row for row in csv.reader(["a;b", "1;\\"2;3\\""], delimiter=";")]',
    [["a", "b"], ["1", "2;3"]],
    allow=SAFE,
)
harmless(
    "string-template",
    "modules",
    'import string\nreturn string.Template("$a-$b").substitute(a=1, b=2)',
    "1-2",
    allow=SAFE,
)
harmless(
    "statistics-and-math",
    "modules",
    "import statistics, math\nreturn [statistics.median([1, 5, 3]), math.isclose(math.pi, 3.14159, rel_tol=1e-4)]",
    [3, True],
    allow=SAFE,
)
harmless(
    "textwrap-and-html",
    "modules",
    'import textwrap, html\nreturn [textwrap.dedent("  a\\n   b"), html.escape("<a>")]',
    ["a\n b", "&lt;a&gt;"],
    allow=SAFE,
)
harmless(
    "copy-and-heapq",
    "modules",
    "import copy, heapq\nd = copy.deepcopy({'a': [1]})\nd['a'].append(2)\nreturn [d, heapq.nsmallest(2, [3, 1, 2])]",
    [{"a": [1, 2]}, [1, 2]],
    allow=SAFE,
)
harmless(
    "xml-parse-text",
    "modules",
    "import xml.etree.ElementTree as tree\nreturn tree.fromstring(\"<a><b x='1'/></a>\")[0].attrib",
    {"x": "1"},
    allow=SAFE,
)
harmless(
    "time-and-sleep",
    "modules",
    "import time\nstart = time.monotonic()\ntime.sleep(0.001)\nreturn time.monotonic() > start",
    True,
    allow=SAFE,
)
harmless(
    "struct-and-zlib",
    "modules",
    """
    import struct, zlib
    return [struct.pack("<H", 258).hex(), zlib.decompress(zlib.compress(b"x" * 99)) == b"x" * 99]
    """,
    ["0201", True],
    allow=SAFE,
)
harmless(
    "idna-and-codecs",
    "modules",
    'return ["bücher".encode("idna").decode(), "x".encode("utf-16-le").hex(), "é".encode("latin-1").hex()]',
    ["xn--bcher-kva", "7800", "e9"],
)
harmless(
    "pprint-and-difflib",
    "modules",
    """
    import difflib, pprint
    close = difflib.get_close_matches("appel", ["apple", "x"])
    return [close, pprint.pformat({"b": 1, "a": 2})]
    """,
    [["apple"], "{'a': 2, 'b': 1}"],
    allow=SAFE,
)
harmless(
    "tomllib-and-ipaddress",
    "modules",
    'import tomllib, ipaddress\nreturn [tomllib.loads("a = 1"), str(ipaddress.ip_address("::1"))]',
    [{"a": 1}, "::1"],
    allow=SAFE,
)

# --- classes, where the operator allows them

harmless(
    "plain-class",
    "classes",
    """
    class Point:
        def __init__(self, x, y): self.x, self.y = x, y
        def __add__(self, other): return Point(self.x + other.x, self.y + other.y)
        def __repr__(self): return f"<{self.x},{self.y}>"
    return repr(Point(1, 2) + Point(3, 4))
    """,
    "<4,6>",
    allow=CLASSES,
)
harmless(
    "inheritance-and-super",
    "classes",
    """
    class A:
        def who(self): return ["A"]
    class B(A):
        def who(self): return ["B", *super().who()]
    return B().who()
    """,
    ["B", "A"],
    allow=CLASSES,
)
harmless(
    "dataclass",
    "classes",
    """
    from dataclasses import dataclass, field, asdict
    @dataclass(order=True)
    class Row:
        n: int
        tags: list[str] = field(default_factory=list)
    return [asdict(r) for r in sorted([Row(2), Row(1, ["x"])])]
    """,
    [{"n": 1, "tags": ["x"]}, {"n": 2, "tags": []}],
    allow=CLASSES,
)
harmless(
    "named-tuple-and-enum",
    "classes",
    """
    from collections import namedtuple
    from enum import Enum, IntFlag
    P = namedtuple("P", "x y")
    class Colour(Enum):
        RED = 1
    class Bit(IntFlag):
        A = 1
        B = 2
    return [P(1, 2)._asdict(), Colour.RED.name, int(Bit.A | Bit.B)]
    """,
    [{"x": 1, "y": 2}, "RED", 3],
    allow=CLASSES,
)
harmless(
    "property-and-static",
    "classes",
    """
    class T:
        _n = 1
        @property
        def n(self): return self._n
        @n.setter
        def n(self, value): self._n = value
        @staticmethod
        def two(): return 2
        @classmethod
        def three(cls): return cls.two() + 1
    t = T()
    t.n = 5
    return [t.n, T.two(), T.three()]
    """,
    [5, 2, 3],
    allow=CLASSES,
)
harmless(
    "context-manager",
    "classes",
    """
    from contextlib import contextmanager
    seen = []
    @contextmanager
    def step(name):
        seen.append(name)
        yield name.upper()
        seen.append("end")
    with step("a") as upper:
        seen.append(upper)
    return seen
    """,
    ["a", "A", "end"],
    allow=CLASSES,
)
harmless(
    "getattr-and-type",
    "classes",
    'return [getattr("abc", "upper")(), type(1) is int, hasattr([], "append")]',
    ["ABC", True, True],
    allow=CLASSES,
)

# --- each item, and what is returned

harmless(
    "each-item",
    "each item",
    'return {"twice": _item["json"]["n"] * 2}',
    [{"json": {"twice": 6}, "pairedItem": {"item": 0}}, {"json": {"twice": 2}, "pairedItem": {"item": 1}}],
    each_item=True,
)
harmless(
    "each-item-filtered",
    "each item",
    'return _item if _item["json"]["n"] > 2 else None',
    [{"json": {"n": 3, "name": "Zoë"}, "pairedItem": {"item": 0}}],
    each_item=True,
)
harmless(
    "result-of-many-kinds",
    "results",
    'return [(1, 2), {3}, 1 + 2j, range(3), b"x", frozenset()]',
    [[1, 2], "{3}", "(1+2j)", "range(0, 3)", "b'x'", "frozenset()"],
)
harmless(
    "result-with-odd-keys",
    "results",
    "return {1: 'a', None: 'b', True: 'c', 2.5: 'd'}",
    {"1": "c", "null": "b", "2.5": "d"},
)
harmless("result-of-a-date", "results", "import datetime\nreturn datetime.date(2024, 1, 2)", "2024-01-02", allow=SAFE)
harmless(
    "items-changed-in-place",
    "results",
    'for item in _items:\n    item["json"]["n"] += 1\nreturn [i["json"]["n"] for i in _items]',
    [4, 2],
)
harmless("shared-structure", "results", 'a = {"x": 1}\nreturn [a, a, {"a": a}]', [{"x": 1}, {"x": 1}, {"a": {"x": 1}}])
harmless("query-is-there", "results", "return _query", None)
