"""A fleet that nothing happens to: how it scales, what its offers cost, how tasks spread over runners and brokers.

Owns the set-up of these scenarios and what is read off them. Must not know how they are printed or drawn.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator

from bench.fleet_record import Burst, Renewal, Scale, Sharing, Silence, Stale, n8n_share
from bench.fleet_runner import Host
from bench.fleet_world import HEARTBEAT, N8n, World
from bench.results import percentile
from trio_runner.protocol.messages import TaskOffer
from trio_runner.protocol.session import OfferTerms

SLOTS = 5
"""Of one runner: the default of N8N_RUNNERS_MAX_CONCURRENCY."""
ENOUGH = 10
"""Tasks for each runner, below which chance alone makes their numbers differ."""


def assemble(seed: int, runners: int, brokers: int, terms: OfferTerms | None = None) -> World:
    """A fleet whose runners joined one after the other, long enough ago for their offers to be spread in time."""
    terms = terms or OfferTerms()
    world = World(seed)
    n8ns = [N8n(world, f"n8n-{number}") for number in range(brokers)]
    longest = terms.validity + terms.jitter
    for number in range(runners):
        host = Host(world, f"runner-{number}", n8ns, capacity=SLOTS, terms=terms)
        for link in host.links:
            world.at(world.random.random() * longest, link.join)
    world.run(longest)
    return world


def exponential(world: World, mean: float) -> Callable[[], float]:
    """How long programs run."""
    return lambda: world.random.expovariate(1 / mean)


def matches(world: World) -> list[float]:
    """Times to match at all brokers."""
    return [seconds for n8n in world.n8ns for seconds in n8n.count.matched]


def rejected_per_task(world: World) -> float:
    """Acceptances that the runner had to turn down, for each task that was matched."""
    rejected = sum(n8n.count.rejections.total() for n8n in world.n8ns)
    return rejected / max(1, len(matches(world)))


def jain(amounts: list[int]) -> float:
    """The index of fairness: 1 when all amounts are the same, one over their number when all belong to one."""
    squares = sum(amount * amount for amount in amounts)
    return sum(amounts) ** 2 / (len(amounts) * squares) if squares else 1.0


def scale(
    seed: int, runners: int, brokers: int, *, tasks_per_s: float, mean: float = 1.0, seconds: float = 10.0
) -> Scale:
    """Independent requests at every broker, so many a second in all, for programs of a mean length."""
    world = assemble(seed, runners, brokers)
    end = world.now + 3 * mean + seconds
    for n8n in world.n8ns:
        n8n.arrivals(tasks_per_s / brokers, end, exponential(world, mean))
    world.run(end - seconds)
    world.forget_counts()
    world.run(end)
    counts = [n8n.count for n8n in world.n8ns]
    matched = matches(world)
    return Scale(
        runners=runners,
        brokers=brokers,
        load=tasks_per_s * mean / (runners * SLOTS),
        tasks=len(matched),
        match_p50=percentile(matched, 50),
        match_p99=percentile(matched, 99),
        offers_per_s=sum(count.received[TaskOffer] for count in counts) / brokers / seconds,
        messages_per_s=sum(count.received.total() + count.sent for count in counts) / brokers / seconds,
        bytes_per_s=sum(count.bytes for count in counts) / brokers / seconds,
        rejected_per_task=rejected_per_task(world),
        fairness=jain([host.done for host in world.hosts]) if len(matched) >= ENOUGH * runners else None,
        expired=sum(count.expired for count in counts),
        events=world.happened,
    )


def renewal(seed: int, runners: int, validity: float, jitter: float, *, periods: int = 2) -> Renewal:
    """An idle fleet, watched for some lives of an offer."""
    world = assemble(seed, runners, 1, OfferTerms(validity=validity, jitter=jitter))
    world.forget_counts()
    seconds = periods * (validity + jitter / 2)
    world.run(world.now + seconds)
    rate = world.n8ns[0].count.received[TaskOffer] / seconds
    slots = runners * SLOTS
    return Renewal(slots=slots, validity=validity, jitter=jitter, offers_per_s=rate, n8n_share=n8n_share(rate, slots))


def silence(seed: int, validity: float, tasks_per_s: float, *, deaths: int) -> Silence:
    """One of four runners falls silent, so many times, each time in a world of its own."""
    late: list[int] = []
    longest = 0.0
    for number in range(deaths):
        world = assemble(seed + number, 4, 1, OfferTerms(validity=validity))
        n8n = world.n8ns[0]
        end = world.now + validity + 2 * HEARTBEAT + 5
        n8n.arrivals(tasks_per_s, end, exponential(world, 0.2))
        world.run(world.now + validity * (1 + world.random.random()))
        world.forget_counts()
        world.hosts[0].links[0].mute = True
        world.run(end)
        late.append(sum(seconds > 1 for seconds in n8n.count.matched))
        longest = max(longest, *n8n.count.matched, 0.0)
    return Silence(
        validity=validity,
        tasks_per_s=tasks_per_s,
        deaths=deaths,
        late_per_death=statistics.mean(late),
        longest=longest,
    )


def burst(seed: int, runners: int, validity: float, jitter: float, *, rest: float, bursts: int) -> Burst:
    """As many tasks at once as there are runners, with a rest in between: the best would be one for each."""
    world = assemble(seed, runners, 1, OfferTerms(validity=validity, jitter=jitter))
    world.run(10 * (validity + jitter))
    most: list[int] = []
    for _ in range(bursts):
        for _ in range(runners):
            world.n8ns[0].request(1.0)
        world.run(world.now + 0.5)
        most.append(max(host.slots.taken for host in world.hosts))
        world.run(world.now + rest * (0.5 + world.random.random()))
    places = [number for number in range(runners) for _ in range(SLOTS)]
    drawn = [_largest(world.random.sample(places, runners)) for _ in range(2000)]
    return Burst(
        runners=runners,
        validity=validity,
        jitter=jitter,
        rest=rest,
        most=statistics.mean(most),
        drawn=statistics.mean(drawn),
    )


def _largest(owners: list[int]) -> int:
    return max(owners.count(owner) for owner in set(owners))


def sharing(seed: int, runners: int, brokers: int, *, seconds: float) -> Sharing:
    """Closed loops at every broker, each with twice as many callers as there are slots; and a quiet neighbour."""
    world = assemble(seed, runners, brokers + 1)
    *busy, light = world.n8ns
    lengths = exponential(world, 0.1)
    for n8n in busy:
        n8n.when_done = lambda n8n=n8n: n8n.request(lengths())
        for _ in range(2 * runners * SLOTS):
            n8n.request(lengths())
    end = world.now + 5 + seconds
    light.arrivals(2.0, end, lambda: 0.01)
    world.run(end - seconds)
    world.forget_counts()
    world.run(end)
    done = [n8n.count.done for n8n in busy]
    fair = sum(done) / brokers
    return Sharing(
        runners=runners,
        brokers=brokers,
        used=sum(host.busy for host in world.hosts) / (runners * SLOTS * seconds),
        least=min(done) / fair,
        most=max(done) / fair,
        rejected_per_task=rejected_per_task(world),
        light_p50=percentile(light.count.matched or [math.inf], 50),
        light_p99=percentile(light.count.matched or [math.inf], 99),
    )


def stale(seed: int, brokers: int, load: float, validity: float, *, seconds: float) -> Stale:
    """Twenty runners, moderate and independent load at every broker, programs of a quarter of a second."""
    runners, mean = 20, 0.25
    world = assemble(seed, runners, brokers, OfferTerms(validity=validity))
    end = world.now + 5 + seconds
    for n8n in world.n8ns:
        n8n.arrivals(load * runners * SLOTS / mean / brokers, end, exponential(world, mean))
    world.run(end - seconds)
    world.forget_counts()
    world.run(end)
    matched = matches(world)
    return Stale(
        brokers=brokers,
        load=load,
        validity=validity,
        rejected_per_task=rejected_per_task(world),
        match_p50=percentile(matched, 50),
        match_p99=percentile(matched, 99),
        offers_per_s=sum(n8n.count.received[TaskOffer] for n8n in world.n8ns) / brokers / seconds,
    )


FLEETS: tuple[tuple[int, int, float, float, float], ...] = (
    # runners, brokers, tasks a second in all, their mean length, seconds of it
    (1, 1, 2.5, 1.0, 400.0),
    (10, 1, 25.0, 1.0, 60.0),
    (100, 1, 100.0, 1.0, 20.0),
    (1_000, 1, 100.0, 1.0, 10.0),
    (10_000, 1, 50.0, 1.0, 6.0),
    (10, 10, 25.0, 1.0, 60.0),
    (100, 10, 100.0, 1.0, 20.0),
    (100, 100, 100.0, 1.0, 10.0),
    (100, 20, 5_000.0, 0.05, 20.0),
)
"""Half of the slots are busy, or there are 100 tasks a second; the last is the one with 100,000 tasks."""


def all_scales(seed: int, *, quick: bool) -> Iterator[Scale]:
    """From one runner to ten thousand, from one broker to a hundred."""
    for runners, brokers, rate, mean, seconds in FLEETS[:4] + FLEETS[5:7] if quick else FLEETS:
        yield scale(seed, runners, brokers, tasks_per_s=rate, mean=mean, seconds=seconds / 4 if quick else seconds)


def all_renewals(seed: int, *, quick: bool) -> Iterator[Renewal]:
    """Validities and sizes. Their product is what n8n sees, and the sizes count twice there."""
    for validity, jitter in ((5.0, 0.5), (5.0, 2.0), (10.0, 3.0), (15.0, 5.0), (30.0, 10.0), (60.0, 20.0)):
        for runners in (10, 100) if quick else (10, 100, 1000):
            yield renewal(seed, runners, validity, jitter, periods=1 if quick else 2)


def all_silences(seed: int, *, quick: bool) -> Iterator[Silence]:
    """Validities, with little and with much to do."""
    for tasks_per_s in (0.1, 1.0, 10.0):
        for validity in (5.0, 30.0) if quick else (1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0):
            yield silence(seed, validity, tasks_per_s, deaths=4 if quick else 60)


def all_bursts(seed: int, *, quick: bool) -> Iterator[Burst]:
    """Jitters as a share of the validity, bursts in a row and far apart."""
    for rest in (2.0, 60.0):
        for validity in (5.0, 15.0):
            for share in (0.0, 0.1, 0.4) if quick else (0.0, 0.05, 0.1, 0.2, 0.33, 0.5, 0.75, 1.0):
                yield burst(seed, 10, validity, share * validity, rest=rest, bursts=10 if quick else 80)


def all_sharing(seed: int, *, quick: bool) -> Iterator[Sharing]:
    """One to twenty busy brokers for four runners."""
    for brokers in (1, 5) if quick else (1, 2, 5, 10, 20):
        yield sharing(seed, 4, brokers, seconds=5.0 if quick else 20.0)


def all_stale(seed: int, *, quick: bool) -> Iterator[Stale]:
    """Loads, numbers of brokers, validities."""
    for brokers in (2, 10):
        for validity in (5.0,) if quick else (5.0, 15.0):
            for load in (0.5,) if quick else (0.1, 0.3, 0.5, 0.7, 0.9):
                yield stale(seed, brokers, load, validity, seconds=2.0 if quick else 6.0)
