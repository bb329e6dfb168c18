"""The whole runner: shutdown in all its forms, idle time, readiness, several brokers, and the tree of its tasks.

Most tests use workers without processes and a clock that jumps; the last ones start real workers.
"""

from __future__ import annotations

import os
import re
import signal
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from tests.runner_kit import running
from tests.shell.shell_kit import (
    FakeExecutor,
    FakePool,
    Records,
    config_for,
    registered,
    scripted_broker,
    started,
    switching_protocols,
    text_frame,
    types,
    until,
)
from trio_runner import supervisor
from trio_runner.dispatch import CUT_OFF_ADVICE
from trio_runner.errors import AuthRefusedError, SingleUseError, StartError
from trio_runner.http import Request, Response
from trio_runner.localbroker import LocalBroker, TaskFailed
from trio_runner.supervisor import CUT_OFF_LIMIT, CUT_OFF_REASON, IdleClock, Runner

pytestmark = pytest.mark.e2e


# Idle shutdown (runner-behaviour 3)


async def test_an_idle_runner_ends_cleanly_after_its_idle_time(jump_clock: MockClock, records: Records) -> None:
    async with (
        scripted_broker() as broker,
        started(broker.port, N8N_RUNNERS_AUTO_SHUTDOWN_TIMEOUT="15") as rig,
    ):
        connection = await registered(broker)
        since = trio.current_time()
        assert await connection.closed() == 1000
        assert await rig.end() is None
        assert rig.ended_at - since == pytest.approx(15, abs=0.3)
        assert rig.runner.tasks_cut_off == 0
        assert "Reached idle timeout, starting shutdown..." in records.lines
        assert records.lines[-1] == "Runner stopped"


async def test_the_idle_time_starts_anew_with_each_accept_and_each_end(jump_clock: MockClock) -> None:
    async with (
        scripted_broker() as broker,
        started(broker.port, N8N_RUNNERS_AUTO_SHUTDOWN_TIMEOUT="15") as rig,
    ):
        connection = await registered(broker)
        await connection.silence(14)
        await connection.start("long", "sleep 40")
        await connection.until("runner:taskdone")
        await connection.silence(14)
        await connection.start("short", "return 1")
        await connection.until("runner:taskdone")
        since = trio.current_time()
        assert await connection.closed() == 1000
        await rig.end()
        assert rig.ended_at - since == pytest.approx(15, abs=0.3)


async def test_a_task_accepted_in_the_last_moment_is_not_idle_time(jump_clock: MockClock) -> None:
    async with (
        scripted_broker() as broker,
        started(broker.port, N8N_RUNNERS_AUTO_SHUTDOWN_TIMEOUT="15") as rig,
    ):
        connection = await registered(broker)
        await connection.silence(14.8)
        await connection.take("t")
        await connection.silence(1)
        await connection.settings("t", "sleep 30")
        assert (await connection.until("runner:taskdone"))["data"] == {"result": 30}
        assert rig.ended_at == 0


async def test_a_task_whose_settings_never_come_does_not_keep_the_runner_for_ever(jump_clock: MockClock) -> None:
    async with (
        scripted_broker() as broker,
        started(broker.port, N8N_RUNNERS_AUTO_SHUTDOWN_TIMEOUT="15") as rig,
    ):
        connection = await registered(broker)
        await connection.take("t")
        since = trio.current_time()
        assert await connection.closed() == 1000
        await rig.end()
        assert rig.ended_at - since == pytest.approx(25, abs=0.5), "ten for the settings, fifteen idle"


