"""Virtual time, and n8n processes in it: the real broker, with requesters, a heartbeat and a front door.

Owns the clock, what a broker's shell does, who may connect when, and the counting. Decides nothing about matching: that
is `Broker`, the product's own. Everything is drawn from one seeded generator: a run can be repeated to the last frame.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from trio_runner.protocol.broker import Broker, BrokerAction, CloseRunner, RawSettings, ToRequester, ToRunner
from trio_runner.protocol.messages import (
    ForwardedDone,
    ForwardedError,
    RequesterSettings,
    RequestExpired,
    TaskReady,
    TaskRejected,
    TaskRequest,
    TaskSettings,
    TaskSettingsMessage,
    encode,
)
from trio_runner.protocol.session import Session

if TYPE_CHECKING:
    from bench.fleet_runner import Host, Link

UPGRADES = 5
"""Upgrades a second that one n8n takes from all runners together; refused ones do not count, wrong tokens do."""
LOGINS = 5
"""Grant tokens a second that one n8n gives to one address."""
TOKEN_LIFE = 30.0
HEARTBEAT = 30.0
"""Between two looks of n8n at who has answered its ping: a dead connection is closed at the second of them."""
SHORTEST_TIMER = 2.0
"""No deadline that a broker makes lies nearer: the accept window (protocol.md 12.1)."""

_SETTINGS = Raw(b'{"code":"return _items","nodeMode":"runOnceForAllItems","items":[]}')
_TASK_SETTINGS = TaskSettings(code="return _items", node_mode="runOnceForAllItems", items=Raw(b"[]"))


class World:
    """The clock, and everything that will happen."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.random = Random(seed)
        self.hosts: list[Host] = []
        self.n8ns: list[N8n] = []
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = itertools.count()
        self.happened = 0

    def at(self, when: float, call: Callable[..., None], *arguments: Any) -> None:
        """Calls back then; what is due at the same moment comes in the order of these calls."""
        heapq.heappush(self._events, (when, next(self._numbers), call, arguments))

    def run(self, until: float) -> None:
        """Lets everything happen that is due by then."""
        events = self._events
        while events and events[0][0] <= until:
            self.now, _, call, arguments = heapq.heappop(events)
            call(*arguments)
            self.happened += 1
        self.now = until

    def new_id(self) -> str:
        """As long as the product's."""
        return f"{next(self._numbers):022d}"

    def forget_counts(self) -> None:
        """The warm-up is over: counting starts anew."""
        for n8n in self.n8ns:
            n8n.count = Count(since=self.now)
        for host in self.hosts:
            host.done, host.busy = 0, 0.0


class Count:
    """What one n8n saw since ``since``."""

    def __init__(self, since: float = 0.0) -> None:
        self.since = since
        self.received: Counter[type] = Counter()
        self.sent = 0
        self.bytes = 0
        self.rejections: Counter[str] = Counter()
        self.matched: list[float] = []
        self.done = 0
        self.failed = 0
        self.expired = 0
        self.refused = 0
        self.connected: list[float] = []


class Door:
    """What n8n lets in, as `bench.fleet_real` found n8n 2.41.1 to do."""

    def __init__(self, random: Random) -> None:
        self.up = True
        self._random = random
        self._upgrades: deque[float] = deque()
        self._logins: dict[str, deque[float]] = {}
        self._tokens: dict[str, float] = {}

    def grant(self, address: str, now: float) -> str | None:
        """`POST /runners/auth`: a grant token, or None for 429."""
        if not _admit(self._logins.setdefault(address, deque()), LOGINS, now):
            return None
        token = f"{self._random.getrandbits(256):064x}"
        self._tokens[token] = now + TOKEN_LIFE
        return token

    def upgrade(self, token: str, now: float) -> int:
        """The HTTP status of an upgrade. One that comes too early leaves its token usable."""
        if not _admit(self._upgrades, UPGRADES, now):
            return 429
        return 101 if self._tokens.pop(token, 0.0) > now else 403


def _admit(window: deque[float], limit: int, now: float) -> bool:
    while window and window[0] <= now - 1.0:
        window.popleft()
    if len(window) >= limit:
        return False
    window.append(now)
    return True


