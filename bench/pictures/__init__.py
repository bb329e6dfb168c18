"""The pictures of a run, drawn by matplotlib as SVG that takes its colours from the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bench.pictures import messages, runners
from bench.pictures.strokes import Picture
from bench.results import Run

PICTURES: Final[dict[str, Callable[[Run], Picture | None]]] = {
    make.__name__: make
    for make in (
        runners.latency,
        runners.throughput,
        runners.latency_growth,
        runners.processor,
        runners.payload_bytes,
        runners.payload_items,
        runners.payload_memory,
        runners.growth_latency,
        runners.growth_memory,
        runners.start,
        runners.pandas,
        runners.memory,
        runners.webhook,
        messages.messages_small,
        messages.messages_large,
        messages.messages_read,
        messages.messages_write,
    )
}


def draw(run: Run) -> dict[str, Picture]:
    """All pictures for which there are figures, by name."""
    drawn = {name: make(run) for name, make in PICTURES.items()}
    return {name: picture for name, picture in drawn.items() if picture is not None}