async def test_the_idle_time_stands_still_while_there_is_no_broker(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker:
        broker.upgrades = [Response(503)]
        async with started(broker.port, N8N_RUNNERS_AUTO_SHUTDOWN_TIMEOUT="15") as rig:
            await trio.sleep(40)
            assert rig.ended_at == 0
            broker.upgrades = [None]
            connection = await registered(broker)
            await connection.silence(10)
            broker.upgrades = [Response(503)]
            await connection.close(1001)
            await trio.sleep(40)
            assert rig.ended_at == 0
            broker.upgrades = [None]
            connection = await registered(broker)
            since = trio.current_time()
            await connection.closed()
            await rig.end()
            assert rig.ended_at - since == pytest.approx(15, abs=0.3)


async def test_without_an_idle_time_a_runner_stays(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, started(broker.port) as rig:
        connection = await registered(broker)
        await connection.silence(60)
        assert rig.ended_at == 0


async def test_an_idle_shutdown_takes_three_seconds_at_most_when_the_broker_is_deaf(jump_clock: MockClock) -> None:
    async def deaf(request: Request, stream: trio.abc.Stream) -> None:
        await stream.send_all(switching_protocols(request))
        await stream.send_all(text_frame({"type": "broker:inforequest"}))
        await stream.send_all(text_frame({"type": "broker:runnerregistered"}))
        await trio.sleep_forever()

    async with scripted_broker() as broker:
        broker.upgrades = [deaf]
        async with started(broker.port, N8N_RUNNERS_AUTO_SHUTDOWN_TIMEOUT="15") as rig:
            assert await rig.end() is None
            assert rig.ended_at <= 18.5


async def test_the_idle_clock_moves_with_what_happens(autojump_clock: MockClock) -> None:
    expired_at: list[float] = []
    clock = IdleClock(10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run, lambda: expired_at.append(trio.current_time()))
        await trio.sleep(100)
        clock.update(busy=False, registered=False)
        await trio.sleep(100)
        clock.update(busy=False, registered=True)
        await trio.sleep(9)
        clock.update(busy=True, registered=True)
        await trio.sleep(100)
        clock.update(busy=False, registered=True)
        await trio.sleep(9)
        clock.update(busy=False, registered=True)
    assert expired_at == [pytest.approx(328)]


# Stopping


async def test_a_stop_lets_the_running_task_finish_delivers_it_and_closes_with_1000(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, started(broker.port) as rig:
        connection = await registered(broker)
        await connection.start("t", "sleep 4")
        rig.runner.stop(10)
        assert await connection.closed() == 1000
        assert types(connection.messages[-1:]) == ["runner:taskdone"]
        assert await rig.end() is None
        assert rig.ended_at == pytest.approx(4, abs=0.3)
        assert rig.runner.tasks_cut_off == 0


async def test_a_task_that_outlasts_the_patience_is_cut_off_with_word_to_n8n(
    jump_clock: MockClock, records: Records
) -> None:
    async with scripted_broker() as broker, started(broker.port) as rig:
        connection = await registered(broker)
        await connection.start("quick", "sleep 2")
        await connection.start("stuck", "hang")
        rig.runner.stop(10)
        assert await connection.closed() == 1000
        done, error = connection.messages[-2:]
        assert (done["type"], done["taskId"]) == ("runner:taskdone", "quick")
        assert (error["type"], error["taskId"]) == ("runner:taskerror", "stuck")
        assert error["error"] == {"message": CUT_OFF_REASON, "description": CUT_OFF_ADVICE}
        assert await rig.end() is None
        assert rig.runner.tasks_cut_off == 1
        assert rig.ended_at == pytest.approx(10, abs=0.3)
        assert records.having("Shutdown took too long: 1 running task(s) cut off")


async def test_a_worker_that_does_not_die_holds_the_shutdown_up_for_a_moment_only(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, started(broker.port) as rig:
        connection = await registered(broker)
        await connection.start("undead", "die 1")
        rig.runner.stop(5)
        assert await connection.closed() == 1000
        assert types(connection.messages[-1:]) == ["runner:taskerror"]
        await rig.end()
        assert rig.ended_at == pytest.approx(6, abs=0.3)


async def test_a_broker_that_reads_nothing_cannot_hold_the_shutdown_up(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, started(broker.port, N8N_RUNNERS_HEARTBEAT_INTERVAL="100") as rig:
        connection = await registered(broker)
        await connection.take("large")
        await connection.take("next")
        connection.gate.deaf = True
        await connection.settings("large", "result 30000000")
        await connection.settings("next", "result 10")
        await trio.sleep(1)
        assert rig.runner.slots.taken == 1, "one result is being written, the other keeps its slot"
        now = trio.current_time()
        rig.runner.stop(5)
        assert await rig.end() is None
        assert rig.ended_at - now == pytest.approx(5 + CUT_OFF_LIMIT, abs=0.5)
        assert rig.runner.slots.taken == 0


async def test_a_stop_without_a_connection_ends_at_once(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker:
        broker.upgrades = [Response(503)]
        async with started(broker.port) as rig:
            await trio.sleep(30)
            now = trio.current_time()
            rig.runner.stop(10)
            assert await rig.end() is None
            assert rig.ended_at == now


async def test_a_second_stop_can_only_shorten_the_patience(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, started(broker.port) as rig:
        connection = await registered(broker)
        await connection.start("stuck", "hang")
        rig.runner.stop(5)
        rig.runner.stop(500)
        await connection.closed()
        await rig.end()
        assert rig.ended_at == pytest.approx(5, abs=0.3)


async def test_stopping_at_once_loses_what_runs_and_counts_it(jump_clock: MockClock, records: Records) -> None:
    async with scripted_broker() as broker, started(broker.port) as rig:
        connection = await registered(broker)
        await connection.start("a", "hang")
        await connection.start("b", "hang")
        await until(lambda: len(rig.executor.running) == 2)
        now = trio.current_time()
        rig.runner.stop_now()
        assert await rig.end() is None
        assert rig.ended_at == now
        assert rig.runner.tasks_cut_off == 2
        assert sorted(rig.executor.cancelled) == ["a", "b"]
        assert records.having("Stopped at once; what was running is lost")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_ends_cleanly(
    jump_clock: MockClock, records: Records, number: signal.Signals
) -> None:
    async with scripted_broker() as broker, started(broker.port, handle_signals=True) as rig:
        connection = await registered(broker)
        await connection.start("t", "sleep 3")
        os.kill(os.getpid(), number)
        assert await connection.closed() == 1000
        assert types(connection.messages[-1:]) == ["runner:taskdone"]
        assert await rig.end() is None
        assert rig.runner.tasks_cut_off == 0
        assert f"Received {number.name} signal, starting shutdown..." in records.lines


async def test_the_patience_after_a_signal_is_the_graceful_timeout(jump_clock: MockClock) -> None:
    async with (
        scripted_broker() as broker,
        started(broker.port, handle_signals=True, N8N_RUNNERS_GRACEFUL_SHUTDOWN_TIMEOUT="7") as rig,
    ):
        connection = await registered(broker)
        await connection.start("t", "hang")
        os.kill(os.getpid(), signal.SIGTERM)
        assert await connection.closed() == 1000
        assert await rig.end() is None
        assert rig.ended_at == pytest.approx(7, abs=0.3)
        assert rig.runner.tasks_cut_off == 1


async def test_a_second_signal_ends_at_once(jump_clock: MockClock, records: Records) -> None:
    async with scripted_broker() as broker, started(broker.port, handle_signals=True) as rig:
        connection = await registered(broker)
        await connection.start("t", "hang")
        os.kill(os.getpid(), signal.SIGTERM)
        await trio.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)
        assert await rig.end() is None
        assert rig.ended_at == pytest.approx(1, abs=0.1)
        assert rig.runner.tasks_cut_off == 1
        assert "Received SIGINT again, stopping at once" in records.lines


async def test_signal_handlers_are_gone_when_the_runner_is(jump_clock: MockClock) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with scripted_broker() as broker, started(broker.port, handle_signals=True) as rig:
        await broker.connection()
        assert signal.getsignal(signal.SIGTERM) is not before[0]
        rig.runner.stop_now()
        await rig.end()
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


# Fatal ends


async def test_a_wrong_auth_token_ends_the_runner(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker:
        broker.logins = [Response(403)]
        async with started(broker.port) as rig:
            assert isinstance(await rig.end(), AuthRefusedError)


async def test_a_used_up_grant_token_ends_the_runner(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker, started(broker.port, grant_token="granted") as rig:
        connection = await registered(broker)
        await connection.start("t", "hang")
        await connection.close(1011)
        assert isinstance(await rig.end(), SingleUseError)
        assert rig.executor.cancelled == ["t"]


async def test_a_pool_that_cannot_start_ends_the_runner(jump_clock: MockClock) -> None:
    class BrokenPool(FakePool):
        async def run(self) -> None:
            await trio.sleep(1)
            raise StartError("no zygote")

    async with scripted_broker() as broker:
        runner = Runner(config_for(broker.port), pool=BrokenPool(), executor=FakeExecutor())  # type: ignore[arg-type]
        with pytest.raises(StartError, match="no zygote"):
            await runner.run(handle_signals=False)


async def test_a_health_port_that_is_taken_ends_the_runner(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker:
        config = config_for(
            broker.port,
            N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED="true",
            N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT=str(broker.port),
        )
        runner = Runner(config, pool=FakePool(), executor=FakeExecutor())  # type: ignore[arg-type]
        with pytest.raises(StartError) as caught:
            await runner.run(handle_signals=False)
        assert str(caught.value) == f"Failed to start health check server: Port {broker.port} is already in use"
        assert caught.value.exit_code == 1
        assert broker.upgrade_requests == [], "the health server starts before anything is connected"


# Capacity


async def test_two_hundred_tasks_never_run_more_than_five_at_once(jump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        broker = LocalBroker(auth_token="auth-secret")
        port = await nursery.start(broker.serve)
        async with started(port, N8N_RUNNERS_MAX_CONCURRENCY="5") as rig:
            results: list[object] = []

            async def one(number: int) -> None:
                code = f"fail {number}" if number % 10 == 0 else f"sleep 0.0{number % 3}"
                body = {"code": code, "nodeMode": "runOnceForAllItems", "items": []}
                try:
                    results.append(await broker.run_task(msgspec.json.encode(body)))
                except TaskFailed as failed:
                    results.append(failed.error["message"])

            async with trio.open_nursery() as callers:
                for number in range(200):
                    callers.start_soon(one, number)
            assert len(results) == 200
            assert sum(isinstance(result, str) for result in results) == 20
            assert rig.executor.most == 5
            assert len(set(rig.executor.started)) == 200, "no task may run twice"
            assert rig.runner.slots.taken == 0
        nursery.cancel_scope.cancel()


async def test_one_slot_serves_fifty_waiting_tasks_faster_than_any_beat(jump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        broker = LocalBroker(auth_token="auth-secret")
        port = await nursery.start(broker.serve)
        async with started(port, N8N_RUNNERS_MAX_CONCURRENCY="1") as rig:
            body = msgspec.json.encode({"code": "return 1", "nodeMode": "runOnceForAllItems", "items": []})
            began = trio.current_time()
            async with trio.open_nursery() as callers:
                for _ in range(50):
                    callers.start_soon(broker.run_task, body)
            took = trio.current_time() - began
            assert rig.executor.most == 1
            assert len(rig.executor.started) == 50
            assert took < 0.25, "fifty tasks in less than one beat of the reference"
        nursery.cancel_scope.cancel()


async def test_two_brokers_get_all_slots_offered_and_never_more_taken(jump_clock: MockClock) -> None:
    async with (
        scripted_broker() as one,
        scripted_broker() as other,
        started(one.port, other.port, N8N_RUNNERS_MAX_CONCURRENCY="2") as rig,
    ):
        first, second = await registered(one), await registered(other)
        assert types(await first.silence(0.1)) == types(await second.silence(0.1)) == ["runner:taskoffer"] * 2
        await first.start("a", "hang")
        await first.start("b", "hang")
        await second.send("broker:taskofferaccept", taskId="c", offerId=await second.offer())
        rejected = await second.until("runner:taskrejected")
        assert rejected["reason"] == "No open task slots - runner already at capacity"
        assert rig.runner.slots.taken == 2
        await first.send("broker:taskcancel", taskId="a", reason="x")
        await trio.sleep(0.3)
        await second.start("c", "return 1")
        await second.until("runner:taskdone")
        assert rig.executor.most == 2


async def test_a_runner_without_a_zygote_takes_no_tasks_and_takes_them_again_in_the_moment_it_has_one(
    jump_clock: MockClock,
) -> None:
    async with (
        scripted_broker() as one,
        scripted_broker() as other,
        started(one.port, other.port, N8N_RUNNERS_MAX_CONCURRENCY="1") as rig,
    ):
        first, second = await registered(one), await registered(other)
        spare = await first.offer()
        await first.silence(1)
        rig.pool.become(alive=False)
        await first.send("broker:taskofferaccept", taskId="early", offerId=spare)
        rejected = await first.until("runner:taskrejected")
        assert rejected["reason"] == "Runner cannot run tasks now - its worker processes are being started"
        await second.silence(0.1)
        assert await first.silence(17) == await second.silence(17) == [], "not even what lapses is offered again"
        rig.pool.become(alive=True)
        since = trio.current_time()
        await first.start("t", "return 1")
        await first.until("runner:taskdone")
        assert trio.current_time() - since < 0.1


async def test_nothing_is_offered_before_there_is_a_zygote(jump_clock: MockClock) -> None:
    class SlowPool(FakePool):
        def __init__(self) -> None:
            super().__init__()
            self.alive = False

        async def run(self) -> None:
            await trio.sleep(20)
            self.become(alive=True)
            await super().run()

    async with scripted_broker() as broker, trio.open_nursery() as nursery:
        runner = Runner(config_for(broker.port), pool=SlowPool(), executor=FakeExecutor())  # type: ignore[arg-type]
        nursery.start_soon(partial(runner.run, handle_signals=False))
        connection = await registered(broker)
        with trio.fail_after(60):
            await connection.offer()
        assert trio.current_time() == pytest.approx(20, abs=0.5)
        nursery.cancel_scope.cancel()


async def test_a_slot_that_one_broker_s_task_gives_back_is_offered_to_the_other_in_the_same_moment(
    jump_clock: MockClock,
) -> None:
    async with (
        scripted_broker() as one,
        scripted_broker() as other,
        started(one.port, other.port, N8N_RUNNERS_MAX_CONCURRENCY="1") as rig,
    ):
        first, second = await registered(one), await registered(other)
        await first.start("a", "sleep 30")
        await second.silence(29)
        assert len(second.messages) == 2, "the offer has lapsed, and there is nothing to offer"
        await second.until("runner:taskoffer")
        assert trio.current_time() == pytest.approx(30, abs=0.05)
        await first.until("runner:taskdone")
        assert rig.executor.most == 1


async def test_brokers_that_both_have_work_take_turns(jump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        brokers = [LocalBroker(auth_token="auth-secret") for _ in range(3)]
        ports = [await nursery.start(broker.serve) for broker in brokers]
        async with started(*ports, N8N_RUNNERS_MAX_CONCURRENCY="1"):
            order: list[int] = []

            async def one(number: int) -> None:
                body = {"code": "sleep 0.5", "nodeMode": "runOnceForAllItems", "items": []}
                await brokers[number].run_task(msgspec.json.encode(body))
                order.append(number)

            async with trio.open_nursery() as callers:
                for turn in range(24):
                    callers.start_soon(one, turn % 3)
            assert all(set(order[turn : turn + 3]) == {0, 1, 2} for turn in range(0, 24, 3))
        nursery.cancel_scope.cancel()


async def test_a_broker_that_is_gone_does_not_touch_the_tasks_of_another(jump_clock: MockClock) -> None:
    async with (
        scripted_broker() as one,
        scripted_broker() as other,
        started(one.port, other.port) as rig,
    ):
        first, second = await registered(one), await registered(other)
        await first.start("a", "hang")
        await second.start("b", "sleep 5")
        await first.close(1001)
        assert (await second.until("runner:taskdone"))["taskId"] == "b"
        assert rig.executor.cancelled == ["a"]


# Readiness


async def test_readiness_tells_the_truth_in_every_phase(jump_clock: MockClock) -> None:
    async with scripted_broker() as broker:
        broker.upgrades = [Response(503)]
        async with started(broker.port, N8N_RUNNERS_MAX_CONCURRENCY="3") as rig:
            await trio.sleep(5)
            state = rig.runner.readiness()
            assert not state.ready
            assert (state.slots, state.tasks, state.workers_idle, state.workers_alive) == (3, 0, 3, True)
            (link,) = state.brokers
            assert (link.broker, link.connected, link.registered) == (f"127.0.0.1:{broker.port}", False, False)
            assert "HTTP 503" in str(link.last_error)

            broker.upgrades = [None]
            connection = await broker.connection()
            await trio.sleep(0.1)
            assert not rig.runner.readiness().ready
            assert rig.runner.readiness().brokers[0].connected

            await connection.register()
            await connection.start("t", "hang")
            state = rig.runner.readiness()
            assert state.ready
            assert (state.tasks, state.brokers[0].registered, state.brokers[0].reconnects) == (1, True, 0)

            rig.pool.alive = False
            assert not rig.runner.readiness().ready
            rig.pool.alive = True

            await connection.close(1001)
            connection = await registered(broker)
            await connection.offer()
            state = rig.runner.readiness()
            assert state.ready
            assert (state.tasks, state.brokers[0].reconnects) == (0, 1)
            assert "The broker is stopping" in str(state.brokers[0].last_error)

            await connection.send("broker:drain")
            await trio.sleep(0.1)
            state = rig.runner.readiness()
            assert not state.ready
            assert state.brokers[0].draining

            rig.runner.stop(5)
            await trio.sleep(0.1)
            assert not rig.runner.readiness().ready


async def test_one_broker_of_two_is_enough_to_be_ready(jump_clock: MockClock) -> None:
    async with scripted_broker() as one, scripted_broker() as other:
        other.upgrades = [Response(503)]
        async with started(one.port, other.port) as rig:
            connection = await registered(one)
            await connection.offer()
            state = rig.runner.readiness()
            assert state.ready
            assert [broker.registered for broker in state.brokers] == [True, False]


# With real workers


def qualified(task: trio.lowlevel.Task) -> str:
    """A task's name without its modules: ``Runner.run``, ``_write_messages``."""
    return re.sub(r"^(?:[a-z_0-9]+\.)+", "", task.name)


def below(task: trio.lowlevel.Task) -> dict[str, trio.lowlevel.Task]:
    return {qualified(child): child for nursery in task.child_nurseries for child in nursery.child_tasks}


def drawn() -> dict[str, set[str]]:
    """The tree in the docstring: each task's children. Only the last one of a level has any."""
    levels: dict[int, str] = {}
    children: dict[str, set[str]] = {}
    for line in (supervisor.__doc__ or "").splitlines():
        indent = len(line) - len(line.lstrip())
        if line.strip() == "Runner.run":
            levels[indent - 1] = "Runner.run"
        elif line.lstrip()[:1] in ("├", "└"):
            parent = levels[max(level for level in levels if level < indent)]
            names = re.findall(r"[├└]─ ([\w.]+)", line)
            children.setdefault(parent, set()).update(names)
            levels = {level: name for level, name in levels.items() if level < indent} | {indent: names[-1]}
    return children


async def test_the_tree_of_tasks_is_the_one_drawn_in_the_docstring(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        broker = LocalBroker(auth_token="auth-secret")
        port = await nursery.start(broker.serve)
        health = {f"N8N_RUNNERS_HEALTH_CHECK_SERVER_{name}": value for name, value in HEALTH.items()}
        uri = {"N8N_RUNNERS_TASK_BROKER_URI": f"dns+http://127.0.0.1:{port}"}
        inline = {"N8N_RUNNERS_INLINE_DEPENDENCIES": "allow", "N8N_RUNNERS_INLINE_CACHE": str(tmp_path)}
        runner = Runner(config_for(**uri, **health, **inline), spare_workers=1)
        nursery.start_soon(runner.run)
        printed = trio.Event()
        body = {"code": "print('here')\nwhile True: pass", "nodeMode": "runOnceForAllItems", "items": []}
        nursery.start_soon(broker.run_task, msgspec.json.encode(body), lambda _: printed.set())
        with trio.fail_after(30):
            await printed.wait()
        here = {qualified(child): child for child in nursery.child_tasks}
        root = here["Runner.run"]
        found = {name: set(below(task)) for name, task in [("Runner.run", root), *below(root).items()]}
        runner.stop_now()
        nursery.cancel_scope.cancel()
    assert {name: children for name, children in found.items() if name in drawn()} == drawn()
    assert runner.tasks_cut_off == 1


HEALTH = {"ENABLED": "true", "PORT": "0"}


async def test_real_workers_serve_a_crowd_with_few_slots_and_lose_nothing() -> None:
    async with running({"N8N_RUNNERS_MAX_CONCURRENCY": "5"}) as bench:
        outcomes: list[dict[str, object]] = []

        async def one(number: int) -> None:
            outcomes.append(await bench.run(f"return {number}"))

        most = 0
        with trio.fail_after(60):
            async with trio.open_nursery() as callers:
                for number in range(60):
                    callers.start_soon(one, number)
                while len(outcomes) < 60:
                    most = max(most, bench.runner.slots.taken)
                    await trio.lowlevel.checkpoint()
        assert sorted(outcome["result"] for outcome in outcomes) == list(range(60))  # type: ignore[type-var]
        assert most == 5
        assert bench.runner.slots.taken == 0


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_real_task_ends_with_its_connection_and_its_process_is_gone() -> None:
    async with running({"N8N_RUNNERS_MAX_CONCURRENCY": "1", "N8N_RUNNERS_STDLIB_ALLOW": "os"}) as bench:
        told: list[list[object]] = []
        body = {
            "code": "import os\nprint(os.getpid())\nwhile True: pass",
            "nodeMode": "runOnceForAllItems",
            "items": [],
        }
        errors: list[object] = []

        async def call() -> None:
            try:
                await bench.broker.run_task(msgspec.json.encode(body), told.append)
            except TaskFailed as failed:
                errors.append(failed.error["message"])

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await until(lambda: told)
                pid = int(str(told[0][0]))
                assert alive(pid)
                await bench.broker.disconnect()
            assert errors == ["Node execution failed"]
            await until(lambda: not bench.runner.slots.taken)
            await until(lambda: not alive(pid))
            assert await bench.run("return 1") == {"result": 1, "logs": []}


async def test_a_real_task_that_takes_too_long_is_stopped() -> None:
    async with running({"N8N_RUNNERS_TASK_TIMEOUT": "1"}) as bench:
        with trio.fail_after(20):
            outcome = await bench.run("while True: pass")
        assert outcome["error"]["message"] == "Task execution timed out after 1 second"


async def test_a_killed_zygote_stops_the_offers_and_its_successor_starts_them_again() -> None:
    async with running({"N8N_RUNNERS_MAX_CONCURRENCY": "2"}) as bench:
        runner = bench.runner
        assert await bench.run("return 1") == {"result": 1, "logs": []}
        seen: list[bool] = []
        note = runner.pool.changed

        def note_and_see() -> None:
            note()
            seen.append(runner.slots.suspended)

        runner.pool.changed = note_and_see
        assert runner.pool.zygote_pid is not None
        os.kill(runner.pool.zygote_pid, signal.SIGKILL)
        with trio.fail_after(30):
            await until(lambda: len(seen) == 2)
            assert seen == [True, False]
            assert await bench.run("return 2") == {"result": 2, "logs": []}
