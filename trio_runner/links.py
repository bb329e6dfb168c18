"""All brokers of this runner: a link for each, also for those that come and go behind a name.

Owns which brokers have a link. A broker that is in trouble, refuses our token or goes away touches no other; only when
none is left that could be of use does the runner end. Must not know what goes over a link.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial

import trio

from trio_runner.config import BrokerAddress, Config
from trio_runner.health import BrokerState
from trio_runner.http import trust
from trio_runner.link import Link
from trio_runner.resolve import NameWatch
from trio_runner.taskrecord import TaskRecord


class Links:
    """A link to each broker, as long as it is wanted."""

    def __init__(self, config: Config, make: Callable[..., Link]) -> None:
        """``make`` is `Link` with all that is the same for every broker."""
        self._config = config
        self._make = make
        self._tls: ssl.SSLContext | None = None
        self._links: dict[BrokerAddress, Link] = {}
        self._wanted: dict[BrokerAddress, frozenset[BrokerAddress]] = {}
        """The brokers behind each name; one that is configured by itself stands behind its own."""
        self._watches: dict[BrokerAddress, NameWatch] = {}
        self._watching = trio.CancelScope()
        self._nursery: trio.Nursery | None = None

    @property
    def registered(self) -> bool:
        """Whether any broker takes our offers now."""
        return any(link.registered for link in self._links.values())

    def states(self) -> list[BrokerState]:
        """What `/readyz` says of each broker, and of names behind which none was found."""
        lost = [(name, watch) for name, watch in self._watches.items() if not watch.known]
        return [
            *(link.state() for link in self._links.values()),
            *(BrokerState(broker=name.label, last_error=watch.last_error) for name, watch in lost),
        ]

    def running(self) -> list[TaskRecord]:
        """The tasks of all brokers that were started and are not over."""
        return [record for link in self._links.values() for record in link.running]

    def stop(self) -> None:
        """Ends `run`, as soon as the running tasks are done and told. Nothing is wanted from then on."""
        self._watching.cancel()
        self._wanted.clear()
        for link in self._links.values():
            link.stop()

    def cut_off(self, reason: str) -> int:
        """Stops the tasks that still run after `stop`, with word to n8n. Returns how many there were."""
        return sum(link.cut_off(reason) for link in self._links.values())

    async def run(self) -> None:
        """Serves all brokers until `stop`. Raises `FatalError` when there is no point in going on."""
        brokers = self._config.brokers
        if any(broker.secure for broker in brokers):
            self._tls = trust(self._config.broker_ca)
        async with trio.open_nursery() as self._nursery:
            for broker in brokers:
                if broker.every:
                    self._watches[broker] = self._watch(broker)
                else:
                    self._want(broker, frozenset((broker,)))
            if self._watches:
                self._nursery.start_soon(self._watch_names)

    def _watch(self, name: BrokerAddress) -> NameWatch:
        return NameWatch(
            name.host,
            name.port,
            interval=self._config.dns_interval,
            connected=lambda address: (link := self._links.get(name.at(address))) is not None and link.connected,
            changed=lambda addresses: self._want(name, frozenset(map(name.at, addresses))),
        )

    async def _watch_names(self) -> None:
        with self._watching:
            async with trio.open_nursery() as nursery:
                for watch in self._watches.values():
                    nursery.start_soon(watch.run)

    def _want(self, name: BrokerAddress, brokers: frozenset[BrokerAddress]) -> None:
        """These are the brokers behind a name now: new ones get a link, the others are left when their tasks end."""
        if self._watching.cancel_called:
            return
        elsewhere = {_place(one) for other, ones in self._wanted.items() if other != name for one in ones}
        wanted = frozenset(broker for broker in brokers if _place(broker) not in elsewhere)
        gone = self._wanted.get(name, frozenset()) - wanted
        self._wanted[name] = wanted
        for broker in gone:
            if (link := self._links.get(broker)) is not None:
                link.stop()
        for broker in wanted - self._links.keys():  # one that comes back while it is being left must wait for that
            self._links[broker] = self._new_link(broker)
            assert self._nursery is not None
            self._nursery.start_soon(self._serve, broker)

    def _new_link(self, broker: BrokerAddress) -> Link:
        return self._make(
            broker, tls=self._tls, among_others=partial(self._are_there_others, broker), trouble=self._look_soon
        )

    async def _serve(self, broker: BrokerAddress) -> None:
        """One broker, until it is not wanted any more or its link ends by itself."""
        try:
            while True:
                link = self._links[broker]
                await link.run()
                if not (link.stopping and any(broker in wanted for wanted in self._wanted.values())):
                    return
                self._links[broker] = self._new_link(broker)
        finally:
            del self._links[broker]

    def _are_there_others(self, broker: BrokerAddress) -> bool:
        """Whether a broker that refuses our token may be the only one that does."""
        others = (link for other, link in self._links.items() if other != broker)
        return any(not link.refused for link in others) or any(not watch.known for watch in self._watches.values())

    def _look_soon(self) -> None:
        for watch in self._watches.values():
            watch.look_soon()


def _place(broker: BrokerAddress) -> tuple[str, int]:
    return broker.address or broker.host, broker.port
