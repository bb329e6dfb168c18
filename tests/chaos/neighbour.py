"""A second broker of a runner, to which nothing is done: what happens to the first one must not touch it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import trio

from tests.chaos.ledger import Ledger
from tests.chaos.load import Cost, Load
from tests.chaos.process import CAPACITY
from tests.chaos.site import Site
from tests.e2e.n8n_server import free_port


class Neighbour:
    """A broker with callers of its own, which share the runner's slots with those of the first."""

    def __init__(self, rng: Random, excused: Callable[[Cost, float], bool]) -> None:
        self.ledger = Ledger(CAPACITY)
        self.site = Site(free_port(), self.ledger)
        self.load = Load(self.site, rng, excused)

    @property
    def uri(self) -> str:
        """What the runner is told, besides the first broker."""
        return f"http://127.0.0.1:{self.site.port}"

    def busy(self) -> int:
        """Slots that the first broker cannot see because this one has them."""
        return self.site.busy()

    async def served(self) -> None:
        """Returns when the runner offers itself here, too."""
        while not self.site.in_view():
            with trio.move_on_after(0.1):
                await self.ledger.news.wait()
