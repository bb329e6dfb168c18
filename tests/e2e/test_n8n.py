"""This runner under a real n8n: every Python workflow of the kit, both ways to log in, crashes, drains and stops.

What n8n must answer comes from tests/n8n_kit/FACTS.md. Needs minutes, and on first use an installation of n8n (2.4 GB);
therefore marked `n8n` and not part of the default run:  pytest -m n8n
"""

from __future__ import annotations

import ast
import json
import os
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.e2e.n8n_server import (
    KIT,
    Admin,
    N8n,
    Runner,
    alive,
    command_line,
    descendants,
    eventually,
    free_port,
    tail,
)
from tests.release.wheel_kit import run

pytestmark = pytest.mark.n8n

ERROR_ANSWER = {"message": "Error in workflow"}  # all that the caller of a webhook learns about a failure


class StartRunner(Protocol):
    def __call__(self, **env: str) -> Runner: ...


@pytest.fixture
def n8n(server: N8n) -> Iterator[N8n]:
    """n8n in external mode, running, whatever the test before did to it."""
    server.ensure()
    yield server
    # printed always; pytest shows it for failed tests only
    print(f"--- n8n's log\n{tail(server.log, 60)}")


@pytest.fixture
def start_runner(n8n: N8n, tmp_path: Path) -> Iterator[StartRunner]:
    """Starts registered runners; those that still run at the end must stop cleanly."""
    started: list[Runner] = []

    def start(**env: str) -> Runner:
        started.append(n8n.runner(tmp_path / f"runner-{len(started)}.log", **env))
        return started[-1]

    try:
        yield start
        codes = [runner.stop() for runner in started if runner.running]
        assert not any(codes), f"runners ended with {codes} on SIGTERM"
    finally:
        for runner in started:
            runner.end()
            print(f"--- {runner.log.name}\n{tail(runner.log, 60)}")


@pytest.fixture
def runner(start_runner: StartRunner) -> Runner:
    return start_runner()


def code_of(workflow: str) -> str:
    nodes = json.loads((KIT / "workflows" / f"{workflow}.json").read_text())["nodes"]
    code: str = next(n["parameters"]["pythonCode"] for n in nodes if "pythonCode" in n["parameters"])
    return code


def items_of(execution: dict[str, Any], node: str = "Py") -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = execution["result"]["runData"][node][0]["data"]["main"][0]
    return items


# ---- the workflows


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("py-all", [{"ok": True, "count": 1, "body": {"hello": "world"}}]),
        ("py-each", [{"ok": True, "body": {"hello": "world"}}]),
        ("py-two", [{"seen": [{"first": 1, "middle": "m1"}, {"first": 2, "middle": "m2"}]}]),
        ("py-list", [{"id": i, "price2": 3.0 * i} for i in range(1000)]),
        ("py-list-each", [{"id": i, "price2": 3.0 * i} for i in range(1000)]),
        ("py-filter-each", [{"id": i} for i in range(0, 10, 2)]),
        ("py-sleep?s=0.5", [{"slept": 0.5}]),
        ("py-spin?n=1000000", [{"x": 499999500000}]),
    ],
)
def test_a_workflow_answers_with_the_items_its_code_returns(
    n8n: N8n, runner: Runner, path: str, expected: list[Any]
) -> None:
    answer, execution = n8n.executed(path)
    assert (answer.status, answer.body) == (200, expected)
    assert execution["status"] == "success"


@pytest.mark.usefixtures("runner")
def test_items_that_a_node_filters_out_leave_the_others_paired_with_their_own_input(n8n: N8n) -> None:
    _, execution = n8n.executed("py-filter-each")
    assert [item["pairedItem"] for item in items_of(execution)] == [{"item": i} for i in range(0, 10, 2)]


@pytest.mark.usefixtures("runner")
def test_prints_of_a_production_run_arrive_in_order_on_the_stdout_of_n8n(n8n: N8n) -> None:
    start = n8n.log_position()
    answer = n8n.call("py-print")
    assert (answer.status, answer.body) == (200, [{"printed": 2}])
    eventually(lambda: "second line" in n8n.logged_since(start), "the prints in n8n's log", timeout=5)
    printed = [line for line in n8n.logged_since(start).splitlines() if '[Node "Py"]' in line]
    assert [line.partition('[Node "Py"] ')[2] for line in printed] == [
        """'hello from python' {"a": 1, "b": [1, 2, 3]} None True 1.5""",
        "'second line'",
    ]


@pytest.mark.usefixtures("runner")
def test_prints_of_a_manual_run_arrive_in_the_editor_as_values(n8n: N8n) -> None:
    def finished(pushed: list[str]) -> bool:
        return any('"executionFinished"' in line for line in pushed) and sum("Console" in line for line in pushed) >= 2

    _, pushed = Admin(n8n.port).run("manual-print", seconds_to_listen=10, enough=finished)
    messages = [json.loads(line.removeprefix("data: ")) for line in pushed if "sendConsoleMessage" in line]
    # n8n parses each text as JSON where it can: hence 1.5 is a number, and None stays text
    assert [m["data"] for m in messages] == [
        {"source": '[Node: "Py"]', "messages": ["'hello from python'", {"a": 1, "b": [1, 2, 3]}, "None", "True", 1.5]},
        {"source": '[Node: "Py"]', "messages": ["'second line'"]},
    ]


