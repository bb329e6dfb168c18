"""The kinds of faults: what each does to a lane, how soon all must be well again, and what it may cost a task.

One function per kind. It returns when the fault is over: for a cut that is at once, for bad weather when it has
cleared, for a half-open connection at once, too, since finding out about it is the runner's part.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Protocol

import msgspec
import trio

from tests.chaos import load, process
from tests.chaos.answers import Answer, refuse, say, say_nothing
from tests.chaos.frame_ends import text_frame
from tests.chaos.load import Cost, Load
from tests.chaos.process import RunnerProcess
from tests.chaos.proxy import Proxy
from tests.chaos.site import Site
from tests.chaos.weather import Kind, To, Weather


class Target(Protocol):
    """What a fault can be done to."""

    proxy: Proxy
    site: Site
    runner: RunnerProcess
    load: Load
    problems: list[str]

    async def replace_runner(self) -> None:
        """Starts another runner, when nothing is left of the one before."""
        ...

    @property
    def wrong_certificate(self) -> object:
        """A TLS context that the runner must not accept."""
        ...


@dataclass(frozen=True)
class Fault:
    """One kind. ``bound`` is in seconds, from the end of the fault to the success of fresh tasks on full capacity."""

    name: str
    does: Callable[[Target, Random], Awaitable[None]]
    bound: float
    weight: int
    costs: frozenset[Cost] = frozenset()
    """Empty: no task may suffer, and the connection must survive."""
    tls: bool = False
    area: str = "network"


LOST = frozenset({Cost.CONNECTION})
WORKER = frozenset({Cost.WORKER})
SHORT = (0.1, 0.5)
"""Seconds that weather and pauses last: long enough for every task and offer to meet them."""


# The network


async def cut(target: Target, rng: Random) -> None:
    target.proxy.cut(rudely=True)


async def cut_again_and_again(target: Target, rng: Random) -> None:
    """In every stage of a login."""
    for _ in range(rng.randrange(3, 8)):
        target.proxy.cut(rudely=rng.random() < 0.5)
        await trio.sleep(rng.uniform(0, 0.15))


async def hang_up(target: Target, rng: Random) -> None:
    target.proxy.cut(rudely=False)


async def cut_inside(direction: To, target: Target, rng: Random) -> None:
    target.proxy.cut_inside(direction)
    with trio.move_on_after(1.0):  # some offer or task is under way all the time, but not at once
        while target.proxy.websockets():  # noqa: ASYNC110 - connections come and go
            await trio.sleep(0.01)
    target.proxy.cut(rudely=True)


async def go_silent(directions: tuple[To, ...], target: Target, rng: Random) -> None:
    target.proxy.go_silent(*directions)


async def stop_reading(target: Target, rng: Random) -> None:
    """Nothing that the runner writes is taken any more, pings included."""
    target.proxy.stop_reading()


async def bad_weather(target: Target, rng: Random, *, weather: Callable[[Random], Weather]) -> None:
    directions = rng.choice([(To.BROKER,), (To.RUNNER,), tuple(To)])
    with target.proxy.weather(weather(rng), *directions):
        await trio.sleep(rng.uniform(*SHORT))


async def be_away(target: Target, rng: Random) -> None:
    async with target.proxy.away():
        target.proxy.cut(rudely=rng.random() < 0.5)
        await trio.sleep(rng.uniform(*SHORT))


async def garbage(direction: To, target: Target, rng: Random) -> None:
    await target.proxy.inject(rng.randbytes(rng.choice([1, 7, 64, 5000])), direction)
    # a single byte may be taken for a part of what follows; nobody can make sense of the connection any more
    await trio.sleep(0.05)
    await target.proxy.inject(b"\xff" * 64, direction)
    await trio.sleep(0.05)
    target.proxy.cut(rudely=True)


NONSENSE = (
    b"", b"{", b"null", b"[]", b"7", b'"text"', b"\xef\xbb\xbf{}", b"{}", b'{"type":null}',
    b'{"type":"broker:unknown"}',
    b'{"type":"broker:taskcancel"}', b'{"type":"broker:taskcancel","taskId":"nobody","reason":5}',
    b'{"type":"broker:taskofferaccept","taskId":"x"}', b'{"type":"broker:tasksettings","taskId":"x","settings":{}}',
    b'{"type":"broker:tasksettings","taskId":"x","settings":{"code":1}}', b"[" * 5000, b'{"a":' * 5000,
    b'{"type":"broker:inforequest"}', b'{"type":"broker:runnerregistered"}',
    b'{"type":"broker:rpcresponse","taskId":"x","callId":"y","status":"success"}', b'{"type":"\\ud800"}',
    b'{"type":"broker:nodetypes","taskId":"x","requestId":"r","nodeTypes":[]}', b'{"type":1e999}', b"NaN",
)  # fmt: skip


async def nonsense(target: Target, rng: Random) -> None:
    frames = [text_frame(payload) for payload in rng.choices(NONSENSE, k=rng.randrange(1, 40))]
    await target.proxy.inject_frames(b"".join(frames) + b"\x89\x00")  # and a ping
    await trio.sleep(rng.uniform(0, 0.1))


async def flood(target: Target, rng: Random) -> None:
    """Acceptances of offers that nobody made, settings and cancels for tasks that nobody has."""
    frames = []
    for number in range(rng.randrange(100, 400)):
        task = f"flood-{number}"
        for kind, more in (("taskofferaccept", {"offerId": task}), ("taskcancel", {"reason": "flood"})):
            message = {"type": f"broker:{kind}", "taskId": task, **more}
            frames.append(text_frame(msgspec.json.encode(message)))
    await target.proxy.inject_frames(b"".join(frames))


async def large_tasks(target: Target, rng: Random) -> None:
    await target.load.call_all(load.large(rng.choice([load.LARGEST // 2, load.LARGEST])), process.CAPACITY)


# The server


async def answer(kind: Kind, make: Callable[[Random], Answer], target: Target, rng: Random) -> None:
    """The connection is lost, and the next attempts get another answer than the broker's."""
    for _ in range(rng.choice([1, 1, 2])):
        target.proxy.answer_next(kind, make(rng))
    target.proxy.cut(rudely=True)
    await target.proxy.all_answered()


