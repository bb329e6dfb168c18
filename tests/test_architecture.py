"""The house's rules that a reader can break without noticing: import contracts, who reads the environment, sizes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from trio_runner.config import VARIABLES

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "trio_runner"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 500
"""Lines. 300 is a smell, this is a wall."""
TABLES = {"config.py": 900}
"""A module that is one long table may be longer."""


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def attributes(path: Path) -> Iterator[tuple[str, int]]:
    """Every ``a.b`` and ``from a import b`` of a module, as text, with its line."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}", node.lineno
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def docstrings(module: ast.Module) -> set[int]:
    """The ids of all strings that are documentation: expressions by themselves."""
    return {
        id(node.value)
        for node in ast.walk(module)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }


@pytest.mark.e2e
def test_the_import_contracts_hold() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    assert lint_imports.exists(), "import-linter is a development dependency"
    done = subprocess.run(  # noqa: PLW1510
        [lint_imports, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Contracts: [3-9] kept, 0 broken", done.stdout), done.stdout


def test_only_the_link_and_the_embedded_broker_import_a_websocket_library() -> None:
    """The contract lists modules by name; this finds the ones that it does not know yet."""
    speaking = {
        name(path)
        for path in MODULES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
        if module.partition(".")[0] in ("trio_websocket", "wsproto")
    }
    assert speaking == {"link.py", "localbroker.py"}


def test_nothing_in_a_child_or_in_the_protocol_imports_trio() -> None:
    importing = {
        name(path)
        for path in MODULES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
        if module.partition(".")[0] == "trio"
    }
    assert not {path for path in importing if path.startswith(("sandbox/", "protocol/"))}


def test_only_the_command_line_reads_the_environment() -> None:
    found = {
        f"{name(path)}:{line}"
        for path in MODULES
        # what runs in a child cleans an environment of our own making
        if name(path) != "cli.py" and not name(path).startswith("sandbox/")
        for attribute, line in attributes(path)
        if attribute in ("os.environ", "os.environb", "os.getenv", "os.putenv")
    }
    assert found == set()


def test_only_the_command_line_reads_its_arguments() -> None:
    found = {
        f"{name(path)}:{line}"
        for path in MODULES
        if name(path) != "cli.py"
        for attribute, line in attributes(path)
        if attribute in ("sys.argv", "sys.orig_argv")
    }
    assert found == set()


def test_a_variable_s_name_is_written_in_config_only() -> None:
    """Texts for people may name variables; a string that *is* a name may stand in one place."""
    names = {spelling for variable in VARIABLES.values() for spelling in variable.spellings}
    found = {
        f"{name(path)}:{node.lineno} {node.value}"
        for path in MODULES
        if name(path) != "config.py"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
    }
    assert found == set()


def test_a_wire_tag_is_written_in_messages_only() -> None:
    tag = re.compile(r"(broker|runner|requester):[a-z]+")
    found = set()
    for path in MODULES:
        if name(path) in ("protocol/messages.py", "protocol/broker.py", "protocol/session.py"):
            continue
        module = tree(path)
        prose = docstrings(module)
        found |= {
            f"{name(path)}:{node.lineno} {node.value}"
            for node in ast.walk(module)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in prose
            and tag.fullmatch(node.value)
        }
    assert found == set()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_says_what_it_is_and_is_no_longer_than_one_can_read(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if not text.strip():
        return
    documentation = ast.get_docstring(tree(path))
    assert documentation, "a module docstring names what the module owns and must not do"
    assert len(text.splitlines()) <= TABLES.get(name(path), LONGEST)


def test_nothing_sleeps_a_thread_and_trio_sleeps_stand_in_few_loops() -> None:
    """``time.sleep`` would stop the event loop. A loop around ``trio.sleep`` is a poll, unless it says why not."""
    polls, sleeps = [], []
    for path in MODULES:
        lines = path.read_text(encoding="utf-8").splitlines()
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if isinstance(node.func.value, ast.Name) and (node.func.value.id, node.func.attr) == ("time", "sleep"):
                sleeps.append(f"{name(path)}:{node.lineno}")
        for loop in (node for node in ast.walk(tree(path)) if isinstance(node, ast.While)):
            # the shape of a poll: while something: sleep
            body = [statement for statement in loop.body if not isinstance(statement, ast.Pass)]
            if len(body) == 1 and "trio.sleep(" in lines[body[0].lineno - 1]:
                polls.append(f"{name(path)}:{loop.lineno}")
    assert polls == []
    assert [place for place in sleeps if not place.startswith("sandbox/")] == []
