"""The record of one run of the fleet simulation: a list of rows for each question that was asked.

Owns the schema of the JSON file and the prices of a real n8n that turn counts into processor time. Must not simulate,
print or draw. All times are virtual and in seconds unless a name says otherwise.
"""

from __future__ import annotations

import msgspec

OFFER = 50e-6
"""Seconds of processor time that n8n 2.41.1 spends on an offer, and ..."""
OPEN_OFFER = 20e-9
"""... for each offer that is open when it arrives: both by `bench.fleet_real` on the machine of docs/scaling.md."""
REFUSAL = 0.9e-3
"""What a login costs n8n together with the upgrade that it then refuses."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all rows."""


class Scale(Row, frozen=True, kw_only=True):
    """A fleet at work: every runner is connected to every broker. What a broker sees is the mean of all of them."""

    runners: int
    brokers: int
    load: float
    """Share of the slots that is busy on average."""
    tasks: int
    match_p50: float
    match_p99: float
    """From a node's request until a runner has accepted it, round trips and waiting included."""
    offers_per_s: float
    messages_per_s: float
    """Seen by a broker, in both directions."""
    bytes_per_s: float
    rejected_per_task: float
    fairness: float | None
    """Jain's index of the tasks of each runner: 1 when all got the same number. None for too few tasks to tell."""
    expired: int
    events: int
    """What the simulation itself did for it."""


class Renewal(Row, frozen=True, kw_only=True):
    """An idle fleet at one broker: what keeping offers alive costs."""

    slots: int
    validity: float
    jitter: float
    offers_per_s: float
    n8n_share: float
    """Of one processor, by the measured prices."""


class Silence(Row, frozen=True, kw_only=True):
    """One of four runners vanishes without a word: its offers stay at the broker."""

    validity: float
    tasks_per_s: float
    deaths: int
    late_per_death: float
    """Tasks that waited for the dead runner's answer before another runner got them."""
    longest: float


class Burst(Row, frozen=True, kw_only=True):
    """As many tasks at once as there are runners: how they spread."""

    runners: int
    validity: float
    jitter: float
    rest: float
    """Between two bursts, on average."""
    most: float
    """Tasks of the runner that got most of them, mean of all bursts. Drawn at random it would be ``drawn``."""
    drawn: float


class Restart(Row, frozen=True, kw_only=True):
    """All runners lose their broker, which is back after ``down`` seconds and takes 5 upgrades a second."""

    runners: int
    policy: str
    down: float
    times: int
    """Restarts that the means below are of."""
    half: float
    most: float
    everybody: float
    """Seconds from its return until half, 90 % and all of the runners are registered again."""
    refused: float
    peak: float
    """Refused in the worst second."""
    n8n_seconds: float
    """Processor time that refusing cost n8n, by the measured prices."""
    curve: list[tuple[float, float]]
    """Seconds since its return, share of the runners that are back."""


class Newcomer(Row, frozen=True, kw_only=True):
    """A broker more behind the name that all runners look up: how soon it is found."""

    runners: int
    interval: float
    lookups_per_s: float
    first: float
    half: float
    everybody: float
    refused: int


class Sharing(Row, frozen=True, kw_only=True):
    """Brokers that all have more work than the runners they share can do."""

    runners: int
    brokers: int
    used: float
    """Share of the slots' time that tasks ran."""
    least: float
    most: float
    """Tasks of the broker that got fewest and most, as multiples of a fair share."""
    rejected_per_task: float
    light_p50: float
    light_p99: float
    """Time to match at one more broker that has a task only now and then."""


class Stale(Row, frozen=True, kw_only=True):
    """Brokers with independent, moderate load: how often an offer's slot is taken by the time it is accepted."""

    brokers: int
    load: float
    validity: float
    rejected_per_task: float
    match_p50: float
    match_p99: float
    offers_per_s: float


class Fleet(msgspec.Struct, kw_only=True):
    """One run."""

    schema: int = 1
    quick: bool
    seed: int
    version: str
    """Of the runner whose sessions, brokers and waits these are."""
    seconds: float = 0.0
    """What the run took, in real time."""
    scale: list[Scale] = []
    renewal: list[Renewal] = []
    silence: list[Silence] = []
    bursts: list[Burst] = []
    restarts: list[Restart] = []
    newcomers: list[Newcomer] = []
    sharing: list[Sharing] = []
    stale: list[Stale] = []


def n8n_share(offers_per_s: float, open_offers: float) -> float:
    """The share of one processor that n8n needs for so many offers a second."""
    return offers_per_s * (OFFER + OPEN_OFFER * open_offers)
