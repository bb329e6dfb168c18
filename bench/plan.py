"""How much is measured: the parts that can be chosen, and their sizes in a full, a quick and a smoke run."""

from __future__ import annotations

from typing import Final

import msgspec

PARTS: Final = {
    "start": "start to registered and to the first result",
    "latency": "a trivial task at concurrency 1",
    "throughput": "trivial tasks at concurrency 1, 5 and 20, with the processor time of each",
    "idle": "memory, processor time and wake-ups of a runner without work",
    "memory": "memory of a task that runs",
    "payload": "echo of 100 KB to 100 MB, and 1 to 100,000 small items, in both modes",
    "pandas": "a task that imports pandas",
    "growth": "latency and memory against the number of tasks so far",
    "floors": "the bare exchange, the bare fork, the bare JSON",
    "messages": "encoding and decoding of the wire vocabulary",
}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes. Times in seconds, payloads in bytes."""

    rounds: int
    unit_starts: int
    """Bare interpreter starts before each subject."""
    warm_up_seconds: float = 1.0
    task_seconds: float
    """For each of latency and throughput, in each round."""
    heavy_rounds: int
    """Rounds with large payloads; of others than ours only the first."""
    echo: tuple[int, ...]
    items: tuple[int, ...]
    heavy_seconds: float
    """For each size of payload."""
    idle_rounds: int
    """Rounds with an idle runner; of others than ours only the first."""
    hold_seconds: float = 2.0
    """How long the tasks sleep whose memory is read; half of it is left for them to start."""
    idle_seconds: float
    """An offer lives for 5 s, so less than that misses its renewal."""
    growth_tasks: int
    growth_windows: int = 10
    message_heavy_rounds: int = 2
    message_sizes: tuple[int, ...] = (1, 1000, 100_000)
    message_seconds: float = 0.005
    """For each message, codec and direction, in each round."""


FULL: Final = Plan(
    rounds=5,
    unit_starts=3,
    task_seconds=1.2,
    heavy_rounds=3,
    echo=(100_000, 1_000_000, 10_000_000, 100_000_000),
    items=(1, 1000, 100_000),
    heavy_seconds=1.0,
    idle_rounds=2,
    idle_seconds=5.5,
    growth_tasks=5000,
)
QUICK: Final = Plan(
    rounds=3,
    unit_starts=3,
    task_seconds=0.8,
    heavy_rounds=1,
    echo=(100_000, 1_000_000, 10_000_000),
    items=(1, 1000),
    heavy_seconds=0.3,
    idle_rounds=1,
    idle_seconds=3.0,
    growth_tasks=1000,
    message_sizes=(1, 1000),
)
SMOKE: Final = Plan(
    rounds=1,
    unit_starts=2,
    warm_up_seconds=0.1,
    task_seconds=0.1,
    heavy_rounds=1,
    echo=(100_000, 1_000_000),
    items=(1, 1000),
    heavy_seconds=0.1,
    idle_rounds=1,
    hold_seconds=1.0,
    idle_seconds=0.3,
    growth_tasks=100,
    growth_windows=5,
    message_sizes=(1, 1000),
    message_seconds=0.001,
)
LONG_GROWTH: Final = 100_000
