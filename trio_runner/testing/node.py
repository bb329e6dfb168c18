"""A Code node on an embedded broker and a real runner, for programs that run under trio.

Owns the outcome of a program as a test sees it. Each program runs in a confined process of its own, and all that it
says comes over the wire, as with n8n.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypedDict, Unpack

import msgspec
import trio

from trio_runner.config import AUTH_TOKEN, BROKER_URI, CONNECTION, MAX_CONCURRENCY, load
from trio_runner.errors import FatalError
from trio_runner.executor import unquote
from trio_runner.localbroker import LocalBroker, TaskFailed
from trio_runner.localworkflow import LocalWorkflow
from trio_runner.oneshot import Program
from trio_runner.supervisor import Runner

Item = Mapping[str, Any]


class Around(TypedDict, total=False):
    """What a program is run with, besides its items."""

    each: bool
    """Once for each item, with ``_item``, instead of once with ``_items``."""
    query: object
    """The ``_query`` of a code tool."""
    nodes: Mapping[str, Sequence[Item]]
    """What other nodes gave, by their names. The last one is the node before."""
    variables: Mapping[str, Any]
    """n8n's variables, ``_vars``."""
    static_data: Mapping[str, Any]
    """``{"global": {…}}``, for ``_getWorkflowStaticData``."""


class NotItemsError(ValueError):
    """What a program returned is not what n8n takes for items."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a program returned and printed."""

    value: Any
    """The returned value, after its way through JSON: tuples are lists, dates are texts."""
    prints: tuple[str, ...] = ()
    """One text for each print."""
    static_data: dict[str, Any] | None = None
    """The workflow's static data afterwards, if the program changed it."""
    custom_data: dict[str, str] | None = None
    """What the program wrote into the execution's custom data."""

    @property
    def items(self) -> list[dict[str, Any]]:
        """What n8n makes of the value: a list of items, plain dictionaries wrapped in ``json``.

        Raises `NotItemsError` for what n8n refuses.
        """
        rows = [self.value] if isinstance(self.value, dict) else self.value
        if not isinstance(rows, list):
            raise NotItemsError(f"n8n takes a dictionary or a list of them, not {self.value!r}")
        return [_as_item(row, index) for index, row in enumerate(rows)]

    @property
    def json(self) -> list[dict[str, Any]]:
        """The data of the `items`."""
        return [item["json"] for item in self.items]


def _as_item(row: object, index: int) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise NotItemsError(f"n8n takes a dictionary as item {index}, not {row!r}")
    if "json" not in row:
        return {"json": row}
    if not isinstance(row["json"], dict):
        raise NotItemsError(f"n8n takes a dictionary as json of item {index}, not {row['json']!r}")
    return row


class CodeNodeError(Exception):
    """The program failed; the attributes are what n8n is told."""

    def __init__(
        self, message: str, description: str = "", *, line: int | None, item: int | None, prints: tuple[str, ...]
    ) -> None:
        super().__init__(message)
        self.message = message
        """What n8n shows as the error."""
        self.description = description
        """What it shows below: where, what to do, and the traceback."""
        self.line = line
        """The line of the program, from 1; None when there is none to name."""
        self.item = item
        """The index of the item that it is about, from 0."""
        self.prints = prints
        """What was printed until then."""

    def __str__(self) -> str:
        where = [f"line {self.line}"] if self.line is not None else []
        where += [f"item {self.item}"] if self.item is not None else []
        head = f"{self.message} ({', '.join(where)})" if where else self.message
        return f"{head}\n{self.description}" if self.description else head


class AsyncCodeNode:
    """Runs programs; from `open_code_node`. Several may run at the same time."""

    def __init__(self, broker: LocalBroker) -> None:
        self._broker = broker

    async def run(self, program: str | Path, items: Sequence[Item] = (), **around: Unpack[Around]) -> Result:
        """Runs a program, given as text or as the path of a file, and returns what came of it.

        ``items`` are n8n's (``{"json": {…}}``) or plain dictionaries, which are wrapped. Raises `CodeNodeError` when
        the program fails. Cancellation stops it.
        """
        whole = _program(_source(program), items, around)
        prints: list[str] = []
        try:
            data = await self._broker.run_task(
                whole.settings(), lambda texts: prints.append(_shown(texts)), whole.workflow
            )
        except TaskFailed as failed:
            raise _error(failed.error, tuple(prints)) from None
        return Result(
            value=_decoded(data.result),
            prints=tuple(prints),
            static_data=_decoded(data.static_data),
            custom_data=_decoded(data.custom_data),
        )


def _program(source: str, items: Sequence[Item], around: Around) -> Program:
    query = around.get("query")
    workflow = LocalWorkflow(
        items=msgspec.json.encode([_wrapped(item) for item in items]),
        nodes={name: [dict(_wrapped(item)) for item in given] for name, given in around.get("nodes", {}).items()},
        variables=dict(around.get("variables", {})),
        static_data=dict(around.get("static_data", {})),
    )
    asked = None if query is None else msgspec.json.encode(query)
    return Program(source=source, workflow=workflow, each_item=around.get("each", False), query=asked)


def _decoded(value: msgspec.Raw | msgspec.UnsetType) -> Any:
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else None


def _source(program: str | Path) -> str:
    return program.read_text(encoding="utf-8") if isinstance(program, Path) else program


def _wrapped(item: Item) -> Item:
    return item if isinstance(item.get("json"), Mapping) else {"json": item}


def _shown(texts: list[object]) -> str:
    return " ".join(unquote(text) if isinstance(text, str) else str(text) for text in texts)


def _error(error: dict[str, Any], prints: tuple[str, ...]) -> CodeNodeError:
    context = error.get("context")
    return CodeNodeError(
        str(error.get("message", "")),
        str(error.get("description") or ""),
        line=error.get("lineNumber"),
        item=context.get("itemIndex") if isinstance(context, dict) else None,
        prints=prints,
    )


@asynccontextmanager
async def open_code_node(settings: Mapping[str, str] | None = None) -> AsyncIterator[AsyncCodeNode]:
    """A broker and a runner, both gone with the block.

    ``settings`` are environment variables of the runner, such as ``N8N_RUNNERS_STDLIB_ALLOW``; nothing is taken from
    this process's own environment. Raises `ConfigError` and `FatalError` for what the runner cannot work with.
    """
    settings = settings or {}
    ours = {
        name: text for name, text in settings.items() if name not in CONNECTION or name in MAX_CONCURRENCY.spellings
    }
    ours[AUTH_TOKEN.name] = secrets.token_hex(16)
    raised: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            broker = LocalBroker(auth_token=ours[AUTH_TOKEN.name])
            port = await nursery.start(broker.serve)
            config = load({**ours, BROKER_URI.name: f"http://127.0.0.1:{port}"}).config
            runner = Runner(config, environment=ours)
            nursery.start_soon(lambda: runner.run(handle_signals=False))
            try:
                yield AsyncCodeNode(broker)
            except Exception as error:  # handed on below: a test's failure is no group of one
                raised = error
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if (one := _single(group)) is None:
            raise
        raise one from None
    if raised is not None:
        raise raised


def _single(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """The reason why the runner ended, if there is just one."""
    reasons = [error for error in _leaves(group) if not isinstance(error, trio.Cancelled)]
    fatal = [error for error in reasons if isinstance(error, FatalError)]
    return (fatal or reasons)[0] if len(fatal or reasons) == 1 else None


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
