"""How long to wait before the next try to connect.

Full jitter: the wait is uniform between nothing and the current bound, so that a hundred runners that lost the same
broker do not come back together (a broker takes 5 upgrades a second from all of them, protocol.md 2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator


def full_jitter(random: Callable[[], float], *, base: float = 0.5, cap: float = 10.0) -> Iterator[float]:
    """Yields waits in seconds, for ever. ``random`` gives numbers in [0, 1); a success starts a new iterator.

    The first wait is drawn below ``base``: most losses are a broker that restarts, and it is worth a quick look.
    """
    bound = base
    while True:
        yield random() * bound
        bound = min(cap, bound * 2)
