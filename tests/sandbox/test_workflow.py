"""n8n's names in user code: what they are, and what is asked for and when."""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime
from types import CodeType, FrameType
from typing import Any

import pytest

from tests.sandbox.n8n_kit import HERE, FakeN8n, items, outcome, ran, result
from tests.sandbox.program_kit import OPEN
from trio_runner.sandbox.channel import ChannelError
from trio_runner.sandbox.friendly import UnsendableError
from trio_runner.sandbox.rundata import RunData, WorkflowDataError

GIVEN = items({"n": 1}, {"n": 2})


def shop() -> FakeN8n:
    """Webhook → Orders → Double → Split, whose first output leads here and whose second to Log."""
    orders = [{"json": {"n": n}, "pairedItem": {"item": 0}} for n in (1, 2, 3)]
    double = [{"json": {"n": 2 * n}, "pairedItem": {"item": n - 1}} for n in (1, 2, 3)]
    return FakeN8n(
        {
            "Webhook": [ran(items({"body": 1}))],
            "Orders": [ran(orders, source="Webhook")],
            "Double": [ran(double, source="Orders")],
            "Split": [
                ran(
                    [{"json": {"big": n}, "pairedItem": {"item": n}} for n in (1, 2)],
                    [{"json": {"small": 0}, "pairedItem": {"item": 0}}],
                    source="Double",
                )
            ],
            "Log": [ran([], source="Split", previousNodeOutput=1)],
        },
        {
            "Webhook": [["Orders"]],
            "Orders": [["Double"]],
            "Double": [["Split"]],
            "Split": [[HERE], ["Log"]],
            "Never": [[HERE]],
        },
        source="Split",
        params={"Orders": {"limit": 3}, HERE: {"mode": "x"}},
    )


# what is asked for


@pytest.mark.parametrize(
    "source",
    [
        "return [_input.all(), _input.first(), _input.last(), _input.item, _json, _binary, _itemIndex]",
        "return [_jmespath({'a': 1}, 'a'), _ifEmpty('', 1)]",
        "_execution.customData.set('a', 1)\nreturn []",
        "x = [_, _node, _execution, _helpers, _getWorkflowStaticData]\nreturn len(x)",
        "return str(_('Orders'))",
    ],
)
def test_what_the_task_brought_along_is_not_asked_for(source: str) -> None:
    n8n = shop()
    result(source, n8n, GIVEN)
    assert n8n.requests == []


@pytest.mark.parametrize(
    "source",
    [
        "return [_now, _today, _vars, _workflow, _prevNode, _parameter, _runIndex, _nodeVersion]",
        "return [_execution.id, _execution.mode, _execution.customData.getAll()]",
        "return [_getWorkflowStaticData('global'), _getWorkflowStaticData('node')]",
        "return [_('Orders').all(), _('Double').first(), _node['Split'].last()]",
        "return [_('Orders').isExecuted, _('Never').isExecuted, _('Orders').params]",
    ],
)
def test_one_request_brings_everything_that_a_source_mentions(source: str) -> None:
    n8n = shop()
    result(source, n8n, GIVEN)
    assert len(n8n.requests) == 1


def test_only_the_nodes_that_are_named_are_asked_for_all_at_once() -> None:
    n8n = shop()
    found = result("return [len(_('Orders').all()), len(_node['Double'].all()), len(_('Orders').all())]", n8n)
    assert found == [3, 3, 3]
    assert n8n.requests == [
        {"dataOfNodes": ["Double", "Orders"], "prevNode": False, "input": {"include": False}, "env": False}
    ]


def test_a_node_whose_name_is_computed_is_asked_for_when_it_is_read_and_once() -> None:
    n8n = shop()
    source = "for name in ('Orders', 'Double', 'Orders'):\n    _(name).all()\nreturn [_vars.region]"
    assert result(source, n8n) == ["eu"]
    assert n8n.asked == [[], ["Orders"], ["Double"]]


def test_the_environment_is_asked_for_by_those_who_mention_it() -> None:
    n8n = shop()
    source = "name = 'Orders'\nreturn [_env.STAGE, _env['STAGE'], _env.get('X'), len(_(name).all())]"
    assert result(source, n8n) == ["test", "test", None, 3]
    assert [request["env"] for request in n8n.requests] == [True, False]


