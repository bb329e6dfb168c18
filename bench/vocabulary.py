"""Message throughput of the wire vocabulary: how long reading and writing each message takes, by ours and by others.

Owns the sample messages, the timing and the lines that ours has to hold. The ways to read and write are `bench.codecs`.

A text frame is read to whatever object a codec makes of it, and that object is written to UTF-8 JSON. Everybody gets
the same text, a fresh copy for every call (a `str` keeps its UTF-8 form once somebody asked for it), and frees what it
made within the measured time. Rounds are interleaved: each has one batch of everybody, in turning order.
"""

from __future__ import annotations

import gc
import importlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw

from bench.codecs import BARE, DATACLASSES, Codec, Sender, msgspec_structs
from bench.numerals import figure
from bench.results import OURS, Line, Run, Subject, ratio
from trio_runner.protocol import messages as wire
from trio_runner.protocol.messages import encode

Operation = Literal["encode", "decode"]

SMALL_ITEMS: Final = 1
"""Messages with more items than that are large: their time is the user's data's."""
HEAVY_ITEMS: Final = 1_000
"""Messages with more than that take so long that they may have fewer rounds."""
SIZES: Final = (1, 1_000, 100_000)
BATCH_SECONDS: Final = 0.005
MOST_CALLS: Final = 4_000
TIMES_DATACLASSES: Final = 10.0
TIMES_BARE: Final = 1.3

TASK, OFFER, CALL = "KEhinSb3", "Z7c0n1y2kQ9fT3uV5wXa8B", "q1Yt0cVb2mJ8sLd4"
CODE: Final = "for item in _items:\n    item['json']['total'] *= 1.19\nreturn _items\n"
SETTINGS: Final = wire.TaskSettings(
    code=CODE,
    node_mode="runOnceForAllItems",
    items=wire.EMPTY_LIST,
    workflow_mode="webhook",
    continue_on_fail=False,
    node_id="8ac3f1de-03b5-4a8f-9a3f-0d6f0f6b9a51",
    node_name="Add tax",
    workflow_id="zwL7dF2BBNq5sJ25",
    workflow_name="Orders of the day",
)
NODE_TYPES: Final = Raw(b'[{"name":"n8n-nodes-base.code","version":2},{"name":"n8n-nodes-base.set","version":3.4}]')
FIXED: Final[tuple[tuple[Sender, Any], ...]] = (
    ("broker", wire.InfoRequest()),
    ("broker", wire.RunnerRegistered()),
    ("broker", wire.TaskOfferAccept(task_id=TASK, offer_id=OFFER)),
    ("broker", wire.TaskCancel(task_id=TASK, reason="Task execution timed out")),
    ("broker", wire.RpcResponse(task_id=TASK, call_id=CALL, status="success", data=Raw(b'{"ok":true}'))),
    ("broker", wire.TaskDataResponse(task_id=TASK, request_id=CALL, data=Raw(b'{"contextNodeName":"Add tax"}'))),
    ("broker", wire.NodeTypes(task_id=TASK, request_id=CALL, node_types=NODE_TYPES)),
    ("broker", wire.Drain()),
    ("runner", wire.RunnerInfo(name="Python runner", types=("python",))),
    ("runner", wire.TaskOffer(offer_id=OFFER, task_type="python", valid_for=5317)),
    ("runner", wire.TaskAccepted(task_id=TASK)),
    ("runner", wire.TaskRejected(task_id=TASK, reason="No open task slots - runner already at capacity")),
    ("runner", wire.TaskDeferred(task_id=TASK)),
    ("runner", wire.TaskError(task_id=TASK, error=Raw(b'{"message":"division by zero","lineNumber":2}'))),
    ("runner", wire.Rpc(call_id=CALL, task_id=TASK, name="logNodeOutput", params=Raw(b'["total:","42"]'))),
    ("runner", wire.TaskDataRequest(task_id=TASK, request_id=CALL, request_params=Raw(b'{"prevNode":true}'))),
    ("runner", wire.NodeTypesRequest(task_id=TASK, request_id=CALL, request_params=NODE_TYPES)),
)
"""Every message that crosses the socket, save the two that carry items."""


@dataclass(frozen=True)
class Case:
    """One message to read and write."""

    tag: str
    sender: Sender
    items: int
    frame: bytes


def cases(sizes: Sequence[int] = SIZES) -> Iterator[Case]:
    """Every message; settings and results once for each number of items."""
    for sender, message in FIXED:
        yield _case(sender, message, 0)
    for size in sizes:
        items = Raw(encode([item(n) for n in range(size)]))
        settings = msgspec.structs.replace(SETTINGS, items=items)
        yield _case("broker", wire.TaskSettingsMessage(task_id=TASK, settings=settings), size)
        yield _case("runner", wire.TaskDone(task_id=TASK, data=wire.ResultData(result=items)), size)


def item(n: int) -> dict[str, Any]:
    """What a workflow about orders would carry: some 200 bytes, one name beyond ASCII."""
    order = {
        "id": n,
        "customer": f"Zoë Müller {n}",
        "email": f"zoe.{n}@example.com",
        "total": n * 1.25,
        "paid": n % 3 == 0,
        "tags": ["new", "priority"],
        "address": {"city": "Köln", "zip": "50667", "note": None},
    }
    return {"json": order, "pairedItem": {"item": n}}


def codecs() -> tuple[list[Codec], list[str]]:
    """Those that can be measured here, and a remark for each that is not installed."""
    found, remarks = [msgspec_structs.CODEC, msgspec_structs.FLOOR, msgspec_structs.BUILT], []
    for name in ("dataclass_json", "orjson_dict", "pydantic_models"):
        try:
            found.append(importlib.import_module(f"bench.codecs.{name}").CODEC)
        except ImportError as error:
            remarks.append(f"vocabulary, {name}: {error}")
    return found, remarks


