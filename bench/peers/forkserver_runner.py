"""A Python task runner in the design of the one that n8n ships, written from the facts of its behaviour alone.

asyncio, websockets, dataclasses and the standard json; every task in a child of multiprocessing's forkserver, which
gets its items by pickle and answers through a pipe: four bytes of length, then JSON. Offers go out on a beat of
250 ms. Source checks, filtered builtins and cleaned modules as there; no confinement by the kernel.

Honest as a peer: nothing here is slow on purpose. Every child imports this module, as it does there; with --preload
the forkserver does that once for all. Start it through `main` from another module or -c: what is __main__ would be
imported twice by each child.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import builtins
import functools
import hashlib
import io
import json
import multiprocessing
import os
import random
import signal
import string
import sys
import textwrap
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any, cast
from urllib.parse import urlsplit

import websockets

BEAT = 0.25
OFFER_VALIDITY = 5000
OFFER_JITTER = 500
OFFER_LATENCY = 0.1
DENIED_BUILTINS = frozenset(
    "eval exec compile open input breakpoint getattr object type vars setattr delattr hasattr dir memoryview "
    "__build_class__ globals locals license help credits copyright".split()
)
KEPT_MODULES = frozenset({"builtins", "__main__", "sys", "traceback", "linecache", "importlib", "importlib.machinery"})
BLOCKED_NAMES = frozenset({"__loader__", "__builtins__", "__globals__", "__spec__", "__name__"})
BLOCKED_ATTRIBUTES = frozenset(
    "__subclasses__ __globals__ __builtins__ __traceback__ __class__ __bases__ __code__ __closure__ __dict__ __mro__ "
    "tb_frame f_back f_globals gi_frame cr_frame ag_frame".split()
)


@dataclass
class Settings:
    code: str
    node_mode: str
    items: list[dict[str, Any]]
    continue_on_fail: bool = False


@dataclass
class TaskOffer:
    offer_id: str
    task_type: str
    valid_for: int
    type: str = "runner:taskoffer"


@dataclass
class TaskAccepted:
    task_id: str
    type: str = "runner:taskaccepted"


@dataclass
class TaskRejected:
    task_id: str
    reason: str
    type: str = "runner:taskrejected"


@dataclass
class TaskDone:
    task_id: str
    data: dict[str, Any]
    type: str = "runner:taskdone"


@dataclass
class TaskError:
    task_id: str
    error: dict[str, Any]
    type: str = "runner:taskerror"


@dataclass
class RunnerInfo:
    name: str = "Python Task Runner"
    types: list[str] = field(default_factory=lambda: ["python"])
    type: str = "runner:info"


Message = TaskOffer | TaskAccepted | TaskRejected | TaskDone | TaskError | RunnerInfo


def encode(message: Message) -> str:
    return json.dumps({camel(name): value for name, value in asdict(message).items()})


@functools.cache
def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


# ---- the source checks


class Analyzer(ast.NodeVisitor):
    def __init__(self, stdlib_allow: frozenset[str], external_allow: frozenset[str]) -> None:
        self.stdlib_allow, self.external_allow = stdlib_allow, external_allow
        self.violations: list[str] = []

    def check_import(self, node: ast.AST, module: str) -> None:
        top = module.partition(".")[0]
        allowed = self.stdlib_allow if top in sys.stdlib_module_names else self.external_allow
        if top not in allowed and "*" not in allowed:
            self.violations.append(f"Line {getattr(node, 'lineno', 0)}: import of {module} is disallowed")

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.check_import(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.check_import(node, node.module or "")

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in BLOCKED_NAMES:
            self.violations.append(f"Line {node.lineno}: name {node.id} is disallowed")
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in BLOCKED_ATTRIBUTES:
            self.violations.append(f"Line {node.lineno}: attribute {node.attr} is disallowed")
        self.generic_visit(node)


# ---- the child


def wrap(code: str) -> str:
    return f"def _user_function():\n{textwrap.indent(code, '    ')}\n\n__output__ = _user_function()\n"


def clean_modules(allowed: frozenset[str]) -> None:
    kept = KEPT_MODULES | allowed
    for name in list(sys.modules):
        if name not in kept and not any(name.startswith(f"{one}.") for one in kept):
            del sys.modules[name]


def shape(value: Any, index: int) -> dict[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        return {"json": value, "pairedItem": {"item": index}}
    shaped = {"json": value.get("json", value), "pairedItem": {"item": index}}
    if "json" in value and "binary" in value:
        shaped["binary"] = value["binary"]
    return shaped


def run_task(pipe: Connection, settings: Settings, allowed: frozenset[str]) -> None:
    os.environ.clear()
    dumps = json.dumps
    clean_modules(allowed)
    sys.stderr = errors = io.StringIO()
    prints: list[list[str]] = []
    safe = {name: value for name, value in vars(builtins).items() if name not in DENIED_BUILTINS}
    safe["print"] = lambda *args: prints.append([dumps(one, default=str, ensure_ascii=False) for one in args])
    try:
        if settings.node_mode == "runOnceForEachItem":
            compiled = compile(wrap(settings.code), "<per_item_task_execution>", "exec")
            result: Any = []
            for index, item in enumerate(settings.items):
                names = {"__builtins__": safe, "_item": item}
                exec(compiled, names)
                shaped = shape(names["__output__"], index)
                if shaped is not None:
                    result.append(shaped)
        else:
            names = {"__builtins__": safe, "_items": cast("Any", settings.items)}
            exec(compile(wrap(settings.code), "<all_items_task_execution>", "exec"), names)
            result = names["__output__"]
        answer: dict[str, Any] = {"result": result, "print_args": prints}
        data = dumps(answer, default=str, ensure_ascii=False).encode()
    except BaseException as error:
        failure = {"message": str(error), "description": errors.getvalue()}
        data = dumps({"error": failure, "print_args": prints}).encode()
    with os.fdopen(os.dup(pipe.fileno()), "wb") as out:
        out.write(len(data).to_bytes(4, "big") + data)


def read_answer(pipe: Connection) -> dict[str, Any]:
    with os.fdopen(os.dup(pipe.fileno()), "rb") as source:
        head = source.read(4)
        if len(head) < 4:
            raise EOFError("Failed to read result from child process")
        answer: dict[str, Any] = json.loads(source.read(int.from_bytes(head, "big")))
    return answer


# ---- the runner


class Runner:
    def __init__(self, context: ForkServerContext) -> None:
        env = os.environ
        self.context = context
        self.max_concurrency = int(env.get("N8N_RUNNERS_MAX_CONCURRENCY", "5"))
        self.task_timeout = int(env.get("N8N_RUNNERS_TASK_TIMEOUT", "60"))
        self.stdlib_allow = names_of(env.get("N8N_RUNNERS_STDLIB_ALLOW", ""))
        self.external_allow = names_of(env.get("N8N_RUNNERS_EXTERNAL_ALLOW", ""))
        self.offers: dict[str, float] = {}
        self.running: dict[str, asyncio.Task[None] | None] = {}
        self.verdicts: dict[str, list[str]] = {}

    async def serve(self, uri: str, token: str) -> None:
        broker = urlsplit(uri)
        url = f"ws://{broker.netloc}/runners/_ws?id={new_id()}"
        headers = {"Authorization": f"Bearer {token}"}
        async with websockets.connect(
            url, additional_headers=headers, max_size=1 << 30, compression=None, ping_interval=20, ping_timeout=20
        ) as self.socket:
            beat: asyncio.Task[None] | None = None
            async for text in self.socket:
                message = json.loads(text)
                if message["type"] == "broker:runnerregistered":
                    beat = asyncio.create_task(self.offer_on_a_beat())
                else:
                    await self.handle(message)
            if beat is not None:
                beat.cancel()

    async def send(self, message: Message) -> None:
        await self.socket.send(encode(message))

    async def offer_on_a_beat(self) -> None:
        while True:
            now = time.monotonic()
            self.offers = {offer: lapses for offer, lapses in self.offers.items() if lapses > now}
            for _ in range(self.max_concurrency - len(self.offers) - len(self.running)):
                validity = OFFER_VALIDITY + random.randint(0, OFFER_JITTER)
                offer = TaskOffer(new_id(), "python", validity)
                self.offers[offer.offer_id] = now + validity / 1000 + OFFER_LATENCY
                await self.send(offer)
            await asyncio.sleep(BEAT)

    async def handle(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "broker:inforequest":
                await self.send(RunnerInfo())
            case "broker:taskofferaccept":
                await self.accept(message["taskId"], message["offerId"])
            case "broker:tasksettings":
                fields = message["settings"]
                settings = Settings(fields["code"], fields["nodeMode"], fields["items"])
                self.running[message["taskId"]] = asyncio.create_task(self.execute(message["taskId"], settings))
            case "broker:taskcancel":
                task = self.running.pop(message["taskId"], None)
                if task is not None:
                    task.cancel()

    async def accept(self, task_id: str, offer_id: str) -> None:
        lapses = self.offers.pop(offer_id, 0.0)
        if lapses <= time.monotonic():
            await self.send(TaskRejected(task_id, "Offer expired - not accepted within validity window"))
        elif len(self.running) >= self.max_concurrency:
            await self.send(TaskRejected(task_id, "No open task slots - runner already at capacity"))
        else:
            self.running[task_id] = None
            await self.send(TaskAccepted(task_id))

    async def execute(self, task_id: str, settings: Settings) -> None:
        try:
            violations = self.check(settings.code)
            if violations:
                raise PermissionError("\n".join(violations))
            answer = await self.run_in_child(settings)
            if "error" in answer:
                await self.send(TaskError(task_id, answer["error"]))
            else:
                await self.send(TaskDone(task_id, {"result": answer["result"]}))
        except Exception as error:
            await self.send(TaskError(task_id, {"message": str(error)}))
        finally:
            self.running.pop(task_id, None)

    def check(self, code: str) -> list[str]:
        key = hashlib.sha256(code.encode()).hexdigest()
        if key not in self.verdicts:
            analyzer = Analyzer(self.stdlib_allow, self.external_allow)
            analyzer.visit(ast.parse(wrap(code)))
            self.verdicts[key] = analyzer.violations
        return self.verdicts[key]

    async def run_in_child(self, settings: Settings) -> dict[str, Any]:
        ours, theirs = self.context.Pipe(duplex=False)
        with ours:
            with theirs:
                child = self.context.Process(
                    target=run_task, args=(theirs, settings, self.stdlib_allow | self.external_allow)
                )
                child.start()
            try:
                async with asyncio.timeout(self.task_timeout):
                    answer = await asyncio.to_thread(read_answer, ours)
                    await asyncio.to_thread(child.join)
            finally:
                end(child)
        return answer


def end(child: ForkServerProcess) -> None:
    if child.is_alive():
        child.terminate()
        child.join(1)
        if child.is_alive():
            child.kill()
            child.join()
    child.close()


def names_of(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def new_id() -> str:
    return "".join(random.choices(string.ascii_letters + string.digits, k=22))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preload", action="store_true")
    context = multiprocessing.get_context("forkserver")
    if parser.parse_args().preload:
        context.set_forkserver_preload([__name__])

    async def run() -> None:
        serving = asyncio.ensure_future(
            Runner(context).serve(os.environ["N8N_RUNNERS_TASK_BROKER_URI"], os.environ["N8N_RUNNERS_GRANT_TOKEN"])
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
        with suppress(asyncio.CancelledError):
            await serving

    asyncio.run(run())
