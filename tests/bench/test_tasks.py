from __future__ import annotations

import json

import pytest

from bench import tasks
from bench.tasks import Mode, Task, WrongResultError


def settings_of(task: Task) -> dict[str, object]:
    message = json.loads(task.settings_head("t1") + task.settings_tail)
    assert (message["type"], message["taskId"]) == ("broker:tasksettings", "t1")
    settings: dict[str, object] = message["settings"]
    return settings


@pytest.mark.parametrize("size", [1000, 100_000, 1_000_000])
def test_a_payload_has_exactly_its_size(size: int) -> None:
    items = tasks.large_items(size)
    assert len(items) == size
    assert len(json.loads(items)) == tasks.count_of(size)


@pytest.mark.parametrize("mode", tasks.MODES)
def test_an_echo_accepts_its_own_items_and_nothing_else(mode: Mode) -> None:
    task = tasks.echo(1000, mode)
    items = settings_of(task)["items"]
    assert isinstance(items, list)
    task.check(json.dumps(items).encode())
    for wrong in (items[:-1], [items[0], {"json": {}}], []):
        with pytest.raises(WrongResultError):
            task.check(json.dumps(wrong).encode())


@pytest.mark.parametrize("mode", tasks.MODES)
def test_small_items_are_checked_for_what_the_program_computes(mode: Mode) -> None:
    task = tasks.small_items(3, mode)
    results = [{"json": {"id": n, "double": n}} for n in range(3)]
    task.check(json.dumps(results).encode())
    with pytest.raises(WrongResultError):
        task.check(json.dumps(results[:2]).encode())


def test_no_answer_is_a_wrong_answer() -> None:
    with pytest.raises(WrongResultError, match="trivial"):
        tasks.TRIVIAL.check(b"")
