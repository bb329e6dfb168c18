"""The status of a runner with real workers: what failed and why, what runs, how it is confined."""

from __future__ import annotations

import msgspec
import pytest
import trio

from tests.runner_kit import running
from tests.shell.test_health import ask, free_port, get
from trio_runner.status import Snapshot

pytestmark = pytest.mark.e2e


async def test_a_runner_shows_what_failed_and_why_and_what_runs() -> None:
    port = free_port()
    environ = {
        "N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED": "true",
        "N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT": str(port),
        "N8N_RUNNERS_STATUS_PAGE": "true",
        "N8N_RUNNERS_STDLIB_ALLOW": "time",
        "N8N_RUNNERS_TASK_TIMEOUT": "30",
    }

    async def status() -> Snapshot:
        head = f"GET /status.json HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n"
        _, body = await ask(port, head)
        return msgspec.json.decode(body, type=Snapshot)

    place = {"workflowName": "Orders", "nodeName": "Totals"}
    with trio.fail_after(60):
        async with running(environ) as bench:
            assert "result" in await bench.run("return []", **place)
            for code in ("x = 1\nreturn 1 / 0", "import os\nreturn []", "return ("):
                assert "error" in await bench.run(code, **place)
            bench.nursery.start_soon(lambda: bench.run("import time\ntime.sleep(60)", **place))
            while not (snapshot := await status()).running or snapshot.running[0].ran is None:  # noqa: ASYNC110
                await trio.sleep(0.02)
            assert await get(port, "/healthz") == (200, b"OK")
            bench.nursery.cancel_scope.cancel()
    (task,) = snapshot.running
    assert (task.workflow, task.node, task.ended) == ("Orders", "Totals", False)
    syntax, violation, error = snapshot.failures
    assert (error.outcome, error.reason) == ("error", "division by zero (line 2)")
    assert violation.outcome == "violation"
    assert "Line 1" in violation.reason
    assert "os" in violation.reason
    assert syntax.outcome == "syntax"
    assert (snapshot.done, snapshot.tasks, snapshot.ready) == (1, 1, True)
    assert {layer.name for layer in snapshot.layers} >= {"seccomp", "session"}
