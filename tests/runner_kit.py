"""A runner and an embedded broker in one process, for tests: real sockets, real workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from trio_runner.config import load
from trio_runner.localbroker import LocalBroker, TaskFailed
from trio_runner.localworkflow import LocalWorkflow
from trio_runner.protocol.broker import BrokerTerms
from trio_runner.supervisor import Runner

AUTH_TOKEN = "test-token"


class Bench:
    """A broker with one runner."""

    def __init__(self, broker: LocalBroker, runner: Runner, port: int, nursery: trio.Nursery) -> None:
        self.broker = broker
        self.runner = runner
        self.port = port
        self.nursery = nursery

    async def run(self, code: str, items: object = (), **settings: Any) -> dict[str, Any]:
        """Runs a program and returns ``{"result": …}`` or ``{"error": …}``, with ``logs``."""
        logs: list[list[object]] = []
        body = {"code": code, "nodeMode": "runOnceForAllItems", "items": items, **settings}
        try:
            data = await self.broker.run_task(msgspec.json.encode(body), logs.append)
        except TaskFailed as failed:
            return {"error": failed.error, "logs": logs}
        assert isinstance(data.result, msgspec.Raw)
        return {"result": msgspec.json.decode(data.result), "logs": logs}


@asynccontextmanager
async def running(
    environ: dict[str, str] | None = None,
    *,
    terms: BrokerTerms | None = None,
    environment: dict[str, str] | None = None,
    workflow: LocalWorkflow | None = None,
) -> AsyncIterator[Bench]:
    """A broker and a registered runner configured by ``environ``; both end with the block."""
    async with trio.open_nursery() as nursery:
        broker = LocalBroker(auth_token=AUTH_TOKEN, terms=terms, workflow=workflow)
        port = await nursery.start(broker.serve)
        config = load(
            {
                "N8N_RUNNERS_AUTH_TOKEN": AUTH_TOKEN,
                "N8N_RUNNERS_TASK_BROKER_URI": f"http://127.0.0.1:{port}",
                **(environ or {}),
            }
        ).config
        runner = Runner(config, environment=environment)
        nursery.start_soon(lambda: runner.run(handle_signals=False))
        with trio.fail_after(30):
            while not runner.readiness().ready:  # noqa: ASYNC110 - what a probe of /readyz would do
                await trio.sleep(0.01)
        yield Bench(broker, runner, port, nursery)
        nursery.cancel_scope.cancel()
