"""The names of n8n that user code finds, made for the program that mentions them: `_input`, `_("Node")`, `_now`, ….

Owns what each name is and when it is asked for. What the data looks like is `rundata`'s, what items can do `items`'s,
what n8n does on request `helpers`'s. Everything handed to user code is a value, a hardened function or a facade.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import msgspec

from trio_runner.sandbox import clock, helpers, values
from trio_runner.sandbox.customdata import CustomData
from trio_runner.sandbox.friendly import UnsendableError
from trio_runner.sandbox.hardened import facade, harden
from trio_runner.sandbox.helpers import Calls
from trio_runner.sandbox.items import AttrDict, Input, Shape, dotted, dotted_lists, unshaped
from trio_runner.sandbox.mentions import DOTS, LISTS, REQUESTED
from trio_runner.sandbox.rundata import RESUME_TOKEN, Requests, RunData, WorkflowDataError, fields

_OF_THE_ITEM: Final = frozenset("_json _binary _itemIndex _now _today".split())
"""Names whose values are made anew for each item."""
_AT_START: Final = REQUESTED - frozenset("_ _node _execution _getWorkflowStaticData".split())
"""Names that are plain values: to have them, one has to ask before the program starts."""


class Channel(Calls, Requests, Protocol):
    """The way to n8n."""


def shape_for(uses: Iterable[str]) -> Shape:
    """What has to be done to items for a program that mentions these names."""
    marks = set(uses)
    return dotted_lists if LISTS in marks else dotted if DOTS in marks else unshaped


class Workflow:
    """One program's view of its workflow. ``index`` is the item under way, 0 in the mode for all items."""

    def __init__(
        self,
        uses: Iterable[str],
        nodes: Iterable[str],
        items: Input,
        connect: Callable[[], Channel],
        *,
        timezone: str = "",
    ) -> None:
        """``connect`` is called only when something has to be asked for. ``timezone``: the instance's."""
        self._uses = frozenset(uses)
        self._nodes = tuple(nodes)
        self._items = items
        self._connect = connect
        self._timezone = timezone
        self._shape = items.shape = shape_for(self._uses)
        self._data_of_run: RunData | None = None
        self._zone: Any = None
        self._references: dict[str, object] = {}
        self._custom = CustomData(self._custom_before)
        self._lock = _thread.RLock()
        self._static: dict[str, Any] | None = None
        self._static_before = b""
        self._static_known: frozenset[str] = frozenset()
        self.index = 0

    def names(self) -> dict[str, object]:
        """The globals that stay the same for all items. Sends one request if the source mentions what is a value."""
        made: dict[str, object] = {}
        for name in self._uses:
            make = _MAKERS.get(name)
            if make is not None and name not in _OF_THE_ITEM:
                made[name] = make(self)
        return made

    def of_item(self, index: int) -> dict[str, object]:
        """The globals of one item."""
        self.index = index
        return {name: _MAKERS[name](self) for name in self._uses & _OF_THE_ITEM}

    def items(self, *, whole: bool) -> list[Any]:
        """The ``_items`` of the program: only when the source mentions them, unless the ``whole`` is needed anyway."""
        return self._items.all() if whole or "_items" in self._uses else []

    def query(self, query: Any) -> Any:
        """The ``_query`` of the program."""
        return self._shape(query) if "_query" in self._uses else query

    def metadata(self) -> bytes | None:
        """What goes back to n8n beside the result: custom data that was set, static data that has changed.

        Static data is written by the friendly rules in either set of them: n8n's own runner has none, so that no
        workflow relies on ``"{1, 2}"``. Raises `UnsendableError`.
        """
        changed: dict[str, object] = {}
        if self._custom.changed:
            changed["customData"] = self._custom.changed
        if self._static is not None:
            static = {key: entry for key, entry in self._static.items() if entry or key in self._static_known}
            try:
                encoded = values.encode(static, friendly=True)
            except UnsendableError as error:
                error.place, error.path = "the static data", error.path.removeprefix(".")
                raise
            if encoded != self._static_before:
                changed["staticData"] = msgspec.Raw(encoded)
        return msgspec.json.encode(changed) if changed else None

    @property
    def _data(self) -> RunData:
        if self._data_of_run is None:
            secret = any(use.startswith("_execution.") for use in self._uses)
            self._data_of_run = RunData(
                self._connect(), self._nodes, env="_env" in self._uses, secret=secret, shape=self._shape
            )
        return self._data_of_run

    # The input

    def _input(self) -> object:
        return facade(
            "_input",
            {"all": self._input_all, "first": self._input_first, "last": self._input_last},
            {"item": self._input_item, "params": self._input_params, "context": self._input_context},
        )

    def _input_params(self) -> object:
        """Of the node that feeds this one, as in JavaScript."""
        source = self._data.source()
        return fields(self._data.node(source["previousNode"]).get("parameters") if source else None, dotted)

    def _input_context(self) -> object:
        return self._context((self._data.source() or {}).get("previousNode", ""))

    def _input_all(self, branchIndex: int | None = None, runIndex: int | None = None) -> list[Any]:
        _only_this_input(branchIndex, runIndex)
        return self._items.all()

    def _input_first(self, branchIndex: int | None = None, runIndex: int | None = None) -> Any:
        _only_this_input(branchIndex, runIndex)
        return self._at(0)

    def _input_last(self, branchIndex: int | None = None, runIndex: int | None = None) -> Any:
        _only_this_input(branchIndex, runIndex)
        return self._at(-1)

    def _input_item(self) -> Any:
        return self._at(self.index)

    def _at(self, index: int) -> Any:
        """One input item; None when there is none, as in JavaScript."""
        try:
            return self._items.at(index)
        except IndexError:
            return None

    def _json(self) -> Any:
        return (self._at(self.index) or {}).get("json", AttrDict())

    def _binary(self) -> Any:
        return (self._at(self.index) or {}).get("binary", AttrDict())

    # Other nodes

    def _node_function(self) -> object:
        return harden(self._node, "_")

    def _node_table(self) -> object:
        return facade("_node", {}, other=self._node)

    def _node(self, name: object) -> object:
        if type(name) is not str:
            raise TypeError(f"_() takes the name of a node, not {type(name).__name__}")
        if name not in self._references:
            self._references[name] = self._reference(name)
        return self._references[name]

    def _reference(self, name: str) -> object:
        """What there is to know of one node; nothing is asked for before it is read."""

        def items(branch: int | None, run: int | None) -> list[Any]:
            return self._data.items(name, branch, run)

        def all_(branchIndex: int | None = None, runIndex: int | None = None) -> list[Any]:
            return items(branchIndex, runIndex)

        def first(branchIndex: int | None = None, runIndex: int | None = None) -> Any:
            return next(iter(items(branchIndex, runIndex)), None)

        def last(branchIndex: int | None = None, runIndex: int | None = None) -> Any:
            return next(reversed(items(branchIndex, runIndex)), None)

        def matching(itemIndex: int | None = None) -> Any:
            index = self.index if itemIndex is None else itemIndex
            if not isinstance(index, int) or not 0 <= index < max(len(self._items), 1):
                raise WorkflowDataError(f"There is no input item {index!r}: there are {len(self._items)}")
            return self._data.matching(name, index)

        def same_index() -> Any:
            found = items(None, None)
            if self.index >= len(found):
                raise WorkflowDataError(f"Node '{name}' gave {len(found)} items; there is no item {self.index}")
            return found[self.index]

        def parameters() -> object:
            return fields(self._data.node(name).get("parameters"), dotted)

        executed = _bound(self._data_has_run, name)
        last_run = _bound(self._last_run, name)
        return facade(
            f"_('{name}')",
            {"all": all_, "first": first, "last": last}
            | dict.fromkeys(("itemMatching", "item_matching", "pairedItem", "paired_item"), matching),
            {
                "item": matching,
                "params": parameters,
                "parameter": parameters,
                "context": lambda: self._context(name),
                "isExecuted": executed,
                "is_executed": executed,
                "json": lambda: same_index()["json"],
                "binary": lambda: same_index().get("binary", AttrDict()),
                "runIndex": last_run,
                "run_index": last_run,
                "name": lambda: name,
            },
        )

    def _data_has_run(self, name: str) -> bool:
        return self._data.has_run(name)

    def _last_run(self, name: str) -> int:
        return self._data.last_run(name)

    def _context(self, name: str) -> object:
        contexts = (self._data.execution.get("executionData") or {}).get("contextData") or {}
        return fields(contexts.get(f"node:{name}"), dotted)

    # The workflow and its execution

    def _workflow(self) -> object:
        workflow = self._data.workflow
        return AttrDict({key: workflow.get(key) for key in ("id", "name", "active")})

    def _prev_node(self) -> object:
        source = self._data.source() or {}
        return AttrDict(
            name=source.get("previousNode"),
            outputIndex=source.get("previousNodeOutput") or 0,
            runIndex=source.get("previousNodeRun") or 0,
        )

    def _parameter(self) -> object:
        return fields((self._data.facts.get("node") or {}).get("parameters"), dotted)

    def _node_version(self) -> object:
        return (self._data.facts.get("node") or {}).get("typeVersion")

    def _run_index(self) -> object:
        return self._data.facts.get("runIndex") or 0

    @property
    def _additional(self) -> dict[str, Any]:
        return self._data.facts.get("additionalData") or {}

    def _vars(self) -> object:
        return fields(self._additional.get("variables"), dotted)

    def _env(self) -> object:
        state = self._data.facts.get("envProviderState") or {}
        if state.get("isEnvAccessBlocked"):
            return facade("_env", {}, other=_refuse_env)
        return fields(state.get("env"), dotted)

    def _execution(self) -> object:
        return facade(
            "_execution",
            {"customData": self._custom.facade()},
            {
                "id": lambda: self._additional.get("executionId"),
                "mode": self._mode,
                "resumeUrl": lambda: self._resume_url("webhookWaitingBaseUrl"),
                "resumeFormUrl": lambda: self._resume_url("formWaitingBaseUrl"),
            },
        )

    def _mode(self) -> str:
        mode = self._data.facts.get("mode")
        return "test" if mode == "manual" else "evaluation" if mode == "evaluation" else "production"

    def _resume_url(self, base: str) -> str:
        url = f"{self._additional.get(base) or ''}/{self._additional.get('executionId') or ''}"
        token = self._data.execution.get(RESUME_TOKEN)
        return f"{url}?signature={token}" if token else url

    def _custom_before(self) -> dict[str, str]:
        result = self._data.execution.get("resultData") or {}
        return dict(result.get("metadata") or {})

    def _static_function(self) -> object:
        return harden(self._get_static, "_getWorkflowStaticData")

    def _get_static(self, type: str = "") -> object:  # noqa: A002 - n8n's name for it
        if type not in ("global", "node"):
            raise ValueError(f"_getWorkflowStaticData takes 'global' or 'node', not {type!r:.60}")
        if self._static is None:
            before = self._data.workflow.get("staticData")
            with self._lock:  # while n8n was asked another thread may have come here, and has made its changes
                if self._static is None:
                    before = before if isinstance(before, dict) else {}
                    self._static_before = values.encode(before)
                    self._static_known = frozenset(before)
                    self._static = (dotted_lists if LISTS in self._uses else dotted)(before)
        key = "global" if type == "global" else f"node:{self._data.here}"
        return self._static.setdefault(key, AttrDict())

    # Values by themselves

    def _now(self) -> object:
        if self._zone is None:
            name = (self._data.workflow.get("settings") or {}).get("timezone")
            self._zone = clock.zone(self._timezone if name in (None, "", "DEFAULT") else name)
        return clock.DateTime.now(self._zone)

    def _today(self) -> object:
        now = self._now()
        assert isinstance(now, clock.DateTime)
        return now.startOf("day")

    def _helpers(self) -> object:
        return helpers.make(self._connect, self._items)