async def wrong_certificate(target: Target, rng: Random) -> None:
    target.proxy.next_certificates.append(target.wrong_certificate)  # type: ignore[arg-type]
    target.proxy.cut(rudely=True)
    await target.proxy.all_answered()


async def slow_handshake(target: Target, rng: Random) -> None:
    target.proxy.handshake_grain = rng.choice([1, 3, 10])
    try:
        with target.proxy.weather(Weather(delay=rng.uniform(0.01, 0.1))):
            target.proxy.cut(rudely=True)
            await trio.sleep(rng.uniform(*SHORT))
    finally:
        target.proxy.handshake_grain = 0


async def kill_broker(target: Target, rng: Random) -> None:
    await target.site.kill()
    away = rng.uniform(*SHORT)
    await trio.sleep(away)
    if away > 0.3:
        with suppress(OSError, trio.BrokenResourceError, trio.TooSlowError, msgspec.DecodeError):
            if (await target.runner.readiness()).brokers[0].registered:
                target.problems.append("/readyz says registered when there has been no broker for 0.3s")
    await target.site.start()


async def drain_broker(target: Target, rng: Random) -> None:
    await target.site.drain(patience=rng.uniform(*SHORT))
    await trio.sleep(rng.uniform(*SHORT))
    await target.site.start()


async def close_code(target: Target, rng: Random) -> None:
    await target.site.close_runners(rng.choice([1000, 1001, 1002, 1008, 1011, 1012, 4000]))


# Processes


async def kill_zygote(target: Target, rng: Random) -> None:
    process.kill(target.runner.zygote())