def test_an_environment_that_n8n_keeps_is_an_error_when_it_is_read() -> None:
    n8n = FakeN8n(envProviderState={"env": {}, "isEnvAccessBlocked": True, "isProcessAvailable": True})
    assert result("if False:\n    return _env.HOME\nreturn []", n8n) == []
    for read in ("_env.HOME", "_env['HOME']", "_env.get('HOME')"):
        with pytest.raises(PermissionError, match="N8N_BLOCK_ENV_ACCESS_IN_NODE"):
            result(f"return {read}", n8n)


def test_data_that_is_refused_is_an_error_in_n8n_s_or_the_operator_s_words() -> None:
    class Closed(FakeN8n):
        def request(self, params: dict[str, object]) -> Any:
            raise ChannelError("not allowed to see")

    with pytest.raises(WorkflowDataError, match="not allowed to see"):
        result("return _vars", Closed())
    source = "try:\n    _('A').all()\nexcept LookupError as error:\n    return str(error)"
    assert result(source, Closed()) == "not allowed to see"


# the input


def test_the_input_is_the_items_of_the_task() -> None:
    source = "return [_input.all(), _input.first(), _input.last(), _input.item, _json, _items]"
    one, two = GIVEN
    assert result(source, given=GIVEN) == [GIVEN, one, two, one, one["json"], GIVEN]


def test_items_are_changed_in_place_whoever_hands_them_out() -> None:
    source = """
_input.first().json.first = True
_items[1].json.second = True
for item in _input.all():
    item.json.all = True
return _input.all()
"""
    one, two = result(source, given=GIVEN)
    assert one == {"json": {"n": 1, "first": True, "all": True}, "pairedItem": {"item": 0}}
    assert two == {"json": {"n": 2, "second": True, "all": True}, "pairedItem": {"item": 1}}


def test_a_large_input_is_not_decoded_for_its_first_item() -> None:
    data = json.dumps([*GIVEN, *items({"text": "x" * 1_000_000})]).encode().removesuffix(b"]") + b", no JSON"
    assert result("return [_input.first().json.n, _json.n]", given=data) == [1, 1]
    with pytest.raises(ValueError, match=r"."):
        result("return [_input.first(), _items]", given=data)


def test_an_empty_input_has_no_items() -> None:
    assert result("return [_input.all(), _input.first(), _input.last(), _input.item, _json, _binary]") == [
        [], None, None, None, {}, {},
    ]  # fmt: skip


def test_each_item_has_values_of_its_own() -> None:
    source = """
return {"json": {"n": _json.n, "same": _json is _item.json is _input.item.json, "index": _itemIndex,
                 "file": _binary.get("data"), "first": _input.first().json.n, "count": len(_input.all())}}
"""
    given = [GIVEN[0] | {"binary": {"data": {"id": "x"}}}, GIVEN[1]]
    first, second = result(source, given=given, each_item=True)
    assert first["json"] == {"n": 1, "same": True, "index": 0, "file": {"id": "x"}, "first": 1, "count": 2}
    assert second["json"] == {"n": 2, "same": True, "index": 1, "file": None, "first": 1, "count": 2}
    assert [first["pairedItem"], second["pairedItem"]] == [{"item": 0}, {"item": 1}]


def test_another_input_is_refused() -> None:
    assert result("return _input.all(0)", given=GIVEN) == GIVEN
    with pytest.raises(WorkflowDataError, match="first input"):
        result("return _input.all(1)", given=GIVEN)


def test_native_items_can_be_read_with_dots_as_well() -> None:
    assert result("return [item.json.n for item in _items]", given=GIVEN) == [1, 2]
    assert result("return {'n': _item.json.n}", given=GIVEN, each_item=True)[1]["json"] == {"n": 2}


def test_a_tool_s_query_can_be_read_with_dots() -> None:
    assert result("return [_query.text, _ifEmpty('', 1)]", query={"text": "hi"}) == ["hi", 1]
    assert result("return _query.text", query={"text": "hi"}) == "hi"
    assert result("return _query", query="hi") == "hi"


# nodes