@pytest.mark.usefixtures("runner")
def test_an_exception_is_stored_with_message_line_and_a_short_traceback(n8n: N8n) -> None:
    answer, execution = n8n.executed("py-raise")
    assert (answer.status, answer.body) == (500, ERROR_ANSWER)
    assert execution["status"] == "error"
    error = execution["result"]["error"]
    assert error["message"] == "division by zero"
    assert error["lineNumber"] == 2  # in `inner`, where it was raised, counted in the user's own lines
    assert "ZeroDivisionError" in error["description"]
    assert "line 2" in error["description"]
    assert len(error["description"].splitlines()) <= 20


@pytest.mark.usefixtures("runner")
def test_an_exception_in_a_node_set_to_continue_becomes_an_item(n8n: N8n) -> None:
    answer, execution = n8n.executed("py-raise-continue")
    assert (answer.status, answer.body) == (200, [{"error": "bad value: 42"}])
    assert execution["status"] == "success"


@pytest.mark.usefixtures("runner")
def test_an_exception_in_an_each_item_run_is_stored_with_the_index_of_its_item(n8n: N8n) -> None:
    answer, execution = n8n.executed("py-raise-each")
    assert (answer.status, answer.body) == (500, ERROR_ANSWER)
    error = execution["result"]["error"]
    assert error["message"] == "'third'"  # what str() makes of a KeyError
    assert error["context"]["itemIndex"] == 2
    assert error["lineNumber"] == 2
    assert "KeyError" in error["description"]


@pytest.mark.usefixtures("runner")
def test_a_syntax_error_is_stored_in_the_words_of_the_compiler(n8n: N8n) -> None:
    with pytest.raises(SyntaxError) as raised:
        ast.parse(code_of("py-syntax"), "<unknown>")
    answer, execution = n8n.executed("py-syntax")
    assert (answer.status, answer.body) == (500, ERROR_ANSWER)
    assert execution["result"]["error"]["message"] == str(raised.value)


@pytest.mark.usefixtures("runner")
def test_a_result_that_is_no_list_of_items_fails_with_the_words_of_n8n(n8n: N8n) -> None:
    answer, execution = n8n.executed("py-badreturn")
    assert (answer.status, answer.body) == (500, ERROR_ANSWER)
    assert execution["result"]["error"]["message"] == "Code doesn't return items properly"


@pytest.mark.usefixtures("runner")
def test_a_file_that_was_sent_to_the_webhook_reaches_the_code_as_binary_data(n8n: N8n) -> None:
    form = (
        b'--XyZ\r\nContent-Disposition: form-data; name="data"; filename="note.txt"\r\n'
        b"Content-Type: text/plain\r\n\r\nbinary hello\r\n--XyZ--\r\n"
    )
    answer = n8n.call("py-binary", form, "multipart/form-data; boundary=XyZ")
    assert answer.status == 200
    (binary,) = answer.body[0]["binary"].values()
    assert (binary["fileName"], binary["mimeType"]) == ("note.txt", "text/plain")


# ---- the connection


def test_a_grant_token_alone_is_enough_to_log_in(n8n: N8n, start_runner: StartRunner) -> None:
    runner = start_runner(N8N_RUNNERS_GRANT_TOKEN=n8n.grant_token())
    assert n8n.call("py-all").status == 200
    lines = runner.text().splitlines()
    said = [line for line in lines if line in ("Starting runner...", "Connected to broker", "Registered with broker")]
    assert said == ["Starting runner...", "Connected to broker", "Registered with broker"]


def test_the_health_endpoint_answers_while_code_runs(n8n: N8n, start_runner: StartRunner) -> None:
    port = free_port()
    runner = start_runner(
        N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED="true",
        N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT=str(port),
        N8N_RUNNERS_MAX_CONCURRENCY="1",
    )
    spinning = n8n.later("py-spin?n=20000000")
    runner.wait_for("Received task")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as response:
        assert (response.status, response.read()) == (200, b"OK")
    assert spinning.result(60).status == 200


@pytest.mark.usefixtures("runner")
def test_forty_calls_at_once_are_all_answered_by_five_slots(n8n: N8n) -> None:
    calls = [n8n.later("py-sleep?s=0.1") for _ in range(40)]
    assert Counter((c.result(60).status, str(c.result().body)) for c in calls) == {(200, "[{'slept': 0.1}]"): 40}


# ---- ends


def test_an_execution_stopped_by_its_user_frees_the_only_slot_at_once(n8n: N8n, start_runner: StartRunner) -> None:
    runner = start_runner(N8N_RUNNERS_MAX_CONCURRENCY="1")
    before = n8n.newest()
    stopped = n8n.later("py-spin?n=100000000000")
    runner.wait_for("Received task")
    admin = Admin(n8n.port)
    (execution,) = admin.running()
    admin.stop(execution["id"])
    runner.wait_for("Cancelled task", timeout=5)
    answer = n8n.call("py-all", timeout=10)
    assert answer.status == 200
    assert answer.seconds < 5  # not after the rest of the loop, which takes hours
    assert n8n.stored("py-spin", before)["status"] == "canceled"
    assert stopped.result(30).status != 200