class N8n:
    """One n8n process: a door, a broker and the requesters in front of it."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.links: dict[str, Link] = {}
        self.count = Count()
        self.when_done: Callable[[], None] | None = None
        """Called after each task: closed loops start their next one here."""
        self._requests: dict[str, tuple[float, float]] = {}
        self._durations: dict[str, float] = {}
        world.n8ns.append(self)
        self._boot()
        world.at(world.random.random() * HEARTBEAT, self._beat)

    def _boot(self) -> None:
        self.door = Door(self.world.random)
        self.broker = Broker(new_task_id=self.world.new_id)
        self._ticking = False

    # Requesters

    def request(self, seconds: float) -> None:
        """A node wants a program run that takes so long."""
        request_id = self.world.new_id()
        self._requests[request_id] = (self.world.now, seconds)
        self._carry_out(self.broker.request(TaskRequest(request_id=request_id, task_type="python"), self.world.now))
        if not self._ticking:
            self._ticking = True
            self.world.at(self.world.now + SHORTEST_TIMER, self._tick, self.broker)

    def arrivals(self, rate: float, until: float, seconds: Callable[[], float]) -> None:
        """Requests as they come from many independent workflows: so many a second, at random."""
        self.request(seconds())
        when = self.world.now + self.world.random.expovariate(rate)
        if when < until:
            self.world.at(when, self.arrivals, rate, until, seconds)

    def duration(self, task_id: str) -> float:
        """How long this program runs."""
        return self._durations[task_id]

    # Connections

    def connect(self, link: Link) -> None:
        """A runner's socket is open."""
        self.links[link.host.name] = link
        self.count.connected.append(self.world.now)
        self._carry_out(self.broker.connect(link.host.name))

    def receive(self, link: Link, session: Session, messages: Sequence[Any]) -> None:
        """Frames of a runner have arrived."""
        if self.links.get(link.host.name) is not link or link.session is not session or link.mute:
            return
        count, now = self.count, self.world.now
        for message in messages:
            count.received[type(message)] += 1
            count.bytes += len(encode(message))
            if type(message) is TaskRejected:
                count.rejections[message.reason] += 1
            if actions := self.broker.receive(link.host.name, message, now):
                self._carry_out(actions)

    def restart(self, down: float) -> None:
        """n8n goes away with all that it knew and is back so many seconds later, knowing nothing."""
        links, self.links = self.links, {}
        self._requests.clear()
        self._boot()
        self.door.up = False
        self.world.at(self.world.now + down, self._open)
        for link in links.values():
            self.world.at(self.world.now + link.latency, link.lost, link.session)

    def _open(self) -> None:
        self.door.up = True

    # Time

    def _tick(self, broker: Broker) -> None:
        if broker is not self.broker:
            return
        now = self.world.now
        due = broker.next_deadline()
        if due is not None and due <= now:
            self._carry_out(broker.tick(now))
            due = broker.next_deadline()
        # n8n drops what lapsed before each match; the machine does so when somebody asks
        broker.open_offers(now)
        self._ticking = due is not None
        if due is not None:
            self.world.at(min(due, now + SHORTEST_TIMER), self._tick, broker)

    def _beat(self) -> None:
        """The heartbeat: who did not answer the last ping is closed."""
        for link in [link for link in self.links.values() if link.mute]:
            if link.missed_a_ping:
                self._close(link)
            link.missed_a_ping = True
        self.world.at(self.world.now + HEARTBEAT, self._beat)

    # Carrying out

    def _carry_out(self, actions: list[BrokerAction]) -> None:
        world = self.world
        outgoing: dict[str, list[Any]] = {}
        for action in actions:
            kind = type(action)
            if kind is ToRunner:
                outgoing.setdefault(action.runner_id, []).append(action.message)  # type: ignore[union-attr]
            elif kind is ToRequester:
                self._hear(action.message)  # type: ignore[union-attr]
            elif kind is CloseRunner and (link := self.links.get(action.runner_id)):  # type: ignore[union-attr]
                self._close(link)
        for runner_id, messages in outgoing.items():
            if link := self.links.get(runner_id):
                for index, message in enumerate(messages):
                    self.count.bytes += len(encode(message))
                    if type(message) is RawSettings:
                        messages[index] = TaskSettingsMessage(task_id=message.task_id, settings=_TASK_SETTINGS)
                self.count.sent += len(messages)
                world.at(world.now + link.latency, link.receive, link.session, messages)

    def _close(self, link: Link) -> None:
        del self.links[link.host.name]
        self.world.at(self.world.now + link.latency, link.lost, link.session)
        self._carry_out(self.broker.disconnect(link.host.name, self.world.now))

    def _hear(self, message: Any) -> None:
        kind = type(message)
        if kind is TaskReady:
            asked_at, seconds = self._requests.pop(message.request_id)
            self.count.matched.append(self.world.now - asked_at)
            self._durations[message.task_id] = seconds
            self._carry_out(
                self.broker.request(RequesterSettings(task_id=message.task_id, settings=_SETTINGS), self.world.now)
            )
        elif kind is ForwardedDone or kind is ForwardedError:
            self._durations.pop(message.task_id, None)
            self.count.done += kind is ForwardedDone
            self.count.failed += kind is ForwardedError
            if self.when_done is not None:
                self.when_done()
        elif kind is RequestExpired:
            del self._requests[message.request_id]
            self.count.expired += 1