async def pause_zygote(target: Target, rng: Random) -> None:
    with target.runner.paused(target.runner.zygote()):
        await trio.sleep(rng.uniform(*SHORT))


async def freeze_zygote(target: Target, rng: Random) -> None:
    process.stop(target.runner.zygote())


async def kill_worker(target: Target, rng: Random) -> None:
    process.kill(rng.choice(target.runner.workers() or [None]))  # type: ignore[list-item]


async def kill_workers(target: Target, rng: Random) -> None:
    for pid in target.runner.workers():
        process.kill(pid)


async def pause_worker(target: Target, rng: Random) -> None:
    workers = target.runner.workers()
    with target.runner.paused(rng.choice(workers) if workers else None):
        await trio.sleep(rng.uniform(*SHORT))


async def pause_runner(seconds: tuple[float, float], target: Target, rng: Random) -> None:
    with target.runner.paused(target.runner.pid):
        await trio.sleep(rng.uniform(*seconds))


async def kill_runner(target: Target, rng: Random) -> None:
    if rng.random() < 0.25:
        process.stop(target.runner.zygote())  # nobody who could clean up
    await target.runner.kill()
    await target.replace_runner()


async def starve_runner(target: Target, rng: Random) -> None:
    with target.runner.without_descriptors(target.runner.pid):
        if rng.random() < 0.3:
            target.proxy.cut(rudely=True)
        await trio.sleep(rng.uniform(*SHORT))


async def starve_zygote(target: Target, rng: Random) -> None:
    with target.runner.without_descriptors(target.runner.zygote()):
        await trio.sleep(rng.uniform(*SHORT))


def _weather(make: Callable[[Random], Weather]) -> Callable[[Target, Random], Awaitable[None]]:
    return partial(bad_weather, weather=make)


def _answer(kind: Kind, make: Callable[[Random], Answer]) -> Callable[[Target, Random], Awaitable[None]]:
    return partial(answer, kind, make)


HTML = b"<!doctype html><title>Error</title><pre>Internal Server Error</pre>"
TOO_MANY = b'{"message":"Too many requests"}'

