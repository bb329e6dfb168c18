"""What a real n8n spends on the loads that the fleet simulation makes, seen from outside.

    python -m bench.fleet_real --broker http://127.0.0.1:5679 --token SECRET --pid PID

Owns the figures that no simulation can know: the processor time of n8n for an offer (it grows with the number of offers
that are open, since each match looks through them), for a login and for an upgrade that it refuses, and how its front
door counts. The process must be on this machine; nothing else should use that n8n meanwhile. Takes two minutes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import trio
from trio_websocket import WebSocketConnection, open_websocket_url

from trio_runner.config import BrokerAddress
from trio_runner.http import post_json
from trio_runner.protocol.messages import RunnerInfo, TaskOffer, encode

OFFER_LOADS = ((200, 1), (1000, 1), (1000, 5), (1000, 10), (1000, 20))
"""Offers a second, and seconds of validity; open at the same time is the product."""
MEASURED_FOR = 6.0
FLOOD = 300
"""Attempts a second, of which n8n refuses almost all: what is left is the price of a refusal."""
LAGS = 100.0
"""Milliseconds of a ping's round trip above which n8n does not keep up: its share says nothing about one offer then."""
_TICK = 0.02


class Target(NamedTuple):
    """The n8n to be measured."""

    host: str
    port: int
    token: str
    pid: int

    def spent(self) -> float:
        """Seconds of processor time of its main process so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def log_in(self) -> tuple[int, str]:
        """Status and, with 200, a grant token."""
        body = json.dumps({"token": self.token}).encode()
        address = BrokerAddress(scheme="http", host=self.host, port=self.port)
        answer = await post_json(address, "/runners/auth", body)
        return answer.status, json.loads(answer.body)["data"]["token"] if answer.status == 200 else ""

    async def knock(self, token: str) -> int:
        """The status of one upgrade, whose connection is closed at once."""
        lines = (
            "GET /runners/_ws?id=knock HTTP/1.1",
            f"Host: {self.host}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            f"Authorization: Bearer {token}",
        )
        stream = await trio.open_tcp_stream(self.host, self.port)
        async with stream:
            await stream.send_all(("\r\n".join(lines) + "\r\n\r\n").encode())
            return int((await stream.receive_some(4096)).split()[1])


@asynccontextmanager
async def registered(target: Target) -> AsyncIterator[WebSocketConnection]:
    """A connection whose offers count."""
    status, token = await target.log_in()
    if status != 200:
        raise SystemExit(f"the login was answered with {status}")
    url = f"ws://{target.host}:{target.port}/runners/_ws?id=load"
    async with open_websocket_url(url, extra_headers=[(b"Authorization", f"Bearer {token}".encode())]) as websocket:
        await websocket.get_message()
        # a type of its own: no request of this n8n waits for it, and none takes these offers
        await websocket.send_message(encode(RunnerInfo(name="load", types=("load",))).decode())
        await websocket.get_message()
        yield websocket


async def offers(target: Target) -> None:
    """The price of an offer against the number of open ones."""
    print(f"{'offers/s':>9} {'open':>7} {'processor':>10} {'per offer':>10} {'ping p50':>9} {'ping max':>9}")
    points: list[tuple[int, float]] = []
    async with registered(target) as websocket:
        for rate, validity in OFFER_LOADS:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_offer, websocket, rate, validity)
                await trio.sleep(validity + 1)
                spent, since, pings = target.spent(), time.monotonic(), []
                while time.monotonic() - since < MEASURED_FOR:
                    await trio.sleep(0.25)
                    sent_at = time.monotonic()
                    await websocket.ping()
                    pings.append(1000 * (time.monotonic() - sent_at))
                share = (target.spent() - spent) / (time.monotonic() - since)
                nursery.cancel_scope.cancel()
            lag = statistics.median(pings)
            if lag < LAGS:
                points.append((rate * validity, share / rate))
            print(
                f"{rate:>9} {rate * validity:>7} {share:>9.1%} {1e6 * share / rate:>7.0f} us {lag:>6.1f} ms "
                f"{max(pings):>6.1f} ms{'' if lag < LAGS else '  not all of them were read: left out below'}"
            )
            await trio.sleep(1)
    if len(points) > 2:
        slope, fixed = statistics.linear_regression(*zip(*points, strict=True))
        print(f"an offer costs {1e6 * fixed:.0f} us, and {1e9 * slope:.1f} ns for each one that is open")


async def _offer(websocket: WebSocketConnection, rate: int, validity: int) -> None:
    numbers = itertools.count()
    due, at = 0.0, trio.current_time()
    while True:
        due += rate * _TICK
        while due >= 1:
            due -= 1
            offer = TaskOffer(offer_id=f"{next(numbers):022d}", task_type="load", valid_for=validity * 1000)
            await websocket.send_message(encode(offer).decode())
        at += _TICK
        await trio.sleep_until(at)


async def door(target: Target) -> None:
    """How many come in, whether refused ones count, and what refusing costs."""

    async def login() -> int:
        return (await target.log_in())[0]

    async def upgrade() -> int:
        return await target.knock("0" * 64)

    for name, attempt in (("login", login), ("upgrade with a wrong token", upgrade)):
        for rate in (10, FLOOD):
            idle = target.spent()
            answers = await _at_rate(attempt, rate)
            cost = (target.spent() - idle) / (rate * MEASURED_FOR)
            print(f"{rate:>4}/s {name}: answers {dict(answers)} in {MEASURED_FOR:g} s, {1e6 * cost:.0f} us each")
            await trio.sleep(2)
    _, token = await target.log_in()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(upgrade)
    limited = await target.knock(token)
    await trio.sleep(2)
    later = [await target.knock(token), await target.knock(token)]
    print(f"one token, while upgrades are limited: {limited}, and two seconds later, twice: {later}")


async def _at_rate(attempt: Callable[[], Awaitable[int]], rate: int) -> Counter[int]:
    answers: Counter[int] = Counter()

    async def one() -> None:
        answers[await attempt()] += 1

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(int(rate * MEASURED_FOR)):
            await trio.sleep_until(start + number / rate)
            nursery.start_soon(one)
    return answers


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet_real", description=__doc__.partition("\n")[0])
    parser.add_argument("--broker", default="http://127.0.0.1:5679", help="the task broker, on this machine")
    parser.add_argument("--token", required=True, help="the auth token")
    parser.add_argument("--pid", type=int, required=True, help="the process that listens there")
    options = parser.parse_args()
    url = urlsplit(options.broker)
    target = Target(url.hostname or "127.0.0.1", url.port or 5679, options.token, options.pid)

    async def everything() -> None:
        await offers(target)
        await door(target)

    trio.run(everything)


if __name__ == "__main__":
    main()
