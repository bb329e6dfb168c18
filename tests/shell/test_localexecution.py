"""Exported executions: whichever way n8n gives one away, the Code node finds itself where it was."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import click.testing
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_runner.cli import cli
from trio_runner.localexecution import Replay, read_execution, replay_of, unflatten
from trio_runner.localinput import InputError
from trio_runner.localprogram import Options, prepare


def code_node(name: str, **parameters: Any) -> dict[str, Any]:
    given = {"language": "pythonNative", "pythonCode": f"return '{name}'", **parameters}
    return {"id": f"id-{name}", "name": name, "type": "n8n-nodes-base.code", "parameters": given}


def run(order: int, *outputs: list[Any] | None, source: tuple[str, int, int] | None = None) -> dict[str, Any]:
    """One run of a node that gave these items to its outputs."""
    main = [None if output is None else [{"json": {"n": n}} for n in output] for output in outputs]
    origin = dict(zip(("previousNode", "previousNodeOutput", "previousNodeRun"), source or (), strict=False))
    sources = [origin] if origin else []
    return {"executionIndex": order, "startTime": 1_700_000_000_000, "source": sources, "data": {"main": main}}


WORKFLOW = {
    "id": "wf1",
    "name": "Orders",
    "active": True,
    "settings": {"timezone": "Europe/Berlin"},
    "staticData": {"global": {"seen": 3}},
    "nodes": [
        {"name": "Webhook", "type": "n8n-nodes-base.webhook", "parameters": {"path": "orders"}},
        {"name": "If", "type": "n8n-nodes-base.if", "parameters": {}},
        code_node("Code", mode="runOnceForEachItem"),
        {"name": "Set", "type": "n8n-nodes-base.set", "parameters": {}},
    ],
    "connections": {
        "Webhook": {"main": [[{"node": "If", "type": "main", "index": 0}]]},
        "If": {"main": [[{"node": "Set"}], [{"node": "Code", "type": "main", "index": 0}]]},
        "Code": {"main": [[{"node": "Set", "type": "main", "index": 0}]]},
    },
}
RUNS = {
    "Webhook": [run(0, [1, 2, 3])],
    "If": [run(1, [1], [2, 3], source=("Webhook", 0, 0))],
    "Code": [run(2, [20, 30], source=("If", 1, 0))],
    "Set": [run(3, [99], source=("Code", 0, 0))],
}


def execution(**changes: Any) -> dict[str, Any]:
    """What n8n's API answers; ``runs`` and ``stack`` are of the data, the rest is beside it."""
    data = {
        "version": 1,
        "startData": {},
        "resultData": {"runData": changes.pop("runs", RUNS), "metadata": {"customer": "Ada"}},
        "executionData": {"nodeExecutionStack": changes.pop("stack", [])},
        "resumeToken": "a-secret",
    }
    return {"id": "77", "mode": "webhook", "workflowId": "wf1", "workflowData": WORKFLOW, "data": data} | changes


def flat(value: Any) -> list[Any]:
    """The form of n8n's database: containers and texts become elements of one list, and texts their numbers."""
    elements: list[Any] = []
    numbers: dict[str, int] = {}

    def put(entry: Any) -> Any:
        if isinstance(entry, str):
            if entry not in numbers:
                numbers[entry] = len(elements)
                elements.append(entry)
            return str(numbers[entry])
        if not isinstance(entry, dict | list):
            return entry
        number = len(elements)
        elements.append(None)
        elements[number] = {k: put(v) for k, v in entry.items()} if isinstance(entry, dict) else [*map(put, entry)]
        return str(number)

    put(value)
    return elements


def replay(
    tmp_path: Path, export: Any, node: str | None = None, index: int | None = None, *, code: bool = True
) -> Replay:
    file = tmp_path / "execution.json"
    file.write_text(json.dumps(export))
    return read_execution(str(file), node=node, run_index=index, needs_code=code)


def numbers(replayed: Replay) -> list[Any]:
    """The input, by the numbers of `run`."""
    return [item["json"]["n"] for item in json.loads(replayed.workflow.items)]


