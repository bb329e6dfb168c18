"""The documents say what is so: their code runs, their links lead somewhere, their variables exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.fences import DOCUMENTS, ROOT, Fence, fences, without_fences
from trio_runner import config
from trio_runner.config import VARIABLES
from trio_runner.sandbox.records import LAYERS
from trio_runner.testing import CodeNode, CodeNodeError

ALL = [fence for document in DOCUMENTS for fence in fences(document)]
LIMIT = 60


def with_word(word: str) -> list[Fence]:
    return [fence for fence in ALL if word in fence.words]


def after(fence: Fence, *words: str) -> Fence | None:
    """The next block, if it belongs to this one."""
    following = [other for other in fences(fence.document) if other.line > fence.line]
    return following[0] if following and set(words) & set(following[0].words) else None


def clean_environment() -> dict[str, str]:
    """Ours, with our commands in reach and none of our variables."""
    environ = {name: text for name, text in os.environ.items() if not name.startswith("N8N_") and name not in VARIABLES}
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
    return environ | {"NO_COLOR": "1", "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


# Code


@pytest.mark.e2e
def test_every_program_of_a_node_gives_the_result_that_stands_below_it() -> None:
    shown = with_word("node")
    by_settings: dict[str, list[Fence]] = {}
    for fence in shown:
        by_settings.setdefault(fence.settings, []).append(fence)
    wrong: list[str] = []
    for text, group in by_settings.items():
        with CodeNode(dict(pair.split("=", 1) for pair in text.split())) as node:
            wrong += [problem for fence in group for problem in problems_of(fence, node)]
    assert not wrong, "\n".join(wrong)


def problems_of(fence: Fence, node: CodeNode) -> list[str]:
    expected = after(fence, "result", "error", "prints")
    try:
        result = node.run(fence.text, json.loads(fence.items), each="each" in fence.words)
    except CodeNodeError as error:
        if expected is not None and "error" in expected.words:
            said = f"{error.message}\n{error.description}"
            return [] if said.startswith(expected.text.strip()) else [f"{fence.place}: {said}"]
        return [f"{fence.place}: {error}"]
    if expected is None:
        return []
    if "prints" in expected.words:
        return [] if result.prints == tuple(expected.text.splitlines()) else [f"{fence.place}: {result.prints}"]
    return [] if result.value == json.loads(expected.text) else [f"{fence.place}: {json.dumps(result.value)}"]


@pytest.mark.e2e
def test_every_command_that_is_marked_for_it_runs(tmp_path: Path) -> None:
    """All at once: most of the time they wait for processes to start."""
    running = []
    for fence in (fence for fence in with_word("run") if fence.language == "sh"):
        folder = tmp_path / str(len(running))
        folder.mkdir()
        for file in fences(fence.document):
            write(folder, file)
        command = ["bash", "-eu", "-c", fence.text]
        pipe = subprocess.PIPE
        environ = clean_environment()
        running.append((fence, subprocess.Popen(command, cwd=folder, env=environ, stdout=pipe, stderr=pipe, text=True)))
    assert running
    wrong = []
    for fence, process in running:
        out, err = process.communicate(timeout=LIMIT)
        expected = after(fence, "output")
        shown = [*filter(None, (out + err).splitlines())]
        if process.returncode or (expected is not None and shown != [*filter(None, expected.text.splitlines())]):
            wrong.append(f"{fence.place}: code {process.returncode}\n{out}{err}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.e2e
def test_all_python_that_is_marked_for_it_runs(tmp_path: Path) -> None:
    """In one process, one after the other: each starts a runner of its own already."""
    blocks = [fence for fence in with_word("run") if fence.language == "python"]
    assert blocks
    code = "\n".join(f"exec(compile({fence.text!r}, {fence.place!r}, 'exec'), {{}})" for fence in blocks)
    done = subprocess.run(  # noqa: PLW1510
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.e2e
def test_the_test_suites_that_are_shown_pass(tmp_path: Path) -> None:
    count = 0
    for document in DOCUMENTS:
        for number, fence in enumerate(fences(document)):
            if "conftest" in fence.words:
                (tmp_path / document.stem).mkdir(exist_ok=True)
                (tmp_path / "conftest.py").write_text(fence.text)
            elif "test" in fence.words and fence.language == "python":
                (tmp_path / f"test_{document.stem.replace('-', '_')}_{number}.py").write_text(fence.text)
                count += fence.text.count("def test_")
            else:
                write(tmp_path, fence)
    assert count
    done = subprocess.run(  # noqa: PLW1510
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "--rootdir", ".", "."],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} passed" in done.stdout


def write(folder: Path, fence: Fence) -> None:
    """A block that is a file."""
    for word in fence.words:
        if word.startswith("file="):
            path = folder / word.removeprefix("file=")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(fence.text)


# Links


def anchors(document: Path) -> set[str]:
    """What a link into a document can name: its headings, as GitHub turns them into anchors."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.*?) *$", without_fences(document.read_text(encoding="utf-8")), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = sum(1 for other in found if re.fullmatch(rf"{re.escape(anchor)}(-\d+)?", other))
        found.add(f"{anchor}-{number}" if number else anchor)
    return found


