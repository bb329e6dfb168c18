"""Who waits for which environment, and which one gives way: builds and workers are played, the clock jumps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.wheel_kit import program
from trio_runner.config import PackagesConfig
from trio_runner.counters import Counters
from trio_runner.environments import FAILED_FOR, Environments
from trio_runner.envstore import About, Built
from trio_runner.errors import PackagesError, StartError
from trio_runner.inline import Plan
from trio_runner.installer import BuildError
from trio_runner.sandbox.records import Report


class Builds:
    """Takes its time, and fails when told so."""

    def __init__(self) -> None:
        self.takes = 0.0
        self.failure: Exception | None = None
        self.started: list[str] = []
        self.turn: trio.Event | None = None

    async def open(self) -> None:
        await trio.lowlevel.checkpoint()

    def key(self, plan: Plan) -> str:
        return str(plan)

    async def obtain(self, plan: Plan, wanted: Callable[[], bool]) -> Built | None:
        if self.turn is not None:
            await self.turn.wait()
            if not wanted():
                return None
        self.started.append(str(plan))
        await trio.sleep(self.takes)
        if self.failure is not None:
            raise self.failure
        return Built(str(plan), "/site", About((), (), (), 0))


class Pool:
    """Is there from its start to its end."""

    def __init__(
        self, name: str, running: list[str], failure: StartError | None, *, sealed: bool, starts: float
    ) -> None:
        self._starts = starts
        self.name = name
        self.report = Report(1, (), sealed, pidfds=True, not_preloaded={})
        self._running = running
        self._failure = failure

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        if self._failure is not None:
            raise self._failure
        await trio.sleep(self._starts)
        self._running.append(self.name)
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            self._running.remove(self.name)


class Rig:
    def __init__(self, allowed: tuple[str, ...] = (), **settings: int) -> None:
        self.sealed = False
        self.starts = 0.0
        self.builds = Builds()
        self.running: list[str] = []
        self.said: list[str] = []
        self.no_workers: StartError | None = None
        self.counters = Counters()
        config = PackagesConfig(inline=allowed, cache="/nowhere", **settings)
        self.environments = Environments(config, self.builds, self._pool, self.counters)  # type: ignore[arg-type]

    def _pool(self, built: Built) -> Pool:
        return Pool(built.key, self.running, self.no_workers, sealed=self.sealed, starts=self.starts)

    @asynccontextmanager
    async def used(self, *names: str) -> AsyncIterator[str]:
        async with self.environments.use(program("return 1", *names), self.said.append) as pool:
            assert isinstance(pool, Pool)
            yield pool.name

    async def use(self, *names: str) -> None:
        async with self.used(*names):
            pass

    async def refused(self, *names: str) -> PackagesError:
        with pytest.raises(PackagesError) as caught:
            await self.use(*names)
        return caught.value


@asynccontextmanager
async def rigged(allowed: tuple[str, ...] = (), **settings: int) -> AsyncIterator[Rig]:
    rig = Rig(allowed, **settings)
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            await nursery.start(rig.environments.run)
            yield rig
            nursery.cancel_scope.cancel()
    assert rig.running == []


async def test_tasks_that_want_the_same_wait_for_one_build(autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        rig.builds.takes = 5
        async with trio.open_nursery() as tasks:
            for spelling in ("Foo>=1", "foo >= 1", "foo>=1"):
                tasks.start_soon(rig.use, spelling)
        assert trio.current_time() == pytest.approx(5, abs=0.01)
        assert rig.builds.started == ["foo>=1"]
        assert rig.said == ["Waiting for the packages of this program: foo>=1"] * 3
        await rig.use("foo>=1")
        assert trio.current_time() == pytest.approx(5, abs=0.01)
        assert len(rig.said) == 3
        assert rig.counters.environments == 1


async def test_a_program_that_asks_for_nothing_has_no_environment(autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        for source in ("return '# /// script'", program("return 1")):
            async with rig.environments.use(source, rig.said.append) as pool:
                assert pool is None
        assert rig.builds.started == []


async def test_a_wait_has_its_own_limit_and_the_build_goes_on(autojump_clock: MockClock) -> None:
    async with rigged(wait=45) as rig:
        rig.builds.takes = 100
        error = await rig.refused("slow")
        assert (trio.current_time(), error.kind) == (pytest.approx(45, abs=0.01), "worker")
        assert error.message == "The packages of this program are not ready after 45 s"
        await trio.sleep(30)
        await rig.use("slow")
        assert trio.current_time() == pytest.approx(100, abs=0.01)
        assert rig.builds.started == ["slow"]


async def test_a_build_outlives_the_task_that_wanted_it_first(autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        rig.builds.takes = 10
        with trio.move_on_after(1):
            await rig.use("slow")
        await rig.use("slow")
        assert rig.builds.started == ["slow"]
        assert trio.current_time() == pytest.approx(10, abs=0.01)


async def test_what_nobody_wants_any_more_when_its_turn_comes_is_not_built(autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        rig.builds.turn = trio.Event()
        with trio.move_on_after(1):
            await rig.use("unwanted")
        rig.builds.turn.set()
        await wait_all_tasks_blocked()
        assert rig.builds.started == []
        await rig.use("unwanted")
        assert rig.builds.started == ["unwanted"]


async def test_a_failure_holds_for_a_while_and_then_is_tried_again(autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        rig.builds.failure = BuildError("resolver", "No solution found\nBecause x was not found, it fails.")
        for _ in range(20):
            error = await rig.refused("x")
            assert (
                error.message
                == "The packages of this program could not be installed: Because x was not found, it fails."
            )
            assert error.description.startswith("No solution found\n")
            assert error.kind == "error"
        assert rig.builds.started == ["x"]
        rig.builds.failure = None
        await trio.sleep(FAILED_FOR)
        await rig.use("x")
        assert rig.builds.started == ["x", "x"]


@pytest.mark.parametrize("failure", [BuildError("timeout", "It took too long"), RuntimeError("a defect")])
async def test_what_is_not_the_author_s_fault_is_said_so(failure: Exception, autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        rig.builds.failure = failure
        assert (await rig.refused("x")).kind == "worker"
        rig.builds.failure = None
        await rig.use("another")


async def test_workers_that_do_not_start_cost_their_own_tasks_only(autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        rig.no_workers = StartError("no")
        assert (await rig.refused("x")).message == "The workers for these packages cannot be started"
        rig.no_workers = None
        await rig.use("another")
        assert rig.running == ["another"]


async def test_ten_environments_in_rotation_keep_as_many_warm_as_there_may_be(autojump_clock: MockClock) -> None:
    async with rigged(environments=4) as rig:
        for number in range(30):
            await rig.use(f"p{number % 10}")
            assert len(rig.running) == rig.counters.environments <= 4
        assert rig.running == ["p6", "p7", "p8", "p9"]
        await rig.use("p6")
        await rig.use("p0")
        assert rig.running == ["p8", "p9", "p6", "p0"] or set(rig.running) == {"p6", "p8", "p9", "p0"}
        assert len(rig.builds.started) == 31


async def test_what_is_in_use_does_not_give_way(autojump_clock: MockClock) -> None:
    async with rigged(environments=2, wait=20) as rig:
        async with rig.used("a"), rig.used("b"):
            error = await rig.refused("c")
            assert trio.current_time() == pytest.approx(20, abs=0.01)
            assert "not ready" in error.message
            async with trio.open_nursery() as tasks:
                tasks.start_soon(rig.use, "c")
                await trio.sleep(5)
                assert rig.running == ["a", "b"]
                tasks.cancel_scope.cancel()
        await rig.use("c")
        assert set(rig.running) == {"b", "c"}


async def test_one_that_comes_up_when_nobody_wants_it_any_more_gives_way(autojump_clock: MockClock) -> None:
    async with rigged(environments=1, wait=20) as rig:
        rig.starts = 10
        async with trio.open_nursery() as tasks:
            with trio.move_on_after(5):
                await rig.use("left")
            tasks.start_soon(rig.use, "wanted")
        assert trio.current_time() == pytest.approx(20, abs=0.1), "ten each"
        assert rig.running == ["wanted"]


async def test_a_refused_program_is_told_where_and_nothing_is_built(autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        for _ in range(2):
            with pytest.raises(PackagesError) as caught:
                async with rig.environments.use("x = 1\n" + program("", "a @ https://evil.test"), rig.said.append):
                    pass
            assert (caught.value.kind, caught.value.line, caught.value.before_start) == ("violation", 2, True)
        assert rig.builds.started == []


@pytest.mark.parametrize(("allowed", "works"), [((), False), (("x",), True)])
async def test_where_no_file_can_be_opened_only_what_comes_ahead_can_be_imported(
    allowed: tuple[str, ...], works: bool, autojump_clock: MockClock
) -> None:
    async with rigged(allowed) as rig:
        rig.sealed = True
        if works:
            await rig.use("x")
        else:
            assert (await rig.refused("x")).message == "The workers for these packages cannot be started"
            assert rig.counters.environments == 0
