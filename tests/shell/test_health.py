"""What launchers, orchestrators and people are told over HTTP (runner-behaviour 5, deployment 3.3)."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import AsyncIterator

import msgspec
import pytest
import trio
from trio.testing import MockClock

from tests.shell.shell_kit import FakeExecutor, FakePool, Records, config_for, our_records, read_all, scripted_broker
from trio_runner import metrics
from trio_runner.config import HealthConfig
from trio_runner.counters import Counters
from trio_runner.errors import StartError
from trio_runner.health import BrokerState, Readiness, serve_health
from trio_runner.http import Response
from trio_runner.supervisor import Runner

pytestmark = pytest.mark.e2e

READY = Readiness(
    ready=True,
    brokers=[
        BrokerState(
            broker="127.0.0.1:5679", connected=True, registered=True, draining=False, reconnects=2, last_error="once"
        )
    ],
    workers_idle=5,
    workers_busy=1,
    workers_starting=0,
    workers_alive=True,
    zygote_restarts=1,
    slots=5,
    tasks=0,
    sandbox={"seccomp": "active"},
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def ask(port: int, request: str) -> tuple[bytes, bytes]:
    """The head and the body of an answer."""
    with trio.fail_after(20):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(request.encode())
            head, _, body = (await read_all(stream)).partition(b"\r\n\r\n")
            return head, body


async def get(port: int, path: str) -> tuple[int, bytes]:
    head, body = await ask(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
    return int(head.split(b" ")[1]), body


@contextlib.asynccontextmanager
async def serving(state: Readiness = READY, *, port: int = 0) -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        with our_records() as records:
            await nursery.start(serve_health, HealthConfig(host="127.0.0.1", port=port), lambda: state, Counters())
            (line,) = records.lines
        yield int(line.rpartition(" ")[2])
        nursery.cancel_scope.cancel()


async def test_healthz_is_200_ok_in_plain_text_and_the_connection_ends() -> None:
    async with serving() as port:
        head, body = await ask(
            port, "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Go-http-client/1.1\r\n\r\n"
        )
        assert body == b"OK"
        status, *headers = head.split(b"\r\n")
        assert status.startswith(b"HTTP/1.1 200")
        assert sorted(headers) == [b"Connection: close", b"Content-Length: 2", b"Content-Type: text/plain"]


@pytest.mark.parametrize(
    "request_head",
    [
        "GET / HTTP/1.1",
        "GET /healthz?x=1 HTTP/1.0",
        "POST /healthz HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET /no/such/path HTTP/1.1",
        "DELETE /%00 HTTP/1.1",
    ],
)
async def test_any_method_and_path_gets_the_same_answer(request_head: str) -> None:
    async with serving(msgspec.structs.replace(READY, ready=False)) as port:
        head, body = await ask(port, f"{request_head}\r\nHost: x\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert body == b"OK"


@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
@pytest.mark.parametrize("path", ["/readyz", "/readyz?verbose"])
async def test_readyz_is_200_or_503_with_the_whole_state_as_json(ready: bool, status: int, path: str) -> None:
    state = msgspec.structs.replace(READY, ready=ready)
    async with serving(state) as port:
        head, body = await ask(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
        assert int(head.split(b" ")[1]) == status
        assert b"Content-Type: application/json" in head
        assert msgspec.json.decode(body) == {
            "ready": ready,
            "brokers": [
                {
                    "broker": "127.0.0.1:5679",
                    "connected": True,
                    "registered": True,
                    "draining": False,
                    "auth_refused": False,
                    "reconnects": 2,
                    "last_error": "once",
                }
            ],
            "workers_idle": 5,
            "workers_busy": 1,
            "workers_starting": 0,
            "workers_alive": True,
            "zygote_restarts": 1,
            "slots": 5,
            "tasks": 0,
            "sandbox": {"seccomp": "active"},
        }


async def test_metrics_can_be_had_where_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch, jump_clock: MockClock
) -> None:
    async def no_thread(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("can't start new thread")

    monkeypatch.delitem(sys.modules, "trio_runner.metrics")
    monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)
    async with serving() as port:
        status, body = await get(port, "/metrics")
    assert status == 200
    assert b"\ntrio_runner_ready 1.0\n" in body


async def test_metrics_show_the_same_state(jump_clock: MockClock) -> None:
    assert metrics, "loaded already: the clock would jump while a thread loads it"
    async with serving() as port:
        status, body = await get(port, "/metrics")
        assert status == 200
        assert b"trio_runner_slots 5.0" in body


async def test_the_log_names_host_and_port_in_the_reference_s_words(records: Records) -> None:
    port = free_port()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_health, HealthConfig(host="127.0.0.1", port=port), lambda: READY, Counters())
        assert records.lines == [f"Health check server listening on 127.0.0.1, port {port}"]
        nursery.cancel_scope.cancel()


async def test_port_0_is_a_port_that_the_system_chose_and_the_log_names() -> None:
    async with serving(port=0) as one, serving(port=0) as other:
        assert one != other
        assert await get(one, "/healthz") == await get(other, "/healthz") == (200, b"OK")


async def test_a_port_that_is_taken_is_a_start_error_in_the_reference_s_words() -> None:
    async with serving() as port:
        with pytest.raises(ExceptionGroup) as caught:
            await serve_health(HealthConfig(host="127.0.0.1", port=port), lambda: READY, Counters())
    error = caught.value.exceptions[0]
    assert isinstance(error, StartError)
    assert str(error) == f"Failed to start health check server: Port {port} is already in use"
    assert error.exit_code == 1


async def test_a_probe_that_hangs_up_or_dawdles_does_not_disturb_the_next(jump_clock: MockClock) -> None:
    async with serving() as port:
        dawdler = await trio.open_tcp_stream("127.0.0.1", port)
        await dawdler.send_all(b"GET /heal")
        for _ in range(20):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.aclose()
        assert await get(port, "/healthz") == (200, b"OK")
        await trio.sleep(60)
        assert await get(port, "/healthz") == (200, b"OK")
        await dawdler.aclose()


async def test_the_endpoints_follow_a_runner_through_its_life(jump_clock: MockClock) -> None:
    port = free_port()

    async def ready() -> tuple[int, dict[str, object]]:
        assert await get(port, "/healthz") == (200, b"OK"), "alive, whatever the broker does"
        status, body = await get(port, "/readyz")
        decoded: dict[str, object] = msgspec.json.decode(body)
        assert decoded["ready"] == (status == 200)
        return status, decoded["brokers"][0]  # type: ignore[index]

    async with scripted_broker() as broker:
        broker.upgrades = [Response(503)]
        config = config_for(
            broker.port,
            N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED="true",
            N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT=str(port),
        )
        pool = FakePool()
        runner = Runner(config, pool=pool, executor=FakeExecutor())  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: runner.run(handle_signals=False))
            await trio.sleep(1)
            status, link = await ready()
            assert (status, link["connected"], link["registered"]) == (503, False, False)

            broker.upgrades = [None]
            connection = await broker.connection()
            await trio.sleep(0.1)
            status, link = await ready()
            assert (status, link["connected"], link["registered"]) == (503, True, False)

            await connection.register()
            await connection.start("t", "hang")
            status, link = await ready()
            assert (status, link["registered"]) == (200, True)

            pool.alive = False
            assert (await ready())[0] == 503
            pool.alive = True

            broker.upgrades = [Response(503)]
            await connection.close(1001)
            await trio.sleep(10)
            status, link = await ready()
            assert (status, link["connected"]) == (503, False)
            assert "HTTP 503" in str(link["last_error"])

            broker.upgrades = [None]
            connection = await broker.connection()
            await connection.register()
            await connection.start("t2", "sleep 5")
            assert (await ready())[0] == 200
            runner.stop(10)
            status, link = await ready()
            assert (status, link["connected"], link["draining"]) == (503, True, True)
            await connection.closed()
            await trio.sleep(1)
            with pytest.raises(OSError, match="connect"):
                await get(port, "/healthz")
