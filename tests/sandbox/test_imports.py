"""Imports at run time: user code meets the policy on every road, packages and the language itself never do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from tests.sandbox.program_kit import OPEN, allowing, run
from trio_runner.sandbox.imports import SecurityViolationError, make_builtins, make_import
from trio_runner.sandbox.policy import DEFAULT_BUILTINS_DENY, Policy

ROOT = Path(__file__).parent.parent.parent
STDLIB_TEXT = "Import of standard library module '{}' is disallowed. Allowed stdlib modules: {}"
EXTERNAL_TEXT = "Import of external package '{}' is disallowed. Allowed external packages: {}"

Import = Callable[..., Any]


def violation(call: Callable[..., object], *arguments: Any) -> str:
    """The description of the violation that a call meets."""
    with pytest.raises(SecurityViolationError, match=r"^Security violation detected$") as caught:
        call(*arguments)
    return caught.value.description


# The guard


@pytest.mark.parametrize(
    ("policy", "name", "text"),
    [
        (Policy(), "os", STDLIB_TEXT.format("os", "none")),
        (Policy(), "os.path", STDLIB_TEXT.format("os.path", "none")),
        (Policy(), "requests", EXTERNAL_TEXT.format("requests", "none")),
        (allowing("json", "re"), "os", STDLIB_TEXT.format("os", "json, re")),
        (allowing("json", external=("pandas",)), "requests.api", EXTERNAL_TEXT.format("requests.api", "pandas")),
        (allowing("*"), "msgspec", EXTERNAL_TEXT.format("msgspec", "none")),
        (allowing(external=("*",)), "json", STDLIB_TEXT.format("json", "none")),
        (allowing("os.path"), "os.path", STDLIB_TEXT.format("os.path", "os.path")),
        (Policy(), "", EXTERNAL_TEXT.format("", "none")),
        (Policy(), "trio_runner.sandbox.imports", EXTERNAL_TEXT.format("trio_runner.sandbox.imports", "none")),
        (Policy(), "builtins", STDLIB_TEXT.format("builtins", "none")),
        (Policy(), "sys", STDLIB_TEXT.format("sys", "none")),
    ],
)
def test_what_is_not_allowed_is_refused_in_the_words_of_the_reference(policy: Policy, name: str, text: str) -> None:
    assert violation(make_import(policy), name).startswith(text)


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        (allowing("json"), "json"),
        (allowing("json"), "json.decoder"),
        (allowing("*"), "os.path"),
        (allowing(external=("msgspec",)), "msgspec.json"),
        (allowing(external=("*",)), "msgspec"),
        (OPEN, "importlib"),
    ],
)
def test_what_is_allowed_is_imported_for_real(policy: Policy, name: str) -> None:
    top, _, rest = name.partition(".")
    assert make_import(policy)(name) is sys.modules[top]
    assert make_import(policy)(name, None, None, ("x",) if rest else None) is sys.modules[name]


@pytest.mark.parametrize("level", [1, 2, 100])
def test_relative_imports_are_refused(level: int) -> None:
    for name in ("", "os", "json"):
        description = violation(make_import(OPEN), name, {"__package__": "trio_runner"}, None, ("x",), level)
        assert description.startswith("Relative imports are disallowed.")


class Chameleon(str):
    """Another text each time it is asked."""

    def partition(self, sep: str) -> tuple[str, str, str]:
        return ("json", "", "")

    def startswith(self, *_: Any) -> bool:
        return False

    def __str__(self) -> Any:
        return self

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("json")


@pytest.mark.parametrize("name", [Chameleon("os"), 5, None, b"os", ["os"]])
def test_only_real_texts_are_names_of_modules(name: Any) -> None:
    policy = allowing("json", "importlib")
    view = make_import(policy)("importlib")
    for function in (make_import(policy), view.import_module, view.__import__):
        with pytest.raises(TypeError):
            function(name)
    with pytest.raises(TypeError):
        view.import_module(".x", Chameleon("os"))
    with pytest.raises(TypeError):
        make_import(policy)("json", None, None, (), True)


def test_no_road_from_a_program_leads_around_the_guard() -> None:
    policy = allowing("json", deny=frozenset())
    for source in (
        "f = __import__\nreturn f('os')",
        "return [*map(__import__, ['os'])]",
        "import json\nf = __import__\nreturn f('json', {}, {}, (), 0) and f('os.path')",
        "def f(i=__import__): return i('os')\nreturn f()",
    ):
        with pytest.raises(SecurityViolationError):
            run(source, policy)
    with pytest.raises(NameError):
        run("return __import_", policy)


def test_import_statements_of_all_kinds_meet_the_guard_when_nothing_was_analysed() -> None:
    """As if the analysis had missed them."""
    names: dict[str, Any] = {"__builtins__": make_builtins(allowing("json"), print)}
    for statement in ("import os", "import os.path as p", "from os import path", "from os.path import join as j"):
        with pytest.raises(SecurityViolationError):
            exec(statement, names)
    exec("import json, json.decoder as d\nfrom json import loads", names)
    assert names["loads"]("1") == 1


# What the language imports for itself

TOO_HUGE = "try: str(10**10_000)\nexcept ValueError as e: return str(e)[:17]"

RUNTIME: dict[str, tuple[str, str, Any]] = {
    # name: (what makes the input, in a fresh interpreter; the program; its result)
    "datetime.strptime": ("import datetime; x = datetime.datetime", "return x.strptime('2024-02', '%Y-%m').month", 2),
    "time.strptime": ("import time; x = time.strptime", "return x('2024', '%Y')[0]", 2024),
    "strftime": ("import datetime; x = datetime.date(2024, 1, 2)", "return x.strftime('%d') + f'{x:%m}'", "0201"),
    "timetuple": ("import datetime; x = datetime.date(2024, 1, 2)", "return x.timetuple()[7]", 2),
    "idna": ("x = 1", "return list('bücher.de'.encode('idna'))[:4]", list(b"xn--")),
    "punycode": ("x = 1", "return list('ü'.encode('punycode'))", list(b"tda")),
    "other codecs": ("x = 1", "return [len('ä'.encode(c)) for c in ('cp437', 'utf-7', 'utf-32')]", [1, 5, 8]),
    "names of characters": ("x = 1", "return '\\N{BULLET}'", "•"),
    "namereplace": ("x = 1", "return len('•'.encode('ascii', 'namereplace'))", len("\\N{BULLET}")),
    "unicode_escape": ("x = 1", "return rb'\\N{BULLET}'.decode('unicode_escape')", "•"),
    "huge division": ("x = 1", "return 10**200_000 // (10**199_999 + 1)", 9),
    "huge text to int": ("import sys; sys.set_int_max_str_digits(0); x = 1", "return int('9' * 10_000) % 1000", 999),
    "huge int to text": ("import sys; sys.set_int_max_str_digits(0); x = 1", "return len(str(10**10_000))", 10_001),
    "too huge": ("import sys; sys.set_int_max_str_digits(4300); x = 1", TOO_HUGE, "Exceeds the limit"),
    "decimal": ("import decimal; x = decimal.Decimal", "return str(x(1) / 3)[:4] + f'{x(5):.2f}'", "0.335.00"),
    "fractions": ("import fractions; x = fractions.Fraction", "return str(x('1/3') + 1)", "4/3"),
    "patterns": ("import re; x = re.compile('b')", "return x.sub(r'<\\g<0>>', 'abc')", "a<b>c"),
    "copies": ("import copy; x = copy.deepcopy, {'a': [1]}.keys", "f, v = x\nreturn f([*v()])", ["a"]),
    "mappings": ("import collections as c; x = c.ChainMap({'a': 1})", "match x:\n  case {'a': n}: return n", 1),
    "zones": ("import zoneinfo as z, datetime as d; x = d.datetime.now(z.ZoneInfo('UTC'))", "return x.tzname()", "UTC"),
    "warnings": ("x = 1", "return ~True", -2),
    "recursion": ("x = 1", "def f(): return f()\ntry: f()\nexcept RecursionError: return 'deep'", "deep"),
    "array": ("import array, copy; x = copy.copy, array.array('i', [1])", "f, v = x\nreturn f(v)[0]", 1),
    "typing": ("import typing; x = typing.TypeVar('T')", "return str(list[x] | None)[:8]", "list[~T]"),
}

SCRIPT = """
import json, sys
from tests.sandbox.program_kit import Policy, run
results = {}
cases = json.loads(sys.stdin.read())
only = frozenset({"eval", "exec", "open", "compile", "input", "type", "getattr"})
for name, (make, source) in cases.items():
    place = {}
    exec(make, place)
    for module in ("_strptime", "_pylong", "copyreg", "stringprep", "encodings.idna", "locale"):
        sys.modules.pop(module, None)
    try:
        results[name] = run("x = _items\\n" + source, Policy(builtins_deny=only), items=place["x"])
    except BaseException as error:
        results[name] = repr(error) + str(getattr(error, "description", ""))
