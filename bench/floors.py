"""What no runner can beat: the same five messages without a task, a fork without a program, the JSON without a runner.

Each floor is a program of its own, started like a runner or run to its end: ``python -m bench.floors exchange-trio``,
``exchange-asyncio``, ``fork``, ``fork-lean``, ``json``. The last three print their samples as JSON.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

import msgspec

from bench.results import Subject

BARE_TRIO: Final = "bare trio-websocket"
BARE_ASYNCIO: Final = "bare websockets (asyncio)"

EXCHANGES: Final = (
    Subject(
        name=BARE_TRIO,
        kind="floor",
        command=(sys.executable, "-m", "bench.floors", "exchange-trio"),
        note="answers a task's messages with constant bytes",
    ),
    Subject(
        name=BARE_ASYNCIO,
        kind="floor",
        command=(sys.executable, "-m", "bench.floors", "exchange-asyncio"),
        note="the same with the other library, for comparison",
    ),
)
_OFFERS: Final = 20


class ForkSamples(msgspec.Struct):
    """Of one run of the fork loop."""

    rate: float
    milliseconds: list[float]


def run_fork(in_flight: int, seconds: float, *, lean: bool = False) -> ForkSamples:
    """Forks per second of a process with our zygote's modules; each child exits at once.

    As any Python program forks; or ``lean`` as our zygote does, without what threading's hook does in each child.
    """
    return msgspec.json.decode(_run("fork-lean" if lean else "fork", in_flight, seconds), type=ForkSamples)


def run_json(size: int, seconds: float) -> list[float]:
    """Milliseconds that msgspec needs to parse ``size`` bytes of items and to build them again."""
    return msgspec.json.decode(_run("json", size, seconds), type=list[float])


def _run(*arguments: object) -> bytes:
    command = [sys.executable, "-m", "bench.floors", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, timeout=120).stdout


# ---- the programs themselves


def answers(text: str) -> tuple[str, ...]:
    """What a runner says to a message, found by slices at fixed places: the load broker's messages have one shape."""
    kind = text[9:27]
    if kind == "broker:tasksetting":
        task_id = text[40:48]
        return (f'{{"type":"runner:taskdone","taskId":"{task_id}","data":{{"result":[{{"json":{{"n":1}}}}]}}}}', _OFFER)
    if kind == "broker:taskofferac":
        return (f'{{"type":"runner:taskaccepted","taskId":"{text[43:51]}"}}',)
    if kind == "broker:runnerregis":
        return (_OFFER,) * _OFFERS
    return ('{"type":"runner:info","name":"floor","types":["python"]}',)


_OFFER: Final = '{"type":"runner:taskoffer","offerId":"constant","taskType":"python","validFor":-1}'


def _exchange_trio() -> None:
    import trio
    from trio_websocket import ConnectionClosed, open_websocket

    async def main() -> None:
        host, port = _broker()
        with suppress(ConnectionClosed):
            async with open_websocket(
                host,
                port,
                "/runners/_ws?id=floor",
                use_ssl=False,
                max_message_size=1 << 30,
                receive_buffer_size=1 << 18,
            ) as socket:
                while True:
                    text = await socket.get_message()
                    assert isinstance(text, str)
                    for answer in answers(text):
                        await socket.send_message(answer)

    trio.run(main)


def _exchange_asyncio() -> None:
    import websockets

    async def main() -> None:
        host, port = _broker()
        async with websockets.connect(f"ws://{host}:{port}/runners/_ws?id=floor", compression=None) as socket:
            async for text in socket:
                assert isinstance(text, str)
                for answer in answers(text):
                    await socket.send(answer)

    asyncio.run(main())


def _broker() -> tuple[str, int]:
    parts = urlsplit(os.environ["N8N_RUNNERS_TASK_BROKER_URI"])
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def _fork_lean(in_flight: int, seconds: float) -> None:
    from trio_runner.sandbox.zygote import spare_children_the_thread_hook

    spare_children_the_thread_hook()
    _fork(in_flight, seconds)


def _fork(in_flight: int, seconds: float) -> None:
    """The zygote's own modules and heap, without its sockets and without what it does to a child."""
    from trio_runner.sandbox import child, lockdown, probe, records
    from trio_runner.sandbox.policy import Confinement, Policy

    assert probe is not None
    for name in records.preload_list(Policy(), None):
        importlib.import_module(name)
    keep = child.Prepared(Policy(), 1 << 30), lockdown.prepare(Confinement(), portable=False)
    gc.collect()
    gc.freeze()
    gc.disable()
    begun: dict[int, float] = {}
    samples: list[float] = []
    start = now = time.perf_counter()
    while now - start < seconds:
        while len(begun) < in_flight:
            before = time.perf_counter()
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            begun[pid] = before
        pid, _ = os.waitpid(-1, 0)
        now = time.perf_counter()
        samples.append((now - begun.pop(pid)) * 1000)
    while begun:
        del begun[os.waitpid(-1, 0)[0]]
    assert keep
    _print(ForkSamples(len(samples) / (now - start), samples[:2000]))


def _json(size: int, seconds: float) -> None:
    from bench.tasks import large_items

    data = large_items(size)
    samples: list[float] = []
    deadline = time.perf_counter() + seconds
    gc.disable()
    while time.perf_counter() < deadline or len(samples) < 2:
        before = time.perf_counter()
        built = msgspec.json.encode(msgspec.json.decode(data))
        samples.append((time.perf_counter() - before) * 1000)
        assert len(built) == size
    del samples[0]  # the first one pays for fresh memory, which statistics would hide anyway
    _print(samples)


def _print(samples: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(samples))


def main(arguments: list[str]) -> None:
    """``python -m bench.floors NAME [NUMBER SECONDS]``."""
    match arguments:
        case ["exchange-trio"]:
            _exchange_trio()
        case ["exchange-asyncio"]:
            _exchange_asyncio()
        case ["fork" | "fork-lean" | "json" as name, number, seconds]:
            programs: dict[str, Callable[[int, float], None]] = {"fork": _fork, "fork-lean": _fork_lean, "json": _json}
            programs[name](int(number), float(seconds))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