def test_a_node_gives_its_items() -> None:
    source = """
node = _("Double")
return [node.first().json, node.last().json, node.all()[1].json, node.all() is node.all(), _node["Double"] is node,
        _node.Double is node, node.name, str(node)]
"""
    assert result(source, shop(), GIVEN) == [{"n": 2}, {"n": 6}, {"n": 4}, True, True, True, "Double", "<_('Double')>"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", [1, 2]),
        ("0", [1, 2]),
        ("1", [0]),
        ("0, 0", [1, 2]),
        ("branchIndex=1", [0]),
        ("branchIndex=1, runIndex=-1", [0]),
    ],
)
def test_outputs_and_runs_are_chosen_by_number(arguments: str, expected: list[int]) -> None:
    source = f"return [next(iter(item['json'].values())) for item in _('Split').all({arguments})]"
    assert result(source, shop(), GIVEN) == expected


def test_the_output_that_leads_here_is_the_one_that_counts() -> None:
    n8n = FakeN8n(
        {"If": [ran(items({"b": 0}), items({"b": 1}))], "Set": [ran(items({}))]},
        {"If": [["Other"], ["Set"]], "Set": [[HERE]], "Other": [[]]},
    )
    assert result("return _('If').first().json.b", n8n) == 1


def test_the_last_run_counts_unless_another_is_meant() -> None:
    n8n = FakeN8n({"Loop": [ran(items({"r": 0})), ran(items({"r": 1}))]}, {"Loop": [[HERE]]})
    source = "return [_('Loop').first().json.r, _('Loop').first(0, 0).json.r, _('Loop').runIndex]"
    assert result(source, n8n) == [1, 0, 1]


def test_a_node_s_json_is_that_of_the_item_at_the_same_place() -> None:
    source = (
        "return {'json': {'n': _node['Double'].json.n, 'm': _node['Double']['json']['n'], 'b': _node.Double.binary}}"
    )
    first, second = result(source, shop(), GIVEN, each_item=True)
    assert (first["json"], second["json"]) == ({"n": 2, "m": 2, "b": {}}, {"n": 4, "m": 4, "b": {}})


def test_parameters_are_those_of_the_node() -> None:
    source = """
return [_("Orders").params.limit, _node["Orders"].parameter, _parameter.mode, _("Webhook").params, _input.params.if_]
"""
    n8n = shop()
    n8n.params["Split"] = {"if_": "n > 1"}
    assert result(source, n8n) == [3, {"limit": 3}, "x", {}, "n > 1"]
    assert result("return _input.params", FakeN8n(connectionInputSource=None)) == {}


def test_pinned_items_count_in_manual_runs() -> None:
    pinned = {"Orders": items({"n": "pinned"})}
    source = "return [_('Orders').isExecuted, _('Orders').first().json.n]"
    manual = shop()
    manual.changes = {"mode": "manual", "runExecutionData__resultData__pinData": pinned}
    assert result(source, manual) == [True, "pinned"]
    production = shop()
    production.changes = {"runExecutionData__resultData__pinData": pinned}
    assert result(source, production) == [True, 1]


def test_the_context_of_a_loop_is_there() -> None:
    n8n = shop()
    n8n.changes = {"runExecutionData__executionData__contextData": {"node:Orders": {"noItemsLeft": True}}}
    n8n.source = "Orders"
    source = "return [_('Orders').context.noItemsLeft, _node['Double'].context, _input.context.noItemsLeft]"
    assert result(source, n8n) == [True, {}, True]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("_('Order').all()", "no node 'Order'. Did you mean 'Orders'"),
        ("_('Xyz').isExecuted", "no node 'Xyz'. It has: Webhook, Orders"),
        ("_('Never').all()", "'Never' has not run"),
        ("_('Orders').all(1)", "has 1 outputs; there is no output 1"),
        ("_('Orders').all(0, 5)", "has run 1 times in this execution; there is no run 5"),
        ("_('Orders').itemMatching(7)", "There is no input item 7: there are 2"),
        ("_('Log').item", "Node 'Log' does not lead to this one"),
    ],
)
def test_data_that_is_not_there_is_an_error_that_says_what_is(source: str, message: str) -> None:
    with pytest.raises(WorkflowDataError) as caught:
        result(f"return {source}", shop(), GIVEN)
    assert message in str(caught.value)


def test_the_name_of_a_node_is_a_text() -> None:
    with pytest.raises(TypeError, match="name of a node"):
        result("return _(1)")
    with pytest.raises(TypeError, match="takes a text"):
        result("return _node[1]")


# paired items


