"""What a run without n8n is given: the forms that files and arguments may have, and what is said of any other."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from trio_runner.localinput import (
    InputError,
    StaticData,
    attach_binaries,
    read_environment,
    read_items,
    read_nodes,
    read_variables,
)
from trio_runner.localprogram import Options, prepare


def written(path: Path, content: Any) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("content", "items"),
    [
        ([{"a": 1}, {"json": {"b": 2}, "pairedItem": 0}], [{"json": {"a": 1}}, {"json": {"b": 2}, "pairedItem": 0}]),
        ({"a": 1}, [{"json": {"a": 1}}]),
        ({"json": 5}, [{"json": {"json": 5}}]),
        ('{"a": 1}\n{"json": {"b": 2}}\n\n', [{"json": {"a": 1}}, {"json": {"b": 2}}]),
        ('\ufeff[{"a": 1}]', [{"json": {"a": 1}}]),  # as Windows writes it
        ([], []),
    ],
)
def test_items_are_a_list_an_object_or_lines_and_are_wrapped_as_n8n_does(
    content: Any, items: Any, tmp_path: Path
) -> None:
    assert read_items(written(tmp_path / "items.json", content), "--input") == items


def test_what_is_no_item_is_told_by_its_number(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--input: element 1 is not an object, but str$"):
        read_items(written(tmp_path / "items.json", [{}, "x"]), "--input")
    with pytest.raises(InputError, match=r"^--node: .*items.json is not JSON: "):
        read_items(written(tmp_path / "items.json", "{\n"), "--node")


def test_nodes_have_names_with_everything_but_an_equals_sign(tmp_path: Path) -> None:
    file = written(tmp_path / "a=b.json", [{"n": 1}])
    assert read_nodes([f"HTTP Request 2={file}"], "--node") == {"HTTP Request 2": [{"json": {"n": 1}}]}
    with pytest.raises(InputError, match="'A' is given twice"):
        read_nodes([f"A={file}", f"A={file}"], "--node")
    for bad in ("A=", "=file"):
        with pytest.raises(InputError, match=r"is not NAME=FILE$"):
            read_nodes([bad], "--node")


def test_a_file_becomes_binary_data_of_the_first_item_as_n8n_has_it(tmp_path: Path) -> None:
    file = tmp_path / "photo.PNG"
    file.write_bytes(b"\x89PNG")
    first, second = attach_binaries(
        [{"json": {"a": 1}, "binary": {"old": {}}}, {"json": {}}], [f"data={file}"], "--binary"
    )
    binary = first["binary"].pop("data")
    assert (first, second) == ({"json": {"a": 1}, "binary": {"old": {}}}, {"json": {}})
    assert b64decode(binary.pop("data")) == b"\x89PNG"
    assert binary == {"mimeType": "image/png", "fileName": "photo.PNG", "fileExtension": "PNG", "fileSize": "4 B"}
    assert list(attach_binaries([], [f"data={file}"], "--binary")[0]["binary"]) == ["data"]
    assert attach_binaries([], [], "--binary") == []


@pytest.mark.parametrize(
    "content",
    [
        {"region": "eu", "n": "1"},
        [{"id": "1", "key": "region", "value": "eu"}, {"key": "n", "value": "1"}],
        {"data": [{"key": "region", "value": "eu"}, {"key": "n", "value": "1"}], "nextCursor": None},
    ],
)
def test_variables_are_an_object_or_what_n8n_s_api_gives_in_a_file_or_at_once(content: Any, tmp_path: Path) -> None:
    expected = {"region": "eu", "n": "1"}
    assert read_variables(json.dumps(content), "--vars") == expected
    assert read_variables(written(tmp_path / "vars.json", content), "--vars") == expected


def test_variables_of_another_form_are_refused() -> None:
    with pytest.raises(InputError, match='a list must hold objects with "key" and "value"'):
        read_variables("[1]", "--vars")
    with pytest.raises(InputError, match="cannot read region=eu: No such file"):
        read_variables("region=eu", "--vars")


def test_environment_variables_are_given_or_passed_on() -> None:
    here = {"HOME": "/home/ada"}
    assert read_environment(["HOME", "A=1=2", "B="], here, "--env") == {"HOME": "/home/ada", "A": "1=2", "B": ""}
    with pytest.raises(InputError, match="USER is not set here; give it as USER=VALUE"):
        read_environment(["USER"], here, "--env")
    with pytest.raises(InputError, match="'=1' is not NAME=VALUE or NAME"):
        read_environment(["=1"], here, "--env")


@pytest.mark.parametrize(
    ("before", "value", "after"),
    [
        ({"seen": 1}, {"global": {"seen": 1}}, {"seen": 2}),
        ({"global": {"seen": 1}}, {"global": {"seen": 1}}, {"global": {"seen": 2}}),
        (
            {"node:Code": {"a": 1}, "global": {}},
            {"node:Code": {"a": 1}, "global": {}},
            {"node:Code": {"a": 1}, "global": {"seen": 2}},
        ),
        ({}, {}, {"global": {"seen": 2}}),
    ],
)
def test_static_data_keeps_the_form_that_its_file_has(before: Any, value: Any, after: Any, tmp_path: Path) -> None:
    path = Path(written(tmp_path / "static.json", before))
    static = StaticData(path, "--static-data", may_be_missing=False)
    assert static.value == value
    static.write({"global": {"seen": 2}})
    assert json.loads(path.read_text()) == after
    assert [file.name for file in tmp_path.iterdir()] == ["static.json"]


def test_what_a_node_keeps_for_itself_turns_a_plain_file_into_n8n_s_form(tmp_path: Path) -> None:
    path = Path(written(tmp_path / "static.json", {"seen": 1}))
    StaticData(path, "--static-data", may_be_missing=False).write({"node:Code": {"a": 1}})
    assert json.loads(path.read_text()) == {"global": {"seen": 1}, "node:Code": {"a": 1}}


def test_static_data_may_be_missing_only_where_it_will_be_written(tmp_path: Path) -> None:
    missing = tmp_path / "static.json"
    assert StaticData(missing, "--static-data", may_be_missing=True).value == {}
    with pytest.raises(InputError, match=r"^--static-data: cannot read .*static.json: No such file"):
        StaticData(missing, "--static-data", may_be_missing=False)
    nowhere = StaticData(tmp_path / "no" / "static.json", "--static-data", may_be_missing=True)
    with pytest.raises(InputError, match=r"^--static-data: cannot write .*static.json: No such file"):
        nowhere.write({})


# All of it together


def test_without_input_the_last_of_the_nodes_gives_it(tmp_path: Path) -> None:
    one, two = (written(tmp_path / f"{n}.json", [{"n": n}]) for n in (1, 2))
    nodes = (f"A={one}", f"B={two}")
    program = prepare(Options(code="x", nodes=nodes), {}).program
    assert json.loads(program.workflow.items) == [{"json": {"n": 2}}]
    assert list(program.workflow.nodes) == ["A", "B"]
    given = prepare(Options(code="x", nodes=nodes, input_from=one), {}).program
    assert json.loads(given.workflow.items) == [{"json": {"n": 1}}]
    assert prepare(Options(code="x"), {}).program.workflow.items == b"[]"


EXECUTION = {
    "id": "9",
    "mode": "trigger",
    "workflowData": {
        "name": "W",
        "nodes": [
            {
                "name": "Code",
                "parameters": {"language": "python", "pythonCode": "return 1", "mode": "runOnceForEachItem"},
            }
        ],
    },
    "data": {
        "resultData": {
            "runData": {
                "A": [{"data": {"main": [[{"json": {"n": 1}}]]}}],
                "Code": [{"source": [{"previousNode": "A"}]}],
            }
        }
    },
}


def test_an_option_wins_over_the_execution_and_that_over_the_defaults(tmp_path: Path) -> None:
    file = written(tmp_path / "execution.json", EXECUTION)
    same = prepare(Options(execution=file), {}).program
    assert (same.source, same.each_item, same.workflow.mode, same.workflow.workflow_name) == (
        "return 1",
        True,
        "trigger",
        "W",
    )
    assert json.loads(same.settings())["nodeMode"] == "runOnceForEachItem"
    assert json.loads(same.settings())["workflowMode"] == "trigger"
    items = written(tmp_path / "items.json", [{"n": 5}])
    options = Options(
        execution=file,
        code="return 2",
        each=False,
        node_name="Code",
        input_from=items,
        mode="manual",
        workflow_name="V",
        timezone="UTC",
        nodes=(f"B={items}",),
        environment=("K=v",),
    )
    other = prepare(options, {}).program
    assert (other.source, other.each_item, other.workflow.mode) == ("return 2", False, "manual")
    assert (other.workflow.workflow_name, other.workflow.settings) == ("V", {"timezone": "UTC"})
    assert json.loads(other.workflow.items) == [{"json": {"n": 5}}]
    asked = {"dataOfNodes": "all", "prevNode": True, "input": {"include": False}, "env": False}
    answer = other.workflow.answer(asked)
    assert set(answer["runExecutionData"]["resultData"]["runData"]) == {"A", "B"}
    assert answer["connectionInputSource"]["main"][0]["previousNode"] == "A"
    assert other.workflow.env == {"K": "v"}


def test_static_data_that_will_be_saved_is_handed_back(tmp_path: Path) -> None:
    path = tmp_path / "static.json"
    prepared = prepare(Options(code="x", static_data=path, save_static_data=True), {})
    assert prepared.program.workflow.static_data == {}
    assert prepared.save_to is not None
    assert prepare(Options(code="x", static_data=Path(written(path, {"a": 1}))), {}).save_to is None
