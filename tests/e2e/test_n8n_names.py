"""n8n's names for Python code against a real n8n: each gives what the JavaScript node gives for the same expression.

One workflow has both nodes behind the same items; what they returned is read from the execution that n8n stored.
Needs minutes, and an installation of n8n; therefore marked `n8n`:  pytest -m n8n
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.n8n_server import NOT_FINISHED, Admin, Answer, N8n, Process, eventually, install, latest, tail

pytestmark = pytest.mark.n8n

STDLIB = "time,base64,json,datetime"
SOURCE = """return [
  {json: {n: 1, name: 'Ada', tags: ['a', 'b'], deep: {x: {y: 1}}}, pairedItem: {item: 0}},
  {json: {n: 2, name: 'Björn', tags: [], deep: {}}, pairedItem: {item: 0}},
  {json: {n: 3, name: '李', tags: ['c'], deep: {x: null}}, pairedItem: {item: 0}},
];"""

ALL_ITEMS = {
    # name: (JavaScript, Python)
    "input all": ("$input.all().map(i => i.json)", "[i['json'] for i in _input.all()]"),
    "input all, dots": ("$input.all().map(i => i.json.name)", "[i.json.name for i in _input.all()]"),
    "input first": ("$input.first().json", "_input.first().json"),
    "input last": ("$input.last().json.name", "_input.last()['json']['name']"),
    "input item": ("$input.item.json", "_input.item.json"),
    "input pairs": ("$input.all().map(i => i.pairedItem)", "[i.pairedItem for i in _input.all()]"),
    "input params": ("$input.params.mode", "_input.params.mode"),
    "deep": ("$input.first().json.deep.x.y", "_input.first().json.deep.x.y"),
    "node all": ("$('Source').all().map(i => i.json.n)", "[i.json.n for i in _('Source').all()]"),
    "node first": ("$('Source').first().json", "_('Source').first().json"),
    "node last": ("$('Source').last().json.tags", "_('Source').last().json.tags"),
    "node item": ("$('Source').item.json.n", "_('Source').item.json.n"),
    "node matching": (
        "[0, 1, 2].map(i => $('Source').itemMatching(i).json.n)",
        "[_('Source').itemMatching(i).json.n for i in range(3)]",
    ),
    "node matching far": ("$('Source').itemMatching(2).json.name", "_('Source').itemMatching(2).json.name"),
    "node executed": (
        "[$('Source').isExecuted, $('Never').isExecuted]",
        "[_('Source').isExecuted, _('Never').isExecuted]",
    ),
    "node params": ("$('Middle').params.includeOtherFields", "_('Middle').params.includeOtherFields"),
    "node table": ("$node['Webhook'].json.body", "_node['Webhook'].json.body"),
    "workflow": (
        "[$workflow.id, $workflow.name, $workflow.active]",
        "[_workflow.id, _workflow.name, _workflow.active]",
    ),
    "execution": ("[$execution.id, $execution.mode]", "[_execution.id, _execution.mode]"),
    "resume url": ("$execution.resumeUrl", "_execution.resumeUrl"),
    "prev node": (
        "[$prevNode.name, $prevNode.outputIndex, $prevNode.runIndex]",
        "[_prevNode.name, _prevNode.outputIndex, _prevNode.runIndex]",
    ),
    "run index": ("$runIndex", "_runIndex"),
    "vars": ("Object.keys($vars)", "list(_vars)"),
    "now": (
        "Math.abs($now.toMillis() - Date.now()) < 60000",
        "abs(_now.toMillis() - __import__('time').time() * 1000) < 60000",
    ),
    "today": ("$today.toISODate()", "_today.toISODate()"),
    "today iso": ("$today.toISO()", "_today.toISO()"),
    "jmespath": (
        "$jmespath($input.all(), '[?json.n > `1`].json.name')",
        "_jmespath(_input.all(), '[?json.n > `1`].json.name')",
    ),
    "parameter": ("$parameter.mode", "_parameter.mode"),
    "input context": ("$input.context", "_input.context"),
    "json of the first": ("[$json, $binary, $itemIndex]", "[_json, _binary, _itemIndex]"),
    "node run": ("$('Source').all(0, 0).map(i => i.json.n)", "[i.json.n for i in _('Source').all(0, 0)]"),
    "node paired": ("$('Source').pairedItem(1).json", "_('Source').pairedItem(1).json"),
    "node context": ("$('Source').context", "_('Source').context"),
    "node table, source": ("$node['Source'].json", "_node['Source'].json"),
    "node table, brackets": ("$node['Source']['json']['name']", "_node['Source']['json']['name']"),
    "node table, parameter": ("$node['Source'].parameter.jsCode", "_node['Source'].parameter.jsCode"),
    "node table, run": ("$node['Source'].runIndex", "_node['Source'].runIndex"),
    "node version": ("$nodeVersion", "_nodeVersion"),
    "resume form url": ("$execution.resumeFormUrl", "_execution.resumeFormUrl"),
    "zone": ("$now.zoneName", "_now.zoneName"),
    "months": (
        "$today.set({month: 1, day: 31}).plus({months: 1}).endOf('month').toISO()",
        "_today.set({'month': 1, 'day': 31}).plus({'months': 1}).endOf('month').toISO()",
    ),
    "format": ("$today.toFormat('yyyy-MM-dd EEEE d MMM W ZZ')", "_today.toFormat('yyyy-MM-dd EEEE d MMM W ZZ')"),
    "difference": (
        "$today.plus({days: 40}).diff($today, 'weeks').weeks",
        "_today.plus(days=40).diff(_today, 'weeks').weeks",
    ),
    "jmespath filter": (
        "$jmespath({a: [{b: 1}, {b: 2}]}, 'a[?b > `1`]')",
        "_jmespath({'a': [{'b': 1}, {'b': 2}]}, 'a[?b > `1`]')",
    ),
    "input of nothing": ("$input.all().filter(i => i.json.no)", "[i for i in _input.all() if i.json.get('no')]"),
    "node of three": ("$('Source').all().length", "len(_('Source').all())"),
    "node matching by itself": ("$('Middle').itemMatching(1).json", "_('Middle').itemMatching(1).json"),
    "node item, far": ("$('Webhook').item.json.body", "_('Webhook').item.json.body"),
    "node last run": ("$('Source').last(0, 0).json.n", "_('Source').last(0, 0).json.n"),
    "node params, code": ("$('Source').params.jsCode", "_('Source').params.jsCode"),
    "node table of the last": ("$node['Middle'].json.middle", "_node['Middle'].json.middle"),
    "custom data before": (
        "[$execution.customData.getAll(), $execution.customData.get('early')]",
        "[_execution.customData.getAll(), _execution.customData.get('early')]",
    ),
    "environment": (
        "(() => { try { return String($env.HOME) } catch (e) { return 'kept' } })()",
        "refused(lambda: _env.HOME)",
    ),
    "date of the zone": ("DateTime.fromISO('2024-05-06').toISO()", "_now.fromISO('2024-05-06').toISO()"),
    "date and time of the zone": (
        "DateTime.fromISO('2024-05-06T07:08:09').toISO()",
        "_now.fromISO('2024-05-06T07:08:09').toISO()",
    ),
    "date with an offset": (
        "DateTime.fromISO('2024-05-06T07:08:09.5Z').toISO()",
        "_now.fromISO('2024-05-06T07:08:09.5Z').toISO()",
    ),
    "date that keeps its offset": (
        "DateTime.fromISO('2024-05-06T07:08:09+02:00', {setZone: true}).toISO()",
        "_now.fromISO('2024-05-06T07:08:09+02:00', {'setZone': True}).toISO()",
    ),
    "date in another zone": (
        "DateTime.fromISO('2024-05-06T07:08:09', {zone: 'Europe/Berlin'}).toISO()",
        "_now.fromISO('2024-05-06T07:08:09', {'zone': 'Europe/Berlin'}).toISO()",
    ),
    "date of milliseconds": ("DateTime.fromMillis(1714979289123).toISO()", "_now.fromMillis(1714979289123).toISO()"),
    "date moved over summer time": (
        "DateTime.fromISO('2024-03-30T02:30', {zone: 'Europe/Berlin'}).plus({days: 1, hours: 1}).toISO()",
        "_now.fromISO('2024-03-30T02:30', {'zone': 'Europe/Berlin'}).plus(days=1, hours=1).toISO()",
    ),
    "parts of a date": (
        "(d => [d.quarter, d.weekNumber, d.weekYear, d.ordinal, d.daysInMonth, d.offset, d.zoneName])"
        "(DateTime.fromISO('2024-12-30'))",
        "(lambda d: [d.quarter, d.weekNumber, d.weekYear, d.ordinal, d.daysInMonth, d.offset, d.zoneName])"
        "(_now.fromISO('2024-12-30'))",
    ),
    "starts and ends": (
        "['year', 'quarter', 'month', 'week', 'day', 'hour'].map(u => (d => [d.startOf(u).toISO(), d.endOf(u).toISO()])"
        "(DateTime.fromISO('2024-12-30T10:11:12')))",
        "[[d.startOf(u).toISO(), d.endOf(u).toISO()] for d in [_now.fromISO('2024-12-30T10:11:12')] "
        "for u in ['year', 'quarter', 'month', 'week', 'day', 'hour']]",
    ),
    "differences": (
        "['years', 'months', 'weeks', 'days', 'hours'].map(u => DateTime.fromISO('2024-12-30T10:00')"
        ".diff(DateTime.fromISO('2023-02-28'), u).toObject())",
        "[_now.fromISO('2024-12-30T10:00').diff(_now.fromISO('2023-02-28'), u).toObject() "
        "for u in ['years', 'months', 'weeks', 'days', 'hours']]",
    ),
    "other clocks": (
        "(d => [d.setZone('Europe/Berlin').toISO(), d.toUTC().toISO(), d.toISODate(), d.toISOTime(), d.toMillis(), "
        "d.toFormat('d.L.yy h:mm a, ccc, q, ooo, ZZZ')])(DateTime.fromISO('2024-05-06T17:08:09'))",
        "(lambda d: [d.setZone('Europe/Berlin').toISO(), d.toUTC().toISO(), d.toISODate(), d.toISOTime(), "
        "d.toMillis(), d.toFormat('d.L.yy h:mm a, ccc, q, ooo, ZZZ')])(_now.fromISO('2024-05-06T17:08:09'))",
    ),
    "the same day": (
        "$now.hasSame($today, 'day') && !$now.hasSame($now.plus({days: 1}), 'day')",
        "_now.hasSame(_today, 'day') and not _now.hasSame(_now.plus(days=1), 'day')",
    ),
    "dates in a result": ("[DateTime.fromISO('2024-05-06')]", "[_now.fromISO('2024-05-06')]"),
    "jmespath of functions": (
        "$jmespath($input.all(), 'max_by([].json, &n).name')",
        "_jmespath(_input.all(), 'max_by([].json, &n).name')",
    ),
    "static data": (
        "[$getWorkflowStaticData('global'), $getWorkflowStaticData('node')]",
        "[_getWorkflowStaticData('global'), _getWorkflowStaticData('node')]",
    ),
}
OUTPUTS = {
    # behind the first output of `Split`, which holds what is greater than 1
    "the one that leads here": ("$('Split').all().map(i => i.json.n)", "[i.json.n for i in _('Split').all()]"),
    "the first": ("$('Split').all(0).map(i => i.json.n)", "[i.json.n for i in _('Split').all(0)]"),
    "the second": ("$('Split').first(1).json.n", "_('Split').first(1).json.n"),
    "where it comes from": (
        "[0, 1].map(i => $('Source').itemMatching(i).json.n)",
        "[_('Source').itemMatching(i).json.n for i in range(2)]",
    ),
    "the same place": ("$node['Source'].json.n", "_node['Source'].json.n"),
    "before": ("$prevNode.outputIndex", "_prevNode.outputIndex"),
    "its condition": ("$input.params.conditions.combinator", "_input.params.conditions.combinator"),
}
EACH_ITEM = {
    "other nodes": (
        "[$('Source').first().json.n, $('Source').last().json.n, $('Source').all().length]",
        "[_('Source').first().json.n, _('Source').last().json.n, len(_('Source').all())]",
    ),
    "node table": ("$node['Source'].json.n", "_node['Source'].json.n"),
    "around": (
        "[$runIndex, $prevNode.name, $workflow.name, $execution.id, $input.params.mode, $parameter.mode]",
        "[_runIndex, _prevNode.name, _workflow.name, _execution.id, _input.params.mode, _parameter.mode]",
    ),
    "pair": ("$input.item.pairedItem", "_input.item.pairedItem"),
    "today": ("$today.toISO()", "_today.toISO()"),
    "jmespath": ("$jmespath($json, 'tags[0]')", "_jmespath(_json, 'tags[0]')"),
    "json": ("$json", "_json"),
    "json name": ("$json.name", "_json.name"),
    "item": ("$input.item.json.n", "_input.item.json.n"),
    "item index": ("$itemIndex", "_itemIndex"),
    "matching": ("$('Source').item.json.n", "_('Source').item.json.n"),
    "matching deeper": ("$('Webhook').item.json.body", "_('Webhook').item.json.body"),
    "binary": ("Object.keys($binary)", "list(_binary)"),
}


def node(name: str, kind: str, version: float, **parameters: Any) -> dict[str, Any]:
    return {
        "id": f"n-{name.lower().replace(' ', '-')}",
        "name": name,
        "type": f"n8n-nodes-base.{kind}",
        "typeVersion": version,
        "position": [0, 0],
        "parameters": parameters,
    }


def javascript(name: str, code: str, mode: str = "runOnceForAllItems") -> dict[str, Any]:
    return node(name, "code", 2, jsCode=code, mode=mode)


def python(name: str, code: str, mode: str = "runOnceForAllItems") -> dict[str, Any]:
    return node(name, "code", 2, language="pythonNative", pythonCode=code, mode=mode)


def webhook(path: str, **options: Any) -> dict[str, Any]:
    parameters = {"httpMethod": "POST", "path": path, "responseMode": "lastNode", "responseData": "allEntries"}
    return {**node("Webhook", "webhook", 2, **parameters, options=options), "webhookId": f"wh-{path}"}


MIDDLE = node(
    "Middle",
    "set",
    3.4,
    assignments={"assignments": [{"id": "m1", "name": "middle", "type": "string", "value": "=m{{ $json.n }}"}]},
    includeOtherFields=True,
    options={},
)


def workflow(
    path: str, *chain: dict[str, Any], ends: list[dict[str, Any]], apart: Iterable[dict[str, Any]] = ()
) -> dict[str, Any]:
    """Nodes one behind the other, then ``ends``, each behind the last of them. Nothing leads to those ``apart``."""
    line = [webhook(path), *chain]
    links = {before["name"]: [after["name"]] for before, after in pairwise(line)}
    links[line[-1]["name"]] = [end["name"] for end in ends]
    return {
        "id": f"wf-{path}",
        "name": path,
        "active": True,
        "nodes": [*line, *ends, *apart],
        "connections": {
            name: {"main": [[{"node": target, "type": "main", "index": 0} for target in targets]]}
            for name, targets in links.items()
        },
        "settings": {"executionOrder": "v1"},
        "pinData": {},
    }


def in_javascript(pairs: dict[str, tuple[str, str]]) -> str:
    """Each expression by itself: one that fails gives its error."""
    lines = ",\n".join(f"  [{json.dumps(name)}, () => {code}]" for name, (code, _) in pairs.items())
    return (
        f"const asked = [\n{lines}\n];\nconst found = {{}};\n"
        "for (const [name, ask] of asked) {\n"
        "  try { found[name] = ask() } catch (e) { found[name] = 'error: ' + e.message }\n}\n"
        "return {json: {found}};"
    )


def in_python(pairs: dict[str, tuple[str, str]]) -> str:
    lines = ",\n".join(f"  ({json.dumps(name)}, lambda: {code})" for name, (_, code) in pairs.items())
    return (
        "def refused(ask):\n    try:\n        return str(ask())\n    except PermissionError:\n        return 'kept'\n"
        f"asked = [\n{lines}\n]\nfound = {{}}\nfor name, ask in asked:\n"
        "  try:\n    found[name] = ask()\n  except Exception as e:\n    found[name] = f'error: {e}'\n"
        "return {'json': {'found': found}}"
    )


class Site:
    """A real n8n with our runner and with its own for JavaScript."""

    def __init__(self, n8n: N8n, folder: Path) -> None:
        self.n8n = n8n
        self._folder = folder

    def run(self, workflow: dict[str, Any], **call: Any) -> dict[str, Any]:
        """Puts a workflow into n8n, calls it and returns the execution that n8n stored."""
        path = workflow["name"]
        if not (file := self._folder / f"{path}.json").exists():
            file.write_text(json.dumps(workflow))
            Admin(self.n8n.port).sync(self._folder)
        before = self.n8n.newest()

        def called() -> Answer | None:
            answer = self.n8n.call(path, **call)
            # n8n opens the webhook in its own time, and before that reads no large body to its end
            shut = answer.status == 404 or (answer.status == 0 and re.search("BrokenPipe|ConnectionReset", answer.body))
            return None if shut else answer

        answer = eventually(called, f"the webhook of {path}")

        def finished() -> dict[str, Any] | None:
            for execution in latest(self.n8n.data, 20):
                if execution["id"] > before and execution["workflow"] == path:
                    return None if execution["status"] in NOT_FINISHED else execution
            return None

        execution = eventually(finished, f"the stored execution of {path}; n8n answered {answer}", every=0.1)
        assert execution is not None
        return execution


def items(execution: dict[str, Any], name: str) -> list[dict[str, Any]]:
    assert execution["status"] == "success", execution["result"].get("error")
    found: list[dict[str, Any]] = execution["result"]["runData"][name][0]["data"]["main"][0]
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    scratch = tmp_path_factory.mktemp("names")
    (scratch / "workflows").mkdir()
    n8n = N8n(install(), scratch / "n8n")
    (scratch / "n8n").mkdir()
    processes: list[Process] = []
    try:
        n8n.ensure(N8N_DEFAULT_BINARY_DATA_MODE="filesystem", GENERIC_TIMEZONE="Asia/Tokyo")
        processes.append(
            n8n.runner(scratch / "python.log", N8N_RUNNERS_STDLIB_ALLOW=STDLIB, GENERIC_TIMEZONE="Asia/Tokyo")
        )
        processes.append(n8n.javascript_runner(scratch / "javascript.log", GENERIC_TIMEZONE="Asia/Tokyo"))
        yield Site(n8n, scratch / "workflows")
    finally:
        for process in processes:
            process.end()
        n8n.close()
        print(f"--- n8n\n{tail(n8n.log, 40)}\n--- runner\n{tail(scratch / 'python.log', 40)}")


def compare(execution: dict[str, Any]) -> None:
    """What the nodes Py and Js found, item by item."""
    pairs = zip(items(execution, "Py"), items(execution, "Js"), strict=True)
    for number, (python_item, javascript_item) in enumerate(pairs):
        found, expected = python_item["json"]["found"], javascript_item["json"]["found"]
        assert found.keys() == expected.keys()
        differences = [
            f"{name}: {found[name]!r}, not {expected[name]!r}" for name in found if found[name] != expected[name]
        ]
        assert not differences, f"item {number}: what Python gave, not what JavaScript gave:\n" + "\n".join(differences)


def test_every_name_gives_what_javascript_gives_for_all_items(site: Site) -> None:
    ends = [javascript("Js", in_javascript(ALL_ITEMS)), python("Py", in_python(ALL_ITEMS))]
    never = node("Never", "noOp", 1)
    source = javascript("Source", "$execution.customData.set('early', 'bird');\n" + SOURCE)
    compare(site.run(workflow("names-all", source, MIDDLE, ends=ends, apart=[never])))


def test_every_name_gives_what_javascript_gives_for_each_item(site: Site) -> None:
    mode = "runOnceForEachItem"
    ends = [javascript("Js", in_javascript(EACH_ITEM), mode), python("Py", in_python(EACH_ITEM), mode)]
    compare(site.run(workflow("names-each", javascript("Source", SOURCE), MIDDLE, ends=ends)))


def test_outputs_and_items_behind_a_branch_are_those_of_javascript(site: Site) -> None:
    more = {
        "id": "c",
        "leftValue": "={{ $json.n }}",
        "rightValue": 1,
        "operator": {"type": "number", "operation": "gt"},
    }
    conditions = {"options": {"typeValidation": "strict"}, "combinator": "and", "conditions": [more]}
    split = node("Split", "if", 2, conditions=conditions)
    ends = [javascript("Js", in_javascript(OUTPUTS)), python("Py", in_python(OUTPUTS))]
    compare(site.run(workflow("names-outputs", javascript("Source", SOURCE), MIDDLE, split, ends=ends)))


COUNTING = """
global_data = _getWorkflowStaticData('global')
own = _getWorkflowStaticData('node')
global_data['runs'] = global_data.get('runs', 0) + 1
own.setdefault('seen', []).append(_execution.id)
return {'json': {'runs': global_data.runs, 'seen': len(own.seen)}}
"""


LOOP = {
    "run": ("$runIndex", "_runIndex"),
    "input": ("$input.all().map(i => i.json.n)", "[i.json.n for i in _input.all()]"),
    "matching": ("$('Source').item.json.name", "_('Source').item.json.name"),
    "matching deeper": ("$('Webhook').item.json.body", "_('Webhook').item.json.body"),
    "of the loop": ("$('Loop').first().json.n", "_('Loop').first().json.n"),
    "of its first run": ("$('Loop').all(1, 0).map(i => i.json.n)", "[i.json.n for i in _('Loop').all(1, 0)]"),
    "of its last run": ("$('Loop').all(1, -1).map(i => i.json.n)", "[i.json.n for i in _('Loop').all(1, -1)]"),
    "context": (
        "[$('Loop').context.noItemsLeft, $('Loop').context.currentRunIndex, $node['Loop'].context.noItemsLeft]",
        "[_('Loop').context.noItemsLeft, _('Loop').context.currentRunIndex, _node['Loop'].context.noItemsLeft]",
    ),
    "before": (
        "[$prevNode.name, $prevNode.outputIndex, $prevNode.runIndex]",
        "[_prevNode.name, _prevNode.outputIndex, _prevNode.runIndex]",
    ),
}


def test_in_a_loop_each_run_sees_what_javascript_sees(site: Site) -> None:
    loop = node("Loop", "splitInBatches", 3, batchSize=2, options={})
    js, py = javascript("Js", in_javascript(LOOP)), python("Py", in_python(LOOP))
    js["position"] = [0, -500]  # what stands higher goes first: Py closes the loop
    flow = workflow("names-loop", javascript("Source", SOURCE), loop, ends=[js, py])
    bodies = flow["connections"]["Loop"]["main"][0]
    flow["connections"]["Loop"]["main"] = [[], bodies]  # its first output is for the end
    flow["connections"]["Py"] = {"main": [[{"node": "Loop", "type": "main", "index": 0}]]}
    runs = site.run(flow)["result"]["runData"]
    found = {
        name: [[item["json"]["found"] for item in run["data"]["main"][0]] for run in runs[name]]
        for name in ("Py", "Js")
    }
    assert found["Py"] == found["Js"]
    assert len(found["Py"]) == 2


def test_static_data_that_python_wrote_is_read_by_javascript(site: Site) -> None:
    write = python("Write", "_getWorkflowStaticData('global').mark = {'by': 'Python', 'set': {2, 1}}\nreturn _items")
    flow = workflow(
        "names-static-read", write, ends=[javascript("Js", "return {json: $getWorkflowStaticData('global')}")]
    )
    site.run(flow)
    assert items(site.run(flow), "Js")[0]["json"] == {"mark": {"by": "Python", "set": [1, 2]}}


def test_static_data_lives_from_one_execution_to_the_next(site: Site) -> None:
    counting = workflow("names-static", ends=[python("Py", COUNTING)])
    counts = [items(site.run(counting), "Py")[0]["json"] for _ in range(3)]
    assert counts == [{"runs": n, "seen": n} for n in (1, 2, 3)]


def test_custom_data_can_be_seen_in_the_stored_execution(site: Site) -> None:
    code = """
