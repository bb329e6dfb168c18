"""The data of an execution as n8n hands it over (protocol.md 15): asked for piece by piece, kept, and searched.

Owns what is asked for and when, and how an item is followed to the item that it was made from. Must not know how user
code reads it (workflow). Errors are for the workflow's author.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple, Protocol

from trio_runner.sandbox.alike import closest
from trio_runner.sandbox.channel import ChannelError
from trio_runner.sandbox.items import AttrDict, Shape

RESUME_TOKEN: Final = "resumeToken"  # noqa: S105 - where n8n puts it
_MAX_STEPS: Final = 10_000


class Requests(Protocol):
    """What a channel must be able to do here."""

    def request(self, params: dict[str, object]) -> Any:
        """The data that a data request brings. Blocks."""
        ...


class WorkflowDataError(LookupError):
    """The workflow has no such data."""


class Place(NamedTuple):
    """One item among all that an execution has made: the ``item``-th of an output of a run of a node."""

    node: str
    output: int
    run: int
    item: int


class RunData:
    """What is known of the execution so far.

    The first request asks for all nodes of ``wanted``, later ones for what is still missing. ``secret``: whether the
    token of the resume URL is kept.
    """

    def __init__(self, channel: Requests, wanted: Iterable[str], *, env: bool, secret: bool, shape: Shape) -> None:
        self._channel = channel
        self._wanted = set(wanted)
        self._env = env
        self._secret = secret
        self._shape = shape
        self._lock = _thread.RLock()  # programs with threads ask from any of them
        self._data: dict[str, Any] = {}
        self._fetched: set[str] = set()
        self._runs: dict[str, list[dict[str, Any]]] = {}
        self._pinned: dict[str, list[Any]] = {}
        self._shaped: dict[tuple[str, int, int], list[Any]] = {}

    @property
    def facts(self) -> dict[str, Any]:
        """Everything but the data of nodes."""
        if not self._data:
            self._fetch(())
        return self._data

    @property
    def workflow(self) -> dict[str, Any]:
        """The workflow: its name, nodes, connections, settings."""
        return _object(self.facts.get("workflow"))

    @property
    def here(self) -> str:
        """The name of the Code node."""
        return str(self.facts.get("activeNodeName") or _object(self.facts.get("node")).get("name") or "")

    @property
    def execution(self) -> dict[str, Any]:
        """``runExecutionData``."""
        return _object(self.facts.get("runExecutionData"))

    def _fetch(self, nodes: Iterable[str]) -> None:
        with self._lock:
            first = not self._data
            missing = (set(nodes) | (self._wanted if first else set())) - self._fetched
            if not first and not missing:
                return
            params = {
                "dataOfNodes": sorted(missing),
                "prevNode": False,
                "input": {"include": False},
                "env": self._env and first,
            }
            try:
                data = _object(self._channel.request(params))
            except ChannelError as error:  # refused by the operator, or by n8n
                raise WorkflowDataError(str(error)) from None
            result = _object(_object(data.get("runExecutionData")).get("resultData"))
            self._runs |= _object(result.pop("runData", None))
            self._pinned |= _object(result.pop("pinData", None))
            self._fetched |= missing
            if first:
                self._data = data
                if not self._secret:
                    self.execution.pop(RESUME_TOKEN, None)
                    _object(data.get("additionalData")).pop(RESUME_TOKEN, None)

    def node(self, name: str) -> dict[str, Any]:
        """The node of this name, with its parameters. Raises `WorkflowDataError` when there is none."""
        nodes = self.workflow.get("nodes") or ()
        for node in nodes:
            if node.get("name") == name:
                return _object(node)
        raise WorkflowDataError(f"This workflow has no node '{name[:100]}'.{_alike(name, nodes)}")

    def has_run(self, name: str) -> bool:
        """Whether a node has data in this execution."""
        self.node(name)
        self._fetch((name,))
        return bool(self._runs.get(name)) or self._pin(name) is not None

    def items(self, name: str, output: int | None = None, run: int | None = None) -> list[Any]:
        """What a node gave: of an output (else the one that leads here) and a run (else the last).

        The same list each time. Raises `WorkflowDataError`.
        """
        if not self.has_run(name):
            raise WorkflowDataError(
                f"Node '{name}' has not run in this execution, so it has no items. _('{name}').isExecuted tells."
            )
        branch = self._output_to_here(name) if output is None else output
        runs = self._runs.get(name, [])
        if branch == 0 and run is None and (pinned := self._pin(name)) is not None:
            number, found = -1, pinned
        else:
            number = len(runs) + run if run is not None and run < 0 else len(runs) - 1 if run is None else run
            found = self._output(name, branch, number)
        key = (name, branch, number)
        if key not in self._shaped:
            self._shaped[key] = self._shape(found)
        return self._shaped[key]

    def last_run(self, name: str) -> int:
        """The number of a node's last run."""
        self._fetch((name,))
        return max(len(self._runs.get(name, [])) - 1, 0)

    def _pin(self, name: str) -> list[Any] | None:
        """The pinned items of a node: they count in manual runs only."""
        if self.facts.get("mode") != "manual":
            return None
        pinned = self._pinned.get(name)
        return _object(self.workflow.get("pinData")).get(name) if pinned is None else pinned

    def _output(self, name: str, output: int, run: int) -> list[Any]:
        runs = self._runs.get(name, [])
        if not 0 <= run < len(runs):
            raise WorkflowDataError(f"Node '{name}' has run {len(runs)} times in this execution; there is no run {run}")
        outputs = _object(_object(runs[run]).get("data")).get("main") or []
        if not 0 <= output < max(len(outputs), 1):
            raise WorkflowDataError(f"Node '{name}' has {len(outputs)} outputs; there is no output {output}")
        return (outputs[output] if outputs else None) or []

    # Connections

    def _parents(self, name: str) -> Iterator[tuple[str, int]]:
        """The nodes that feed a node, and by which of their outputs."""
        for parent, kinds in _object(self.workflow.get("connections")).items():
            for output, targets in enumerate(_object(kinds).get("main") or ()):
                if any(target.get("node") == name for target in targets or ()):
                    yield parent, output

    def _output_to_here(self, name: str) -> int:
        """The output of a node that leads to this one, by however many nodes; 0 when none does."""
        seen, pending = {self.here}, [self.here]
        while pending:
            current = pending.pop(0)
            for parent, output in self._parents(current):
                if parent == name:
                    return output
                if parent not in seen:
                    seen.add(parent)
                    pending.append(parent)
        return 0

    def _above(self) -> dict[str, set[str]]:
        """The nodes that lead to this one, and it; with the nodes that feed each."""
        above: dict[str, set[str]] = {}
        pending = [self.here]
        while pending:
            current = pending.pop()
            if current not in above:
                above[current] = {parent for parent, _ in self._parents(current)}
                pending += above[current]
        return above

    def _between(self, name: str) -> set[str]:
        """The nodes on the ways from a node to this one, with the node itself."""
        above = self._above()
        between, added = {name}, True
        while added:
            more = {node for node, parents in above.items() if not parents.isdisjoint(between)} - between
            between |= more
            added = bool(more)
        return between - {self.here}

    # Paired items

    def matching(self, name: str, index: int) -> Any:
        """The item of node ``name`` from which input item ``index`` was made. Raises `WorkflowDataError`."""
        self.node(name)
        self._fetch(self._between(name))
        source = self.source()
        if source is None:
            raise WorkflowDataError("This node has no input, so none of its items comes from another node")
        places, seen, found = {_place(source, index)}, set[Place](), set[Place]()
        for _ in range(_MAX_STEPS):
            found |= {place for place in places if place.node == name}
            seen |= places
            places = {before for place in places - found for before in self._before(place, name, index)} - seen
            if not places:
                break
        if not found:
            raise WorkflowDataError(f"Item {index} does not come from node '{name}', as far as its paired items tell")
        if len(found) > 1:
            raise WorkflowDataError(
                f"Item {index} comes from {len(found)} items of node '{name}': choose one of _('{name}').all()"
            )
        return self._item(found.pop())

    def source(self) -> dict[str, Any] | None:
        """Which node, output and run feed the first input of this node."""
        sources = _object(self.facts.get("connectionInputSource")).get("main") or [None]
        first = sources[0]
        return (first[0] if first else None) if isinstance(first, list) else first

    def _item(self, place: Place) -> Any:
        items = self.items(place.node, place.output, place.run)
        if not 0 <= place.item < len(items):
            raise WorkflowDataError(f"Node '{place.node}' gave {len(items)} items; there is no item {place.item}")
        return items[place.item]

    def _before(self, place: Place, name: str, index: int) -> list[Place]:
        """The items from which the item at ``place`` was made."""
        runs = self._runs.get(place.node)
        if not runs and name not in self._above():
            raise WorkflowDataError(
                f"Node '{name}' does not lead to this one, so no item of it belongs to item {index}; "
                f"_('{name}').all() and .first() work all the same"
            )
        if not runs:
            raise WorkflowDataError(f"Item {index} does not come from node '{name}': node '{place.node}' has no data")
        pairs = _object(self._item(place)).get("pairedItem")
        if pairs is None:
            raise WorkflowDataError(
                f"Node '{place.node}' does not tell which item its item {place.item} was made from (pairedItem), so "
                f"the item of '{name}' cannot be found; _('{name}').all() and .first() work without"
            )
        sources = _object(runs[place.run]).get("source") or []
        return [found for pair in _pairs(pairs) if (found := _origin(pair, sources)) is not None]


