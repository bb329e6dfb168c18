"""The words of the proxy: directions, kinds of connections, and the weather between a runner and its broker."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Final

GRAINS: Final = 300
"""Bytes of a piece that are sent grain by grain; all of a large one would take minutes and show nothing more."""


class To(enum.Enum):
    """Which way bytes go."""

    BROKER = enum.auto()
    RUNNER = enum.auto()


class Kind(enum.Enum):
    """What a connection is opened for; HANDSHAKE is each of them on a proxy with TLS, before anything else."""

    HANDSHAKE = enum.auto()
    LOGIN = enum.auto()
    UPGRADE = enum.auto()
    OTHER = enum.auto()


@dataclass(frozen=True)
class Weather:
    """What becomes of the bytes of one direction for as long as it lasts; none of it loses one."""

    delay: float = 0.0
    """Seconds between the arrival of bytes and their delivery; what arrives meanwhile is delivered with them."""
    rate: float = math.inf
    """Bytes a second."""
    grain: int = 0
    """So many bytes at a time, for the first few hundred of each piece; 0: as they came."""
    stalled: bool = False
    """Nothing is read: the sender's buffers fill."""


FINE: Final = Weather()


def piece_of(weather: Weather, sent: int, total: int) -> int:
    """How many bytes are sent next, at once."""
    if weather.grain and sent < GRAINS:
        return min(weather.grain, total - sent)
    return total - sent if math.isinf(weather.rate) else min(total - sent, max(1, int(weather.rate / 50)))