_execution.customData.set('order', 'A-17')
_execution.customData.setAll({'user': 'ada', 'n': '3'})
return {'json': {'order': _execution.customData.get('order'), 'all': _execution.customData.getAll()}}
"""
    execution = site.run(workflow("names-custom", ends=[python("Py", code)]))
    everything = {"order": "A-17", "user": "ada", "n": "3"}
    assert items(execution, "Py")[0]["json"] == {"order": "A-17", "all": everything}
    assert execution["result"]["metadata"] == everything


REQUEST = {
    "get": (
        "await this.helpers.httpRequest({url: URL + '/json?a=1'})",
        "_helpers.http_request(url=URL + '/json?a=1')",
    ),
    "query": (
        "await this.helpers.httpRequest({url: URL + '/echo', qs: {a: 'x y', b: [1, 2]}, json: true})",
        "_helpers.httpRequest({'url': URL + '/echo', 'qs': {'a': 'x y', 'b': [1, 2]}, 'json': True})",
    ),
    "post": (
        "await this.helpers.httpRequest({url: URL + '/echo', method: 'POST', body: {n: 1, t: 'ü'}, json: true})",
        "_helpers.http_request(method='POST', url=URL + '/echo', body={'n': 1, 't': 'ü'}, json=True)",
    ),
    "full": (
        "await this.helpers.httpRequest({url: URL + '/json', returnFullResponse: true})"
        ".then(r => [r.statusCode, r.body])",
        "(lambda r: [r['statusCode'], r['body']])(_helpers.http_request(url=URL + '/json', returnFullResponse=True))",
    ),
    "ignored status": (
        "await this.helpers.httpRequest({url: URL + '/missing', ignoreHttpStatusErrors: true})",
        "_helpers.http_request(url=URL + '/missing', ignoreHttpStatusErrors=True)",
    ),
    "bytes": (
        "await this.helpers.httpRequest({url: URL + '/json', encoding: 'arraybuffer'}).then(b => b.toString('base64'))",
        "base64.b64encode(_helpers.http_request(URL + '/json', encoding='arraybuffer')).decode()",
    ),
    "text": (
        "await this.helpers.httpRequest({url: URL + '/json', encoding: 'text'})",
        "_helpers.http_request(URL + '/json', encoding='text')",
    ),
    "form": (
        "await this.helpers.httpRequest({url: URL + '/echo', method: 'PUT', body: {a: 'x y', b: 1}, "
        "headers: {'content-type': 'application/x-www-form-urlencoded'}})",
        "_helpers.http_request(URL + '/echo', method='PUT', data={'a': 'x y', 'b': 1}, "
        "headers={'content-type': 'application/x-www-form-urlencoded'})",
    ),
    "user": (
        "await this.helpers.httpRequest({url: URL + '/who', auth: {username: 'ada', password: 'pw'}})",
        "_helpers.http_request(URL + '/who', auth=('ada', 'pw'))",
    ),
    "base": (
        "await this.helpers.httpRequest({baseURL: URL, url: '/json', qs: {a: true, b: null, c: ['x', 'y']}, "
        "arrayFormat: 'repeat'})",
        "_helpers.http_request(base_url=URL, url='/json', params={'a': True, 'b': None, 'c': ['x', 'y']}, "
        "array_format='repeat')",
    ),
    "what a failure says": (
        "await this.helpers.httpRequest({url: URL + '/missing'})"
        ".catch(e => [e.message, e.response && e.response.data || null])",
        "said(lambda: _helpers.http_request(URL + '/missing'), True)",
    ),
    "nobody there": (
        "await this.helpers.httpRequest({url: 'http://127.0.0.1:9/'}).catch(e => [e.message])",
        "said(lambda: _helpers.http_request('http://127.0.0.1:9/'))",
    ),
    "too slow": (
        "await this.helpers.httpRequest({url: URL + '/slow', timeout: 50}).catch(e => [e.message])",
        "said(lambda: _helpers.http_request(URL + '/slow', timeout=50))",
    ),
    "older": (
        "await this.helpers.request({uri: URL + '/echo', method: 'POST', body: {a: 1}, json: true})",
        "_helpers.request(uri=URL + '/echo', method='POST', body={'a': 1}, json=True)",
    ),
    "failed": (
        "await this.helpers.httpRequest({url: URL + '/missing'}).catch(e => true)",
        "failed(lambda: _helpers.http_request(url=URL + '/missing'))",
    ),
}


HANGUP = threading.Event()
"""Set when nobody waits for a slow answer any more."""


class _Echo(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length).decode()
        if self.path == "/slow":
            HANGUP.wait(5)
        status = 404 if self.path.startswith("/missing") else 200
        answer = {"method": self.command, "path": self.path, "body": body, "user": self.headers.get("authorization")}
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_PUT = do_GET  # noqa: N815 - the standard library's names

    def log_message(self, *_args: object) -> None:
        """Not on standard error."""


@pytest.fixture
def echo() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        HANGUP.set()
        server.shutdown()
        thread.join()


def test_requests_through_n8n_answer_as_they_do_in_javascript(site: Site, echo: str) -> None:
    asked = ", ".join(f"{json.dumps(name)}: {code}" for name, (code, _) in REQUEST.items())
    js = f"const URL = '{echo}';\nreturn {{json: {{found: {{{asked}}}}}}};"
    asked = ", ".join(f"{json.dumps(name)}: {code}" for name, (_, code) in REQUEST.items())
    py = f"""import base64
