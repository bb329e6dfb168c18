"""An exported n8n execution as something to run again: its Code node's input, code, mode and all that surrounds it.

Owns the forms in which n8n gives an execution away: from its public API, from its editor's, and as its database keeps
it. Reads only; what is not there (credentials, binary data kept in files) is said in `Replay.notes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec

from trio_runner.localinput import InputError, Item, read_json
from trio_runner.localworkflow import LocalWorkflow, Recorded

OPTION = "--from-execution"
_EACH = "runOnceForEachItem"


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """What a Code node was given. ``source`` is None when the node has no Python code of its own."""

    source: str | None
    each_item: bool
    workflow: LocalWorkflow
    query: bytes | None = None
    """What a code tool was asked, as JSON."""
    notes: tuple[str, ...] = ()


class _Origin(msgspec.Struct, frozen=True):
    """Where a node's items came from."""

    node: str | None
    output: int = 0
    run: int = 0

    def as_source(self) -> dict[str, Any] | None:
        """As n8n writes it."""
        if self.node is None:
            return None
        return {"previousNode": self.node, "previousNodeOutput": self.output, "previousNodeRun": self.run}


class _Export(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of an export, of the right kinds; whatever is missing is empty."""

    about: dict[str, Any]
    workflow: dict[str, Any]
    run_data: dict[str, list[dict[str, Any]]]
    waiting: list[dict[str, Any]]
    """Nodes that were about to run when the execution ended, with their input."""
    custom_data: dict[str, Any]
    pin_data: dict[str, Any]


def read_execution(file: str, *, node: str | None, run_index: int | None, needs_code: bool) -> Replay:
    """The Code node of the execution in ``file``. Raises `InputError`.

    ``node`` is its name, needed when several nodes qualify; ``run_index`` which of its runs, the last one by default.
    """
    return replay_of(read_json(file, OPTION), file, node=node, run_index=run_index, needs_code=needs_code)


def replay_of(found: Any, file: str, *, node: str | None, run_index: int | None, needs_code: bool) -> Replay:
    """The same of what has been read already."""
    export = _parse(found, file)
    nodes = {_text(entry.get("name")): entry for entry in _dicts(export.workflow.get("nodes"))}
    name = _choose(export, nodes) if node is None else _known(node, export, nodes)
    parameters = _dict(nodes.get(name, {}).get("parameters"))
    code = parameters.get("pythonCode")
    source = code if isinstance(code, str) and _is_python(parameters) else None
    if needs_code and source is None:
        raise InputError(f"{OPTION}: the node {name!r} has no Python code of its own; give the program, too")
    index, origin, items = _input_of(name, run_index, export, nodes)
    runs = _runs_before(export, name, index)
    workflow = LocalWorkflow(
        items=msgspec.json.encode(items),
        static_data=_dict(_decoded(export.workflow.get("staticData"))),
        workflow_id=_text(export.workflow.get("id")) or _text(export.about.get("workflowId")) or "exec",
        workflow_name=_text(export.workflow.get("name")) or "exec",
        active=bool(export.workflow.get("active")),
        settings=_dict(export.workflow.get("settings")),
        execution_id=_text(export.about.get("id")) or _text(export.about.get("executionId")) or "1",
        mode=_text(export.about.get("mode")) or "manual",
        custom_data={key: _text(value) for key, value in export.custom_data.items()},
        node_name=name,
        params=parameters,
        run_index=index,
        recorded=Recorded(
            nodes=list(nodes.values()),
            connections=_dict(export.workflow.get("connections")),
            pin_data=export.pin_data,
            runs=runs,
            source=origin.as_source(),
        ),
    )
    return Replay(
        source=source,
        each_item=parameters.get("mode") == _EACH,
        workflow=workflow,
        query=_query(export.run_data.get(name, []), index),
        notes=tuple(_notes(items, runs)),
    )


# The forms of an export


def _parse(found: Any, file: str) -> _Export:
    if isinstance(found, list) and len(found) == 1:  # a query's single row
        found = found[0]
    if isinstance(found, list):  # the database's text by itself
        found = {"data": found}
    about = _dict(found)
    while isinstance(about.get("data"), dict) and "workflowData" in about["data"]:  # as the editor is answered
        about = about["data"]
    run = about if "resultData" in about else _decoded(about.get("data"))
    if isinstance(run, list):
        run = unflatten(run)
    result = run.get("resultData") if isinstance(run, dict) else None
    if not isinstance(result, dict):
        hint = " Export it with includeData=true." if about.get("id") is not None and "data" not in about else ""
        raise InputError(f"{OPTION}: {file} is not an execution with its data.{hint}")
    run_data = _dict(result.get("runData"))
    return _Export(
        about=about,
        workflow=_dict(_decoded(about.get("workflowData"))),
        run_data={name: _dicts(runs) for name, runs in run_data.items() if _dicts(runs)},
        waiting=_dicts(_dict(run.get("executionData")).get("nodeExecutionStack")),
        custom_data=_dict(result.get("metadata")) or _dict(about.get("customData")),
        pin_data=_dict(result.get("pinData")) or _dict(_dict(_decoded(about.get("workflowData"))).get("pinData")),
    )


def unflatten(flat: list[Any]) -> Any:
    """The value behind the form in which n8n's database keeps run data: a list, in whose containers each text is the
    index of the element that is meant. Raises `InputError`.
    """
    made: list[Any] = [{} if isinstance(entry, dict) else [] if isinstance(entry, list) else entry for entry in flat]

    def meant(value: Any) -> Any:
        return made[int(value)] if isinstance(value, str) else value

    try:
        for entry, new in zip(flat, made, strict=True):
            if isinstance(entry, dict):
                new.update((key, meant(value)) for key, value in entry.items())
            elif isinstance(entry, list):
                new.extend(map(meant, entry))
        return made[0]
    except (ValueError, IndexError):
        raise InputError(f"{OPTION}: this is a list, but not what n8n's database keeps of an execution") from None


# The node and its input


def _choose(export: _Export, nodes: dict[str, dict[str, Any]]) -> str:
    python = [name for name, node in nodes.items() if _is_python(_dict(node.get("parameters")))]
    ran = [name for name in python if name in export.run_data]
    waiting = [name for name in python if name in map(_name_of_waiting, export.waiting)]
    for candidates in (ran, waiting, python):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise InputError(
                f"{OPTION}: several nodes have Python code: choose one with --node-name: {_list(candidates)}"
            )
    if not nodes:
        names = _list(export.run_data)
        raise InputError(f"{OPTION}: the workflow is not part of the file: choose a node with --node-name: {names}")
    raise InputError(f"{OPTION}: no node has Python code; --node-name chooses one whose input to take: {_list(nodes)}")


def _known(name: str, export: _Export, nodes: dict[str, dict[str, Any]]) -> str:
    if name not in nodes and name not in export.run_data:
        raise InputError(f"{OPTION}: there is no node {name!r}, but {_list([*nodes] or export.run_data)}")
    return name


def _input_of(
    name: str, run_index: int | None, export: _Export, nodes: dict[str, dict[str, Any]]
) -> tuple[int, _Origin, list[Item]]:
    runs = export.run_data.get(name, [])
    if runs:
        index = len(runs) - 1 if run_index is None else run_index
        if not 0 <= index < len(runs):
            raise InputError(f"{OPTION}: the node {name!r} ran {len(runs)} times: there is no run {index}")
        origin = _origin(runs[index].get("source"))
        return index, origin, _output(export, origin)
    for entry in export.waiting:
        if _name_of_waiting(entry) == name:
            return 0, _origin(_dict(entry.get("source")).get("main")), _items(_dict(entry.get("data")).get("main"), 0)
    for before, output in _before(name, export, nodes):
        origin = _Origin(before, output, len(export.run_data[before]) - 1)
        return 0, origin, _output(export, origin)
    raise InputError(f"{OPTION}: the node {name!r} did not run, nor did a node before it")


def _query(runs: list[dict[str, Any]], index: int) -> bytes | None:
    """What an agent asked a tool: kept as an item of a connection of its own, mostly as the field ``query``."""
    asked = _dict(runs[index].get("inputOverride")).get("ai_tool") if runs else None
    item = next(iter(_items(asked, 0)), None)
    if item is None:
        return None
    fields = _dict(item.get("json"))
    return msgspec.json.encode(fields["query"] if fields.keys() == {"query"} else fields)


def _before(name: str, export: _Export, nodes: dict[str, dict[str, Any]]) -> Iterator[tuple[str, int]]:
    """The nodes that feed a node and did run, with the number of the output."""
    connections = _dict(export.workflow.get("connections"))
    for before in nodes:
        outputs = _dict(connections.get(before)).get("main")
        for number, links in enumerate(outputs if isinstance(outputs, list) else []):
            if before in export.run_data and any(link.get("node") == name for link in _dicts(links)):
                yield before, number


def _origin(source: Any) -> _Origin:
    first = next(iter(_dicts(source)), {})
    node = first.get("previousNode")
    output, run = first.get("previousNodeOutput"), first.get("previousNodeRun")
    return _Origin(
        node if isinstance(node, str) else None,
        output if isinstance(output, int) else 0,
        run if isinstance(run, int) else 0,
    )


def _output(export: _Export, origin: _Origin) -> list[Item]:
    runs = export.run_data.get(origin.node or "", [])
    if not 0 <= origin.run < len(runs):
        return []
    return _items(_dict(runs[origin.run].get("data")).get("main"), origin.output)


def _runs_before(export: _Export, name: str, index: int) -> dict[str, list[dict[str, Any]]]:
    """The runs that there were when the Code node ran."""
    own = export.run_data.get(name, [])
    until = _order(own[index]) if own else None
    if until is None:
        return {other: runs for other, runs in export.run_data.items() if other != name}
    found = {
        other: [run for run in runs if (order := _order(run)) is None or order < until]
        for other, runs in export.run_data.items()
    }
    return {other: runs for other, runs in found.items() if runs}


def _order(run: dict[str, Any]) -> int | None:
    order = run.get("executionIndex")
    return order if isinstance(order, int) else None


def _items(outputs: Any, number: int) -> list[Item]:
    return _dicts(outputs[number]) if isinstance(outputs, list) and 0 <= number < len(outputs) else []


def _notes(items: list[Item], runs: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    away = [
        (where, name)
        for where, found in (("the input", items), *((f"{node!r}", item) for node, item in _outputs(runs)))
        for item in found
        for name, binary in _dict(item.get("binary")).items()
        if _dict(binary).get("id")
    ]
    if away:
        where, name = away[0]
        more = f" and {len(away) - 1} more" if len(away) > 1 else ""
        yield f"The files themselves are not part of the export: {name!r} of {where}{more}"


def _outputs(runs: dict[str, list[dict[str, Any]]]) -> Iterator[tuple[str, list[Item]]]:
    for node, found in runs.items():
        for run in found:
            outputs = _dict(run.get("data")).get("main")
            yield from ((node, _dicts(items)) for items in (outputs if isinstance(outputs, list) else []))


def _is_python(parameters: dict[str, Any]) -> bool:
    return str(parameters.get("language", "")).startswith("python") and isinstance(parameters.get("pythonCode"), str)


def _name_of_waiting(entry: dict[str, Any]) -> str:
    return _text(_dict(entry.get("node")).get("name"))


def _list(names: Any) -> str:
    return ", ".join(map(repr, names)) or "none"


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None or isinstance(value, dict | list) else str(value)


def _decoded(value: Any) -> Any:
    """A JSON text within JSON, as databases' exports have them; anything else as it is."""
    if isinstance(value, str):
        with suppress(msgspec.DecodeError):
            return msgspec.json.decode(value)
    return value