def seen(replayed: Replay) -> dict[str, list[list[list[Any]]]]:
    """What the program can see of other nodes: for each of their runs the outputs, by the numbers of `run`."""
    asked = {"dataOfNodes": "all", "prevNode": True, "input": {"include": False}, "env": False}
    answer = replayed.workflow.answer(asked)["runExecutionData"]["resultData"]["runData"]
    return {
        name: [[[item["json"]["n"] for item in output or []] for output in run["data"]["main"]] for run in runs]
        for name, runs in answer.items()
    }


def fed_by(replayed: Replay) -> tuple[Any, ...] | None:
    """The node, output and run that the input is from."""
    asked = {"dataOfNodes": [], "prevNode": False, "input": {"include": False}, "env": False}
    source = replayed.workflow.answer(asked)["connectionInputSource"]
    return None if source is None else tuple(source["main"][0].values())


def forms() -> dict[str, Any]:
    api = execution()
    text = json.dumps(flat(api["data"]))
    row = {"executionId": 77, "mode": "webhook", "workflowData": json.dumps(WORKFLOW), "data": text}
    return {
        "the public API": api,
        "the editor's": {"data": {**api, "data": text}},
        "a row of the database": row,
        "the only row of a query": [row],
        "data that is a text": {**api, "data": json.dumps(api["data"])},
    }


@pytest.mark.parametrize("form", forms())
def test_a_code_node_is_where_it_was_whatever_the_form(form: str, tmp_path: Path) -> None:
    replayed = replay(tmp_path, forms()[form])
    assert (replayed.source, replayed.each_item, replayed.notes) == ("return 'Code'", True, ())
    assert numbers(replayed) == [2, 3]
    workflow = replayed.workflow
    assert seen(replayed) == {"Webhook": [[[1, 2, 3]]], "If": [[[1], [2, 3]]]}
    assert (workflow.node_name, fed_by(replayed), workflow.run_index) == ("Code", ("If", 1, 0), 0)
    assert (workflow.workflow_id, workflow.workflow_name, workflow.active) == ("wf1", "Orders", True)
    assert (workflow.execution_id, workflow.mode) == ("77", "webhook")
    assert workflow.settings == {"timezone": "Europe/Berlin"}
    assert workflow.static_data == {"global": {"seen": 3}}
    assert workflow.custom_data == {"customer": "Ada"}
    assert workflow.params["mode"] == "runOnceForEachItem"
    asked = {"dataOfNodes": [], "prevNode": False, "input": {"include": False}, "env": False}
    answer = workflow.answer(asked)["workflow"]
    parameters = {node["name"]: node["parameters"] for node in answer["nodes"]}
    assert parameters == {node["name"]: node["parameters"] for node in WORKFLOW["nodes"]}  # type: ignore[attr-defined]
    assert answer["connections"] == WORKFLOW["connections"]


def test_the_resume_token_of_an_execution_goes_nowhere(tmp_path: Path) -> None:
    workflow = replay(tmp_path, execution()).workflow
    asked = {"dataOfNodes": "all", "prevNode": True, "input": {"include": True}, "env": True}
    assert b"a-secret" not in msgspec.json.encode(workflow) + msgspec.json.encode(workflow.answer(asked))


def test_the_database_s_text_alone_knows_data_and_needs_the_node_s_name(tmp_path: Path) -> None:
    alone = flat(execution()["data"])
    with pytest.raises(
        InputError, match="not part of the file: choose a node with --node-name: 'Webhook', 'If', 'Code'"
    ):
        replay(tmp_path, alone)
    replayed = replay(tmp_path, alone, "Code", code=False)
    assert (numbers(replayed), replayed.source, fed_by(replayed)) == ([2, 3], None, ("If", 1, 0))
    with pytest.raises(InputError, match="'Code' has no Python code of its own"):
        replay(tmp_path, alone, "Code")


# Which run, which items


LOOP = {
    "If": [run(0, [1]), run(2, [2]), run(4, [3])],
    "Code": [run(1, [], source=("If", 0, 0)), run(3, [], source=("If", 0, 1))],
}