def measure(
    run: Run,
    *,
    rounds: int,
    heavy_rounds: int | None = None,
    sizes: Sequence[int] = SIZES,
    batch_seconds: float = BATCH_SECONDS,
) -> None:
    """Adds the figure "codec" to the run, in microseconds per message.

    A round takes some 2 s, and 12 s more with 100,000 items, which ``heavy_rounds`` can make rarer.
    """
    subjects, remarks = codecs()
    run.remarks += remarks
    run.subjects += [
        Subject(name=codec.name, kind="floor" if codec.name == BARE else "codec", note=codec.note)
        for codec in subjects
        if not any(subject.name == codec.name for subject in run.subjects)
    ]
    gc.collect()
    for case in cases(sizes):
        heavy = case.items > HEAVY_ITEMS
        if not heavy:
            agree(subjects, case)
        turns = rounds if heavy_rounds is None or not heavy else heavy_rounds
        _measure_case(run, case, subjects, turns, batch_seconds)


def _case(sender: Sender, message: Any, items: int) -> Case:
    return Case(type(message).__struct_config__.tag, sender, items, encode(message))


def agree(subjects: Sequence[Codec], case: Case) -> None:
    """Raises when somebody reads or writes another message: a benchmark of different work compares nothing."""
    expected = json.loads(case.frame)
    for codec in subjects:
        written = json.loads(codec.encode(codec.decoder(case.sender)(case.frame.decode())))
        if written != expected:
            raise AssertionError(f"{codec.name} makes {written} of {expected}")


def _measure_case(run: Run, case: Case, subjects: Sequence[Codec], rounds: int, batch_seconds: float) -> None:
    """All rounds of one message: the objects of one case at a time, because 100,000 items fill hundreds of MB."""
    work: list[tuple[Codec, Operation, Callable[[Any], Any], Any, int]] = []
    for codec in subjects:
        decode = codec.decoder(case.sender)
        own = decode(case.frame.decode())
        sides: tuple[tuple[Operation, Callable[[Any], Any], Any], ...]
        sides = (("decode", decode, None), ("encode", codec.encode, own))
        for operation, call, argument in sides:
            first = _seconds(call, arguments(case, argument, 1))
            calls = max(1, min(MOST_CALLS, int(batch_seconds / first)))
            work.append((codec, operation, call, argument, calls))
    # the collector stays on, as it does for users, but must not walk the other codecs' objects in everybody's time
    gc.freeze()
    try:
        for turn in range(rounds):
            start = turn % len(work)
            for codec, operation, call, argument, calls in work[start:] + work[:start]:
                seconds = _seconds(call, arguments(case, argument, calls))
                run.record(
                    "codec",
                    codec.name,
                    [seconds / calls * 1e6],
                    turn=turn,
                    message=case.tag,
                    operation=operation,
                    items=case.items,
                    bytes=len(case.frame),
                )
    finally:
        gc.unfreeze()


def arguments(case: Case, own: Any, calls: int) -> list[Any]:
    """The codec's own object to write, or as many fresh texts to read."""
    return [own] * calls if own is not None else [case.frame.decode() for _ in range(calls)]


def _seconds(call: Callable[[Any], Any], arguments: Sequence[Any]) -> float:
    start = time.perf_counter()
    for argument in arguments:
        call(argument)
    return time.perf_counter() - start


@dataclass(frozen=True)
class Comparison:
    """One message and operation: how many times ours is faster than another, and its own time."""

    tag: str
    operation: str
    items: int
    bytes: int
    microseconds: float
    """Of ours."""
    times: dict[str, float]
    """By codec: its time over ours."""

    @property
    def small(self) -> bool:
        """Whether the message is one of those whose cost is the vocabulary's."""
        return self.items <= SMALL_ITEMS

    @property
    def megabytes_per_second(self) -> float:
        """Of JSON text, by ours."""
        return self.bytes / self.microseconds


def comparisons(run: Run) -> list[Comparison]:
    """One for each message, number of items and operation of the run."""
    found = []
    for ours in run.select("codec", OURS):
        others = [one for one in run.select("codec", **ours.params) if one.subject != OURS]
        found.append(
            Comparison(
                tag=str(ours.params["message"]),
                operation=str(ours.params["operation"]),
                items=int(ours.params["items"]),
                bytes=int(ours.params["bytes"]),
                microseconds=ours.median,
                times={one.subject: ratio(one, ours) for one in others},
            )
        )
    return found


def geometric_mean(of: Sequence[float]) -> float | None:
    """None for nothing."""
    return math.exp(sum(map(math.log, of)) / len(of)) if of else None


def lines(run: Run) -> list[Line]:
    """Ours against what it replaces and against what it stands on, for small and for large messages."""
    compared = comparisons(run)
    found = []
    for small, what in ((True, "small messages"), (False, "1,000 items and more")):
        group = [one for one in compared if one.small == small]
        for peer, limit, least in ((DATACLASSES, TIMES_DATACLASSES, True), (BARE, TIMES_BARE, False)):
            pairs = [(one.microseconds, one.times[peer]) for one in group if peer in one.times]
            faster = geometric_mean([times for _, times in pairs])
            ours = geometric_mean([microseconds for microseconds, _ in pairs])
            line = Line(
                name=f"wire vocabulary, {what}: {'faster than' if least else 'time of'} {peer}",
                value=faster if faster is None or least else 1 / faster,
                limit=limit,
                least=least,
                unit="x",
                absolute="" if ours is None or faster is None else f"{figure(ours)} : {figure(ours * faster)} µs",
            )
            found.append(line)
    return found
