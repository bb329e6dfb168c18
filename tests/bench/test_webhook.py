from __future__ import annotations

import io
from http.client import HTTPConnection, HTTPResponse

import pytest

from bench import lines, webhook
from tests.bench.bench_kit import make_run


class Recorded(HTTPConnection):
    """A connection on which every call is answered with the same status; remembers what was called."""

    def __init__(self, status: int = 200) -> None:
        super().__init__("127.0.0.1")
        self.status = status
        self.called: list[str] = []

    def request(self, method: str, url: str, *_: object, **__: object) -> None:  # type: ignore[override]
        assert method == "POST"
        self.called.append(url.removeprefix("/webhook/"))

    def getresponse(self) -> HTTPResponse:
        answer = b"HTTP/1.1 %d -\r\nContent-Length: 2\r\n\r\n[]" % self.status
        response = HTTPResponse(Answer(answer))  # type: ignore[arg-type]
        response.begin()
        return response


class Answer:
    """What of a socket a response needs."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def test_workflows_alternate_call_by_call_and_take_turns_at_being_first() -> None:
    connection = Recorded()
    samples = webhook.one_round(connection, turn=0, calls=3)
    assert {path: len(times) for path, times in samples.items()} == dict.fromkeys(webhook.WORKFLOWS, 3)
    triples = [connection.called[at : at + 3] for at in (0, 3, 6)]
    assert all(sorted(triple) == sorted(webhook.WORKFLOWS) for triple in triples)
    assert sorted(triple[0] for triple in triples) == sorted(webhook.WORKFLOWS)


def test_a_workflow_that_fails_is_no_figure() -> None:
    with pytest.raises(RuntimeError, match="py-all answered 500"):
        webhook.call(Recorded(500), "py-all")


@pytest.mark.n8n
def test_all_three_workflows_are_measured_on_a_real_n8n() -> None:
    run = make_run()
    webhook.measure(run, rounds=2, calls=2, warm_up=1)
    assert [len(one.samples) for one in run.select("webhook")] == [4, 4, 4]
    assert {one.value is None for one in lines.webhook(run)} == {False}