def _bound(function: Callable[[str], object], name: str) -> Callable[[], object]:
    return lambda: function(name)


def _only_this_input(branch: int | None, run: int | None) -> None:
    if branch not in (None, 0) or run is not None:
        raise WorkflowDataError("A Python node gets the items of its first input and of this run; _('Node') has others")


def _refuse_env(_name: str) -> object:
    raise PermissionError("n8n keeps its environment from code (N8N_BLOCK_ENV_ACCESS_IN_NODE on n8n)")


def _jmespath(_workflow: Workflow) -> object:
    import jmespath

    def search(value: object, expression: str) -> object:
        if type(value) is str and type(expression) is not str:  # the order of the jmespath package
            value, expression = expression, value
        return jmespath.search(expression, value)

    return harden(search, "_jmespath")


def _if_empty(_workflow: Workflow) -> object:
    def if_empty(value: object, default: object) -> object:
        empty = value is None or (isinstance(value, str | list | tuple | dict) and not value)
        return default if empty else value

    return harden(if_empty, "_ifEmpty")


_MAKERS: Final[dict[str, Callable[[Workflow], object]]] = {
    "_": Workflow._node_function,
    "_node": Workflow._node_table,
    "_input": Workflow._input,
    "_json": Workflow._json,
    "_binary": Workflow._binary,
    "_itemIndex": lambda workflow: workflow.index,
    "_workflow": Workflow._workflow,
    "_execution": Workflow._execution,
    "_prevNode": Workflow._prev_node,
    "_parameter": Workflow._parameter,
    "_nodeVersion": Workflow._node_version,
    "_runIndex": Workflow._run_index,
    "_vars": Workflow._vars,
    "_env": Workflow._env,
    "_getWorkflowStaticData": Workflow._static_function,
    "_now": Workflow._now,
    "_today": Workflow._today,
    "_helpers": Workflow._helpers,
    "_jmespath": _jmespath,
    "_ifEmpty": _if_empty,
}
