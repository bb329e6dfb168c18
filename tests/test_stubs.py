"""The stubs of n8n's names: a checker finds mistakes with them, and they name what programs really find."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import click.testing
import mypy.api
import pytest

from trio_runner.cli import cli
from trio_runner.sandbox import httpoptions, items, mentions
from trio_runner.sandbox.clock import _ALIASES, DateTime, Duration
from trio_runner.sandbox.helpers import HelperError, HttpError
from trio_runner.sandbox.workflow import Workflow
from trio_runner.stubs import write

TREE = ast.parse((Path(__file__).parent.parent / "trio_runner" / "stubs" / "n8n_builtins.pyi").read_text())

SAMPLE = """\
from n8n_builtins import _, _execution, _getWorkflowStaticData, _helpers, _input, _items, _json, _node, _now, _workflow


def rows() -> list[dict[str, object]]:
    seen = _getWorkflowStaticData("global")
    seen.count = seen.get("count", 0) + len(_items)
    _execution.customData.set("orders", len(_items))
    page = _helpers.http_request("https://example.com", params={"q": _json.name}, timeout_seconds=5)
    file = _helpers.get_binary_data(_input.first(), "data").decode()
    names = [item.json.name for item in _("Get customers").all()] + [_node["Set"].first()["json"]["name"]]
    due = _now.plus(days=3).toISODate() + _workflow.name.upper()
    return [{"json": {"page": page, "file": file, "names": names, "due": due}}]


async def main() -> None:
    try:
        await _helpers.http_request_async(url="https://example.com")
    except _helpers.HttpError as error:
        print(error.status_code + 1)
    _input.frist()
    _now.plus(days="3")
    _execution.mode == "live"
    _getWorkflowStaticData("mine")
    wrong: int = _helpers.get_binary_data(0)
"""


def test_a_checker_takes_what_is_right_and_finds_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = click.testing.CliRunner().invoke(cli, ["stubs", "-o", str(tmp_path / "typings")])
    assert (result.exit_code, len(result.output.splitlines())) == (0, 2)
    program = tmp_path / "node.py"
    program.write_text(SAMPLE)
    monkeypatch.setenv("MYPYPATH", str(tmp_path / "typings"))
    options = ["--strict", "--config-file=", "--no-error-summary", "--no-incremental", "--cache-dir=/dev/null"]
    found, errors, _ = mypy.api.run([*options, str(program)])
    assert errors == ""
    wrong = {int(line): text for line, text in re.findall(r"node\.py:(\d+): error: (.*)", found)}
    first = SAMPLE.splitlines().index("    _input.frist()") + 1
    assert list(wrong) == list(range(first, first + 5)), found
    assert '"Input" has no attribute "frist"; maybe "first"?' in wrong[first]


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = click.testing.CliRunner().invoke(cli, ["stubs", "-o", str(tmp_path / "file" / "typings")])
    assert result.exit_code == 1
    assert result.output == f"Error: Cannot write {tmp_path / 'file' / 'typings'}: Not a directory\n"


def test_writing_twice_changes_nothing(tmp_path: Path) -> None:
    first = {path: path.read_bytes() for path in write(tmp_path)}
    assert {path: path.read_bytes() for path in write(tmp_path)} == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["__builtins__.pyi", "n8n_builtins.pyi"]


# The same names as the real ones


def declared(name: str | None = None) -> set[str]:
    """The public names of a class of the stubs, or of the module."""
    body = TREE.body
    if name is not None:
        (body,) = [node.body for node in TREE.body if isinstance(node, ast.ClassDef) and node.name == name]
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return {each for each in found if name is None or not each.startswith("_")}


def public(kind: type, *, beyond: type = object) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_") and name not in vars(beyond)} - set(
        getattr(kind, "__slots__", ())
    )


class NoInput:
    """An empty input."""

    shape = staticmethod(items.unshaped)

    def __len__(self) -> int:
        return 0

    def at(self, index: int) -> Any:
        raise IndexError(index)

    def all(self) -> list[Any]:
        return []


class NoChannel:
    """Answers a data request with an empty workflow; nothing else."""

    def request(self, params: dict[str, object], decode: Any = None) -> Any:
        return {"workflow": {"nodes": []}, "node": {}, "additionalData": {}, "runExecutionData": {}}


def really() -> dict[str, Any]:
    """Every name as a program finds it."""
    workflow = Workflow(mentions.NAMES, (), NoInput(), NoChannel)  # type: ignore[arg-type]
    return workflow.names() | workflow.of_item(0)


def has(facade: object) -> set[str]:
    """What an object of ours says it has."""
    return set(dir(facade))


def test_every_name_is_declared_and_offered() -> None:
    assert declared() == mentions.NAMES | mentions.ITEMS | {"Content"}
    (offered,) = [
        ast.literal_eval(node.value)
        for node in TREE.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert declared() - {"Content"} == set(offered)
    assert set(really()) == set(mentions.NAMES)


def test_objects_have_what_the_stubs_say() -> None:
    names = really()
    for stub, real in {
        "Input": names["_input"],
        "Node": names["_"]("Set"),
        "Execution": names["_execution"],
        "CustomData": names["_execution"].customData,
        "Helpers": names["_helpers"],
    }.items():
        assert declared(stub) == has(real), stub
    assert declared("WorkflowInfo") == set(names["_workflow"])
    assert declared("PrevNode") == set(names["_prevNode"])


def test_classes_have_what_the_stubs_say() -> None:
    assert declared("Fields") == public(items.AttrDict)
    assert declared("DateTime") == public(DateTime)
    assert declared("Duration") == public(Duration) | {name for name in _ALIASES if name.endswith("s")}
    assert declared("Response") == public(httpoptions.Response) | {"body", "headers", "statusCode", "statusMessage"}
    error = HttpError("", "", None, 404, None)
    assert declared("HelperError") == set(vars(HelperError("", "")))
    assert declared("HttpError") | declared("HelperError") == set(vars(error))


def test_the_options_of_a_request_that_the_stubs_name_are_real() -> None:
    (function,) = [
        node for cls in TREE.body if isinstance(cls, ast.ClassDef) and cls.name == "Helpers"
        for node in cls.body if isinstance(node, ast.FunctionDef) and node.name == "http_request"
    ]  # fmt: skip
    named = {argument.arg for argument in function.args.kwonlyargs}
    assert named <= httpoptions._OWN | set(httpoptions._SAME) | set(httpoptions._CHANGED)
