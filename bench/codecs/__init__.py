"""Ways to read and write the wire vocabulary that somebody would pick, ours among them.

Every module here is one way, written the way its documentation shows and as fast as it goes without tricks: a peer that
is slow on purpose proves nothing. Must not measure; `bench.vocabulary` does, after a check that all of them agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from bench.results import OURS

Sender = Literal["broker", "runner"]

DATACLASSES = "dataclasses + json"
ORJSON = "dicts + orjson"
PYDANTIC = "pydantic"
BARE = "bare msgspec"
OURS_BUILT = f"{OURS}, items built too"
"""What our child does besides: our messages leave items and results as they are, all others build them."""


@dataclass(frozen=True)
class Codec:
    """One way: a text frame to an object of its own, and that object to UTF-8 JSON."""

    name: str
    note: str
    decoder: Callable[[Sender], Callable[[str], Any]]
    """The decoder for what the broker, or a runner, sends."""
    encode: Callable[[Any], bytes]
