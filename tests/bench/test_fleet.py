"""The simulated n8n is held against what is known of the real one, and the scenarios against each other."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from random import Random

import msgspec
import pytest

from bench import fleet, fleet_steady, fleet_storms
from bench.fleet_record import Fleet
from bench.fleet_runner import Host
from bench.fleet_world import HEARTBEAT, Door, N8n, World
from trio_runner.protocol.messages import TaskOffer
from trio_runner.protocol.session import OfferTerms

TERMS = OfferTerms(validity=5.0, jitter=0.5)


def small(runners: int, *, capacity: int = 5, terms: OfferTerms = TERMS) -> tuple[World, N8n, list[Host]]:
    """Registered runners, whose offers lie at one broker in the order of their numbers."""
    world = World(1)
    n8n = N8n(world, "n8n")
    hosts = [Host(world, f"runner-{number}", [n8n], capacity=capacity, terms=terms) for number in range(runners)]
    for number, host in enumerate(hosts):
        world.at(number * 0.01, host.links[0].join)
    world.run(1.0)
    return world, n8n, hosts


def taken(hosts: list[Host]) -> list[int]:
    return [host.slots.taken for host in hosts]


# The door


def test_five_upgrades_a_second_are_let_in_and_refused_ones_do_not_count() -> None:
    door = Door(Random(1))
    answers: list[tuple[float, int]] = []
    for tenth in range(60):
        for number in range(3):  # thirty a second
            token = door.grant(f"{tenth}-{number}", tenth / 10)
            assert token is not None
            answers.append((tenth / 10, door.upgrade(token, tenth / 10)))
    admitted = [when for when, status in answers if status == 101]
    assert {status for _, status in answers} == {101, 429}
    assert len(admitted) == 30
    assert all(later - earlier >= 1.0 for earlier, later in zip(admitted, admitted[5:], strict=False))


def test_a_wrong_token_is_refused_and_counts() -> None:
    door = Door(Random(1))
    assert [door.upgrade("no such token", 0.0) for _ in range(6)] == [403] * 5 + [429]


def test_a_token_works_once_outlives_a_429_and_lapses() -> None:
    door = Door(Random(1))
    token, other = door.grant("a", 0.0), door.grant("a", 0.0)
    assert token is not None
    assert other is not None
    for _ in range(5):
        door.upgrade("no such token", 0.0)
    assert [door.upgrade(token, when) for when in (0.5, 1.5, 1.6)] == [429, 101, 403]
    assert door.upgrade(other, 30.0) == 403


def test_logins_are_limited_for_each_address() -> None:
    door = Door(Random(1))
    assert [door.grant("a", 0.0) is None for _ in range(6)] == [False] * 5 + [True]
    assert door.grant("b", 0.0) is not None
    assert door.grant("a", 1.0) is not None


# The broker and its runners


def test_ten_requests_go_to_the_offers_in_the_order_of_their_arrival() -> None:
    world, n8n, hosts = small(2)
    for number in range(10):
        n8n.request(60.0)
        world.run(world.now + 0.01)
        assert taken(hosts) == [min(number + 1, 5), max(0, number - 4)]


def test_an_idle_runner_keeps_all_its_slots_on_offer_and_no_more() -> None:
    world, n8n, _ = small(3)
    world.run(6.0)
    world.forget_counts()
    for _ in range(500):
        world.run(world.now + 0.1)
        assert 15 - 3 <= n8n.broker.open_offers(world.now) <= 15 + 3, "offers that are renewed just now"
    assert n8n.count.received[TaskOffer] == pytest.approx(15 * 50 / 5.25, rel=0.1)


def test_a_runner_that_falls_silent_costs_one_window_and_then_all_its_offers_are_gone() -> None:
    world, n8n, hosts = small(2)
    hosts[0].links[0].mute = True
    n8n.request(0.1)
    world.run(world.now + 1.9)
    assert (n8n.count.matched, taken(hosts)) == ([], [0, 0])
    world.run(world.now + 0.2)
    (waited,) = n8n.count.matched
    assert waited == pytest.approx(2.0, abs=0.01)
    n8n.request(0.1)
    world.run(world.now + 0.1)
    assert n8n.count.matched[1] < 0.01


def test_each_silent_runner_costs_a_window_of_its_own() -> None:
    world, n8n, hosts = small(3)
    hosts[0].links[0].mute = hosts[1].links[0].mute = True
    n8n.request(0.1)
    world.run(world.now + 5)
    assert n8n.count.matched == [pytest.approx(4.0, abs=0.01)]


def test_the_offers_of_a_silent_runner_lapse() -> None:
    world, n8n, hosts = small(2)
    hosts[0].links[0].mute = True
    world.run(world.now + 5.6)
    n8n.request(0.1)
    world.run(world.now + 0.1)
    assert n8n.count.matched[0] < 0.01


def test_a_silent_runner_is_closed_at_the_second_heartbeat_and_its_tasks_fail() -> None:
    world, n8n, hosts = small(1)
    n8n.request(1_000.0)
    world.run(world.now + 1)
    hosts[0].links[0].mute = True
    world.run(world.now + HEARTBEAT - 1)
    assert (n8n.count.failed, len(n8n.links)) == (0, 1)
    world.run(world.now + HEARTBEAT + 2)
    assert (n8n.count.failed, len(n8n.links)) == (1, 0)


def test_a_restart_loses_the_tasks_and_all_runners_come_back_five_a_second() -> None:
    world, n8n, hosts = small(30, capacity=1)
    for _ in range(30):
        n8n.request(1_000.0)
    world.run(20.0)
    assert sum(taken(hosts)) == 30
    world.forget_counts()
    n8n.restart(down=3.0)
    world.run(21.0)
    assert sum(taken(hosts)) == 0
    world.run(80.0)
    back = n8n.count.connected
    assert len(back) == 30
    assert back[0] >= 23.0
    assert all(later - earlier > 0.99 for earlier, later in zip(back, back[5:], strict=False))
    for _ in range(30):
        n8n.request(1_000.0)
    world.run(81.0)
    assert sum(taken(hosts)) == 30


# The scenarios


def test_the_same_seed_gives_the_same_run() -> None:
    rows = [fleet_steady.scale(seed, 10, 2, tasks_per_s=20.0, seconds=5.0) for seed in (3, 3, 4)]
    assert rows[0] == rows[1]
    assert rows[0] != rows[2]
    assert rows[0].expired == 0
    assert (rows[0].fairness or 0) > 0.9
    assert rows[0].tasks == pytest.approx(100, rel=0.4)


def test_fairness_is_one_for_equal_shares_and_small_when_one_has_all() -> None:
    assert [fleet_steady.jain(amounts) for amounts in ([3, 3, 3], [9, 0, 0], [0, 0])] == [
        1.0,
        pytest.approx(1 / 3),
        1.0,
    ]


def test_without_jitter_a_fleet_takes_several_times_as_long_to_come_back() -> None:
    ours, theirs = (fleet_storms.restart(1, 100, policy) for policy in ("as shipped", "doubling to 10 s, no jitter"))
    assert 20 <= ours.everybody < 40
    assert theirs.everybody > 3 * ours.everybody
    assert theirs.refused > 2 * ours.refused


def test_longer_offers_are_renewed_less_often() -> None:
    short, long = (fleet_steady.renewal(1, 20, validity, 0.5) for validity in (5.0, 20.0))
    assert short.offers_per_s / long.offers_per_s == pytest.approx(20.25 / 5.25, rel=0.15)
    assert short.n8n_share > 3 * long.n8n_share


def test_jitter_spreads_a_burst_over_the_runners() -> None:
    together, spread = (fleet_steady.burst(1, 10, 5.0, jitter, rest=30.0, bursts=20) for jitter in (0.0, 2.0))
    assert together.most == 5
    assert spread.most < 3.5


def test_brokers_that_are_all_busy_get_equal_shares_and_a_quiet_one_is_not_starved() -> None:
    row = fleet_steady.sharing(1, 4, 3, seconds=5.0)
    assert row.least > 0.85
    assert row.used > 0.85
    assert row.light_p99 < 1.0


def test_the_short_run_fills_every_list_and_its_record_can_be_read(tmp_path: Path) -> None:
    said: list[str] = []
    before = time.process_time()
    record = fleet.simulate(quick=True, say=said.append)
    assert time.process_time() - before < 20
    assert all(getattr(record, name) for name in fleet.SCENARIOS)
    assert Counter(line.partition(":")[0] for line in said) == Counter(list(fleet.SCENARIOS))
    file = tmp_path / "fleet.json"
    file.write_bytes(msgspec.json.encode(record))
    assert msgspec.json.decode(file.read_bytes(), type=Fleet) == record


def test_the_command_draws_a_page_that_needs_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    page, record = tmp_path / "fleet.html", tmp_path / "fleet.json"
    fleet.main(["--quick", "--only", "renewal", "--only", "newcomers", "--html", str(page), "--json", str(record)])
    text = page.read_text()
    assert text.count("<svg") == 2
    assert "http" not in text
    assert "prefers-color-scheme: dark" in text
    assert "Keeping offers open" in capsys.readouterr().out
    assert msgspec.json.decode(record.read_bytes(), type=Fleet).quick
