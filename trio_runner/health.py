"""`/healthz` for launchers and orchestrators, `/readyz` for the truth, `/metrics` for Prometheus.

`/healthz` says that the process runs its event loop (runner-behaviour 5: 200 and OK, whatever the broker does);
`/readyz` says whether a task would be taken now, and if not, why.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import trio

from trio_runner.config import HealthConfig
from trio_runner.errors import StartError
from trio_runner.http import Request, Response, serve
from trio_runner.log import get_logger

log = get_logger("health")


class BrokerState(msgspec.Struct, frozen=True):
    """One broker as the runner sees it."""

    broker: str
    connected: bool
    registered: bool
    draining: bool
    reconnects: int
    last_error: str | None


class Readiness(msgspec.Struct, frozen=True):
    """The whole answer of `/readyz`."""

    ready: bool
    brokers: list[BrokerState]
    workers_idle: int
    workers_alive: bool
    zygote_restarts: int
    slots: int
    tasks: int
    sandbox: dict[str, str]
    """Each layer's status, as the zygote's probe found it; empty until there was one."""


async def serve_health(
    config: HealthConfig,
    readiness: Callable[[], Readiness],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until cancelled. Raises `StartError` when the port is taken."""

    async def answer(request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        if request.path == "/readyz":
            state = readiness()
            return Response(200 if state.ready else 503, msgspec.json.encode(state), "application/json")
        if request.path == "/metrics":
            from trio_runner import metrics  # with it comes prometheus-client, which only a scrape should pay for

            return Response(200, metrics.render(readiness()), metrics.CONTENT_TYPE)
        # the reference answers every path alike, and launchers of any version must be content
        return Response(200, b"OK", "text/plain")

    async with trio.open_nursery() as nursery:
        try:
            port = await nursery.start(serve, answer, config.host, config.port)
        except StartError as error:
            raise StartError(f"Failed to start health check server: {error}") from error
        log.info("Health check server listening on %s, port %d", config.host, port)
        task_status.started()
