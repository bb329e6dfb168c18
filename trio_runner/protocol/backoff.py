"""How long to wait before the next try to connect.

Full jitter: the wait is uniform between nothing and the current bound, so that a hundred runners that lost the same
broker do not come back together (a broker takes 5 upgrades a second from all of them, protocol.md 2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec


class ReconnectTerms(msgspec.Struct, frozen=True, kw_only=True):
    """How fast a broker is looked for again, in seconds."""

    base: float = 0.5
    """What the first wait is drawn below."""
    cap: float = 5.0
    """What every wait stays below. A broker that is back waits for its runners half as long, on average."""
    refused_wait: float = 60.0
    """How long, on average, to leave a broker alone that refuses the auth token while others take it."""
    settled_after: float = 10.0
    """How long a connection must have lasted for its loss to start the backoff anew: two runners of the same id, which
    throw each other out, must not do so many times a second for ever."""

    def waits(self, random: Callable[[], float]) -> Iterator[float]:
        """The waits from a success on."""
        return full_jitter(random, base=self.base, cap=self.cap)


def full_jitter(random: Callable[[], float], *, base: float = 0.5, cap: float = 5.0) -> Iterator[float]:
    """Yields waits in seconds, for ever. ``random`` gives numbers in [0, 1); a success starts a new iterator.

    The first wait is drawn below ``base``: most losses are a broker that restarts, and it is worth a quick look.
    """
    bound = base
    while True:
        yield random() * bound
        bound = min(cap, bound * 2)


def around(random: Callable[[], float], mean: float, *, by: float) -> float:
    """A wait in seconds, uniform up to ``by`` times the mean away from it, so that many do not keep step."""
    return mean * (1 - by + 2 * by * random())