@pytest.mark.parametrize(("index", "items"), [(None, [2]), (0, [1]), (1, [2])])
def test_of_several_runs_the_last_or_the_chosen_one_is_replayed(
    index: int | None, items: list[int], tmp_path: Path
) -> None:
    replayed = replay(tmp_path, execution(runs=LOOP), index=index)
    assert (numbers(replayed), replayed.workflow.run_index) == (
        items,
        len(LOOP["Code"]) - 1 if index is None else index,
    )
    assert [found[0][0] for found in seen(replayed)["If"]] == list(range(1, items[0] + 1))


def test_a_run_that_there_was_not_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'Code' ran 2 times: there is no run 2"):
        replay(tmp_path, execution(runs=LOOP), index=2)


def test_a_node_that_was_about_to_run_has_its_input_from_what_waited(tmp_path: Path) -> None:
    source = {"main": [{"previousNode": "If", "previousNodeOutput": 1}]}
    waiting = {"node": code_node("Code"), "data": {"main": [[{"json": {"n": 8}}]]}, "source": source}
    replayed = replay(tmp_path, execution(runs={"If": [run(0, [1], [2])]}, stack=[waiting]))
    assert (numbers(replayed), fed_by(replayed)) == ([8], ("If", 1, 0))


def test_a_node_that_did_not_run_gets_what_the_node_before_it_gave(tmp_path: Path) -> None:
    runs = {name: RUNS[name] for name in ("Webhook", "If")}
    replayed = replay(tmp_path, execution(runs=runs))
    assert (numbers(replayed), fed_by(replayed)) == ([2, 3], ("If", 1, 0))
    with pytest.raises(InputError, match="'Code' did not run, nor did a node before it"):
        replay(tmp_path, execution(runs={"Webhook": RUNS["Webhook"]}))


@pytest.mark.parametrize(
    ("asked", "query"),
    [({"query": "how many?"}, "how many?"), ({"city": "Köln", "n": 2}, {"city": "Köln", "n": 2}), ({"query": 5}, 5)],
)
def test_a_code_tool_is_asked_again_what_it_was_asked(asked: Any, query: Any, tmp_path: Path) -> None:
    call = {**run(2, [], source=("Webhook", 0, 0)), "inputOverride": {"ai_tool": [[{"json": asked}]]}}
    replayed = replay(tmp_path, execution(runs={**RUNS, "Code": [call]}))
    assert replayed.query is not None
    assert json.loads(replayed.query) == query
    assert replay(tmp_path, execution()).query is None
    file = str(tmp_path / "execution.json")
    assert prepare(Options(execution=file), {}).program.query is None
    assert prepare(Options(execution=file, query="else"), {}).program.query == b'"else"'


def test_pinned_items_are_part_of_the_workflow(tmp_path: Path) -> None:
    pinned = {"Webhook": [{"json": {"n": 5}}]}
    replayed = replay(tmp_path, execution(workflowData={**WORKFLOW, "pinData": pinned}))
    asked = {"dataOfNodes": ["Webhook"], "prevNode": False, "input": {"include": False}, "env": False}
    answer = replayed.workflow.answer(asked)
    assert answer["workflow"]["pinData"] == answer["runExecutionData"]["resultData"]["pinData"] == pinned


# Which node


def with_nodes(*nodes: dict[str, Any]) -> dict[str, Any]:
    return {**WORKFLOW, "nodes": [*WORKFLOW["nodes"][:2], *nodes]}  # type: ignore[index]


def test_several_python_nodes_want_a_name_unless_only_one_ran(tmp_path: Path) -> None:
    both = with_nodes(code_node("Code"), code_node("Other"))
    assert replay(tmp_path, execution(workflowData=both)).workflow.node_name == "Code"
    runs = {**RUNS, "Other": [run(5, [], source=("Code", 0, 0))]}
    with pytest.raises(
        InputError, match="several nodes have Python code: choose one with --node-name: 'Code', 'Other'"
    ):
        replay(tmp_path, execution(workflowData=both, runs=runs))
    other = replay(tmp_path, execution(workflowData=both, runs=runs), "Other")
    assert (other.source, numbers(other), fed_by(other)) == ("return 'Other'", [20, 30], ("Code", 0, 0))