URL = '{echo}'
def said(ask, body=False):
    try:
        ask()
    except _helpers.HelperError as error:
        text = str(error).removeprefix('httpRequest: ')
        return [text, error.body] if body else [text]
def failed(ask):
    try:
        ask()
    except Exception as error:
        assert error.status_code == 404, error
        assert len(str(error)) < 300, error
        return True
return {{'json': {{'found': {{{asked}}}}}}}"""
    compare(site.run(workflow("names-http", ends=[javascript("Js", js), python("Py", py)])))


BINARY = """
import base64
out = []
for index, item in enumerate(_input.all()):
    data = _helpers.get_binary_data(item, 'file')
    meta = _helpers.assert_binary_data(index, 'file')
    made = _helpers.prepare_binary_data(data[::-1], 'reversed.bin', 'application/x-reversed')
    out.append({'json': {'size': len(data), 'head': base64.b64encode(data[:16]).decode(), 'name': meta['fileName'],
                         'type': made['mimeType']}, 'binary': {'back': made}})
return out
"""
BACK = """
const made = await this.helpers.getBinaryDataBuffer(0, 'back');
return {json: {size: made.length, tail: made.subarray(-16).reverse().toString('base64')}};
"""


FILES = {
    "content": (
        "(await this.helpers.getBinaryDataBuffer(0, 'file')).toString('base64')",
        "base64.b64encode(_helpers.get_binary_data(_input.first(), 'file')).decode()",
    ),
    "content of nothing": (
        "await this.helpers.getBinaryDataBuffer(0, 'nothing').then(() => 'read', () => 'refused')",
        "refused(lambda: _helpers.get_binary_data(0, 'nothing'))",
    ),
    "as text": (
        "await this.helpers.binaryToString(await this.helpers.getBinaryDataBuffer(0, 'file'), 'latin1')",
        "_helpers.binary_to_string(_helpers.get_binary_data(0, 'file'), 'latin1')",
    ),
    "made": (
        "await this.helpers.prepareBinaryData(Buffer.from('a,b'), 'a.csv', 'text/csv').then(known)",
        "known(_helpers.prepare_binary_data(b'a,b', 'a.csv', 'text/csv'))",
    ),
    "made without a type": (
        "await this.helpers.prepareBinaryData(Buffer.from('{}'), 'a.json').then(known)",
        "known(_helpers.prepare_binary_data('{}', 'a.json'))",
    ),
    "made without a name": (
        "await this.helpers.prepareBinaryData(Buffer.from('x')).then(known)",
        "known(_helpers.prepare_binary_data(b'x'))",
    ),
    "made anew": (
        "await this.helpers.prepareBinaryData(Buffer.from('x'), 'a.txt', 'text/plain')"
        ".then(f => this.helpers.setBinaryDataBuffer(f, Buffer.from('longer'))).then(known)",
        "known(_helpers.set_binary_data(_helpers.prepare_binary_data(b'x', 'a.txt', 'text/plain'), b'longer'))",
    ),
    "described": ("known($input.first().binary.file)", "known(_helpers.assert_binary_data(0, 'file'))"),
    "of the input": ("Object.keys($input.first().binary)", "list(_input.first().binary)"),
    "of the first": ("known($binary.file)", "known(_binary.file)"),
    "of another node": ("known($('Webhook').first().binary.file)", "known(_('Webhook').first().binary.file)"),
    "of the table": ("known($node['Webhook'].binary.file)", "known(_node['Webhook'].binary.file)"),
}
KNOWN = ["fileName", "mimeType", "fileExtension", "fileType", "fileSize", "bytes"]
"""What is told of a file: all but where it is kept."""


def test_files_are_what_they_are_in_javascript(site: Site) -> None:
    asked = ", ".join(f"{json.dumps(name)}: {code}" for name, (code, _) in FILES.items())
    js = (
        f"const known = file => {json.dumps(KNOWN)}.map(name => file[name] === undefined ? null : file[name]);\n"
        f"return {{json: {{found: {{{asked}}}}}}};"
    )
    asked = ", ".join(f"{json.dumps(name)}: {code}" for name, (_, code) in FILES.items())
    py = f"""import base64
