"""`/healthz` for launchers and orchestrators, `/readyz` for the truth, `/metrics` for Prometheus, and the status page.

`/healthz` says that the process runs its event loop (runner-behaviour 5: 200 and OK, whatever the broker does);
`/readyz` says whether a task would be taken now, and if not, why.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType

import msgspec
import trio

from trio_runner.config import HealthConfig
from trio_runner.counters import Counters
from trio_runner.errors import StartError
from trio_runner.http import Request, Response, serve
from trio_runner.log import get_logger

log = get_logger("health")

_METRICS = "trio_runner.metrics"


class BrokerState(msgspec.Struct, frozen=True):
    """One broker as the runner sees it."""

    broker: str
    connected: bool = False
    registered: bool = False
    draining: bool = False
    auth_refused: bool = False
    reconnects: int = 0
    last_error: str | None = None


class Readiness(msgspec.Struct, frozen=True):
    """The whole answer of `/readyz`."""

    ready: bool
    brokers: list[BrokerState]
    workers_idle: int
    workers_busy: int
    workers_starting: int
    workers_alive: bool
    zygote_restarts: int
    slots: int
    tasks: int
    sandbox: dict[str, str]
    """Each layer's status, as the zygote's probe found it; empty until there was one."""


async def _metrics() -> ModuleType:
    """The module that only a scrape needs. Prometheus' library comes with it and takes a tenth of a second: in a
    thread, so that tasks go on meanwhile."""
    loaded = sys.modules.get(_METRICS)
    if loaded is not None and hasattr(loaded, "render"):  # else another scrape is loading it just now
        return loaded
    try:
        return await trio.to_thread.run_sync(importlib.import_module, _METRICS)
    except RuntimeError:  # no thread can be started any more: just then the numbers are wanted
        return importlib.import_module(_METRICS)


async def serve_health(
    config: HealthConfig,
    readiness: Callable[[], Readiness],
    counters: Counters,
    page: Callable[[Request], Response | None] = lambda _: None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until cancelled. Raises `StartError` when the port is taken. ``page`` answers what belongs to it."""

    async def answer(request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        if (shown := page(request)) is not None:
            return shown
        if request.path == "/readyz":
            state = readiness()
            return Response(200 if state.ready else 503, msgspec.json.encode(state), "application/json")
        if request.path == "/metrics":
            metrics = await _metrics()
            return Response(200, metrics.render(readiness(), counters), metrics.CONTENT_TYPE)
        # the reference answers every path alike, and launchers of any version must be content
        return Response(200, b"OK", "text/plain")

    async with trio.open_nursery() as nursery:
        try:
            port = await nursery.start(serve, answer, config.host, config.port)
        except StartError as error:
            raise StartError(f"Failed to start health check server: {error}") from error
        log.info("Health check server listening on %s, port %d", config.host, port)
        task_status.started()