FAULTS = (
    Fault("cut with RST", cut, 2, 8, LOST),
    Fault("hung up with FIN", hang_up, 2, 6, LOST),
    Fault("cut again and again", cut_again_and_again, 2, 3, LOST),
    Fault("cut inside a broker's frame", partial(cut_inside, To.RUNNER), 2, 4, LOST),
    Fault("cut inside a runner's frame", partial(cut_inside, To.BROKER), 2, 4, LOST),
    Fault("half-open, both ways", partial(go_silent, tuple(To)), 6, 4, LOST),
    Fault("half-open, broker unheard", partial(go_silent, (To.RUNNER,)), 6, 2, LOST),
    Fault("half-open, runner unheard", partial(go_silent, (To.BROKER,)), 6, 2, LOST),
    Fault("the broker stops reading", stop_reading, 6, 2, LOST),
    Fault("a stall", _weather(lambda rng: Weather(stalled=True)), 2, 6),
    Fault("delay", _weather(lambda rng: Weather(delay=rng.uniform(0.01, 0.15))), 2, 6),
    Fault("throttle", _weather(lambda rng: Weather(rate=rng.choice([5e3, 2e4, 1e5]))), 2, 6),
    Fault("frames in single bytes", _weather(lambda rng: Weather(grain=1)), 2, 6),
    Fault("frames split and merged", _weather(lambda rng: Weather(grain=rng.randrange(2, 30), delay=0.03)), 2, 6),
    Fault("connections refused", be_away, 2, 6, LOST),
    Fault("garbage bytes to the runner", partial(garbage, To.RUNNER), 2, 5, LOST),
    Fault("garbage bytes to the broker", partial(garbage, To.BROKER), 2, 3, LOST),
    Fault("frames that are no messages", nonsense, 2, 6),
    Fault("2 or 4 MB for every slot at once", large_tasks, 4, 1),
    Fault("flood of acceptances, cancels", flood, 2, 4),
    Fault("429 to the login", _answer(Kind.LOGIN, lambda rng: refuse(429, TOO_MANY)), 4, 2, LOST, area="server"),
    Fault("500 to the login", _answer(Kind.LOGIN, lambda rng: refuse(500, HTML)), 2, 3, LOST, area="server"),
    Fault("429 to the upgrade", _answer(Kind.UPGRADE, lambda rng: refuse(429)), 4, 2, LOST, area="server"),
    Fault(
        "another error to the upgrade",
        _answer(Kind.UPGRADE, lambda rng: refuse(rng.choice([401, 403, 404, 500, 502, 503]))),
        2, 6, LOST, area="server",
    ),
    Fault(
        "no answer, then the end",
        lambda target, rng: answer(
            rng.choice([Kind.LOGIN, Kind.UPGRADE]), lambda rng: say_nothing(rng.uniform(0, 0.5)), target, rng
        ),
        2, 4, LOST, area="server",
    ),
    Fault(
        "an answer that is no HTTP",
        lambda target, rng: answer(
            rng.choice([Kind.LOGIN, Kind.UPGRADE]), lambda rng: say(rng.randbytes(rng.randrange(1, 3000))), target, rng
        ),
        2, 4, LOST, area="server",
    ),
    Fault("a slow TLS handshake", slow_handshake, 3, 3, LOST, tls=True, area="server"),
    Fault("a certificate of somebody else", wrong_certificate, 2, 2, LOST, tls=True, area="server"),
    Fault(
        "a TLS handshake that breaks off",
        _answer(Kind.HANDSHAKE, lambda rng: rng.choice([say_nothing(rng.uniform(0, 0.3)), say(rng.randbytes(50))])),
        2, 3, LOST, tls=True, area="server",
    ),
    Fault("the broker dies and comes back", kill_broker, 2, 5, LOST | {Cost.BROKER}, area="server"),
    Fault(
        "the broker drains and comes back",
        drain_broker, 2, 3, LOST | {Cost.BROKER, Cost.REFUSAL}, area="server",
    ),
    Fault("the broker closes with a code", close_code, 2, 4, LOST, area="server"),
    Fault("SIGKILL to the zygote", kill_zygote, 8, 3, WORKER, area="process"),
    Fault("SIGSTOP, SIGCONT to the zygote", pause_zygote, 2, 5, area="process"),
    Fault("SIGKILL to a worker", kill_worker, 2, 8, WORKER, area="process"),
    Fault("SIGKILL to all workers", kill_workers, 4, 2, WORKER, area="process"),
    Fault("SIGSTOP, SIGCONT to a worker", pause_worker, 2, 4, area="process"),
    Fault("SIGSTOP, SIGCONT to the runner", partial(pause_runner, SHORT), 2, 5, area="process"),
    Fault(
        "the same for longer than 2 s", partial(pause_runner, (2.1, 2.6)), 4, 1, LOST, area="process"
    ),
    Fault("SIGKILL to the runner", kill_runner, 12, 2, LOST | WORKER, area="process"),
    Fault("no descriptors for the runner", starve_runner, 4, 4, LOST | WORKER, area="process"),
    Fault("no descriptors for the zygote", starve_zygote, 4, 4, area="process"),
)  # fmt: skip
"""In the order of the report. The bounds are for runners whose heartbeat is 1 s and whose backoff ends at 0.4 s."""

FROZEN = Fault("SIGSTOP to the zygote for good", freeze_zygote, 20, 0, WORKER | {Cost.TIME}, area="process")
"""Found out by the 10 s that a fork may take, so it is planned by number, not by weight."""
PAIRED = Fault("two of these at once", cut, math.inf, 0)
"""A row of the report; its bound is that of both together."""
ANYTHING = Fault("anything", kill_runner, math.inf, 0, frozenset(Cost), area="process")
"""What excuses every loss: a new beginning after a fault that was not recovered from."""