def test_the_input_of_any_node_can_be_taken_by_a_program_of_one_s_own(tmp_path: Path) -> None:
    script = {"name": "Script", "parameters": {"language": "javaScript", "jsCode": "return []"}}
    export = execution(workflowData=with_nodes(script), runs={**RUNS, "Script": RUNS["Code"]})
    with pytest.raises(InputError, match="no node has Python code; --node-name chooses one"):
        replay(tmp_path, export)
    with pytest.raises(InputError, match="'Script' has no Python code of its own; give the program, too"):
        replay(tmp_path, export, "Script")
    assert numbers(replay(tmp_path, export, "Script", code=False)) == [2, 3]
    with pytest.raises(InputError, match="there is no node 'Scrpt', but 'Webhook', 'If', 'Script'"):
        replay(tmp_path, export, "Scrpt")


def test_files_that_are_not_part_of_an_export_are_told(tmp_path: Path) -> None:
    file = {"photo": {"id": "filesystem-v2:1", "mimeType": "image/png"}, "note": {"data": "aGk="}}
    given = {**run(0, [1]), "data": {"main": [[{"json": {"n": 1}, "binary": file}] * 2]}}
    runs = {"Webhook": [given], "Code": [run(1, [], source=("Webhook", 0, 0))]}
    assert replay(tmp_path, execution(runs=runs)).notes == (
        "The files themselves are not part of the export: 'photo' of the input and 3 more",
    )


@pytest.mark.e2e
def test_a_program_sees_the_execution_as_it_was_when_its_node_ran(tmp_path: Path) -> None:
    split = run(1, [1], [2, 3], source=("Webhook", 0, 0))
    for item, origin in zip(split["data"]["main"][1], (1, 2), strict=True):
        item["pairedItem"] = {"item": origin}
    file = tmp_path / "execution.json"
    file.write_text(json.dumps(execution(runs={**RUNS, "If": [split]})))
    program = (
        "return {'n': _json.n, 'from': _('Webhook').item.json.n, 'branch': len(_('If').all()),"
        "'later': _('Set').isExecuted, 'path': _('Webhook').params.path, 'seen': _getWorkflowStaticData('global').seen}"
    )
    result = click.testing.CliRunner().invoke(cli, ["exec", "-c", program, "--from-execution", str(file)])
    known = {"branch": 2, "later": False, "path": "orders", "seen": 3}
    assert [item["json"] for item in json.loads(result.output)] == [{"n": n, "from": n} | known for n in (2, 3)]


# What is no execution


@pytest.mark.parametrize(
    ("export", "words"),
    [
        ({}, "is not an execution with its data."),
        ([], "not what n8n's database keeps of an execution"),
        (5, "is not an execution with its data."),
        ({"id": "5", "status": "success"}, "Export it with includeData=true."),
        ({"data": "no json"}, "is not an execution with its data."),
        ({"data": {"resultData": []}}, "is not an execution with its data."),
        (["a", "b"], "is not an execution with its data."),
        ([{"a": "7"}, 1], "not what n8n's database keeps of an execution"),
        ([{"a": "x"}, 1], "not what n8n's database keeps of an execution"),
        ([{"json": {"a": 1}}], "is not an execution with its data."),
    ],
    ids=str,
)
def test_what_is_no_execution_is_told_in_a_sentence(export: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        replay(tmp_path, export)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.dictionaries(st.text(max_size=3), json_values, max_size=3) | st.lists(json_values, max_size=3))
def test_the_database_s_form_is_read_back_as_what_it_was(value: Any) -> None:
    assert unflatten(flat(value)) == value


@settings(deadline=None, derandomize=True, max_examples=40)
@given(json_values, st.sampled_from(["workflowData", "data", "id", "mode", "runs", "stack"]))
def test_whatever_stands_in_an_export_the_outcome_is_a_replay_or_a_sentence(odd: Any, place: str) -> None:
    for found in (execution(**{place: odd}), execution(runs={"Code": odd}), execution(runs={"Code": [odd]}), odd):
        with suppress(InputError):
            replayed = replay_of(found, "export.json", node=None, run_index=None, needs_code=False)
            assert isinstance(json.loads(replayed.workflow.items), list)