def test_sigterm_lets_a_running_task_finish_and_ends_the_runner_with_zero(n8n: N8n, start_runner: StartRunner) -> None:
    runner = start_runner(N8N_RUNNERS_GRACEFUL_SHUTDOWN_TIMEOUT="10")
    call = n8n.later("py-sleep?s=2")
    runner.wait_for("Received task")
    start = time.monotonic()
    assert runner.stop(10) == 0
    assert 0.5 < time.monotonic() - start < 8  # as long as the task took, not as long as was allowed
    assert call.result(10).body == [{"slept": 2}]


def test_tasks_flow_again_after_a_crash_of_n8n_without_a_restart_of_the_runner(
    n8n: N8n, start_runner: StartRunner
) -> None:
    runner = start_runner(N8N_RUNNERS_MAX_CONCURRENCY="2", N8N_RUNNERS_TASK_TIMEOUT="600")
    lost = [n8n.later("py-sleep?s=500") for _ in range(2)]
    runner.wait_for("Received task", times=2)
    n8n.kill()
    assert [call.result(10).status for call in lost] == [0, 0]
    n8n.start()
    runner.wait_for("Registered with broker", times=2, timeout=40)
    # both slots were taken by tasks that nobody waits for any more, and that would sleep on for minutes
    calls = [n8n.later("py-sleep?s=1") for _ in range(2)]
    assert [call.result(20).body for call in calls] == [[{"slept": 1}], [{"slept": 1}]]
    assert runner.running


def test_a_drain_lets_tasks_finish_then_the_own_token_reconnects_and_the_grant_token_ends(
    n8n: N8n, start_runner: StartRunner
) -> None:
    lasting = start_runner(N8N_RUNNERS_MAX_CONCURRENCY="1")
    once = start_runner(N8N_RUNNERS_MAX_CONCURRENCY="1", N8N_RUNNERS_GRANT_TOKEN=n8n.grant_token())
    before = n8n.newest()
    calls = [n8n.later("py-sleep?s=3") for _ in range(2)]
    lasting.wait_for("Received task")
    once.wait_for("Received task")
    n8n.server.signal(signal.SIGTERM)
    assert [(c.result(30).status, c.result().body) for c in calls] == [(200, [{"slept": 3}])] * 2
    # n8n waits until every connection is closed; a socket left half-closed makes it give up after 30 s with code 1
    assert n8n.server.wait(40) == 0
    assert once.wait(10) == 0  # its token is used up: whoever started it has to give it a new one
    n8n.start()
    assert n8n.stored("py-sleep", before)["status"] == "success"
    lasting.wait_for("Registered with broker", times=2, timeout=40)
    assert n8n.call("py-all", timeout=20).status == 200
    assert lasting.running


# ---- internal mode, last: it restarts n8n


def internal_runner(n8n: N8n) -> int:
    """The pid of the Python runner that n8n itself has started."""

    def find() -> int:
        pids = [p for p in descendants(n8n.server.pid) if command_line(p).rstrip().endswith("trio-runner start")]
        return min(pids, default=0)  # its own children come later

    return eventually(find, "n8n to start the runner")


def test_n8n_starts_this_runner_itself_in_internal_mode_and_starts_it_again_when_it_dies(
    server: N8n, tmp_path: Path, commands: Path
) -> None:
    """With the script that `trio-runner init internal` makes, from the wheel alone."""
    start = tmp_path / "python"
    said = run("sh", "-c", f"{commands}/trio-runner init internal --n8n '{server.folder}' 2>&1", cwd=tmp_path)
    assert (
        f"again with -o {server.python_of_internal_mode} " in said
    )  # internal_mode() has the script started from there
    run(commands / "trio-runner", "init", "internal", "-o", start, cwd=tmp_path)
    try:
        server.ensure(**server.internal_mode(tmp_path, start))
        assert server.call("py-all").status == 200
        assert server.call("py-sleep?s=0.1").body == [{"slept": 0.1}]  # the allowlist was passed on
        first = internal_runner(server)
        start = server.log_position()
        spinning = server.later("py-spin?n=100000000000")
        eventually(lambda: "[runner:py] Received task" in server.logged_since(start), "the runner's log in n8n's")
        time.sleep(0.5)  # until the code really runs
        tree = descendants(first) | {first}
        os.kill(first, signal.SIGKILL)
        assert spinning.result(20).status == 500
        eventually(lambda: not alive(tree), "all children of the killed runner to be gone", timeout=10)
        assert server.call("py-all").status == 200
        second = internal_runner(server)
        assert second != first
        tree = server.server.tree()
        assert server.stop() == 0
        eventually(lambda: not alive(tree), "everything n8n started to be gone", timeout=10)
    finally:
        print(f"--- n8n's log\n{tail(server.log, 60)}")