def test_an_item_is_followed_to_the_one_it_was_made_from() -> None:
    source = """
return {"json": {"webhook": _("Webhook").item.json.body, "order": _("Orders").item.json.n,
                 "split": _("Split").item.json.big, "other": _("Orders").itemMatching(1).json.n,
                 "same": _("Orders").item is _("Orders").all()[_itemIndex + 1]}}
"""
    n8n = shop()
    first, second = (item["json"] for item in result(source, n8n, GIVEN, each_item=True))
    assert first == {"webhook": 1, "order": 2, "split": 1, "other": 3, "same": True}
    assert second == {"webhook": 1, "order": 3, "split": 2, "other": 3, "same": True}


def test_following_asks_for_the_nodes_on_the_way_and_no_others() -> None:
    n8n = shop()
    result("return _('Orders').itemMatching(0)", n8n, GIVEN)
    assert n8n.asked == [["Orders"], ["Double", "Split"]]


def test_items_made_from_several_are_followed_through_all_of_them() -> None:
    runs = {
        "A": [ran(items({"a": 0}, {"a": 1}))],
        "Merge": [ran([{"json": {}, "pairedItem": [{"item": 0}, {"item": 1}]}], source="A")],
        "Top": [ran(items({"t": 0}))],
    }
    n8n = FakeN8n(runs, {"A": [["Merge"]], "Merge": [[HERE]], "Top": [["A"]]}, source="Merge")
    runs["A"][0]["data"]["main"][0] = [{"json": {"a": n}, "pairedItem": 0} for n in (0, 1)]
    runs["A"][0]["source"] = [{"previousNode": "Top"}]
    assert result("return _('Top').itemMatching(0).json.t", n8n, GIVEN) == 0
    with pytest.raises(WorkflowDataError, match="comes from 2 items of node 'A'"):
        result("return _('A').itemMatching(0)", n8n, GIVEN)


def test_the_source_of_an_item_may_be_another_than_its_node_s() -> None:
    pair = {"item": 1, "sourceOverwrite": {"previousNode": "A", "previousNodeOutput": 1, "previousNodeRun": 0}}
    runs = {"A": [ran([], items({"a": 0}, {"a": 1}))], "B": [ran([{"json": {}, "pairedItem": pair}], source="X")]}
    n8n = FakeN8n(runs, {"A": [["B"]], "B": [[HERE]]}, source="B")
    assert result("return _('A').itemMatching(0).json.a", n8n, GIVEN) == 1


def test_items_that_do_not_tell_where_they_come_from_are_an_error_with_a_way_out() -> None:
    n8n = shop()
    for item in n8n.runs["Double"][0]["data"]["main"][0]:
        del item["pairedItem"]
    with pytest.raises(WorkflowDataError) as caught:
        result("return _('Orders').itemMatching(0)", n8n, GIVEN)
    assert "Node 'Double' does not tell which item its item 1 was made from (pairedItem)" in str(caught.value)
    assert "_('Orders').all()" in str(caught.value)


def test_items_that_come_from_each_other_in_a_circle_end() -> None:
    runs = {"A": [ran(items({}), source="B")], "B": [ran(items({}), source="A")], "C": [ran(items({}))]}
    n8n = FakeN8n(runs, {"A": [["B", HERE]], "B": [["A"]], "C": [["A"]]}, source="A")
    with pytest.raises(WorkflowDataError, match="does not come from node 'C'"):
        result("return _('C').itemMatching(0)", n8n, GIVEN)


def test_a_node_without_input_has_nothing_to_follow() -> None:
    n8n = FakeN8n({"A": [ran(items({}))]}, connectionInputSource=None)
    with pytest.raises(WorkflowDataError, match="has no input"):
        result("return _('A').itemMatching(0)", n8n)
    assert result("return _prevNode", n8n) == {"name": None, "outputIndex": 0, "runIndex": 0}


# the workflow and its execution


def test_the_facts_of_the_execution() -> None:
    source = """
return [_workflow, _workflow.name, _prevNode.name, _prevNode.outputIndex, _runIndex, _nodeVersion, _execution.id,
        _execution.mode, _vars.region, _vars["region"], _execution["id"]]
"""
    expected = [{"id": "wf1", "name": "My workflow", "active": True}, "My workflow", "Split", 0, 0, 2, "231",
                "production", "eu", "eu", "231"]  # fmt: skip
    assert result(source, shop()) == expected


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("manual", "test"), ("evaluation", "evaluation"), ("trigger", "production"), ("webhook", "production")],
)
def test_the_mode_is_test_in_the_editor(mode: str, expected: str) -> None:
    assert result("return _execution.mode", FakeN8n(mode=mode)) == expected