print(json.dumps(results))
"""


def in_a_fresh_interpreter(script: str, stdin: str = "", **variables: str) -> Any:
    """What a script prints as JSON. Modules that this process has loaded must not help it."""
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-W", "ignore", "-c", script],
        cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=60, check=False,
        env={"PYTHONPATH": variables.get("path", ""), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout)


def test_what_the_language_imports_behind_the_authors_back_works_with_empty_allowlists() -> None:
    cases = {name: [make, source] for name, (make, source, _) in RUNTIME.items()}
    results = in_a_fresh_interpreter(SCRIPT, msgspec.json.encode(cases).decode())
    assert results == {name: result for name, (_, _, result) in RUNTIME.items()}


@pytest.mark.parametrize("name", ["_strptime", "warnings", "traceback", "linecache", "copyreg", "time", "typing"])
def test_user_code_gets_none_of_these_modules(name: str) -> None:
    guarded = make_import(Policy())
    for fromlist in ((), None, ("x",), ("",)):
        assert violation(guarded, name, None, None, fromlist).startswith("Import of standard")
    # asked for the way the interpreter asks: loaded, and not handed out
    assert guarded(name, {}, {}, [], 0) is None
    assert name in sys.modules


# importlib as user code sees it


@pytest.mark.parametrize(
    "source",
    [
        "import importlib\nreturn importlib.import_module('os')",
        "import importlib\nreturn importlib.import_module('.path', 'os')",
        "import importlib\nreturn importlib.import_module('os.path')",
        "from importlib import import_module\nreturn import_module('os')",
        "from importlib import import_module as im\nreturn im(name='os')",
        "import importlib as i\nreturn [*map(i.import_module, ['os'])]",
        "import importlib.util\nreturn importlib.import_module('os')",
        "import importlib.machinery\nreturn importlib.import_module('os')",
        "import importlib.util, importlib\nreturn importlib.import_module('os')",
        "import importlib.util as u\nimport importlib\nreturn importlib.import_module('os')",
        "from importlib import util\nimport importlib\nreturn importlib.import_module('os')",
        "f = __import__\nreturn f('importlib.util').import_module('os')",
        "f = __import__\nreturn f('importlib', {}, {}, ('util', 'abc')).import_module('os')",
    ],
)
def test_importlib_checks_every_import_whichever_way_it_was_imported_itself(source: str) -> None:
    with pytest.raises(SecurityViolationError) as caught:
        run(source, allowing("importlib", "json"))
    assert caught.value.description.startswith("Import of standard library module 'os")


def test_importlib_imports_what_is_allowed() -> None:
    policy = allowing("importlib", "json", external=("msgspec",))
    source = (
        "import importlib\nfrom importlib import util, machinery, metadata\n"
        "import importlib.resources as r, importlib.abc\n"
        "from importlib.util import find_spec\n"
        "im = importlib.import_module\n"
        "return [im('json').loads('1'), im('.decoder', package='json').JSONDecoder().decode('2'),\n"
        " im('msgspec') is not None,\n"
        " importlib.util is util, find_spec('json').name, r.files is not None, importlib.abc.Loader is not None,\n"
        " metadata.version('msgspec') != '', machinery.SOURCE_SUFFIXES]"
    )
    assert run(source, policy) == [1, 2, True, True, "json", True, True, True, [".py"]]


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import importlib\nreturn importlib.reload", AttributeError),
        ("from importlib import reload", ImportError),
        ("from importlib import no_such_thing", ImportError),
        ("import importlib.no_such_thing", ImportError),
        ("import importlib\nreturn importlib.import_module('.x')", TypeError),
        ("import importlib\nreturn importlib.import_module('...x', 'json')", ImportError),
        ("import importlib\nreturn importlib.import_module('')", SecurityViolationError),
    ],
)
def test_what_importlib_does_not_have_fails_as_usual(source: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        run(source, allowing("importlib", "json"))


def test_the_view_is_a_module_and_not_the_real_one() -> None:
    view = make_import(allowing("importlib"))("importlib")
    assert isinstance(view, ModuleType)
    assert view is not sys.modules["importlib"]
    assert not {"_bootstrap", "_bootstrap_external", "sys", "_imp"} & vars(view).keys()
    assert violation(view.__import__, "os").startswith("Import of standard")
    assert violation(view.__import__, "json", None, None, (), 1)
    assert make_import(OPEN)("importlib") is sys.modules["importlib"]


# Packages


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """``alpha_pkg`` needs ``beta_pkg`` and the standard library, at once and later on."""
    alpha = tmp_path / "alpha_pkg"
    alpha.mkdir()
    (alpha / "__init__.py").write_text(
        "import beta_pkg, os, warnings\nfrom . import inner\n"
        "def lazily():\n    import shlex, beta_pkg.late\n"
        "    with warnings.catch_warnings():\n        warnings.simplefilter('ignore')\n        warnings.warn(os.sep)\n"
        "        return beta_pkg.late.VALUE + len(shlex.split('a b'))\n"
        "def by_name(name):\n    import importlib\n    return importlib.import_module(name).__name__\n"
    )
    (alpha / "inner.py").write_text("X = 1\n")
    beta = tmp_path / "beta_pkg"
    beta.mkdir()
    (beta / "__init__.py").write_text("LOADS = 0\n")
    (beta / "late.py").write_text("import subprocess\nVALUE = 40\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield str(tmp_path)
    for name in [name for name in sys.modules if name.startswith(("alpha_pkg", "beta_pkg"))]:
        del sys.modules[name]


def test_an_allowed_package_loads_what_it_needs_at_once_and_later(packages: str) -> None:
    policy = allowing(external=("alpha_pkg",))
    assert run("import alpha_pkg\nreturn alpha_pkg.lazily()", policy) == 42
    assert run("import alpha_pkg\nreturn alpha_pkg.by_name('beta_pkg.late')", policy) == "beta_pkg.late"
    assert run("from alpha_pkg import inner\nreturn inner.X", policy) == 1
    assert run("import alpha_pkg.inner as i\nreturn i.X", policy) == 1


def test_what_it_needs_is_still_not_the_authors_to_import(packages: str) -> None:
    policy = allowing(external=("alpha_pkg",))
    for name in ("beta_pkg", "beta_pkg.late", "os", "shlex", "subprocess"):
        with pytest.raises(SecurityViolationError):
            run(f"import alpha_pkg\nalpha_pkg.lazily()\nf = __import__\nreturn f('{name}')", policy)


# sys.modules

HIDING = """
import json, sys
names = json.loads(sys.stdin.read())
import alpha_pkg, datetime, decimal, os, trio_runner.sandbox.child, msgspec
from trio_runner.sandbox.imports import hide_modules, hides_modules
from trio_runner.sandbox.policy import Policy
from tests.sandbox.program_kit import run
policy = Policy(
    stdlib_allow=frozenset(names["stdlib"]), external_allow=frozenset(names["external"]), builtins_deny=frozenset()
)
if hides_modules(policy):
    hide_modules(policy)