def known(file):
    return [file.get(name) for name in {KNOWN}]
def refused(ask):
    try:
        ask()
    except _helpers.HelperError:
        return 'refused'
    return 'read'
return {{'json': {{'found': {{{asked}}}}}}}"""
    flow = workflow("names-files", ends=[javascript("Js", js), python("Py", py)])
    flow["nodes"][0]["parameters"]["options"] = {"binaryPropertyName": "file"}
    compare(site.run(flow, body="Gr\u00fc\u00dfe".encode(), content_type="application/octet-stream"))


@pytest.mark.parametrize("size", [1000, 5_000_000, pytest.param(50_000_000, marks=pytest.mark.long)])
def test_files_are_read_and_written_through_n8n(site: Site, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    path = f"names-binary-{size}"
    flow = workflow(path, python("Py", BINARY), ends=[javascript("Back", BACK)])
    flow["nodes"][0]["parameters"]["options"] = {"binaryPropertyName": "file"}
    execution = site.run(flow, body=data, content_type="application/octet-stream", timeout=120.0)
    found, back = items(execution, "Py")[0]["json"], items(execution, "Back")[0]["json"]
    head = base64.b64encode(data[:16]).decode()
    assert (found["size"], found["head"], found["type"]) == (size, head, "application/x-reversed")
    assert back == {"size": size, "tail": head}


def test_a_program_that_uses_none_of_the_names_sends_no_request(site: Site) -> None:
    before = site.n8n.log_position()
    execution = site.run(workflow("names-none", ends=[python("Py", "return [{'json': {'n': len(_items)}}]")]))
    assert items(execution, "Py")[0]["json"] == {"n": 1}
    logged = site.n8n.logged_since(before)
    assert "taskdatarequest" not in logged


def test_pairs_are_kept_and_made_as_n8n_expects_them(site: Site) -> None:
    code = "return [{'json': {}, 'pairedItem': {'item': k}} for k, i in enumerate(_input.all()) if i.json.n != 2]"
    after = javascript("After", "return $input.all().map((i, k) => ({json: $('Source').itemMatching(k).json}))")
    execution = site.run(workflow("names-pairs", javascript("Source", SOURCE), python("Py", code), ends=[after]))
    assert [item["json"]["n"] for item in items(execution, "After")] == [1, 3]
