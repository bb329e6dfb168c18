"""A fleet that something happens to: its broker restarts, or a new one appears behind the name that it looks up.

Owns the set-up of these scenarios, the ways of waiting that are compared, and what is read off. Must not know how that
is printed or drawn.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from random import Random

from bench.fleet_record import REFUSAL, Newcomer, Restart
from bench.fleet_runner import AT_LEAST, Host, Policy, Wait, as_shipped
from bench.fleet_world import UPGRADES, N8n, World
from trio_runner.protocol.backoff import full_jitter
from trio_runner.protocol.session import OfferTerms

DOWN = (8.0, 16.0)
"""Seconds that a restart of n8n takes, at least and at most."""
AT_ONCE = (0.0, 0.0)
"""Only the connections end, as when a proxy restarts."""
QUIET = OfferTerms(validity=1e6)
"""Offers are not the question here: nobody renews any."""


def fixed(seconds: float) -> Policy:
    """Always the same wait, as the simplest clients have it."""
    return lambda _random: lambda _limited: seconds


def doubling(base: float, cap: float) -> Policy:
    """Exponential backoff without jitter."""

    def policy(_random: Random) -> Wait:
        waits = full_jitter(lambda: 1.0, base=base, cap=cap)
        return lambda limited: next(waits) + (AT_LEAST if limited else 0.0)

    return policy


def jittered(base: float, cap: float) -> Policy:
    """Full jitter, and a second more after a 429."""

    def policy(random: Random) -> Wait:
        waits = full_jitter(random.random, base=base, cap=cap)
        return lambda limited: next(waits) + (AT_LEAST if limited else 0.0)

    return policy


def apart(base: float, cap: float, limited_base: float, limited_cap: float) -> Policy:
    """Two series: one for a broker that is not there, one for a broker that is and has no room."""

    def policy(random: Random) -> Wait:
        absent = full_jitter(random.random, base=base, cap=cap)
        full = full_jitter(random.random, base=limited_base, cap=limited_cap)
        return lambda limited: AT_LEAST + next(full) if limited else next(absent)

    return policy


POLICIES: dict[str, Policy] = {
    "as shipped": as_shipped,
    "fixed 5 s": fixed(5.0),
    "doubling to 10 s, no jitter": doubling(0.5, 10.0),
    "full jitter to 5 s": jittered(0.5, 5.0),
    "full jitter to 10 s": jittered(0.5, 10.0),
    "full jitter to 30 s": jittered(0.5, 30.0),
    "full jitter to 5 s, after 429 to 60 s": apart(0.5, 5.0, 2.0, 60.0),
}


def restart(seed: int, runners: int, policy: str, *, down: tuple[float, float] = DOWN, times: int = 1) -> Restart:
    """All runners of a broker lose it at the same moment; the mean of so many restarts, and the curve of one."""
    storms = [_storm(seed + number, runners, POLICIES[policy], down) for number in range(times)]
    waits = [since for since, _ in storms]
    refused = statistics.mean(sum(refusals) for _, refusals in storms)
    return Restart(
        runners=runners,
        policy=policy,
        down=statistics.mean(down),
        times=times,
        half=statistics.mean(_reached(since, runners, 0.5) for since in waits),
        most=statistics.mean(_reached(since, runners, 0.9) for since in waits),
        everybody=statistics.mean(_reached(since, runners, 1.0) for since in waits),
        refused=refused,
        peak=statistics.mean(max(refusals, default=0) for _, refusals in storms),
        n8n_seconds=refused * REFUSAL,
        curve=_curve(waits[0], runners),
    )


def _storm(seed: int, runners: int, policy: Policy, down: tuple[float, float]) -> tuple[list[float], list[int]]:
    """When each was back, counted from the broker's return, and how many were refused in each second from the loss."""
    world = World(seed)
    n8n = N8n(world, "n8n")
    for number in range(runners):
        host = Host(world, f"runner-{number}", [n8n], capacity=1, terms=QUIET, reconnect=policy)
        world.at(world.random.random(), host.links[0].join)
    world.run(20.0)
    world.forget_counts()
    away = world.random.uniform(*down)
    n8n.restart(away)
    back = world.now + away
    refusals: list[int] = []
    limit = back + 60 + 15 * runners / UPGRADES
    while len(n8n.count.connected) < runners and world.now < limit:
        world.run(world.now + 1.0)
        refusals.append(n8n.count.refused - sum(refusals))
    return sorted(when - back for when in n8n.count.connected), refusals


def _reached(since: list[float], runners: int, share: float) -> float:
    """When so many were back; infinite when they never were."""
    index = max(0, round(share * runners) - 1)
    return since[index] if index < len(since) else float("inf")


def _curve(since: list[float], runners: int, points: int = 60) -> list[tuple[float, float]]:
    step = max(1, len(since) // points)
    return [(round(when, 2), (number + 1) / runners) for number, when in enumerate(since) if number % step == 0]


def newcomer(seed: int, runners: int, interval: float) -> Newcomer:
    """One more n8n: each runner finds it at its next look-up, which it makes at its own moment."""
    world = World(seed)
    n8n = N8n(world, "n8n")
    for number in range(runners):
        host = Host(world, f"runner-{number}", [n8n], capacity=1, terms=QUIET)
        world.at(world.random.random() * interval, host.links[0].dial)
    while len(n8n.count.connected) < runners:
        world.run(world.now + 1.0)
    since = sorted(n8n.count.connected)
    return Newcomer(
        runners=runners,
        interval=interval,
        lookups_per_s=runners / interval,
        first=since[0],
        half=_reached(since, runners, 0.5),
        everybody=since[-1],
        refused=n8n.count.refused,
    )


def all_restarts(seed: int, *, quick: bool) -> Iterator[Restart]:
    """Every way of waiting for small and large fleets, the extremes for the largest, too; and without any down time."""
    for runners in (10, 100) if quick else (1, 3, 10, 30, 100, 300, 1_000):
        times = 2 if quick else max(1, min(50, 1_000 // runners))
        for policy in POLICIES:
            yield restart(seed, runners, policy, times=times)
        yield restart(seed, runners, "as shipped", down=AT_ONCE, times=times)
    if not quick:
        yield restart(seed, 10_000, "as shipped")
        yield restart(seed, 10_000, "full jitter to 5 s, after 429 to 60 s")


def all_newcomers(seed: int, *, quick: bool) -> Iterator[Newcomer]:
    """Intervals between look-ups."""
    for runners in (10, 100):
        for interval in (10.0, 30.0) if quick else (5.0, 10.0, 15.0, 30.0, 60.0, 300.0):
            yield newcomer(seed, runners, interval)
