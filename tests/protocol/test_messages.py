"""The wire vocabulary: every wire vector, round trips, and decoding as a total function."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import types
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Raw, UnsetType

from tests.protocol.protocol_kit import (
    DONE,
    WIRE_VECTORS,
    ask,
    broker,
    counter,
    join,
    matched,
    offer,
    ready,
    started,
    supply,
    to_requester,
    to_runners,
)
from trio_runner.protocol.broker import Broker, RawRpcResponse, RawSettings, ToRequester
from trio_runner.protocol.messages import (
    BrokerMessage,
    ForwardedDone,
    ForwardedError,
    NodeTypes,
    Refused,
    RequesterMessage,
    RequesterNodeTypes,
    RequesterRpcResponse,
    RequesterTaskData,
    RequestExpired,
    ResultData,
    RpcResponse,
    RunnerMessage,
    RunnerRegistered,
    TaskAccepted,
    TaskCancel,
    TaskDataResponse,
    TaskDeferred,
    TaskDone,
    TaskOfferAccept,
    TaskReady,
    TaskSettings,
    TaskSettingsMessage,
    ToRequesterMessage,
    decode_from_broker,
    decode_from_requester,
    decode_from_runner,
    decode_to_requester,
    encode,
)
from trio_runner.protocol.raw import one_value

DECODERS: dict[str, Callable[[str | bytes], Any]] = {
    "brokerToRunner": decode_from_broker,
    "runnerToBroker": decode_from_runner,
    "requesterToBroker": decode_from_requester,
    "brokerToRequester": decode_to_requester,
}


def vectors(direction: str) -> list[Any]:
    return [
        pytest.param(vector, id=f"{vector['id']} {vector['title']}")
        for vector in WIRE_VECTORS
        if vector["direction"] == direction
    ]


def frame_of(vector: dict[str, Any]) -> str | bytes:
    return base64.b64decode(vector["rawBase64"]) if vector["frame"] == "binary" else vector["raw"]


def attempt(decode: Callable[[str | bytes], Any], frame: str | bytes) -> Any:
    """The message, or the refusal."""
    try:
        return decode(frame)
    except Refused as refused:
        return refused


def body_of(vector: dict[str, Any]) -> dict[str, Any]:
    """What a lenient reader (Python's own) makes of the frame."""
    return json.loads(frame_of(vector))


# Broker to runner: the outcome of decoding


class Outcome(NamedTuple):
    """What decoding came to, in the words of the vectors."""

    kind: str
    name: str
    field: str = ""
    fields: Any = None


class Deliberate(NamedTuple):
    outcome: Outcome
    reason: str


def settings_outcome(**changed: Any) -> Outcome:
    defaults = dict.fromkeys(("workflowName", "workflowId", "nodeName", "nodeId"), "Unknown")
    body = {"code": "return 1", "nodeMode": "runOnceForAllItems", "items": [], "continueOnFail": False, "query": None}
    return Outcome("ok", "broker:tasksettings", fields={"taskId": "3Z_i-UKq", "settings": body | defaults | changed})


DELIBERATE = {
    "wire-018": Deliberate(
        settings_outcome(continueOnFail=None),
        "null is kept, as the reference does: it counts as false, like the default",
    ),
    "wire-019": Deliberate(
        settings_outcome(workflowName=None), "null is kept, as the reference does: the name is for the log only"
    ),
    "wire-035": Deliberate(
        settings_outcome(items=[{"json": {"e": "\ufffd"}}]),
        "half a character becomes U+FFFD: msgspec refuses the escape, and one bad character must not cost the task",
    ),
    "wire-043": Deliberate(
        Outcome("ok", "broker:taskcancel", fields={"taskId": "t", "reason": ""}),
        "a cancel without a reason is a cancel: dropping it would leave the code running",
    ),
}


def outcome_of(vector: dict[str, Any]) -> Outcome:
    message = attempt(decode_from_broker, frame_of(vector))
    if isinstance(message, Refused):
        return Outcome("error", message.kind, message.field)
    fields = json.loads(encode(message))
    if isinstance(message, TaskSettingsMessage):
        del fields["settings"]["workflowMode"]  # which the reference does not keep
    return Outcome("ok", fields.pop("type"), fields=fields)


def expected_of(vector: dict[str, Any]) -> Outcome:
    expect = vector["expect"]
    if expect["kind"] == "error":
        return Outcome("error", expect["error"], expect.get("field", ""))
    if "fields" in expect:
        return Outcome("ok", expect["type"], fields=expect["fields"])
    # a vector without fields says that the values are those of the frame
    fields = settings_outcome(**body_of(vector)["settings"]).fields
    return Outcome("ok", expect["type"], fields=fields)


def same(ours: Outcome, expected: Outcome) -> bool:
    """Equal as JSON (true is not 1, 1.0 is not 1); the vectors leave the field out where there is none to blame."""
    if ours.kind == "error" and not expected.field:
        return ours[:2] == expected[:2]
    return json.dumps(ours, sort_keys=True) == json.dumps(expected, sort_keys=True)


@pytest.mark.parametrize("vector", vectors("brokerToRunner"))
def test_a_frame_from_the_broker_decodes_as_the_vector_says(vector: dict[str, Any]) -> None:
    deliberate = DELIBERATE.get(vector["id"])
    ours = outcome_of(vector)
    if deliberate is None:
        assert same(ours, expected_of(vector))
    else:
        assert same(ours, deliberate.outcome), deliberate.reason
        assert not same(ours, expected_of(vector)), "this entry of DELIBERATE is stale"


def test_we_deviate_only_from_vectors_that_allow_it() -> None:
    known = {vector["id"]: vector for vector in WIRE_VECTORS if vector["direction"] == "brokerToRunner"}
    assert [name for name in DELIBERATE if not known.get(name, {}).get("lenient")] == []


def test_unreadable_settings_tell_which_task_waits_for_them() -> None:
    with pytest.raises(Refused) as caught:
        decode_from_broker('{"type":"broker:tasksettings","taskId":"t","settings":{"code":1}}')
    assert (caught.value.message_type, caught.value.task_id) == ("broker:tasksettings", "t")


def test_a_refused_frame_whose_ids_are_no_text_names_no_task() -> None:
    with pytest.raises(Refused) as caught:
        decode_from_broker('{"type":"broker:tasksettings","taskId":{"t":1},"settings":null}')
    assert (caught.value.message_type, caught.value.task_id) == ("broker:tasksettings", "")


@pytest.mark.parametrize("items", ['{"0":{}}', "null", '"[]"', "1", "true"])
def test_items_that_are_no_list_are_refused_with_the_task_that_waits(items: str) -> None:
    frame = (
        '{"type":"broker:tasksettings","taskId":"t","settings":{"code":"","nodeMode":"runOnceForAllItems","items":%s}}'
    )
    with pytest.raises(Refused) as caught:
        decode_from_broker(frame % items)
    refused = caught.value
    assert (refused.kind, refused.field, refused.task_id) == ("wrong_type", "settings.items", "t")


def test_an_escaped_backslash_in_front_of_ud800_is_no_surrogate() -> None:
    frame = (
        r'{"type":"broker:tasksettings","taskId":"t","settings":'
        r'{"code":"\\ud800 \ud83d\ude80 \ud83d\ud83d\ude80 \ude80","nodeMode":"runOnceForAllItems","items":["\udfff"]}}'
    )
    message = decode_from_broker(frame)
    assert isinstance(message, TaskSettingsMessage)
    assert message.settings.code == "\\ud800 \U0001f680 \ufffd\U0001f680 \ufffd"
    assert bytes(message.settings.items) == rb'["\ufffd"]'


# Runner to broker: the outcome is what the broker does


def take(machine: Broker, vector: dict[str, Any], now: float = 0.0) -> list[Any]:
    """The broker takes the frame as one of runner ``r``."""
    return machine.receive("r", decode_from_runner(frame_of(vector)), now)


def view(machine: Broker) -> Any:
    return machine.runners, machine.open_tasks, machine.queued, machine.open_offers(0.0)


def named_t() -> Broker:
    """A broker whose first task is ``t``, the task of the vectors."""
    names = iter(["t", "u", "v", "w"])
    return Broker(new_task_id=lambda: next(names))


def registers(vector: dict[str, Any]) -> None:
    machine = broker()
    machine.connect("r")
    assert machine.runners == frozenset()
    assert to_runners(take(machine, vector)) == [("r", RunnerRegistered())]
    assert machine.runners == {"r"}


def is_ignored(vector: dict[str, Any]) -> None:
    machine = started(named_t(), task_id="t")
    machine.request(ask("another"), 0.0)
    before = view(machine)
    message = attempt(decode_from_runner, frame_of(vector))
    if isinstance(message, Refused):
        assert message.kind == "unknown_type"
    else:
        assert machine.receive("r", message, 0.0) == []
    assert view(machine) == before


def is_dropped_before_registration(vector: dict[str, Any]) -> None:
    machine = broker()
    machine.connect("r")
    assert take(machine, vector) == []
    join(machine)
    assert machine.open_offers(0.0) == 0


def is_offered_until(end: float) -> Callable[[dict[str, Any]], None]:
    last = 1e9 if math.isinf(end) else end - 0.0001

    def check(vector: dict[str, Any]) -> None:
        wanted = [("r", TaskOfferAccept(task_id="t1", offer_id=body_of(vector)["offerId"]))]
        machine = broker()
        join(machine)
        assert take(machine, vector) == []
        assert machine.open_offers(last) == 1
        assert to_runners(machine.request(ask("q"), last)) == wanted
        if not math.isinf(end):
            machine = broker()
            join(machine)
            take(machine, vector)
            assert machine.request(ask("q"), end) == []
        machine = broker()
        join(machine)
        machine.request(ask("q"), 0.0)
        assert to_runners(take(machine, vector)) == wanted

    return check


def creates_the_task(vector: dict[str, Any]) -> None:
    machine = matched(named_t())
    assert take(machine, vector) == [ToRequester(TaskReady(request_id="q", task_id="t"))]
    assert machine.open_tasks == {"t": "r"}


def goes_back(vector: dict[str, Any]) -> None:
    machine = matched(named_t())
    assert take(machine, vector) == []
    assert (machine.queued, machine.open_tasks) == (1, {})
    assert to_runners(machine.receive("r", offer("o2"), 0.0)) == [("r", TaskOfferAccept(task_id="u", offer_id="o2"))]


def goes_back_refreshed(vector: dict[str, Any]) -> None:
    goes_back(vector)
    machine = matched(named_t())
    take(machine, vector, 1.0)
    assert machine.next_deadline() == 61.0


def delivers(vector: dict[str, Any]) -> None:
    body = body_of(vector)
    machine = started(named_t(), task_id="t")
    [message] = to_requester(take(machine, vector))
    assert isinstance(message, ForwardedDone)
    assert machine.open_tasks == {}
    # compared as the text of one JSON reader; whose doubles hold the integers is the requester's affair
    assert json.loads(encode(message)) == {"type": "broker:taskdone", "taskId": "t"} | {
        key: body[key] for key in ["data"] if key in body
    }


def delivers_with_half_a_character_replaced(vector: dict[str, Any]) -> None:
    machine = started(named_t(), task_id="t")
    [message] = to_requester(take(machine, vector))
    assert message == ForwardedDone(task_id="t", data=ResultData(result=Raw(rb'[{"json":{"s":"\ufffd"}}]')))


def is_unparseable(vector: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        decode_from_runner(frame_of(vector))
    assert caught.value.kind == "invalid_json"
    machine = started(named_t(), task_id="t")
    assert machine.tick(299.9) == []
    assert to_runners(machine.tick(300.0)) == [("r", TaskCancel(task_id="t", reason="Task execution timed out"))]


def is_only_logged(vector: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        decode_from_runner(frame_of(vector))
    assert (caught.value.kind, caught.value.task_id) == ("invalid_json", "")


def fails_the_node(vector: dict[str, Any]) -> None:
    machine = started(named_t(), task_id="t")
    [message] = to_requester(take(machine, vector))
    assert isinstance(message, ForwardedError)
    assert msgspec.json.decode(message.error) == body_of(vector)["error"]
    assert machine.open_tasks == {}


def is_relayed(answer: RequesterMessage, to_runner: Any) -> Callable[[dict[str, Any]], None]:
    """The call goes to the requester as it is; its answer comes back to the runner."""

    def check(vector: dict[str, Any]) -> None:
        machine = started(named_t(), task_id="t")
        body = body_of(vector)
        [message] = to_requester(take(machine, vector))
        assert json.loads(encode(message)) == body | {"type": body["type"].replace("runner:", "broker:")}
        assert to_runners(machine.request(answer, 0.0)) == [("r", to_runner)]

    return check


def rpc_is_relayed(status: Literal["success", "error"], data: bytes) -> Callable[[dict[str, Any]], None]:
    return is_relayed(
        RequesterRpcResponse(task_id="t", call_id="c", status=status, data=Raw(data)),
        RawRpcResponse(task_id="t", call_id="c", status=status, data=Raw(data)),
    )


RUNNER_OUTCOMES: dict[str, Callable[[dict[str, Any]], None]] = {
    "registers the runner, answers broker:runnerregistered": registers,
    "registers the runner": registers,
    "ignored": is_ignored,
    "dropped silently": is_dropped_before_registration,
    "queued until validFor ms after receipt, matched at once if a request waits": is_offered_until(5.234),
    "queued without expiry": is_offered_until(math.inf),
    "queued": is_offered_until(0.0015),
    "task is created, settings requested from the requester": creates_the_task,
    "request goes back to the queue": goes_back,
    "request goes back to the queue with a fresh request timeout (at most 3 refreshes in the newest broker)": (
        goes_back_refreshed
    ),
    "result delivered": delivers,
    "metadata merged into the execution, workflow static data replaced": delivers,
    "delivered; all-items mode then fails with a TypeError on null": delivers,
    "delivered as undefined; the node reports: Code doesn't return items properly": delivers,
    "task fails with: Cannot read properties of undefined (reading 'customData')": delivers,
    "delivered as the double 1152921504606847000": delivers,
    "unparseable: logged, task stays open until its timeout": is_unparseable,
    "logged, connection stays open": is_only_logged,
    "node fails with that message": fails_the_node,
    "node fails with: Unknown error": fails_the_node,
    'node fails with: Unknown error: "boom"': fails_the_node,
    "node fails with: Unknown error: null": fails_the_node,
    "answers with a serialised Buffer": rpc_is_relayed("success", b'{"type":"Buffer","data":[104]}'),
    "answers with an IBinaryData object": rpc_is_relayed("success", b'{"data":"aGk=","mimeType":"text/plain"}'),
    "answers error with data 'Method not allowed'": rpc_is_relayed("error", b'"Method not allowed"'),
    "answers taskdataresponse": is_relayed(
        RequesterTaskData(task_id="t", request_id="r", data=Raw(b'{"a":1}')),
        TaskDataResponse(task_id="t", request_id="r", data=Raw(b'{"a":1}')),
    ),
    "answers nodetypes": is_relayed(
        RequesterNodeTypes(task_id="t", request_id="r", node_types=Raw(b"[{}]")),
        NodeTypes(task_id="t", request_id="r", node_types=Raw(b"[{}]")),
    ),
}
DELIBERATE_RESULTS = {"wire-099": delivers_with_half_a_character_replaced}  # see wire-035


@pytest.mark.parametrize("vector", vectors("runnerToBroker"))
def test_the_broker_does_with_a_runners_frame_what_the_vector_says(vector: dict[str, Any]) -> None:
    check = RUNNER_OUTCOMES[vector["expect"]["outcome"]]
    if deliberate := DELIBERATE_RESULTS.get(vector["id"]):
        with pytest.raises(AssertionError):
            check(vector)
        check = deliberate
    check(vector)


def test_a_request_is_refreshed_by_three_deferrals_and_no_more() -> None:
    names = counter("t")
    machine = Broker(new_task_id=names)
    join(machine)
    machine.receive("r", offer("o1"), 0.0)
    machine.request(ask("q"), 0.0)
    for turn in range(1, 5):
        machine.receive("r", TaskDeferred(task_id=f"t{turn}"), float(turn))
        machine.receive("r", offer(f"o{turn + 1}"), float(turn))
    machine.receive("r", TaskDeferred(task_id="t5"), 5.0)
    assert machine.next_deadline() == 63.0


# Requester and broker


@pytest.mark.parametrize("vector", vectors("requesterToBroker"))
def test_the_broker_does_with_a_requesters_message_what_the_vector_says(vector: dict[str, Any]) -> None:
    message = decode_from_requester(frame_of(vector))
    body = body_of(vector)
    match vector["expect"]["outcome"]:
        case "queued; answered with taskready or requestexpired":
            machine = broker()
            assert machine.request(message, 0.0) == []
            assert machine.queued == 1
            assert to_requester(machine.tick(60.0)) == [RequestExpired(request_id="q", reason="timeout")]
        case "forwarded to the runner as broker:tasksettings":
            [(runner, forwarded)] = to_runners(ready(named_t(), task_id="t").request(message, 0.0))
            assert (runner, json.loads(encode(forwarded))) == ("r", body | {"type": "broker:tasksettings"})
        case "forwarded to the runner":
            [(runner, forwarded)] = to_runners(started(named_t(), task_id="t").request(message, 0.0))
            assert (runner, json.loads(encode(forwarded))) == ("r", body | {"type": "broker:rpcresponse"})
        case other:
            pytest.fail(f"nothing checks the outcome {other!r}")


@pytest.mark.parametrize("vector", vectors("brokerToRequester"))
def test_the_broker_says_to_a_requester_what_the_vector_says(vector: dict[str, Any]) -> None:
    machine = broker()
    machine.request(ask("q"), 0.0)
    match vector["title"]:
        case "broker to requester: ready":
            said = matched(named_t()).receive("r", TaskAccepted(task_id="t"), 0.0)
        case "broker to requester: expired":
            said = machine.tick(60.0)
        case "broker to requester: expired while draining (newest)":
            said = machine.drain()
        case other:
            pytest.fail(f"nothing checks {other!r}")
    assert [json.loads(encode(message)) for message in to_requester(said)] == [body_of(vector)]
    assert to_requester(said) == [decode_to_requester(frame_of(vector))]


def test_every_wire_vector_has_a_direction_that_is_tested() -> None:
    assert {vector["direction"] for vector in WIRE_VECTORS} == set(DECODERS)


# Round trips

UNIONS: dict[str, Any] = {
    "brokerToRunner": BrokerMessage,
    "runnerToBroker": RunnerMessage,
    "requesterToBroker": RequesterMessage,
    "brokerToRequester": ToRequesterMessage,
}
MESSAGE_TYPES = [
    pytest.param(direction, message_type, id=f"{direction} {message_type.__name__}")
    for direction, union in UNIONS.items()
    for message_type in get_args(union)
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
raw_values = json_values.map(lambda value: Raw(json.dumps(value).encode()))


def values_of(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of a field of a message, by its annotation."""
    origin = get_origin(annotation)
    if annotation is Raw:
        return raw_values
    if annotation is UnsetType:
        return st.just(UNSET)
    if origin is Literal:
        return st.sampled_from(get_args(annotation))
    if origin in (Union, types.UnionType):
        return st.one_of([values_of(option) for option in get_args(annotation)])
    if origin is tuple:
        return st.lists(values_of(get_args(annotation)[0]), max_size=3).map(tuple)
    if annotation is TaskSettings:
        items = st.lists(json_values, max_size=3).map(lambda items: Raw(json.dumps(items).encode()))
        return instances(TaskSettings, items=items)
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return instances(annotation)
    plain = {
        str: st.text(),
        bool: st.booleans(),
        int: st.integers(-(2**53), 2**53),
        float: st.floats(allow_nan=False, allow_infinity=False),
        type(None): st.none(),
    }
    return plain[annotation]


def instances(message_type: type[Any], **fixed: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    fields = {field.name: values_of(field.type) for field in msgspec.structs.fields(message_type)}
    return st.builds(message_type, **fields | fixed)


@pytest.mark.parametrize(("direction", "message_type"), MESSAGE_TYPES)
def test_a_message_survives_the_wire(direction: str, message_type: type[Any]) -> None:
    @settings(max_examples=15)
    @given(message=instances(message_type))
    def survives(message: Any) -> None:
        frame = encode(message)
        assert DECODERS[direction](frame) == message
        assert DECODERS[direction](frame.decode()) == message

    survives()


@pytest.mark.parametrize(("direction", "message_type"), MESSAGE_TYPES)
def test_unknown_fields_and_the_order_of_the_keys_do_not_matter(direction: str, message_type: type[Any]) -> None:
    @settings(max_examples=10)
    @given(message=instances(message_type), extra=json_values)
    def does_not_matter(message: Any, extra: Any) -> None:
        body = json.loads(encode(message))
        shuffled = {"fromTheFuture": extra} | dict(reversed(body.items())) | {"evenLater": [extra]}
        ours = DECODERS[direction](json.dumps(shuffled))
        # through JSON, since a Raw field keeps the text that json.dumps spells in its own way
        assert json.loads(encode(ours)) == body

    does_not_matter()


def test_no_two_messages_of_one_direction_share_a_tag() -> None:
    for union in UNIONS.values():
        tags = [message_type.__struct_config__.tag for message_type in get_args(union)]
        assert len(set(tags)) == len(tags)


def test_the_brokers_raw_forms_are_the_runners_messages_on_the_wire() -> None:
    body = TaskSettings(code="", node_mode="runOnceForAllItems", items=Raw(b"[]"))
    raw = RawSettings(task_id="t", settings=Raw(encode(body)))
    assert decode_from_broker(encode(raw)) == TaskSettingsMessage(task_id="t", settings=body)
    bare = RawRpcResponse(task_id="t", call_id="c", status="success")
    assert b"data" not in encode(bare)
    assert decode_from_broker(encode(bare)) == RpcResponse(task_id="t", call_id="c", status="success")


def test_results_that_are_absent_are_not_sent_as_null() -> None:
    assert encode(TaskDone(task_id="t")) == b'{"type":"runner:taskdone","taskId":"t"}'
    assert encode(TaskDone(task_id="t", data=DONE)) == b'{"type":"runner:taskdone","taskId":"t","data":{"result":[]}}'


# One value, and one only


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"  ",
        b'[]},"taskId":"other"',
        b'[]},"taskId":"other","data":{"result":[]',
        b'"a","customData":{"k":"v"}',
        b"[] []",
        b"1 2",
        b"[],",
        b"[]}",
        b"{} // comment",
        b'"\xff"',
        b"\xed\xa0\x80",
        b'"\xc3',
        b"\xef\xbb\xbf[]",
        b"NaN",
        b"-Infinity",
        b"[1,]",
        b"'a'",
        b"01",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000,
    ],
    ids=lambda data: repr(data[:40]),
)
def test_what_is_not_exactly_one_value_is_refused(data: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        one_value(data)


def test_one_value_takes_any_buffer_and_keeps_its_bytes() -> None:
    for data in (b' {"a": [1]}\n', bytearray(b"1.50"), memoryview(b'x"\xc3\xa9"y')[1:-1]):
        assert bytes(one_value(data)) == bytes(data)


def jsonish() -> st.SearchStrategy[bytes]:
    """Bytes that are often JSON, nearly JSON, or JSON that tries to break out."""
    pieces = st.sampled_from(
        [
            b"[",
            b"]",
            b"{",
            b"}",
            b",",
            b":",
            b'"',
            b'"a"',
            b"1",
            b"-",
            b"null",
            b" ",
            b"\\",
            b'"taskId":"other"',
            b"\xff",
        ]
    )
    whole = json_values.map(lambda value: json.dumps(value, ensure_ascii=False).encode())
    return st.one_of(
        st.binary(max_size=40),
        whole,
        st.lists(pieces, max_size=12).map(b"".join),
        st.tuples(whole, st.lists(pieces, max_size=3).map(b"".join)).map(b"".join),
    )


@settings(max_examples=400)
@given(data=jsonish())
@example(b'[]},"taskId":"other"')
@example(b'null},"data":{"result":1')
@example(b'"\\ud800"')
@example(b"1e999")
def test_whatever_passes_is_one_result_of_our_own_task(data: bytes) -> None:
    try:
        value = one_value(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    frame = encode(TaskDone(task_id="ours", data=ResultData(result=value)))
    pairs: list[list[tuple[str, Any]]] = []

    def remember(found: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs.append(found)
        return dict(found)

    parsed = json.loads(frame, object_pairs_hook=remember)
    assert pairs[-1] == [("type", "runner:taskdone"), ("taskId", "ours"), ("data", parsed["data"])]
    assert list(parsed["data"]) == ["result"]
    assert parsed["data"]["result"] == json.loads(data)
    assert isinstance(decode_from_runner(frame), TaskDone)


@given(value=json_values)
def test_every_json_value_passes(value: Any) -> None:
    data = json.dumps(value, ensure_ascii=False).encode()
    assert bytes(one_value(data)) == data


# Decoding is total

VALID_FRAMES = [
    frame if isinstance(frame, bytes) else frame.encode()
    for frame in (frame_of(vector) for vector in WIRE_VECTORS)
    if len(frame) < 1000
]


@st.composite
def mutated_frames(draw: st.DrawFn) -> bytes:
    """A frame of the vectors with pieces cut out, doubled, replaced or swapped for another frame's."""
    frame = draw(st.sampled_from(VALID_FRAMES))
    for _ in range(draw(st.integers(1, 3))):
        start, end = sorted((draw(st.integers(0, len(frame))), draw(st.integers(0, len(frame)))))
        other = draw(st.sampled_from(VALID_FRAMES))[start:end]
        middle = draw(
            st.one_of(
                st.just(b""),
                st.just(frame[start:end] * 2),
                st.binary(max_size=6),
                st.sampled_from([b"null", b"[]", b'"\\ud800"', b'"\\', b"\\u", b"1e999", b"9" * 400, b"{" * 5000]),
                st.just(other),
            )
        )
        frame = frame[:start] + middle + frame[end:]
    return frame


@st.composite
def frames_with_a_wrong_field(draw: st.DrawFn) -> str:
    """A frame of the vectors, whole, in which any value may be something else."""

    def swap(value: Any) -> Any:
        if draw(st.integers(0, 5)) == 0:
            return draw(json_values)
        if isinstance(value, dict):
            return {key: swap(inner) for key, inner in value.items()}
        return value

    return json.dumps(swap(json.loads(draw(st.sampled_from(OBJECT_FRAMES)))))


OBJECT_FRAMES = [frame for frame in VALID_FRAMES if frame.startswith(b"{") and frame.isascii() and b"}{" not in frame]

half_characters = st.text(st.characters(codec=None, categories=["Cs", "Lu", "Po", "Nd"]), max_size=30)


@settings(max_examples=300)
@given(
    frame=st.one_of(
        st.binary(max_size=60), st.text(max_size=60), half_characters, mutated_frames(), frames_with_a_wrong_field()
    )
)
@example("\ud800")
@example('{"type":"\ud800"}')
@example("[" * 100_000)
@example('{"type":"broker:drain","x":' + "[" * 100_000 + "]" * 100_000 + "}")
@example('{"type":"runner:taskoffer","offerId":"o","taskType":"p","validFor":' + "1" * 5000 + "}")
@example('{"type":"broker:taskcancel","taskId":' + "1" * 5000 + "}")
@example('{"type":"broker:taskcancel","taskId":1e999}')
@example('{"type":"broker:tasksettings","taskId":"\\ud800","settings":5}')
@example(b"\xff\xfe{\x00}\x00")
def test_whatever_comes_is_a_message_or_refused(frame: str | bytes) -> None:
    for direction, decode in DECODERS.items():
        message = attempt(decode, frame)
        if isinstance(message, Refused):
            assert message.text == str(message) != ""
            assert (type(message.message_type), type(message.task_id)) == (str, str)
        else:
            assert isinstance(message, get_args(UNIONS[direction]))
            encode(message)


@settings(max_examples=300)
@given(
    frame=st.one_of(mutated_frames(), frames_with_a_wrong_field()),
    state=st.sampled_from(["matched", "ready", "started"]),
)
@example('{"type":"runner:taskoffer","offerId":"o","taskType":"python","validFor":' + "1" * 400 + "}", "matched")
@example('{"type":"runner:taskoffer","offerId":"o","taskType":"python","validFor":1e308}', "matched")
def test_nothing_that_decodes_makes_the_broker_raise(frame: str | bytes, state: str) -> None:
    machine = matched(named_t())
    if state != "matched":
        machine.receive("r", TaskAccepted(task_id="t"), 0.0)
    if state == "started":
        machine.request(supply("t"), 0.0)
    machine.request(ask("another"), 0.0)
    message: Any
    with contextlib.suppress(Refused):
        message = decode_from_runner(frame)
        machine.receive("r", message, 1.0)
    with contextlib.suppress(Refused):
        message = decode_from_requester(frame)
        machine.request(message, 1.0)
    machine.tick(1000.0)
    assert (machine.queued, machine.open_tasks) == (0, {})


def _settings_frame(text: str) -> str:
    items = json.dumps([{"json": {"text": text}}], ensure_ascii=False)
    settings_ = f'{{"code":"return 1","nodeMode":"runOnceForAllItems","items":{items}}}'
    return f'{{"type":"broker:tasksettings","taskId":"t","unknown":"{text[:10]}","settings":{settings_}}}'


@pytest.mark.parametrize("size", [10, 65_535, 65_536, 300_000])
@pytest.mark.parametrize("letter", ["a", "ß", "日", "🦀"])
def test_large_frames_are_read_as_small_ones_are_as_text_and_as_bytes(size: int, letter: str) -> None:
    frame = _settings_frame(letter * size)
    for form in (frame, frame.encode()):
        message = decode_from_broker(form)
        assert isinstance(message, TaskSettingsMessage)
        assert json.loads(bytes(message.settings.items)) == [{"json": {"text": letter * size}}]


@pytest.mark.parametrize("size", [10, 300_000])
def test_half_a_character_is_refused_wherever_it_stands(size: int) -> None:
    text = _settings_frame("x" * size)
    for place in (text.index("unknown") + 12, text.index("json") + 15, len(text) - 10):
        for broken in (
            text[:place] + "\ud83d" + text[place:],
            text.encode()[:place] + b"\xe2\x82" + text.encode()[place:],
        ):
            with pytest.raises(Refused):
                decode_from_broker(broken)