def _pairs(pairs: Any) -> list[dict[str, Any]]:
    listed = pairs if isinstance(pairs, list) else [pairs]
    return [pair if isinstance(pair, dict) else {"item": pair} for pair in listed]


def _origin(pair: dict[str, Any], sources: list[Any]) -> Place | None:
    number, item = pair.get("input") or 0, pair.get("item")
    source = pair.get("sourceOverwrite") or (sources[number] if 0 <= number < len(sources) else None)
    if not isinstance(source, dict) or not isinstance(item, int):
        return None
    return _place(source, item)


def _place(source: dict[str, Any], index: int) -> Place:
    return Place(
        source["previousNode"], source.get("previousNodeOutput") or 0, source.get("previousNodeRun") or 0, index
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _alike(name: str, nodes: Iterable[Any]) -> str:
    names = [str(node.get("name")) for node in nodes]
    if (meant := closest(name, names)) is not None:
        return f" Did you mean '{meant}'?"
    return f" It has: {', '.join(names[:20])}" if names else ""


def fields(value: Any, shape: Callable[[Any], Any]) -> AttrDict:
    """A dict of n8n's as user code gets it; an empty one for anything else."""
    made = shape(value) if isinstance(value, dict) else AttrDict()
    return made if isinstance(made, AttrDict) else AttrDict(made)
