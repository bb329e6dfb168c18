"""A Python task runner without isolation: asyncio, websockets and json, and the program runs in the runner itself.

The upper bound of what that stack can do. A program could read the token, stop the loop or end the process; nobody
should use this.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import random
import signal
import string
import textwrap
from contextlib import suppress
from types import CodeType
from typing import Any
from urllib.parse import urlsplit

import websockets


@functools.lru_cache(500)
def compiled(code: str) -> CodeType:
    return compile(f"def _user_function():\n{textwrap.indent(code, '    ')}\n", "<task>", "exec")


def run_task(settings: dict[str, Any]) -> Any:
    code, items = compiled(settings["code"]), settings["items"]
    if settings["nodeMode"] == "runOnceForAllItems":
        return call(code, {"_items": items})
    results = []
    for index, item in enumerate(items):
        value = call(code, {"_item": item})
        if value is not None:
            results.append({"json": value.get("json", value), "pairedItem": {"item": index}})
    return results


def call(code: CodeType, names: dict[str, Any]) -> Any:
    exec(code, names)
    return names["_user_function"]()


class Runner:
    def __init__(self, socket: websockets.ClientConnection, max_concurrency: int) -> None:
        self.socket = socket
        self.max_concurrency = max_concurrency

    async def serve(self) -> None:
        async for text in self.socket:
            await self.handle(json.loads(text))

    async def handle(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "broker:inforequest":
                await self.send({"type": "runner:info", "name": "In-process runner", "types": ["python"]})
            case "broker:runnerregistered":
                for _ in range(self.max_concurrency):
                    await self.offer()
            case "broker:taskofferaccept":
                await self.send({"type": "runner:taskaccepted", "taskId": message["taskId"]})
            case "broker:tasksettings":
                await self.execute(message["taskId"], message["settings"])
                await self.offer()

    async def execute(self, task_id: str, settings: dict[str, Any]) -> None:
        try:
            done = {"type": "runner:taskdone", "taskId": task_id, "data": {"result": run_task(settings)}}
        except Exception as error:
            done = {"type": "runner:taskerror", "taskId": task_id, "error": {"message": str(error)}}
        await self.send(done)

    async def offer(self) -> None:
        await self.send({"type": "runner:taskoffer", "offerId": new_id(), "taskType": "python", "validFor": -1})

    async def send(self, message: dict[str, Any]) -> None:
        await self.socket.send(json.dumps(message))


def new_id() -> str:
    return "".join(random.choices(string.ascii_letters + string.digits, k=22))


async def run() -> None:
    broker = urlsplit(os.environ["N8N_RUNNERS_TASK_BROKER_URI"])
    headers = {"Authorization": f"Bearer {os.environ['N8N_RUNNERS_GRANT_TOKEN']}"}
    url = f"ws://{broker.netloc}/runners/_ws?id={new_id()}"
    async with websockets.connect(url, additional_headers=headers, max_size=1 << 30, compression=None) as socket:
        runner = Runner(socket, int(os.environ.get("N8N_RUNNERS_MAX_CONCURRENCY", "5")))
        serving = asyncio.ensure_future(runner.serve())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
        with suppress(asyncio.CancelledError):
            await serving


def main() -> None:
    asyncio.run(run())