def links(document: Path) -> list[str]:
    prose = re.sub(r"`[^`\n]*`", "", without_fences(document.read_text(encoding="utf-8")))
    return re.findall(r"\]\(([^)\s]+)\)", prose)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    broken = []
    for link in links(document):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_the_index_names_every_document() -> None:
    index = ROOT / "docs" / "README.md"
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} <= set(links(index))


# Variables


NOT_OURS = {
    *(
        "N8N_RUNNERS_INSECURE_MODE",
        "N8N_PYTHON_ENABLED",
        "N8N_BLOCK_ENV_ACCESS_IN_NODE",
        "N8N_GRACEFUL_SHUTDOWN_TIMEOUT",
    ),
}
"""Variables of n8n and its launcher that documents may name, beside those that config knows as foreign."""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_variable_that_is_named_exists(document: Path) -> None:
    known = (
        {spelling for variable in VARIABLES.values() for spelling in variable.spellings} | config._FOREIGN | NOT_OURS
    )
    named = set(re.findall(r"\bN8N_(?:RUNNERS|BLOCK|SENTRY|OTEL|PYTHON)_[A-Z0-9_]*[A-Z0-9]", document.read_text()))
    unknown = {name for name in named - known if not name.startswith("N8N_RUNNERS_LAUNCHER_")}
    assert not unknown


def test_defaults_in_tables_are_those_of_the_code() -> None:
    wrong = []
    for document in DOCUMENTS:
        heads: list[str] = []
        for line in document.read_text(encoding="utf-8").splitlines():
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
            heads = [] if not cells else heads or [cell.lower() for cell in cells]
            name = cells[0].strip("`") if cells else ""
            if name in VARIABLES and "default" in heads:
                shown = cells[heads.index("default")].split(" ")[0].strip("`")
                if shown != VARIABLES[name].default and "policy.py" not in cells[heads.index("default")]:
                    wrong.append(f"{document.name}: {name} is {shown!r}, and not {VARIABLES[name].default!r}")
    assert not wrong, "\n".join(wrong)


def test_every_layer_of_the_sandbox_is_explained() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    assert [layer for layer in LAYERS if f"`{layer}`" not in text] == []


def test_every_module_that_the_architecture_names_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = {str(path.relative_to(ROOT / "trio_runner")) for path in (ROOT / "trio_runner").rglob("*.py")}
    names = {name for path in modules for name in (path, path.rpartition("/")[2])}
    assert set(re.findall(r"`((?!tests/)(?:\w+/)?\w+\.py)`", text)) <= names
    assert len(re.findall(r"\.py`", text)) > 40