seen = sorted(sys.modules)
later = run("return _items()", policy, items=alpha_pkg.lazily)
program = (
    "return [_items.datetime.strptime('2024', '%Y').year, str(1.5), 'x'.encode('idna') is not None, 10**5000 % 7,"
    "f'{_items.date(2024, 1, 2):%d}']"
)
again = run(program, policy, items=datetime)
print(json.dumps([seen, later, again]))
"""


def hidden(packages: str, stdlib: tuple[str, ...], external: tuple[str, ...]) -> tuple[set[str], Any]:
    """What ``sys.modules`` holds in a process that was emptied, and what still works there."""
    stdin = msgspec.json.encode({"stdlib": stdlib, "external": external}).decode()
    seen, later, again = in_a_fresh_interpreter(HIDING, stdin, path=packages)
    assert later == 42, "a package that imports lazily still works"
    return set(seen), again


def test_with_sys_allowed_its_modules_are_only_those_that_are_allowed(packages: str) -> None:
    seen, again = hidden(packages, ("sys", "json", "datetime"), ())
    tops = {name.partition(".")[0] for name in seen}
    assert {"sys", "json", "datetime", "builtins", "importlib", "__main__"} <= tops
    assert not tops & {"os", "subprocess", "socket", "trio_runner", "msgspec", "alpha_pkg", "beta_pkg", "io"}
    assert again == [2024, "1.5", True, 10**5000 % 7, "02"]


def test_what_allowed_packages_brought_along_stays_since_native_code_loads_only_once(packages: str) -> None:
    seen, _ = hidden(packages, ("sys",), ("alpha_pkg",))
    tops = {name.partition(".")[0] for name in seen}
    assert {"alpha_pkg", "beta_pkg"} <= tops
    assert not tops & {"os", "trio_runner", "msgspec"}


@pytest.mark.parametrize(("stdlib", "external"), [(("json",), ("alpha_pkg",)), (("*",), ("*",))])
def test_nothing_is_hidden_from_code_that_cannot_look_or_may_see_everything(
    packages: str, stdlib: tuple[str, ...], external: tuple[str, ...]
) -> None:
    seen, _ = hidden(packages, stdlib, external)
    assert {"os", "msgspec", "trio_runner.sandbox.child", "beta_pkg"} <= seen


# Builtins


def test_denied_builtins_are_missing_and_all_others_are_there() -> None:
    names = make_builtins(Policy(), print)
    assert not DEFAULT_BUILTINS_DENY & names.keys()
    assert {"len", "print", "__import__", "Exception", "isinstance", "super", "map"} <= names.keys()
    everything = make_builtins(OPEN, print)
    assert DEFAULT_BUILTINS_DENY - {"license", "help", "credits", "copyright"} <= everything.keys()


def test_import_is_always_the_guard_and_print_only_while_it_is_not_denied() -> None:
    names = make_builtins(Policy(builtins_deny=frozenset({"print", "__import__"})), print)
    assert "print" not in names
    assert repr(names["__import__"]) == "<built-in function __import__>"
    assert names["__import__"] is not __import__


def test_each_run_has_globals_of_its_own() -> None:
    source = "global n\ntry:\n    n += 1\nexcept NameError:\n    n = 1\nreturn n"
    assert [run(source), run(source)] == [1, 1]
