"""What other people's tests use: programs are run, failures are exceptions, and the runner is gone afterwards."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from trio_runner.config import ConfigError
from trio_runner.errors import SandboxError
from trio_runner.testing import CodeNode, CodeNodeError, NotItemsError, Result, open_code_node

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def node() -> Iterator[CodeNode]:
    with CodeNode({"N8N_RUNNERS_MAX_CONCURRENCY": "2"}) as opened:
        yield opened
    assert not [thread for thread in threading.enumerate() if thread.name == "code node"]


def test_a_program_gets_its_items_and_gives_a_result(node: CodeNode, tmp_path: Path) -> None:
    file = tmp_path / "node.py"
    file.write_text("print('é', 1)\nreturn _items", encoding="utf-8")
    result = node.run(file, [{"a": 1}, {"json": {"a": 2}, "pairedItem": 0}])
    assert result == Result(value=[{"json": {"a": 1}}, {"json": {"a": 2}, "pairedItem": 0}], prints=("é 1",))
    assert result.json == [{"a": 1}, {"a": 2}]
    assert node.run("return _query['q']", query={"q": "x"}).value == "x"


def test_a_failure_is_an_exception_with_all_that_n8n_is_told(node: CodeNode) -> None:
    with pytest.raises(CodeNodeError) as failed:
        node.run("print('before')\nreturn _item['json']['b']", [{"b": 1}, {"a": 1}], each=True)
    error = failed.value
    assert (error.message, error.line, error.item, error.prints) == ("'b'", 2, 1, ("before", "before"))
    assert error.description.startswith("Line 2, item 1: There is no key 'b'")
    assert str(error).startswith("'b' (line 2, item 1)\nLine 2")


@pytest.mark.parametrize("value", [1, "x", None, [1], [{"json": 1}], [{}, []]])
def test_what_n8n_would_not_take_is_said_when_items_are_asked_for(value: object) -> None:
    with pytest.raises(NotItemsError, match="n8n takes a dictionary"):
        assert Result(value=value).items


def test_what_n8n_takes_is_a_list_of_items() -> None:
    assert Result(value={"a": 1}).items == [{"json": {"a": 1}}]
    assert Result(value=[{"a": 1}, {"json": {}, "binary": {}}]).json == [{"a": 1}, {}]


async def test_under_trio_programs_run_side_by_side(node: CodeNode) -> None:
    results: list[object] = []

    async def one(number: int) -> None:
        results.append((await node.run_async(f"return {number}")).value)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(one, number)
    assert sorted(map(str, results)) == list("01234")


async def test_a_failure_inside_the_block_comes_out_as_it_is() -> None:
    async def fails() -> None:
        async with open_code_node() as node:
            assert (await node.run("return _items", [{"a": 1}])).json == [{"a": 1}]
            await node.run("return 1 / 0")

    with trio.fail_after(20), pytest.raises(CodeNodeError, match="division"):
        await fails()


async def test_settings_that_do_not_work_are_said_at_the_beginning() -> None:
    with pytest.raises(ConfigError, match="must be an integer"):
        async with open_code_node({"N8N_RUNNERS_TASK_TIMEOUT": "soon"}):
            pass
    with pytest.raises(ConfigError), CodeNode({"N8N_RUNNERS_TASK_TIMEOUT": "soon"}):
        pass
    open_doors = {"N8N_RUNNERS_SANDBOX": "off", "N8N_RUNNERS_POLICY": "relaxed"}
    with pytest.raises(SandboxError, match="relaxed"), CodeNode(open_doors):
        pass


def test_outside_its_block_nothing_runs() -> None:
    with pytest.raises(RuntimeError, match="inside its with block"):
        CodeNode().run("return 1")


def test_who_waits_for_its_turn_when_another_thread_leaves_the_block_gets_the_same_error() -> None:
    raised: list[BaseException] = []
    with CodeNode({"N8N_RUNNERS_MAX_CONCURRENCY": "1", "N8N_RUNNERS_STDLIB_ALLOW": "time"}) as node:

        def work() -> None:
            try:
                node.run("import time\ntime.sleep(60)")
            except BaseException as error:
                raised.append(error)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert node._node is not None
        while len(node._node._broker._calls) < 2:
            time.sleep(0.001)
    for thread in threads:
        thread.join(10)
    # one of them had its turn, and its task failed with the runner
    assert {type(error) for error in raised} <= {CodeNodeError, RuntimeError}
    assert len([error for error in raised if "inside its with block" in str(error)]) >= 1
    assert len(raised) == 2


def test_pytest_is_not_needed() -> None:
    code = "import sys, trio_runner.testing; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0  # noqa: PLW1510
