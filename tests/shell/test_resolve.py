"""Names with several addresses, looked up again and again: a resolver that follows a script, a clock that jumps."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from tests.shell.shell_kit import Names, Records, until
from trio_runner.errors import BrokerUnreachableError
from trio_runner.resolve import LOOKUP_LIMIT, SOONEST, NameWatch, look_up

NOT_KNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.fixture
async def names() -> AsyncIterator[Names]:
    with Names().installed() as names:
        yield names


class Watched:
    """A watch in the background, and what it told."""

    def __init__(self, interval: float) -> None:
        self.connected: set[str] = set()
        self.told: list[tuple[float, set[str]]] = []
        self.watch = NameWatch(
            "n8n",
            5679,
            interval=interval,
            connected=lambda address: address in self.connected,
            changed=lambda addresses: self.told.append((trio.current_time(), set(addresses))),
        )

    @property
    def last(self) -> set[str]:
        return self.told[-1][1]


@contextlib.asynccontextmanager
async def watched(interval: float = 30.0) -> AsyncIterator[Watched]:
    rig = Watched(interval)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.watch.run)
        with trio.fail_after(10_000):
            yield rig
        nursery.cancel_scope.cancel()


async def test_a_lookup_gives_every_address_once(names: Names) -> None:
    names.found["n8n"] = ["10.0.0.1", "10.0.0.2", "10.0.0.1"]
    assert await look_up("n8n", 5679) == {"10.0.0.1", "10.0.0.2"}


async def test_a_broker_with_addresses_of_two_families_is_one_broker(names: Names) -> None:
    names.found["n8n"] = ["fd00::1", "10.0.0.1", "fd00::2"]
    assert await look_up("n8n", 5679) == {"10.0.0.1"}
    names.found["n8n"] = ["fd00::1", "fd00::2"]
    assert await look_up("n8n", 5679) == {"fd00::1", "fd00::2"}


async def test_an_address_is_its_own_name(names: Names) -> None:
    assert await look_up("10.0.0.9", 5679) == {"10.0.0.9"}
    assert await look_up("::1", 5679) == {"::1"}


async def test_a_name_that_is_not_there_is_said_in_words(names: Names) -> None:
    names.found["n8n"] = NOT_KNOWN
    with pytest.raises(BrokerUnreachableError) as caught:
        await look_up("n8n", 5679)
    assert str(caught.value) == "n8n was not found: Name or service not known"


async def test_what_no_resolver_takes_is_no_crash(names: Names) -> None:
    with pytest.raises(BrokerUnreachableError) as caught:
        await look_up("x" * 64 + ".example", 5679)
    assert str(caught.value).endswith("was not found: that is no host name")


async def test_a_resolver_that_hangs_is_not_waited_for_long(names: Names, autojump_clock: MockClock) -> None:
    names.found["n8n"] = None
    with pytest.raises(BrokerUnreachableError) as caught:
        await look_up("n8n", 5679)
    assert str(caught.value) == "n8n was not found within 10s"
    assert trio.current_time() == LOOKUP_LIMIT


async def test_addresses_that_come_are_told_within_an_interval_and_a_quarter(
    names: Names, autojump_clock: MockClock
) -> None:
    names.found["n8n"] = ["10.0.0.1"]
    async with watched(interval=20) as rig:
        await trio.sleep(100)
        assert rig.told == [(0.0, {"10.0.0.1"})]
        assert 100 / 25 <= len(names.asked) <= 100 / 15 + 1
        names.found["n8n"] = ["10.0.0.1", "10.0.0.2"]
        await trio.sleep(25)
        assert rig.last == {"10.0.0.1", "10.0.0.2"}
        assert len(rig.told) == 2


async def test_the_lookups_of_many_do_not_keep_step(names: Names, autojump_clock: MockClock) -> None:
    names.found["n8n"] = ["10.0.0.1"]
    async with watched(interval=30):
        await trio.sleep(3000)
    gaps = [after - before for before, after in zip(names.asked, names.asked[1:], strict=False)]
    assert min(gaps) >= 22.5
    assert max(gaps) <= 37.5
    assert max(gaps) - min(gaps) > 8


async def test_an_address_that_is_not_in_use_goes_at_once(names: Names, autojump_clock: MockClock) -> None:
    names.found["n8n"] = ["10.0.0.1", "10.0.0.2"]
    async with watched(interval=20) as rig:
        await trio.sleep(1)
        names.found["n8n"] = ["10.0.0.1"]
        await trio.sleep(25)
        assert rig.last == {"10.0.0.1"}


async def test_an_address_in_use_goes_when_it_was_missing_twice(names: Names, autojump_clock: MockClock) -> None:
    names.found["n8n"] = ["10.0.0.1", "10.0.0.2"]
    async with watched(interval=20) as rig:
        await trio.sleep(1)
        rig.connected = {"10.0.0.1", "10.0.0.2"}
        names.found["n8n"] = ["10.0.0.1"]
        before = len(names.asked)
        await until(lambda: len(names.asked) > before)
        assert rig.last == {"10.0.0.1", "10.0.0.2"}
        await trio.sleep(26)
        assert rig.last == {"10.0.0.1"}


async def test_a_server_that_names_a_few_of_many_in_turn_changes_nothing(
    names: Names, autojump_clock: MockClock
) -> None:
    async with watched(interval=20) as rig:
        names.turns["n8n"] = [["10.0.0.1", "10.0.0.2"], ["10.0.0.2", "10.0.0.3"], ["10.0.0.3", "10.0.0.1"]]
        rig.connected = {"10.0.0.1", "10.0.0.2", "10.0.0.3"}
        await trio.sleep(1000)
        assert [addresses for _, addresses in rig.told] == [
            {"10.0.0.1", "10.0.0.2"},
            {"10.0.0.1", "10.0.0.2", "10.0.0.3"},
        ]


async def test_a_failing_lookup_keeps_what_is_known_and_is_said_once(
    names: Names, autojump_clock: MockClock, records: Records
) -> None:
    names.found["n8n"] = ["10.0.0.1"]
    async with watched(interval=20) as rig:
        await trio.sleep(1)
        names.found["n8n"] = NOT_KNOWN
        await trio.sleep(500)
        assert rig.last == {"10.0.0.1"}
        assert len(rig.told) == 1
        assert rig.watch.last_error == "n8n was not found: Name or service not known"
        (line,) = records.having("was not found")
        assert line.endswith("its last known addresses are kept: 10.0.0.1")
        names.found["n8n"] = ["10.0.0.2"]
        await trio.sleep(25)
        assert rig.last == {"10.0.0.2"}
        assert rig.watch.last_error is None


async def test_a_name_that_was_never_found_is_looked_for_more_often(
    names: Names, autojump_clock: MockClock, records: Records
) -> None:
    names.found["n8n"] = NOT_KNOWN
    async with watched(interval=3600) as rig:
        await trio.sleep(300)
        assert rig.told == []
        assert len(names.asked) > 300 / 10
        assert len(records.having(" - looking again in ")) == len(names.asked)
        names.found["n8n"] = ["10.0.0.1"]
        await trio.sleep(10)
        assert rig.last == {"10.0.0.1"}


async def test_trouble_with_an_address_brings_the_next_lookup_forward_but_not_again_and_again(
    names: Names, autojump_clock: MockClock
) -> None:
    names.found["n8n"] = ["10.0.0.1"]
    async with watched(interval=3600) as rig:
        await trio.sleep(100)
        names.found["n8n"] = ["10.0.0.2"]
        rig.watch.look_soon()
        await trio.sleep(0.1)
        assert rig.last == {"10.0.0.2"}
        before = len(names.asked)
        for _ in range(200):
            rig.watch.look_soon()
            await trio.sleep(0.1)
        assert len(names.asked) - before <= 20 / SOONEST
