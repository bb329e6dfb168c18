"""From what `trio-runner exec` was given to the program that it runs, in a workflow imagined or exported.

Owns which option wins where two speak of the same thing: an option over an exported execution, that over the defaults.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from trio_runner.localexecution import OPTION as FROM_EXECUTION
from trio_runner.localexecution import Replay, read_execution
from trio_runner.localinput import (
    InputError,
    Item,
    StaticData,
    attach_binaries,
    read_environment,
    read_items,
    read_nodes,
    read_source,
    read_variables,
)
from trio_runner.localworkflow import LocalWorkflow
from trio_runner.oneshot import Program
from trio_runner.sandbox import clock


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What `exec` was told, as the command line has it."""

    file: Path | None = None
    code: str | None = None
    input_from: str | None = None
    each: bool | None = None
    query: str | None = None
    nodes: tuple[str, ...] = ()
    binaries: tuple[str, ...] = ()
    variables: str | None = None
    environment: tuple[str, ...] = ()
    static_data: Path | None = None
    save_static_data: bool = False
    workflow_id: str | None = None
    workflow_name: str | None = None
    execution_id: str | None = None
    mode: str | None = None
    node_name: str | None = None
    run_index: int | None = None
    timezone: str | None = None
    execution: str | None = None


class Prepared(msgspec.Struct, frozen=True):
    """A program that can be run, what there is to say before, and the file that takes its static data after."""

    program: Program
    notes: tuple[str, ...] = ()
    save_to: StaticData | None = None


def prepare(options: Options, environ: Mapping[str, str]) -> Prepared:
    """Reads all that the options name. Raises `InputError`."""
    options = _as_written(options)
    _check(options)
    replay = _replay(options)
    static_data = (
        StaticData(options.static_data, "--static-data", may_be_missing=options.save_static_data)
        if options.static_data is not None
        else None
    )
    workflow = _workflow(options, replay.workflow if replay else LocalWorkflow(), static_data, environ)
    program = Program(
        source=_source(options, replay),
        workflow=workflow,
        each_item=replay.each_item if replay is not None and options.each is None else bool(options.each),
        query=_query(options.query) if options.query is not None or replay is None else replay.query,
    )
    return Prepared(program, replay.notes if replay else (), static_data if options.save_static_data else None)


def _as_written(options: Options) -> Options:
    """In a locale without UTF-8 Python cannot read other letters of the command line, and hands on their bytes."""
    read: dict[str, object] = {}
    for name in options.__struct_fields__:
        value = getattr(options, name)
        if isinstance(value, str) and not value.isascii():
            try:
                read[name] = os.fsencode(value).decode()
            except UnicodeError:
                raise InputError(f"{value!r} is not UTF-8 text, and this locale cannot read it.") from None
    return msgspec.structs.replace(options, **read)


def _check(options: Options) -> None:
    if options.file is not None and options.code is not None:
        raise InputError("Give the program either as FILE or with -c CODE, not both.")
    if options.file is None and options.code is None and options.execution is None:
        raise InputError(f"Give the program either as FILE or with -c CODE, or an execution with {FROM_EXECUTION}.")
    from_stdin = [str(options.file), options.input_from, options.execution, str(options.static_data)]
    if from_stdin.count("-") > 1:
        raise InputError("The program and the items cannot both come from standard input: it can be read only once.")
    if options.save_static_data and options.static_data is None:
        raise InputError("--save-static-data needs --static-data FILE, which says where to.")
    if options.run_index is not None and options.execution is None:
        raise InputError(f"--run-index chooses a run of an execution: it needs {FROM_EXECUTION}.")


def _replay(options: Options) -> Replay | None:
    if options.execution is None:
        return None
    own_program = options.file is not None or options.code is not None
    return read_execution(
        options.execution, node=options.node_name, run_index=options.run_index, needs_code=not own_program
    )


def _source(options: Options, replay: Replay | None) -> str:
    if options.code is not None:
        return options.code
    if options.file is not None:
        return read_source(options.file)
    assert replay is not None
    assert replay.source is not None
    return replay.source


def _workflow(
    options: Options, workflow: LocalWorkflow, static_data: StaticData | None, environ: Mapping[str, str]
) -> LocalWorkflow:
    nodes = read_nodes(options.nodes, "--node")
    if options.timezone:
        try:
            clock.zone(options.timezone)
        except ValueError as error:
            raise InputError(f"--timezone: {error}") from None
    changes: dict[str, Any] = {
        "workflow_id": options.workflow_id,
        "workflow_name": options.workflow_name,
        "execution_id": options.execution_id,
        "mode": options.mode,
        "node_name": options.node_name,
        "nodes": {**workflow.nodes, **nodes} if nodes else None,
        "variables": read_variables(options.variables, "--vars") if options.variables is not None else None,
        "env": read_environment(options.environment, environ, "--env") or None,
        "static_data": static_data.value if static_data is not None else None,
        "settings": {**workflow.settings, "timezone": options.timezone} if options.timezone else None,
        "items": _items(options, workflow, nodes),
    }
    return msgspec.structs.replace(workflow, **{name: value for name, value in changes.items() if value is not None})


def _items(options: Options, workflow: LocalWorkflow, nodes: dict[str, list[Item]]) -> bytes | None:
    """The input, as JSON: what was given, else what the last of the other nodes gives; None to leave it as it is."""
    if options.input_from is not None:
        items = read_items(options.input_from, "--input")
    elif nodes and options.execution is None:
        items = list(nodes.values())[-1]
    elif options.binaries:
        items = msgspec.json.decode(workflow.items)
    else:
        return None
    return msgspec.json.encode(attach_binaries(items, options.binaries, "--binary"))


def _query(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return msgspec.json.encode(text)
    return text.encode()
