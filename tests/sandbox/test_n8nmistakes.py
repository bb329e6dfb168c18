"""What is said to people who use n8n's names as in JavaScript, as in `requests`, or not quite."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sandbox.n8n_kit import FakeN8n, items, ran, result
from tests.sandbox.program_kit import OPEN
from trio_runner.sandbox import hints
from trio_runner.sandbox.channel import ChannelError
from trio_runner.sandbox.mistakes import for_error
from trio_runner.sandbox.policy import Confinement, Policy

GIVEN = items({"name": "Ada", "tags": ["a"]})


def said(source: str, **answers: Any) -> str:
    """The advice about what a program raises; ``answers``: n8n's to its one helper."""
    calls = {"helpers.httpRequest": lambda _options: ChannelError(answers) if answers else {"id": 7}}
    n8n = FakeN8n({"X": [ran(GIVEN)]}, {"X": [["Code"]]}, calls=calls)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of any kind
        result(source, n8n, GIVEN, policy=OPEN)
    return for_error(caught.value, source, each_item=False)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("return _json.nmae", "Did you mean 'name'? A field that may be missing is read with .get('nmae'). [TR444]"),
        ("return _vars.zzz", "A field that may be missing is read with .get('zzz')."),
        ("return _helpers.http_request('http://a').json()", "http_request gives the body itself"),
        ("return _json.text", "is read with .get('text')"),
        ("return _input.first.json", "called with () behind its name"),
        ("return [i for i in _input.all]", "called with () behind its name"),
        ("return len(_('X').all)", "called with () behind its name"),
        ("raise AttributeError(\"'coroutine' object has no attribute 'id'\")", "write await in front"),
        ("raise TypeError(\"'coroutine' object is not subscriptable\")", "write await in front"),
        ("return await _helpers.httpRequest('http://a')", "Take await away"),
        ("return await _input.all()", "Take await away"),
        ("_execution.customData['a'] = 1", "_execution.customData.set('key', 'value')"),
        ("import datetime\nreturn _now > datetime.datetime(2024, 1, 1)", "datetime.now(_now.tzinfo)"),
        ("return _today + 1", ".plus(days=1)"),
        ("return _input.all() + _json", "rows.append(row)"),
        ("return _json + 1", "do not go together"),
        ("return this.helpers", "In Python this is _helpers"),
        ("return helpers.http_request('x')", "n8n's name for it in Python is _helpers."),
        ("return getWorkflowStaticData('global')", "_getWorkflowStaticData."),
        ("return DateTime.now()", "_now and its methods"),
        ("return _json.tags.map(str)", "[… for each in values]"),
        ("return _json.name.toString()", "str(value)"),
        ("import json\nreturn json.loads(_json)", "items need no json.loads(…)"),
        ("import tempfile\nraise FileNotFoundError(2, 'No usable temporary directory found')", "io.BytesIO()"),
    ],
)
def test_the_advice_is_what_to_write(source: str, words: str) -> None:
    assert words in said(source)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"message": "connect ECONNREFUSED 127.0.0.1:9"}, "localhost is n8n's own machine"),
        ({"message": "getaddrinfo ENOTFOUND nowhere"}, "it must be able to reach the address"),
        ({"message": "timeout of 10ms exceeded"}, "timeout_seconds"),
        ({"message": "Invalid URL"}, "http:// or https://"),
        ({"message": "Invalid URL: x"}, "http:// or https://"),
    ],
)
def test_a_request_that_failed_says_where_to_look(answer: dict[str, Any], words: str) -> None:
    assert words in said("return _helpers.http_request('http://a')", **answer)
    assert said("return _helpers.http_request('http://a')", message="socket hang up") == ""


def test_a_refused_request_shows_what_the_server_said() -> None:
    def refused(data: Any) -> str:
        return said("return _helpers.http_request('http://a')", message="no", status=422, response={"data": data})

    assert refused({"error": "no such id"}) == 'The server said: {"error":"no such id"} [TR447]'
    assert refused("busy\n  now") == "The server said: busy now [TR447]"
    for nothing in (None, "", "<html><p>x"):
        assert refused(nothing).startswith("To read what the server said: ignore_http_status_errors=True")
    assert len(refused("x" * 10_000)) < 400


def test_an_error_that_only_has_the_name_is_not_looked_into() -> None:
    class HttpError(Exception):
        @property
        def body(self) -> str:
            raise AssertionError

    assert for_error(HttpError("x"), "", each_item=False) == ""


def test_what_of_the_earlier_node_is_not_there_has_a_way_around() -> None:
    def hint(package: str) -> str:
        return hints.for_refusals([f"Import of external package '{package}' is disallowed. Allowed: none"])

    assert "# /// script" in hint("micropip")
    assert hint("js") == hint("pyodide")
    assert "_helpers.http_request" in hint("js")
    assert "N8N_RUNNERS_EXTERNAL_ALLOW" in hint("json5")


def test_builtins_that_are_named_like_n8n_s_name_n8n_s() -> None:
    error = NameError("name 'input' is not defined", name="input")
    assert hints.for_error(error, Policy(), Confinement()).startswith("n8n's name for it in Python is _input. ")


def test_a_refusal_of_the_sandbox_is_found_behind_a_package_s_own_error() -> None:
    strict = Confinement(mode="strict")
    outer = ConnectionError("Max retries exceeded")
    outer.__context__ = middle = RuntimeError("could not connect")
    middle.__cause__ = PermissionError(13, "Permission denied")
    assert "N8N_RUNNERS_SANDBOX_CONNECT" in hints.for_error(outer, Policy(), strict)
    outer.__suppress_context__ = True
    assert hints.for_error(outer, Policy(), strict) == ""
    one, two = ValueError(), ValueError()
    one.__cause__, two.__cause__ = two, one
    assert hints.for_error(one, Policy(), strict) == ""
