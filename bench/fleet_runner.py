"""Runner processes in virtual time: what `trio_runner.link` and `trio_runner.dispatch` do, in the plainest way.

Owns dialling, the frames from a session to its broker, the end of programs and the alarms of a session. Decides nothing
about offers: that is `Session` and `Slots`, the product's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from msgspec import Raw

from bench.fleet_world import Door, N8n, World
from trio_runner.protocol.backoff import ReconnectTerms
from trio_runner.protocol.messages import ResultData, TaskDone
from trio_runner.protocol.session import AbortTask, Action, OffersDue, OfferTerms, Send, Session, StartTask
from trio_runner.protocol.slots import Slots

AT_LEAST = 1.0
"""Seconds to wait after a 429 on top of the jitter, as in `trio_runner.link`."""
BEAT = 0.25
"""As in `trio_runner.dispatch`."""
CLEAN_UP = 0.005
"""From an order to stop a task until its processes are gone."""

_RESULT = ResultData(result=Raw(b"[]"))

Wait = Callable[[bool], float]
"""How long to wait before the next try, in seconds; the argument says whether n8n answered 429 to the last one."""
Policy = Callable[[Random], Wait]
"""A fresh `Wait` for each series of tries."""


def as_shipped(random: Random) -> Wait:
    """What `trio_runner.link` does."""
    waits = ReconnectTerms().waits(random.random)
    return lambda limited: next(waits) + (AT_LEAST if limited else 0.0)


class Host:
    """One runner process: its slots, and a link to each broker."""

    def __init__(
        self,
        world: World,
        name: str,
        n8ns: Sequence[N8n],
        *,
        capacity: int = 5,
        terms: OfferTerms | None = None,
        reconnect: Policy = as_shipped,
        address: str | None = None,
    ) -> None:
        self.name = name
        self.address = address or name
        self.slots = Slots(capacity)
        self.terms = terms or OfferTerms()
        self.reconnect = reconnect
        self.done = 0
        self.busy = 0.0
        """Seconds for which programs ran here."""
        self.links = [Link(world, self, n8n) for n8n in n8ns]
        world.hosts.append(self)


class Link:
    """A runner's connection to one broker, and its successors."""

    def __init__(self, world: World, host: Host, n8n: N8n) -> None:
        self.world = world
        self.host = host
        self.n8n = n8n
        self.latency = world.random.uniform(0.0002, 0.001)
        self.session: Session | None = None
        self.mute = False
        """Half-open: nothing passes in either direction, and nobody is told."""
        self.missed_a_ping = False
        self.attempts = 0
        self._wait = host.reconnect(world.random)
        self._connected_at = math.inf
        self._wake_at = math.inf

    # Connecting

    def dial(self) -> None:
        """A grant token, then the upgrade; when either is refused, again later."""
        self.attempts += 1
        now, door = self.world.now, self.n8n.door
        if not door.up:
            self._redial(limited=False)
            return
        token = door.grant(self.host.address, now)
        if token is None or door.upgrade(token, now) != 101:
            self.n8n.count.refused += 1
            self._redial(limited=True)
            return
        self.world.at(now + 4 * self.latency, self._connected, door)

    def join(self) -> None:
        """Connected without knocking: a fleet that has been there for long."""
        self._connected(self.n8n.door)

    def _connected(self, door: Door) -> None:
        if door is not self.n8n.door:  # restarted meanwhile
            self._redial(limited=False)
            return
        world = self.world
        self._connected_at = world.now
        self._wake_at = math.inf
        self.session = Session(
            name=self.host.name,
            task_type="python",
            slots=self.host.slots,
            terms=self.host.terms,
            new_id=world.new_id,
            random=world.random.random,
        )
        self.session.wake = self._woken
        self.n8n.connect(self)

    def lost(self, session: Session) -> None:
        """The socket has ended."""
        if session is not self.session or self.mute:
            return
        self._carry_out(session, session.lose())
        self.session = None
        if self.world.now - self._connected_at >= ReconnectTerms().settled_after:
            self._wait = self.host.reconnect(self.world.random)
        self._redial(limited=False)

    def _redial(self, *, limited: bool) -> None:
        self.world.at(self.world.now + self._wait(limited), self.dial)

    # The session

    def receive(self, session: Session, messages: Sequence[Any]) -> None:
        """Frames of the broker have arrived."""
        if session is not self.session or self.mute:
            return
        actions: list[Action] = []
        for message in messages:
            actions += session.receive(message, self.world.now)
        self._carry_out(session, actions)

    def finished(self, session: Session, task_id: str, seconds: float) -> None:
        """A program has ended by itself."""
        if task_id in session.tasks:  # else it was told to stop, and is gone already
            self.host.done += 1
            self.host.busy += seconds
            done = TaskDone(task_id=task_id, data=_RESULT)
            self._carry_out(session, session.finish(task_id, done, self.world.now))

    def stopped(self, session: Session, task_id: str) -> None:
        """Nothing is left of a program that was told to stop."""
        if task_id in session.tasks:  # else it ended by itself before the order took effect
            self._carry_out(session, session.finish(task_id, None, self.world.now))

    def _woken(self) -> None:
        """Another session has given a place back."""
        if self._wake_at > self.world.now:
            self._wake_at = self.world.now
            self.world.at(self.world.now, self._look, self.session, self._wake_at)

    def _look(self, session: Session, when: float) -> None:
        """The alarm, or a call: renews offers and makes those that are missing."""
        if session is self.session and when == self._wake_at:
            self._wake_at = math.inf
            actions = [action for action in session.tick(self.world.now) if type(action) is not OffersDue]
            self._carry_out(session, [*actions, *session.make_offers(self.world.now)])

    def _carry_out(self, session: Session, actions: list[Action]) -> None:
        world, n8n = self.world, self.n8n
        outgoing: list[Any] = []
        offers_due = False
        for action in actions:
            kind = type(action)
            if kind is Send:
                outgoing.append(action.message)  # type: ignore[union-attr]
            elif kind is OffersDue:
                offers_due = True
            elif kind is StartTask:
                task_id = action.task_id  # type: ignore[union-attr]
                seconds = n8n.duration(task_id)
                world.at(world.now + seconds, self.finished, session, task_id, seconds)
            elif kind is AbortTask:
                world.at(world.now + CLEAN_UP, self.stopped, session, action.task_id)  # type: ignore[union-attr]
        if offers_due:
            outgoing += [action.message for action in session.make_offers(world.now) if type(action) is Send]
        if outgoing:
            world.at(world.now + self.latency, n8n.receive, self, session, outgoing)
        self._set_alarm(session)

    def _set_alarm(self, session: Session) -> None:
        now = self.world.now
        deadline = session.next_deadline()
        if session.unoffered(now):
            deadline = min(deadline or math.inf, now + BEAT)
        if deadline is not None and deadline < self._wake_at:
            self._wake_at = deadline
            self.world.at(deadline, self._look, session, deadline)