def test_the_token_of_the_resume_url_is_kept_only_when_the_source_names_the_url() -> None:
    assert result("return _execution.resumeUrl", shop()) == "http://n8n/webhook-waiting/231?signature=the-token"
    assert result("return _execution['resumeFormUrl']", shop()) == "http://n8n/form-waiting/231?signature=the-token"
    source = """
import gc
_execution.id
values = [value for found in gc.get_objects() if isinstance(found, dict) for value in found.values()]
return [value for value in values if isinstance(value, str) and value.startswith("the-to")]
"""
    assert result(source, shop(), policy=OPEN) == []


def test_custom_data_goes_back_with_the_result() -> None:
    source = """
_execution.customData.set("order", 17)
_execution.customData.setAll({"vip": True, "region": "eu"})
return [_execution.customData.get("vip"), _execution.customData.get("earlier"), _execution.customData.getAll()]
"""
    n8n = FakeN8n(runExecutionData__resultData__metadata={"earlier": "x"})
    found = outcome(source, n8n)
    new = {"order": "17", "vip": "true", "region": "eu"}
    assert found.result == ["true", "x", {"earlier": "x"} | new]
    assert found.metadata == {"customData": new}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("set('a b', 1)", "letters, digits and underscores"),
        ("set('', 1)", "letters, digits and underscores"),
        ("set('a' * 51, 1)", "1 to 50"),
        ("set('a', 'x' * 513)", "at most 512 characters; 'a' would have 513"),
        ("set('a', {})", "a text, number or boolean"),
        ("set(1, 'a')", "a text as key"),
        ("setAll({f'k{n}': n for n in range(11)})", "at most 10 entries"),
    ],
)
def test_custom_data_that_n8n_would_not_store_is_refused(call: str, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        result(f"_execution.customData.{call}\nreturn []")


def test_static_data_goes_back_when_it_has_changed() -> None:
    before = {"global": {"count": 1, "list": [1]}, "node:Other": {"x": 1}}
    n8n = FakeN8n(workflow__staticData=before)
    source = """
data = _getWorkflowStaticData("global")
data.count += 1
data["list"].append(2)
_getWorkflowStaticData("node").seen = _getWorkflowStaticData("node").get("seen", []) + ["a"]
return []
"""
    after = {"global": {"count": 2, "list": [1, 2]}, "node:Other": {"x": 1}, f"node:{HERE}": {"seen": ["a"]}}
    assert outcome(source, n8n).metadata == {"staticData": after}


@pytest.mark.parametrize("before", [None, {}, {"global": {"count": 1}}, {"global": {}}])
def test_static_data_that_was_only_read_stays_where_it_is(before: Any) -> None:
    n8n = FakeN8n(workflow__staticData=before)
    source = "return [_getWorkflowStaticData('global').get('count'), _getWorkflowStaticData('node')]"
    assert outcome(source, n8n).metadata is None


def test_static_data_is_the_same_for_threads_that_ask_for_it_first_at_the_same_time() -> None:
    class Slow(FakeN8n):
        def request(self, params: dict[str, object]) -> Any:
            deadline = time.monotonic() + 10
            while sum(code is RunData._fetch.__code__ for code in codes_of_threads()) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            return super().request(params)

    source = """
from concurrent.futures import ThreadPoolExecutor
def note(name):
    _getWorkflowStaticData("global")[name] = 1
with ThreadPoolExecutor(2) as threads:
    list(threads.map(note, ["a", "b"]))
return []
"""
    n8n = Slow(workflow__staticData={"global": {}})
    assert outcome(source, n8n, policy=OPEN).metadata == {"staticData": {"global": {"a": 1, "b": 1}}}
    assert len(n8n.requests) == 1


def codes_of_threads() -> list[CodeType]:
    """What every thread is in the middle of."""
    codes: list[CodeType] = []
    for innermost in sys._current_frames().values():
        frame: FrameType | None = innermost
        while frame is not None:
            codes.append(frame.f_code)
            frame = frame.f_back
    return codes


def test_fields_that_are_called_like_methods_of_other_types_are_read_with_dots() -> None:
    fields = {"title": "a", "start": 1, "end": 2, "date": "2024-05-06", "count": 3, "index": 4, "year": 5}
    for name, value in fields.items():
        assert result(f"return _json.{name}", shop(), items(fields)) == value


def test_lists_of_static_data_can_be_pushed_to_as_in_the_earlier_node() -> None:
    n8n = FakeN8n(workflow__staticData={"global": {"seen": [1]}})
    found = outcome("seen = _getWorkflowStaticData('global').seen\nseen.push(2)\nreturn {'n': seen.length}", n8n)
    assert (found.result, found.metadata) == ({"n": 2}, {"staticData": {"global": {"seen": [1, 2]}}})


def test_static_data_is_emptied() -> None:
    n8n = FakeN8n(workflow__staticData={"global": {"count": 1}})
    source = "del _getWorkflowStaticData('global').count\nreturn []"
    assert outcome(source, n8n).metadata == {"staticData": {"global": {}}}


def test_static_data_is_written_so_that_it_can_be_read_again_whatever_the_rules_for_results() -> None:
    """n8n's own runner has none: no workflow relies on a text like '{1, 2}'."""
    source = (
        "import datetime\n_getWorkflowStaticData('global').update(seen={2, 1}, at=datetime.date(2024, 5, 6))\nreturn []"
    )
    assert outcome(source).metadata == {"staticData": {"global": {"seen": [1, 2], "at": "2024-05-06"}}}


def test_static_data_that_cannot_be_written_says_where_it_stands() -> None:
    with pytest.raises(UnsendableError, match="type function") as caught:
        result("_getWorkflowStaticData('global').on = lambda: 1\nreturn []")
    assert (caught.value.path, caught.value.place) == ("global.on", "the static data")


def test_there_are_two_kinds_of_static_data() -> None:
    with pytest.raises(ValueError, match="'global' or 'node', not 'workflow'"):
        result("return _getWorkflowStaticData('workflow')")


# by themselves


def test_now_and_today_are_in_the_zone_of_the_workflow() -> None:
    found = result("return [_now.isoformat(), str(_today), _now.zoneName, _now >= _today]", shop())
    now = datetime.fromisoformat(found[0])
    assert now.utcoffset() is not None
    assert found[1].startswith(f"{now.date()}T00:00:00.000+0")
    assert found[2:] == ["Europe/Berlin", True]


@pytest.mark.parametrize("setting", [{}, {"timezone": "DEFAULT"}])
def test_the_zone_of_the_instance_counts_where_the_workflow_has_none(setting: dict[str, str]) -> None:
    from trio_runner.sandbox.policy import Policy

    n8n = FakeN8n(workflow__settings=setting)
    assert result("return _now.zoneName", n8n, policy=Policy(timezone="Asia/Tokyo")) == "Asia/Tokyo"


def test_jmespath_takes_the_value_first_or_last() -> None:
    source = """
people = {"people": [{"name": "Ada", "age": 36}, {"name": "Alan", "age": 41}]}
return [_jmespath(people, "people[?age > `40`].name"), _jmespath("people[0].name", people), _jmespath(_json, "n")]
"""
    assert result(source, given=GIVEN) == [["Alan"], "Ada", 1]


@pytest.mark.parametrize("value", ["''", "None", "[]", "{}"])
def test_what_is_empty_is_replaced(value: str) -> None:
    assert result(f"return [_ifEmpty({value}, 'x'), _ifEmpty(0, 'x'), _ifEmpty('a', 'x')]") == ["x", 0, "a"]


# what user code cannot do to it


@pytest.mark.parametrize(
    "source",
    [
        "_input.all = 1",
        "del _input.all",
        "_input['all'] = 1",
        "_execution.id = 1",
        "[x for x in _input]",
        "_input.frist()",
        "_input._look_up",
        "_('Orders')._data",
        "_execution.customData.changed",
        "_input.all.cell_contents",
        "_helpers.http_request.connect",
        "_input._name",
    ],
)
def test_there_is_nothing_behind_what_is_shown(source: str) -> None:
    with pytest.raises((AttributeError, TypeError)):
        result(f"{source}\nreturn []", shop(), GIVEN, policy=OPEN)


def test_what_there_is_is_told() -> None:
    with pytest.raises(AttributeError, match="_input has no 'frist'; did you mean 'first'"):
        result("return _input.frist()")


def test_results_of_data_are_json() -> None:
    found = result("return [{'json': {'all': _('Orders').all(), 'vars': _vars, 'workflow': _workflow}}]", shop())
    assert json.dumps(found)
    assert len(found[0]["json"]["all"]) == 3
