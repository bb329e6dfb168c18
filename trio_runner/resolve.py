"""Every address behind a name, looked up again and again: the brokers of a service whose members come and go.

Owns lookups and the memory of what they found. A lookup that fails changes nothing: a name server that is down must not
cost connections that work. Must not know what is done with an address.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable

import trio

from trio_runner.errors import BrokerUnreachableError
from trio_runner.log import get_logger
from trio_runner.protocol.backoff import around, full_jitter

log = get_logger("resolve")

LOOKUP_LIMIT = 10.0
"""Seconds that one lookup may take."""
SOONEST = 5.0
"""Seconds between two lookups at least, however much trouble there is with what the last one found."""


async def look_up(host: str, port: int) -> frozenset[str]:
    """The addresses of a name, of one family: a broker that has two must not be taken for two brokers.

    IPv4, if there is any. Raises `BrokerUnreachableError` with the reason in words.
    """
    try:
        with trio.fail_after(LOOKUP_LIMIT):
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except trio.TooSlowError:
        raise BrokerUnreachableError(f"{host} was not found within {LOOKUP_LIMIT:g}s") from None
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "that is no host name"
        raise BrokerUnreachableError(f"{host} was not found: {reason or error}") from error
    addresses = {str(address[0]) for family, *_, address in found if family in (socket.AF_INET, socket.AF_INET6)}
    return frozenset({address for address in addresses if ":" not in address} or addresses)


class NameWatch:
    """The addresses behind one name, as they were found last."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        interval: float,
        connected: Callable[[str], bool],
        changed: Callable[[frozenset[str]], None],
    ) -> None:
        """``connected`` says whether an address is in use; ``changed`` is told all addresses when they are others."""
        self._host = host
        self._port = port
        self._interval = interval
        self._connected = connected
        self._changed = changed
        self._missing: set[str] = set()
        self._trouble = trio.Event()
        self.known: frozenset[str] = frozenset()
        self.last_error: str | None = None

    def look_soon(self) -> None:
        """There is trouble with an address: perhaps it is out of date."""
        self._trouble.set()

    async def run(self) -> None:
        """Looks until cancelled."""
        waits = full_jitter(random.random)
        while True:
            self._trouble = trio.Event()
            wait = around(random.random, self._interval, by=0.25)
            try:
                found = await look_up(self._host, self._port)
            except BrokerUnreachableError as error:
                if not self.known:
                    wait = next(waits)
                    log.warning("%s - looking again in %.1fs...", error, wait)
                elif self.last_error is None:
                    log.warning("%s; its last known addresses are kept: %s", error, _shown(self.known))
                self.last_error = str(error)
            else:
                self.last_error = None
                self._take(found)
            await self._pause(wait)

    async def _pause(self, wait: float) -> None:
        """Until it is time again, or there is trouble. Trouble that came during the lookup itself counts."""
        with trio.move_on_after(wait):
            await trio.sleep(SOONEST)
            await self._trouble.wait()

    def _take(self, found: frozenset[str]) -> None:
        """An address in use must be missing twice before it counts as gone: some servers name only a few at a time."""
        absent = self.known - found
        kept = {address for address in absent - self._missing if self._connected(address)}
        self._missing = kept
        now = found | kept
        if now != self.known:
            log.info("Brokers behind %s: %s", self._host, _shown(now))
            self.known = now
            self._changed(now)


def _shown(addresses: frozenset[str]) -> str:
    return ", ".join(sorted(addresses))
